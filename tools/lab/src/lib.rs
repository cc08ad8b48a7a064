//! Starts real components on loopback, for users without an account at the vendors. `lab up` is the
//! first program of the pipe.
//!
//! ```text
//! documents ──► lab up ──► the same documents, with the lab's endpoints
//!                 │
//!                 ├─ build: Go modules ──► programs in the cache
//!                 └─ serve: forge, registry, store, cloud ──► machines
//! ```
//!
//! **Invariant:** `lab up` writes no document unless the lab answers, so that documents with the
//! vendors' endpoints never reach the programs behind it.
//! **Invariant:** `lab up` changes no field but `Project.spec.endpoints`, `Cluster.spec.image.factory`
//! and the fields in the folder of `--overrides`.
//! **Invariant:** `lab` ends a process by its id and start time, and only a process that it started.
//! **Invariant:** every service listens on loopback.

mod build;
mod cli;
mod cloud;
mod command;
mod component;
mod confirm;
mod crates;
mod down;
mod endpoints;
mod error;
mod files;
mod forge;
mod go;
mod http;
mod images;
mod init;
mod install;
mod lock;
mod network;
mod nix;
mod overrides;
mod paths;
mod port;
mod process;
mod registry;
mod serve;
mod service;
mod state;
mod status;
mod store;
mod supervise;
mod up;
mod writes;

pub use cli::Cli;
pub use error::Error;

use documents::Exit;

use cli::Verb;
use component::Component;
use paths::LabPaths;

/// Runs the command of a parsed command line.
///
/// # Errors
///
/// [`Error`], which carries its own help and exit status.
pub fn run(cli: &Cli) -> Result<Exit, Error> {
    let (Verb::Build { output, .. }
    | Verb::Up { target: documents::Target { output, .. }, .. }
    | Verb::Down { output, .. }
    | Verb::Status { output }
    | Verb::Init { output, .. }
    | Verb::Serve { output }) = &cli.verb;
    documents::start("lab", *output);
    if let Verb::Init { name, owner, identity, .. } = &cli.verb {
        init::init(std::path::Path::new("."), name, owner, identity.as_deref())?;
        return Ok(Exit::Done);
    }
    let paths = LabPaths::find(&cli.settings)?;
    match &cli.verb {
        Verb::Build { components, .. } => {
            build::build(&paths, &Component::named(components)?)?;
            if Component::are_all(components) {
                up::prepare_machine(&paths)?;
            }
        }
        Verb::Up { target, overrides } => up::up(&paths, target, overrides.as_deref())?,
        Verb::Down { wipe, yes, .. } => down::down(&paths, *wipe, *yes)?,
        Verb::Status { .. } => documents::print([&status::status(&paths)?])?,
        Verb::Serve { .. } => serve::serve(&paths)?,
        Verb::Init { .. } => unreachable!("`init` returns above, because it needs no lab"),
    }
    Ok(Exit::Done)
}
