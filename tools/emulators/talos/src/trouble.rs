//! What goes wrong on a machine, in one sentence that its service list and its log can show.

use std::fmt::Display;
use std::io;

/// A sentence: what could not be done, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Trouble(String);

impl Trouble {
    pub(crate) fn new(what: impl Display) -> Self {
        Self(what.to_string())
    }
}

impl From<Trouble> for io::Error {
    fn from(trouble: Trouble) -> Self {
        Self::other(trouble)
    }
}

/// Says what was attempted when it fails.
pub(crate) trait Attempt<T> {
    fn attempt(self, what: impl Display) -> Result<T, Trouble>;
}

impl<T, E: Display> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl Display) -> Result<T, Trouble> {
        self.map_err(|error| Trouble(format!("{what}: {error}")))
    }
}
