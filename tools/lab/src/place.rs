//! Where everything is: folders, files and loopback addresses.

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::cli::Settings;
use crate::files;
use crate::network::Network;

/// The components that the lab builds, in this repository.
const COMPONENTS: &str = "continuous-integration/components";

/// One lab.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The repository whose documents these are.
    pub(crate) root: PathBuf,
    /// The sources of the components.
    pub(crate) components: PathBuf,
    /// The flake that stands for nixpkgs, where it is not our own stand-in.
    pub(crate) nixpkgs: Option<String>,
    /// The lab's state.
    pub(crate) directory: PathBuf,
    /// What it builds.
    pub(crate) cache: PathBuf,
    pub(crate) network: Network,
}

impl Place {
    /// The lab of the repository in which this runs; any will do for those who say where the
    /// components are.
    pub(crate) fn find(settings: &Settings) -> Result<Self, Error> {
        let here = env::current_dir().map_err(files::cannot("enter", Path::new(".")))?;
        let root = match settings.components {
            Some(_) => here.ancestors().find(|it| it.join(".git").exists()).or(Some(&here)),
            None => here.ancestors().find(|it| it.join(COMPONENTS).is_dir()),
        };
        let root = root.ok_or_else(|| Error::NoRepository { from: here.clone() })?.to_owned();
        let or = |given: &Option<PathBuf>, name| match given {
            Some(given) => here.join(given),
            None => root.join(name),
        };
        Ok(Self {
            directory: or(&settings.directory, ".lab"),
            cache: or(&settings.cache, ".cache"),
            components: or(&settings.components, COMPONENTS),
            nixpkgs: settings.nixpkgs.clone(),
            network: settings.network,
            root,
        })
    }

    fn address(&self, port: u16) -> SocketAddr {
        let [first, second] = self.network.0;
        SocketAddr::new(IpAddr::from([first, second, 0, 1]), port)
    }

    pub(crate) fn forge(&self) -> SocketAddr {
        self.address(3000)
    }

    pub(crate) fn registry(&self) -> SocketAddr {
        self.address(5000)
    }

    pub(crate) fn store(&self) -> SocketAddr {
        self.address(7070)
    }

    pub(crate) fn cloud(&self) -> SocketAddr {
        self.address(8080)
    }

    /// A program that the lab has built.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.cache.join("bin").join(name)
    }

    /// What the component called `name` says.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.directory.join("logs").join(name).with_extension("log")
    }

    /// A file that only its owner may read.
    pub(crate) fn secret(&self, name: &str) -> PathBuf {
        self.directory.join("secrets").join(name)
    }

    /// The Talos machines.
    pub(crate) fn machines(&self) -> PathBuf {
        self.directory.join("machines")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_a_sixteenth_of_loopback_and_nothing_else() {
        assert_eq!("127.77.0.0/16".parse(), Ok(Network([127, 77])));
        for wrong in
            ["127.0.0.0/16", "10.77.0.0/16", "127.77.1.0/16", "127.77.0.0/24", "127.77", ""]
        {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
        assert_eq!(Network([127, 77]).to_string(), "127.77.0.0/16");
    }
}
