//! The stream: every document of the input is written to the output, in the same order.

mod overrides;

use std::path::PathBuf;

use serde_json::Value;

use crate::document::{Document, Object, StatusOf};
use crate::validation::{ValidationError, strict};
use crate::{Declared, Error, Kind, kind};

pub use overrides::Overridden;

/// The documents of the input, in the order read.
#[derive(Debug)]
pub struct Stream {
    documents: Vec<Document>,
    mistakes: Vec<ValidationError>,
    /// Kinds that [`Self::documents_of`] has read strictly.
    owned: Vec<&'static str>,
}

impl Stream {
    /// Reads `inputs` to their end; `-` and no input at all mean standard input.
    #[must_use]
    pub fn read(inputs: &[PathBuf]) -> Self {
        let (documents, mistakes) = crate::read::read(inputs);
        Self { documents, mistakes, owned: Vec::new() }
    }

    /// Returns the valid documents of kind `K`. Errors are kept for [`Self::accept`].
    pub fn documents_of<K: Kind>(&mut self) -> Vec<Declared<K>> {
        self.owned.push(K::KIND);
        let mut declared: Vec<Declared<K>> = Vec::new();
        for (position, document) in self.documents.iter().enumerate() {
            if !document.is(K::KIND) {
                continue;
            }
            match strict::<Object<K>>(document) {
                Ok(object)
                    if declared.iter().any(|earlier| earlier.name == object.metadata.name) =>
                {
                    let message = format!("another {} has this name", K::KIND);
                    self.mistakes.push(ValidationError::in_document(
                        document,
                        "/metadata/name",
                        &message,
                    ));
                }
                Ok(Object { metadata, spec, .. }) => {
                    declared.push(Declared { name: metadata.name, spec, position });
                }
                Err(mistakes) => self.mistakes.extend(mistakes),
            }
        }
        declared
    }

    /// Reports an error when the stream lacks the document to which the field `path` of `from` refers.
    pub fn require_exists<K>(&mut self, from: &Declared<K>, path: &str, kind: &str, name: &str) {
        if self.find(kind, name).is_none() {
            let message = self.absence(kind, name);
            self.invalid(from, path, &message);
        }
    }

    /// Returns the message for a field that refers to a document that the stream lacks.
    fn absence(&self, kind: &str, name: &str) -> String {
        let others = self.documents.iter().filter(|document| document.is(kind));
        let others: Vec<_> =
            others.filter_map(|document| document.value["metadata"]["name"].as_str()).collect();
        match others.as_slice() {
            [] => format!("the input has no {kind}, and this field refers to `{name}`"),
            _ => format!("the input has no {kind} `{name}`, only {}", others.join(", ")),
        }
    }

    /// Reports an error at `path` (a JSON pointer) of `document`. The message must not quote the value,
    /// which may be a secret.
    pub fn invalid<K>(&mut self, document: &Declared<K>, path: &str, message: &str) {
        let document = &self.documents[document.position];
        self.mistakes.push(ValidationError::in_document(document, path, message));
    }

    /// Checks that no error was found. Programs contact remote services only after this.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], with every error that was found.
    pub fn accept(&mut self) -> Result<(), Error> {
        // `documents_of` has checked the kinds that the program reads.
        let unread = self
            .documents
            .iter()
            .filter(|document| !self.owned.iter().any(|kind| document.is(kind)));
        for document in unread {
            if let Some((path, message)) = kind::mistake(&document.value, &self.owned) {
                self.mistakes.push(ValidationError::in_document(document, path, &message));
            }
        }
        self.mistakes.sort();
        self.mistakes.dedup();
        let mistakes: Vec<_> = self.mistakes.iter().map(ToString::to_string).collect();
        if mistakes.is_empty() {
            Ok(())
        } else {
            Err(Error::Invalid { mistakes, documents: self.documents.len() })
        }
    }

    /// Returns the error for mistakes in an accepted document that only a remote service shows, for example
    /// a value that the vendor does not offer today. `mistakes` are JSON pointers, each with a message. The
    /// caller must not have changed anything.
    #[must_use]
    pub fn rejected<K>(&self, document: &Declared<K>, mistakes: &[(String, String)]) -> Error {
        let document = &self.documents[document.position];
        let mut mistakes: Vec<_> = mistakes
            .iter()
            .map(|(path, message)| ValidationError::in_document(document, path, message))
            .collect();
        mistakes.sort();
        mistakes.dedup();
        let mistakes = mistakes.iter().map(ToString::to_string).collect();
        Error::Invalid { mistakes, documents: self.documents.len() }
    }

    /// Checks that another document is Ready.
    ///
    /// # Errors
    ///
    /// [`Error::NotReady`], when the document is absent or not Ready.
    pub fn ready(&self, kind: &str, name: &str) -> Result<(), Error> {
        let not_ready = |why| Error::NotReady { document: format!("{kind}/{name}"), why };
        let document = self.find(kind, name);
        let document = document.ok_or_else(|| not_ready("it is not in the stream".to_owned()))?;
        document.ready().map_err(not_ready)
    }

    /// Checks that no other document still needs the document `name` of `kind`, so that `destroy` may
    /// begin.
    ///
    /// # Errors
    ///
    /// [`Error::StillNeeded`], when a document refers to it that is neither destroyed nor a `Drain` that
    /// is Ready.
    pub fn unneeded(&self, kind: &str, name: &str) -> Result<(), Error> {
        let needs = |other: &&Document| {
            let is_released =
                if other.is("Drain") { other.ready().is_ok() } else { other.is_destroyed() };
            other.is_ours() && other.refers_to(kind, name) && !is_released
        };
        self.documents.iter().find(needs).map_or(Ok(()), |by| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (by_kind, by_name) = (text(&by.value["kind"]), text(&by.value["metadata"]["name"]));
            let (document, by) = (format!("{kind}/{name}"), format!("{by_kind}/{by_name}"));
            Err(Error::StillNeeded { document, by })
        })
    }

    /// Returns the JSON of a document.
    #[must_use]
    pub fn document(&self, kind: &str, name: &str) -> Option<&Value> {
        self.find(kind, name).map(|document| &document.value)
    }

    /// Returns the JSON of every document, in the order read.
    pub fn documents(&self) -> impl Iterator<Item = &Value> {
        self.documents.iter().map(|document| &document.value)
    }

    /// Returns the status that `document` has in the input; another version of the program may have
    /// written it.
    #[must_use]
    pub fn status<K>(&self, document: &Declared<K>) -> &Value {
        &self.documents[document.position].value["status"]
    }

    /// Replaces the status of `document`.
    pub fn set_status<K: Kind>(&mut self, document: &Declared<K>, status: &StatusOf<K>) {
        let document = &mut self.documents[document.position];
        document.value["status"] = serde_json::json!(status);
    }

    /// Replaces the value at `path` of `document`. `path` is a JSON pointer to an existing value.
    pub fn replace<K>(&mut self, document: &Declared<K>, path: &str, value: Value) {
        if let Some(target) = self.documents[document.position].value.pointer_mut(path) {
            *target = value;
        }
    }

    /// Returns the spec of every document of `kind`, for changes of untyped values.
    pub fn specs_mut(&mut self, kind: &str) -> impl Iterator<Item = &mut Value> {
        let documents = self.documents.iter_mut().filter(move |document| document.is(kind));
        documents.filter_map(|document| document.value.get_mut("spec"))
    }

    /// Writes every document to standard output.
    ///
    /// # Errors
    ///
    /// [`Error::Output`], when standard output cannot be written.
    pub fn write(&self) -> Result<(), Error> {
        crate::print(self.documents.iter().map(|document| &document.value))
    }

    fn find(&self, kind: &str, name: &str) -> Option<&Document> {
        self.documents.iter().find(|document| document.is(kind) && document.is_called(name))
    }
}
