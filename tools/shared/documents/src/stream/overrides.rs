//! Overrides: documents whose fields replace fields of the stream's documents.

use serde_json::{Map, Value};

use super::Stream;
use crate::document::Document;
use crate::kind;
use crate::validation::{ValidationError, join, readable};

/// Fields that an override may have.
const FIELDS: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];

const NOTHING_TO_REMOVE: &str = "the document does not have this field, so it cannot be removed";

/// Validation errors of an override, each with its JSON pointer.
type Mistakes = Vec<(String, String)>;

/// Document of the stream that has an override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overridden {
    /// Kind of the document, for example `Delivery`.
    pub kind: String,
    /// Name of the document, for example `prod`.
    pub name: String,
    /// Fields that the override sets or removes, for example `spec.path`.
    pub fields: Vec<String>,
    /// File that holds the override.
    pub file: String,
}

impl Stream {
    /// Merges the spec of every document in `overrides` into the spec of the document of the same kind and
    /// name. `merge` is the function that merges a patch into a value.
    ///
    /// Errors are kept for [`Self::accept`]. A later error in a field that an override sets is reported at
    /// the field's position in the override.
    pub fn override_with(
        &mut self,
        overrides: Self,
        merge: impl Fn(&mut Value, &Value),
    ) -> Vec<Overridden> {
        self.mistakes.extend(overrides.mistakes);
        let mut overridden = Vec::new();
        for document in overrides.documents {
            let mut mistakes = Vec::new();
            match self.target(&document) {
                Ok((index, done)) => {
                    let target = &mut self.documents[index];
                    for path in
                        absent_removals(&document.value["spec"], &target.value["spec"], "/spec")
                    {
                        mistakes.push((path, NOTHING_TO_REMOVE.to_owned()));
                    }
                    merge(&mut target.value["spec"], &document.value["spec"]);
                    target.override_origin = Some(document.origin.clone());
                    overridden.push(done);
                }
                Err(found) => mistakes = found,
            }
            let mistakes = mistakes
                .iter()
                .map(|(path, message)| ValidationError::in_document(&document, path, message));
            self.mistakes.extend(mistakes);
        }
        overridden
    }

    /// Returns the index of the document that the document `by` overrides, or the validation errors in `by`.
    fn target(&self, by: &Document) -> Result<(usize, Overridden), Mistakes> {
        let mistake = |message| Err(vec![("/metadata/name".to_owned(), message)]);
        let (spec, kind, name) = declared(by)?;
        let is_target = |document: &Document| document.is(kind) && document.is_called(name);
        let Some(index) = self.documents.iter().position(is_target) else {
            return mistake(self.absence(kind, name));
        };
        if self.documents[index].override_origin.is_some() {
            return mistake(format!("another override of {kind} has this name"));
        }
        let fields = leaves(spec, "/spec").iter().map(|path| readable(path)).collect();
        let file = by.origin.name.clone();
        Ok((index, Overridden { kind: kind.to_owned(), name: name.to_owned(), fields, file }))
    }
}

/// Returns spec, kind and name of an override.
fn declared(by: &Document) -> Result<(&Value, &str, &str), Mistakes> {
    if let Some((path, message)) = kind::mistake(&by.value, &[]) {
        return Err(vec![(path.to_owned(), message)]);
    }
    if !by.is_ours() {
        let message = format!("only documents of {} have overrides", kind::VERSION);
        return Err(vec![("/apiVersion".to_owned(), message)]);
    }
    let mut mistakes = Vec::new();
    let top = by.value.as_object().into_iter().flat_map(Map::keys);
    let top = top.filter(|key| !FIELDS.contains(&key.as_str())).map(|key| join("", key));
    let metadata = by.value["metadata"].as_object().into_iter().flat_map(Map::keys);
    let metadata = metadata.filter(|key| *key != "name").map(|key| join("/metadata", key));
    for path in top.chain(metadata) {
        mistakes.push((path, "an override has only `metadata.name` and `spec`".to_owned()));
    }
    let name = by.value["metadata"]["name"].as_str();
    if name.is_none() {
        mistakes.push(("/metadata/name".to_owned(), "the name must be a string".to_owned()));
    }
    let spec = &by.value["spec"];
    if !spec.is_object() {
        mistakes.push(("/spec".to_owned(), "`spec` must be an object".to_owned()));
    }
    match (by.value["kind"].as_str(), name) {
        (Some(kind), Some(name)) if mistakes.is_empty() => Ok((spec, kind, name)),
        _ => Err(mistakes),
    }
}

/// Returns the path of every `null` in `changes` whose field `value` does not have. A misspelt name of such a
/// field would otherwise have no effect.
fn absent_removals(changes: &Value, value: &Value, path: &str) -> Vec<String> {
    let entries = changes.as_object().into_iter().flatten();
    let absent = entries.flat_map(|(key, entry)| {
        let (path, value) = (join(path, key), &value[key.as_str()]);
        if entry.is_null() && value.is_null() {
            vec![path]
        } else {
            absent_removals(entry, value, &path)
        }
    });
    absent.collect()
}

/// Returns the path of every value in `changes` that is not an object with entries.
fn leaves(changes: &Value, path: &str) -> Vec<String> {
    match changes.as_object().filter(|entries| !entries.is_empty()) {
        None => vec![path.to_owned()],
        Some(entries) => {
            let entries = entries.iter();
            entries.flat_map(|(key, entry)| leaves(entry, &join(path, key))).collect()
        }
    }
}
