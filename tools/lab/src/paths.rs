//! Folders, files and loopback addresses of a lab.

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::cli::Settings;
use crate::files;
use crate::network::Network;

/// Folder of the components, relative to the root of this repository.
const COMPONENTS: &str = "continuous-integration/components";

/// Folders and network of one lab.
#[derive(Clone, Debug)]
pub(crate) struct LabPaths {
    /// Root of the repository that holds the documents.
    pub(crate) root: PathBuf,
    /// Folder of the components' Go modules.
    pub(crate) components: PathBuf,
    /// Folder of prebuilt components, if the user gave one.
    pub(crate) built: Option<PathBuf>,
    /// Flake that replaces the stand-in for nixpkgs, if the user gave one.
    pub(crate) nixpkgs: Option<String>,
    /// Folder of the lab's state.
    pub(crate) directory: PathBuf,
    /// Folder of the built components.
    pub(crate) cache: PathBuf,
    pub(crate) network: Network,
}

impl LabPaths {
    /// Finds the repository above the current folder. It must contain the components, unless the
    /// settings name their folder.
    pub(crate) fn find(settings: &Settings) -> Result<Self, Error> {
        let here = env::current_dir().map_err(files::cannot("enter", Path::new(".")))?;
        let root = match settings.components {
            Some(_) => here.ancestors().find(|folder| folder.join(".git").exists()).or(Some(&here)),
            None => here.ancestors().find(|folder| folder.join(COMPONENTS).is_dir()),
        };
        let root = root.ok_or_else(|| Error::NoRepository { from: here.clone() })?.to_owned();
        let or_default = |given: &Option<PathBuf>, name| match given {
            Some(given) => here.join(given),
            None => root.join(name),
        };
        Ok(Self {
            directory: or_default(&settings.directory, ".lab"),
            cache: or_default(&settings.cache, ".cache"),
            components: or_default(&settings.components, COMPONENTS),
            built: settings.built.as_ref().map(|folder| here.join(folder)),
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

    /// Address of the Image Factory, which belongs to the cloud.
    pub(crate) fn factory(&self) -> SocketAddr {
        self.address(8081)
    }

    /// Path of a program that the lab has built.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.cache.join("bin").join(name)
    }

    /// Path of the log of the service called `name`.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.directory.join("logs").join(name).with_extension("log")
    }

    /// Path of a secret, which only its owner may read.
    pub(crate) fn secret(&self, name: &str) -> PathBuf {
        self.directory.join("secrets").join(name)
    }

    /// Folder of the disks of servers that were created from an image of the vendor.
    pub(crate) fn disks(&self) -> PathBuf {
        self.directory.join("disks")
    }

    /// Folder of the Talos machines.
    pub(crate) fn machines(&self) -> PathBuf {
        self.directory.join("machines")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_network_of_16_bits_is_accepted() {
        assert_eq!("127.77.0.0/16".parse(), Ok(Network([127, 77])));
        for wrong in
            ["127.0.0.0/16", "10.77.0.0/16", "127.77.1.0/16", "127.77.0.0/24", "127.77", ""]
        {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
        assert_eq!(Network([127, 77]).to_string(), "127.77.0.0/16");
    }
}
