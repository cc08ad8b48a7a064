//! Real components on loopback, for people without an account: phase 0 of the pipe.
//!
//! ```text
//! documents ──► lab up ──► the same documents, with the lab's endpoints
//!                 │
//!                 ├─ build: Go modules ──► programs in the cache
//!                 └─ serve: forge, registry, store, cloud ──► machines
//! ```
//!
//! **Invariant:** `lab up` writes no document unless the lab answers: what still names the vendors
//! never reaches the programs behind it.
//! **Invariant:** of a document only `Project.spec.endpoints` is changed.
//! **Invariant:** a process is ended by its id and start time, and only if the lab has started it.
//! **Invariant:** everything listens on loopback.

mod build;
mod cli;
mod cloud;
mod command;
mod component;
mod crates;
mod down;
mod endpoints;
mod error;
mod files;
mod forge;
mod http;
mod images;
mod init;
mod install;
mod lock;
mod network;
mod nix;
mod place;
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
use place::Place;

/// Runs one command.
///
/// # Errors
///
/// [`Error`], which carries its own help and exit status.
pub fn run(cli: &Cli) -> Result<Exit, Error> {
    let (Verb::Build { output, .. }
    | Verb::Up(documents::Target { output, .. })
    | Verb::Down { output, .. }
    | Verb::Status { output }
    | Verb::Init { output, .. }
    | Verb::Serve { output }) = &cli.verb;
    documents::start("lab", *output);
    if let Verb::Init { name, owner, identity, .. } = &cli.verb {
        init::init(std::path::Path::new("."), name, owner, identity.as_deref())?;
        return Ok(Exit::Done);
    }
    let place = Place::find(&cli.settings)?;
    match &cli.verb {
        Verb::Build { components, .. } => {
            build::build(&place, &Component::named(components)?)?;
            if Component::are_all(components) {
                up::settle_machine(&place)?;
            }
        }
        Verb::Up(target) => up::up(&place, target)?,
        Verb::Down { wipe, .. } => down::down(&place, *wipe)?,
        Verb::Status { .. } => documents::print([&status::status(&place)?])?,
        Verb::Serve { .. } => serve::serve(&place)?,
        Verb::Init { .. } => unreachable!("it needs no lab"),
    }
    Ok(Exit::Done)
}
