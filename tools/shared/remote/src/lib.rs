//! The one way to reach HTTP APIs and registries.
//!
//! ```text
//! roots ──► agent ──► attempt ──► response ──► body (limited), demanded pause
//!                        ▲            │
//!                        └─ Retries ◄─┘   until the deadline, an outage's end, or a signal
//! ```
//!
//! The SDK of S3 sends requests in its own way, and uses the roots of this crate.
//!
//! **Invariant:** plain HTTP uses no proxy, and [`git::Url`] allows it on this machine only.
//! **Invariant:** no client follows a redirect by itself. [`registry`] follows those that its rules allow,
//! and sends a login to one origin and to the realm that this origin names.
//! **Invariant:** every response has a limit on its size, every call a deadline, and a signal ends every
//! pause at once.
//! **Invariant:** no message holds a secret or the query of a URL.

mod agent;
mod body;
mod demanded;
mod encode;
mod redact;
pub mod registry;
mod retries;
mod roots;
mod token;

pub use agent::{
    Settings, UNTRUSTED_HELP, agent, agent_trusting, certificate_error, is_untrusted, run,
};
pub use body::{beginning, header, read};
pub use demanded::{demanded_pause, retry_after, until_reset};
pub use encode::{percent_encode, percent_encode_except};
pub use redact::{redact, shown, without_secrets};
pub use retries::{Cause, Limits, Outage, Retries};
pub use roots::{RootsError, authorities, authorities_of, roots, roots_as_pem, to_pem};
pub use token::{TokenError, sendable};
