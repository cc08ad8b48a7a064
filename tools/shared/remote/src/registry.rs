//! Client of an OCI registry: logins, redirects, and verified reads.
//!
//! Artifact-attest adds the writes and the referrers, and flux-seed only reads.

mod challenge;
mod digest;
mod docker;
mod error;
mod flow;
mod login;
mod mount;
mod origin;
mod problem;
mod reader;
mod repository;
mod request;
mod said;

pub use digest::{Descriptor, Digest, INDEX, MANIFEST};
pub use docker::is_docker_hub;
pub use error::{Cause, Error};
pub use flow::PARALLEL_MAX;
pub use login::{Login, Standing, default_user};
pub use mount::Mount;
pub use problem::Problem;
pub use reader::{Found, Lookup};
pub use repository::{Registry, Repository};
pub use request::{Body, Request};
pub use said::error_code;

#[cfg(test)]
mod tests;
