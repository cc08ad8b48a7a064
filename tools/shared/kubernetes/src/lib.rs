//! Access to a cluster's API server.
//!
//! ```text
//! sealed kubeconfig ── Kubeconfig ──┬───────────────► Reader ── Request ──► object, list
//!                                   └─ WritePermit ─► Writer ── Change ───► object
//! ```
//!
//! **Invariant:** a kubeconfig is read from memory only. It names no file, no program and no proxy, and
//! the environment's proxy is not read.
//! **Invariant:** every request has a deadline, and every repetition has a limit.
//! **Invariant:** only [`Writer`] changes objects, and a [`Reader`] cannot become a [`Writer`].
//! **Invariant:** no error quotes a credential of the kubeconfig or a value of a Secret.

mod client;
mod error;
mod kubeconfig;
mod list;
mod reader;
mod redact;
mod request;
mod response;
#[cfg(test)]
mod standin;
mod watch;
mod writer;

pub use client::Settings;
pub use error::Error;
pub use kubeconfig::Kubeconfig;
pub use reader::Reader;
pub use request::{Change, Request};
pub use watch::Watches;
pub use writer::{WriteAccess, Writer};
