//! The services that stand in for the vendors: their names, addresses, commands and health checks.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::Error;
use crate::http;
use crate::paths::LabPaths;
use crate::{forge, registry, store};

/// A service of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Registry,
    Forge,
    Store,
    Cloud,
}

impl Service {
    pub(crate) const ALL: [Self; 4] = [Self::Registry, Self::Forge, Self::Store, Self::Cloud];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Forge => "forge",
            Self::Store => "store",
            Self::Cloud => "cloud",
        }
    }

    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Registry => "docker-registry",
            Self::Forge => "gitea",
            Self::Store => "versitygw",
            Self::Cloud => "lab",
        }
    }

    pub(crate) fn address(self, paths: &LabPaths) -> SocketAddr {
        match self {
            Self::Registry => paths.registry(),
            Self::Forge => paths.forge(),
            Self::Store => paths.store(),
            Self::Cloud => paths.cloud(),
        }
    }

    pub(crate) fn log(self, paths: &LabPaths) -> PathBuf {
        match self {
            Self::Cloud => paths.log("lab"),
            other => paths.log(other.name()),
        }
    }

    /// Returns the command that runs the service, or `None` for the cloud, which runs inside the lab.
    pub(crate) fn command(self, paths: &LabPaths) -> Result<Option<Command>, Error> {
        let mut command = match self {
            Self::Registry => registry::command(paths)?,
            Self::Forge => forge::command(paths)?,
            Self::Store => store::command(paths)?,
            Self::Cloud => return Ok(None),
        };
        command.envs(emulator_talos::go_runtime());
        Ok(Some(command))
    }

    /// Returns whether the service answers a request with the expected status.
    pub(crate) fn answers(self, paths: &LabPaths) -> bool {
        let (path, right): (_, fn(u16) -> bool) = match self {
            Self::Registry => ("/v2/", |status| status == 200),
            Self::Forge => ("/api/v1/version", |status| status == 200),
            // The store answers an unsigned request with 403.
            Self::Store => ("/", |status| (200..500).contains(&status)),
            Self::Cloud => ("/_lab/writes", |status| status == 200),
        };
        http::get(self.address(paths), path, None).is_ok_and(|answer| right(answer.status))
    }
}
