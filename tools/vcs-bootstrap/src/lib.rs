//! Brings about the repository that a `Repository` document declares.
//!
//! ```text
//! document, project ── wanted ──┐
//!                               ├── plan ──► apply ──► look again ──► document with status
//! forge, Git ──────── observe ──┘
//! ```
//!
//! **Invariant:** [`plan`] is a function of values: it opens nothing and asks nothing.
//! **Invariant:** only `apply` is given a writer.
//! **Invariant:** a status is computed from what is seen, never from what was done.
//! **Invariant:** what may not be read is unknown: reported, never compared, never removed.
//! **Invariant:** only what a receipt in the world proves to be ours is ever removed.

mod absence;
mod apply;
mod cli;
mod client;
mod error;
mod forge;
mod git;
mod gitea;
mod github;
pub mod model;
pub mod observe;
mod ownership;
pub mod plan;
mod program;
mod refused;
mod remote;
pub mod spec;
pub mod step;
mod sunset;
mod wanted;

pub use cli::Cli;
pub use error::Error;

use documents::Exit;

use observe::{Evidence, Observed};
use spec::Repository;
use step::Step;

impl documents::Kind for Repository {
    const KIND: &'static str = "Repository";
    type Observed = Observed;
    type Evidence = Evidence;
    type Step = Step;
}

/// Runs one command.
///
/// # Errors
///
/// [`documents::Error`], which carries its own help and exit status.
pub fn run(cli: &Cli) -> Result<Exit, documents::Error> {
    documents::run("vcs-bootstrap", &cli.verb, program::Bootstrap::read)
}
