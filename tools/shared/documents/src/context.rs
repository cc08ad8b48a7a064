//! One document with its stream, and its dependencies.

use crate::Declared;
use crate::stream::Stream;

/// A reference from one document to another.
#[derive(Clone, Debug)]
pub struct Dependency {
    /// JSON pointer of the field that holds the reference.
    pub(crate) path: String,
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    /// Whether the other document must be Ready before this one is applied.
    pub(crate) ready: bool,
}

impl Dependency {
    /// Requires that the other document is in the stream and Ready. `path` is the JSON pointer of the
    /// reference.
    pub fn to_ready(path: impl Into<String>, kind: &'static str, name: impl AsRef<str>) -> Self {
        Self { path: path.into(), kind, name: name.as_ref().to_owned(), ready: true }
    }

    /// Requires that the other document is in the stream. `path` is the JSON pointer of the reference.
    pub fn to_present(path: impl Into<String>, kind: &'static str, name: impl AsRef<str>) -> Self {
        Self { ready: false, ..Self::to_ready(path, kind, name) }
    }
}

/// A document and the stream that contains it.
#[derive(Debug)]
pub struct Context<'a, K> {
    /// The document to process.
    pub document: &'a Declared<K>,
    /// The stream, with the new statuses of the documents that were processed before.
    pub stream: &'a Stream,
}
