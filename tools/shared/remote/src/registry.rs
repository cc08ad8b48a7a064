//! Client of an OCI registry: logins, redirects, and verified reads.
//!
//! Artifact-attest adds the writes and the referrers, and flux-seed only reads.

mod challenge;
mod digest;
mod error;
mod login;
mod origin;
mod problem;
mod reader;
mod repository;
mod said;

pub use digest::{Descriptor, Digest, INDEX, MANIFEST};
pub use error::{Cause, Error};
pub use login::{Login, Standing};
pub use problem::Problem;
pub use reader::{Found, Lookup};
pub use repository::{Body, Registry, Repository, Request};
pub use said::error_code;

#[cfg(test)]
mod tests;
