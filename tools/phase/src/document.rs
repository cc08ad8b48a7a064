//! A document: what every kind has in common.

use std::collections::BTreeMap;

use schemars::{JsonSchema, schema_for};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

/// What a program fills in.
pub(crate) type StatusOf<K> =
    Status<<K as Kind>::Observed, <K as Kind>::Evidence, <K as Kind>::Step>;

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
#[must_use]
pub fn schema<K: Kind>() -> Value {
    let mut schema = schema_for!(Object<K>).to_value();
    schema["properties"]["kind"]["const"] = K::KIND.into();
    schema
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
    #[schemars(with = "Option<StatusOf<K>>")]
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
