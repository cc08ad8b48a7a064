//! The services that stand in for the vendors': what each is called, where it is, how it is started
//! and whether it answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::Error;
use crate::http;
use crate::place::Place;
use crate::{forge, registry, store};

/// One of them.
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

    pub(crate) fn address(self, place: &Place) -> SocketAddr {
        match self {
            Self::Registry => place.registry(),
            Self::Forge => place.forge(),
            Self::Store => place.store(),
            Self::Cloud => place.cloud(),
        }
    }

    pub(crate) fn log(self, place: &Place) -> PathBuf {
        match self {
            Self::Cloud => place.log("lab"),
            other => place.log(other.name()),
        }
    }

    /// The command that runs it; none if the lab runs it by itself.
    pub(crate) fn command(self, place: &Place) -> Result<Option<Command>, Error> {
        let mut command = match self {
            Self::Registry => registry::command(place)?,
            Self::Forge => forge::command(place)?,
            Self::Store => store::command(place)?,
            Self::Cloud => return Ok(None),
        };
        command.envs(emulator_talos::go_runtime());
        Ok(Some(command))
    }

    /// Whether it does what it is there for.
    pub(crate) fn answers(self, place: &Place) -> bool {
        let (path, right): (_, fn(u16) -> bool) = match self {
            Self::Registry => ("/v2/", |it| it == 200),
            Self::Forge => ("/api/v1/version", |it| it == 200),
            Self::Store => ("/", |it| (200..500).contains(&it)), // it refuses who does not sign
            Self::Cloud => ("/_lab/writes", |it| it == 200),
        };
        http::get(self.address(place), path, None).is_ok_and(|it| right(it.status))
    }
}
