//! Where secrets come from, and how they are handed on.
//!
//! ```text
//! {env} {file} {sops,key} {command} {firstOf} ── resolve ──► Secret
//! root ── phase_key ──► PhaseKey ── bytes, p256, ed25519, age ──► everything that can be derived
//! plaintext ── seal ──► status.sealed ── unseal ──► Secret
//! ```
//!
//! **Invariant:** a document holds a [`Reference`], never a value; and no message quotes what a
//! person may have written in its place.
//! **Invariant:** the same root, names and generations give the same secrets, on every machine.
//! **Invariant:** nothing decrypted is ever written to a file.
//! **Invariant:** a project with an endpoint on another machine uses no secret that is published.

mod command;
mod create;
mod derive;
mod error;
pub mod gate;
mod git;
mod identities;
mod project;
mod published;
mod receipt;
mod reference;
mod seal;
mod secret;
mod sops;
mod url;

pub use create::{
    encrypt, is_published, new_identity, new_root, phase_recipient, verification_keys,
};
pub use derive::{
    PhaseKey, RootKey, artifact_keys, phase_key, phase_key_unless_reader, root_key, variable,
};
pub use error::Error;
pub use gate::{DataOnDestroy, DataPolicy};
pub use git::{GIT_TIME_MAX, GitEnded, GitOrigin, git, git_is_partial, git_push, git_with_input};
pub use identities::Identities;
pub use project::{
    Access, Cloud, Endpoints, Forge, Nix, Project, Projects, READER, Recipient, Registry,
    S3Credentials, Store, VerificationKeys,
};
pub use receipt::{
    ClaimSource, Copied, Drained, Envelope, Hold, Pack, Receipt, ReceiptKey, Source, Stopped,
    VerifiedReceipt, receipt_keys, receipts,
};
pub use reference::Reference;
pub use seal::{AgeRecipient, derived_recipient, open_with, seal, seal_to, unseal, unseal_with};
pub use secret::Secret;
pub use sops::Sops;
pub use url::Url;
