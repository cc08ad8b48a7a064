//! Secrets: where they come from, how new ones derive from a root, and how they are encrypted.
//!
//! ```text
//! {env} {file} {sops, key} {command} {firstOf} ── Reference::resolve ──► Secret
//! root ── RootKey::derive ──► PhaseKey ── bytes, p256, ed25519, age ──► every derived key
//! plaintext ── seal_to ──► ASCII armor ── unseal_with ──► Secret
//! ```
//!
//! This crate knows no document. The crate `contract` connects it with the Project.
//!
//! **Invariant:** a document holds a [`Reference`] and never a value, and no message quotes what a
//! person may have written in place of a reference.
//! **Invariant:** the same root, names and generations give the same keys on every machine.
//! **Invariant:** a decrypted value is never written to a file.

mod command;
mod create;
mod derive;
mod error;
mod identities;
pub mod published;
mod random;
mod read;
mod recipient;
mod reference;
mod seal;
mod secret;
mod sops;

pub use create::{encrypt, new_identity, new_root, phase_recipient};
pub use derive::{PhaseKey, RootKey};
pub use error::{Error, OtherError};
pub use identities::Identities;
pub use recipient::AgeRecipient;
pub use reference::Reference;
pub use seal::{RECIPIENT_ITEM, derived_recipient, open_with, opens, seal_to, unseal_with};
pub use secret::Secret;
pub use sops::Sops;
