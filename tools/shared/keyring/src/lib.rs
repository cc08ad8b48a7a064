//! Re-exports of the crates `secrets`, `git` and `contract` under the names that programs use today.
//!
//! New code imports these three crates. This crate is removed as soon as no program imports it.

pub use contract::{
    Access, ClaimSource, Cloud, Copied, DataOnDestroy, DataPolicy, Drained, Endpoints, Envelope,
    Forge, Hold, Nix, Pack, Project, ProjectRoot as RootKey, Projects, READER, Receipt, ReceiptKey,
    Recipient, Registry, S3Credentials, Source, Stopped, Store, VerificationKeys, VerifiedReceipt,
    artifact_keys, gate, is_published, phase_key, phase_key_unless_reader, receipt_keys, receipts,
    root_key, seal, unseal, variable, verification_keys,
};
pub use git::{
    Ended as GitEnded, Origin as GitOrigin, TIME_MAX as GIT_TIME_MAX, Url,
    is_partial as git_is_partial, push as git_push, run as git, run_with_input as git_with_input,
};
pub use secrets::{
    AgeRecipient, Error, Identities, PhaseKey, Reference, Secret, Sops, derived_recipient, encrypt,
    new_identity, new_root, open_with, phase_recipient, seal_to, unseal_with,
};
