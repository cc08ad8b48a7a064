//! Set-up that tests of several programs share: runs of a program, documents, repositories, HTTP servers,
//! Go programs and pages.
//!
//! **Invariant:** only tests depend on this crate. No program, and no other crate, names this crate in its
//! `[dependencies]`.

#![expect(
    clippy::missing_errors_doc,
    reason = "a failed set-up fails its test, whatever the cause"
)]

pub mod delay;
pub mod documents;
pub mod garbage;
pub mod git;
pub mod go;
pub mod http;
pub mod page;
pub mod proxy;
pub mod run;
pub mod tofu;
pub mod wait;

use std::error::Error;

/// Result of a test or of a part of its set-up.
pub type Test<T = ()> = Result<T, Box<dyn Error>>;
