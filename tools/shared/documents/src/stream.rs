//! The stream: every document that came in goes out, in order.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::document::{Document, Object, StatusOf};
use crate::validation::{ValidationError, strict};
use crate::{Declared, Error, Kind, kind};

/// Every document, in the order read.
#[derive(Debug)]
pub struct Stream {
    documents: Vec<Document>,
    mistakes: Vec<ValidationError>,
    /// The kinds that [`Self::own`] was asked for.
    owned: Vec<&'static str>,
}

impl Stream {
    /// Reads `inputs` (`-` or none at all: standard input) to their end.
    #[must_use]
    pub fn read(inputs: &[PathBuf]) -> Self {
        let (documents, mistakes) = crate::read::read(inputs);
        Self { documents, mistakes, owned: Vec::new() }
    }

    /// The documents of kind `K` that are right. What is wrong is kept for [`Self::accept`].
    pub fn documents_of<K: Kind>(&mut self) -> Vec<Declared<K>> {
        self.owned.push(K::KIND);
        let mut declared: Vec<Declared<K>> = Vec::new();
        for (position, document) in self.documents.iter().enumerate() {
            if !document.is(K::KIND) {
                continue;
            }
            match strict::<Object<K>>(document) {
                Ok(object) if declared.iter().any(|it| it.name == object.metadata.name) => {
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

    /// Makes it a mistake when the document to which `path` of `from` refers is not there.
    pub fn require_exists<K>(&mut self, from: &Declared<K>, path: &str, kind: &str, name: &str) {
        if self.find(kind, name).is_none() {
            let others = self.documents.iter().filter(|it| it.is(kind));
            let others: Vec<_> =
                others.filter_map(|it| it.value["metadata"]["name"].as_str()).collect();
            let message = match others.as_slice() {
                [] => format!("no {kind} came in, and it needs the one called `{name}`"),
                _ => format!("no {kind} called `{name}` came in, only {}", others.join(", ")),
            };
            self.invalid(from, path, &message);
        }
    }

    /// Makes what stands at `path` (a JSON pointer) of `document` a mistake. The message must not
    /// quote what may be a secret.
    pub fn invalid<K>(&mut self, document: &Declared<K>, path: &str, message: &str) {
        let document = &self.documents[document.position];
        self.mistakes.push(ValidationError::in_document(document, path, message));
    }

    /// Lets the program go on to touch the world, unless anything is wrong.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], with all of them.
    pub fn accept(&mut self) -> Result<(), Error> {
        // Documents of a kind that the program reads have been read strictly.
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

    /// Lets a program depend on another document.
    ///
    /// # Errors
    ///
    /// [`Error::NotReady`].
    pub fn ready(&self, kind: &str, name: &str) -> Result<(), Error> {
        let not_ready = |why| Error::NotReady { document: format!("{kind}/{name}"), why };
        let document = self.find(kind, name);
        let document = document.ok_or_else(|| not_ready("it is not in the stream".to_owned()))?;
        document.ready().map_err(not_ready)
    }

    /// Lets a program destroy a document of its own.
    ///
    /// # Errors
    ///
    /// [`Error::StillNeeded`]: another document refers to it and is not itself destroyed; or, if
    /// it is a `Drain`, is not proven.
    pub fn unneeded(&self, kind: &str, name: &str) -> Result<(), Error> {
        let needs = |it: &&Document| {
            let released = if it.is("Drain") { it.ready().is_ok() } else { it.is_destroyed() };
            it.is_ours() && it.refers_to(kind, name) && !released
        };
        self.documents.iter().find(needs).map_or(Ok(()), |by| {
            let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
            let (by_kind, by_name) = (text(&by.value["kind"]), text(&by.value["metadata"]["name"]));
            let (document, by) = (format!("{kind}/{name}"), format!("{by_kind}/{by_name}"));
            Err(Error::StillNeeded { document, by })
        })
    }

    /// What the status of another document holds at `path`, a JSON pointer.
    ///
    /// # Errors
    ///
    /// [`Error::NotReady`]: it is not known before that document is brought about.
    pub fn status_of<T: DeserializeOwned>(
        &self,
        kind: &str,
        name: &str,
        path: &str,
    ) -> Result<T, Error> {
        self.ready(kind, name)?;
        let document = self.find(kind, name);
        let value = document.and_then(|it| it.value["status"].pointer(path)).map(T::deserialize);
        value.and_then(Result::ok).ok_or_else(|| Error::NotReady {
            document: format!("{kind}/{name}"),
            why: format!("its status lacks {path}"),
        })
    }

    /// A document as it stands, for what neither `document` nor `status_of` tells.
    #[must_use]
    pub fn document(&self, kind: &str, name: &str) -> Option<&Value> {
        self.find(kind, name).map(|it| &it.value)
    }

    /// Every document as it stands, in the order read.
    pub fn documents(&self) -> impl Iterator<Item = &Value> {
        self.documents.iter().map(|it| &it.value)
    }

    /// The status with which `document` came in; another version may have written it.
    #[must_use]
    pub fn status<K>(&self, document: &Declared<K>) -> &Value {
        &self.documents[document.position].value["status"]
    }

    /// Gives `document` a new status.
    pub fn set_status<K: Kind>(&mut self, document: &Declared<K>, status: &StatusOf<K>) {
        let document = &mut self.documents[document.position];
        document.value["status"] = serde_json::json!(status);
    }

    /// Replaces what stands at `path` (a JSON pointer to something that is there) of `document`.
    pub fn replace<K>(&mut self, document: &Declared<K>, path: &str, value: Value) {
        if let Some(place) = self.documents[document.position].value.pointer_mut(path) {
            *place = value;
        }
    }

    /// Writes every document to standard output.
    ///
    /// # Errors
    ///
    /// [`Error::Output`].
    pub fn write(&self) -> Result<(), Error> {
        crate::print(self.documents.iter().map(|document| &document.value))
    }

    fn find(&self, kind: &str, name: &str) -> Option<&Document> {
        self.documents.iter().find(|it| it.is(kind) && it.is_called(name))
    }
}
