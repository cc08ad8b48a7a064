//! Another form of a run's result than documents.

use std::path::PathBuf;

/// A text that a program makes of the result of a run, for example a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendering {
    /// The whole text.
    pub text: String,
    /// File for the text, which replaces an existing file; `None` for standard output. Documents are
    /// written only if standard output is free.
    pub file: Option<PathBuf>,
}
