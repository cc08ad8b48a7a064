//! Contract between programs: what one program writes and another reads.
//!
//! | module | contents |
//! |---|---|
//! | root | the Project, its keys, and sealed credentials |
//! | [`facts`] | typed facts of statuses that other programs read |
//! | [`gate`] | decision whether data may be deleted, from receipts and the live cluster |
//! | [`labels`] | labels and annotations on remote objects |
//! | [`checked_text!`] | types of texts that a document declares and that have a rule |
//!
//! Functions return [`secrets::Error`], which also holds each [`ContractError`], so that a program has
//! one variant for both.
//!
//! **Invariant:** a project with an endpoint on another machine uses no published secret.
//! **Invariant:** no field of a receipt is used before its signature is verified.

mod binary_cache;
mod drains;
mod endpoints;
mod error;
pub mod facts;
pub mod gate;
mod hold;
mod keys;
pub mod labels;
mod phases;
mod project;
mod projects;
mod published;
mod receipt;
mod sealed;
mod text;
mod verification;

pub use binary_cache::{BinaryCache, CacheUrl};
pub use drains::{receipt_keys, receipts, receipts_of_cluster, receipts_of_repository};
pub use endpoints::{App, Cloud, Endpoints, Forge, Nix, Registry, S3Credentials, Store};
pub use error::ContractError;
pub use gate::{DataOnDestroy, DataPolicy};
pub use hold::Hold;
pub use keys::{ProjectRoot, Roots, artifact_keys, phase_key, phase_key_unless_reader, root_key};
pub use phases::{READER, variable};
pub use project::{Access, Project, Recipient, VerificationKeys};
pub use projects::Projects;
pub use published::is_published;
pub use receipt::{
    ClaimSource, Copied, Drained, Envelope, Pack, Receipt, Source, Stopped, VerifiedReceipt,
};
pub use sealed::{seal, unseal};
pub use verification::{ReceiptKey, verification_keys};
