//! Failures on a machine, as one sentence that its service list and its log can show.

use std::fmt::Display;
use std::io;

/// A failure: the operation that failed, and its cause.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Error(String);

impl Error {
    pub(crate) fn new(message: impl Display) -> Self {
        Self(message.to_string())
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

/// Adds the operation that failed to an error.
pub(crate) trait Attempt<T> {
    fn attempt(self, operation: impl Display) -> Result<T, Error>;
}

impl<T, E: Display> Attempt<T> for Result<T, E> {
    fn attempt(self, operation: impl Display) -> Result<T, Error> {
        self.map_err(|error| Error(format!("{operation}: {error}")))
    }
}
