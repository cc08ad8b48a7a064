//! A document: what every kind has in common.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, schema_for};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Condition, Name, Status};

/// A document and where it comes from.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) origin: Origin,
    pub(crate) value: Value,
}

/// The text of a document, and how many lines are above it in which input.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) name: String,
    pub(crate) above: usize,
    pub(crate) text: String,
}

impl Document {
    /// Whether it is of our `kind`, not of one that others call the same.
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.is_ours() && self.value["kind"] == kind
    }

    /// Whether one of the programs owns it.
    pub(crate) fn is_ours(&self) -> bool {
        let version = self.value["apiVersion"].as_str().unwrap_or_default();
        version.starts_with("holistic/")
    }

    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.value["metadata"]["name"] == name
    }

    /// Why it is not ready, if it is not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        match self.condition() {
            Some(ready) if ready.status == "True" => Ok(()),
            Some(ready) => Err(format!("{}: {}", ready.reason, ready.message)),
            None => Err("no program has said so".to_owned()),
        }
    }

    /// Whether nothing that it declares is there any more.
    pub(crate) fn is_destroyed(&self) -> bool {
        self.condition().is_some_and(|it| it.reason == Condition::DESTROYED)
    }

    /// Whether its spec names the document of `kind` that is called `name`, as documents do:
    /// under the kind, in lower case.
    pub(crate) fn refers_to(&self, kind: &str, name: &str) -> bool {
        self.value["spec"][kind.to_lowercase()] == name
    }

    fn condition(&self) -> Option<Condition> {
        let conditions = self.value["status"]["conditions"].as_array();
        let ready = conditions.into_iter().flatten().find(|it| it["type"] == "Ready");
        ready.and_then(|it| Condition::deserialize(it).ok())
    }
}

/// The spec of a kind of document that the program owns.
pub trait Kind: DeserializeOwned + JsonSchema + Sync {
    /// The document's `kind`.
    const KIND: &'static str;
    /// The facts that its status holds.
    type Observed: Serialize + JsonSchema + Send;
    /// The digests that its status holds.
    type Evidence: Serialize + JsonSchema + Send;
    /// A step of its plan.
    type Step: Serialize + JsonSchema + Send;
}

/// The status of a document of kind `K`.
pub type StatusOf<K> = Status<<K as Kind>::Observed, <K as Kind>::Evidence, <K as Kind>::Step>;

/// A document of an owned kind.
#[derive(Debug)]
pub struct Declared<K> {
    /// `metadata.name`.
    pub name: Name,
    /// What is wanted.
    pub spec: K,
    pub(crate) position: usize,
}

/// The JSON Schema of documents of kind `K`.
///
/// What people write (`spec`) and what a program writes (`status`) have different rules: a field that
/// has a default may be left out of a spec, and a field that is skipped when it is empty is left out
/// of a status. One derived schema could state only one of the two.
#[must_use]
pub fn schema<K: Kind>() -> Value {
    let mut schema = schema_for!(Object<K>).to_value();
    schema["properties"]["kind"]["const"] = K::KIND.into();
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut status = generator.into_root_schema_for::<StatusOf<K>>().to_value();
    let none = Map::new();
    let written = status["$defs"].as_object().unwrap_or(&none).clone();
    let read = schema["$defs"].as_object().unwrap_or(&none).clone();
    for (name, definition) in &written {
        let to = if is_same(name, &read, &written, DEPTH_MAX) {
            name.clone()
        } else {
            format!("Written{name}")
        };
        let mut definition = definition.clone();
        rename(&mut definition, &read, &written);
        schema["$defs"][to] = definition;
    }
    rename(&mut status, &read, &written);
    if let Some(status) = status.as_object_mut() {
        for field in ["$schema", "$defs", "title"] {
            status.remove(field);
        }
        status.insert("description".to_owned(), "What is there.".into());
    }
    schema["properties"]["status"] = status;
    schema
}

/// How many definitions may refer to one another before they are taken to be different.
const DEPTH_MAX: usize = 16;

const DEFINITION: &str = "#/$defs/";

/// Lets every reference in `schema` to a definition that differs between `read` and `written` refer to
/// the one that is written.
fn rename(schema: &mut Value, read: &Map<String, Value>, written: &Map<String, Value>) {
    match schema {
        Value::Object(entries) => {
            for (key, value) in entries {
                let name = value.as_str().and_then(|text| text.strip_prefix(DEFINITION));
                match name.filter(|_| key == "$ref") {
                    Some(name) if is_same(name, read, written, DEPTH_MAX) => {}
                    Some(name) => *value = format!("{DEFINITION}Written{name}").into(),
                    None => rename(value, read, written),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, read, written)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether what is written as `name`, and all to which it refers, is read as the same, or not at all.
fn is_same(
    name: &str,
    read: &Map<String, Value>,
    written: &Map<String, Value>,
    depth: usize,
) -> bool {
    let differs = read.get(name).is_some_and(|read| Some(read) != written.get(name));
    let refers = written.get(name).map_or_else(Vec::new, references);
    !differs
        && depth > 0
        && refers.iter().all(|to| *to == name || is_same(to, read, written, depth - 1))
}

/// The definitions to which `schema` refers.
fn references(schema: &Value) -> Vec<&str> {
    match schema {
        Value::Object(entries) => {
            let own = entries.get("$ref").and_then(Value::as_str);
            let own = own.and_then(|text| text.strip_prefix(DEFINITION));
            own.into_iter().chain(entries.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

/// A document as its owner reads it: strictly, but for a status that another version wrote.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound = "")]
pub(crate) struct Object<K: Kind> {
    #[serde(rename = "apiVersion")]
    _version: Version,
    #[serde(rename = "kind")]
    _kind: String,
    pub(crate) metadata: Metadata,
    /// What is wanted.
    pub(crate) spec: K,
    /// What is there.
    #[serde(default, rename = "status")]
    #[schemars(with = "Value")]
    _status: IgnoredAny,
}

#[derive(Deserialize, JsonSchema)]
enum Version {
    #[serde(rename = "holistic/v1alpha1")]
    V1Alpha1,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    /// By which other documents refer to it.
    pub(crate) name: Name,
    #[serde(default, rename = "labels")]
    _labels: BTreeMap<String, String>,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
}
