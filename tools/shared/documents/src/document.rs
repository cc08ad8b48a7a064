//! Documents: the fields that every kind has.

use std::collections::BTreeMap;

use reasons::Reason;
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Name, Status};

/// A document and its position in the input.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) origin: Origin,
    /// Text of the override that was merged into the document.
    pub(crate) override_origin: Option<Origin>,
    pub(crate) value: Value,
}

/// Text of a document and its position in the input, for messages with line numbers.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// Name of the input: a path or `<stdin>`.
    pub(crate) name: String,
    /// Number of lines above the document in the input.
    pub(crate) above: usize,
    pub(crate) text: String,
}

impl Document {
    /// Whether the document is of our `kind`. Other API groups have kinds of the same name, for example
    /// `Cluster` of Cluster API.
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.is_ours() && self.value["kind"] == kind
    }

    /// Whether the API group of the document is `holistic`.
    pub(crate) fn is_ours(&self) -> bool {
        let version = self.value["apiVersion"].as_str().unwrap_or_default();
        version.starts_with("holistic/")
    }

    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.value["metadata"]["name"] == name
    }

    /// Returns an error with the reason when the document is not Ready.
    pub(crate) fn ready(&self) -> Result<(), String> {
        match self.condition() {
            Some(ready) if ready.status == "True" => Ok(()),
            Some(ready) => Err(format!("{}: {}", ready.reason, ready.message)),
            None => Err("no program has written its status yet".to_owned()),
        }
    }

    /// Whether `destroy` has removed everything that the document declares.
    pub(crate) fn is_destroyed(&self) -> bool {
        self.condition().is_some_and(|ready| ready.reason == Reason::Destroyed.as_str())
    }

    /// Whether the spec refers to the document `name` of `kind`. The field of a reference has the name
    /// of the kind in lower case.
    pub(crate) fn refers_to(&self, kind: &str, name: &str) -> bool {
        self.value["spec"][kind.to_lowercase()] == name
    }

    fn condition(&self) -> Option<WrittenCondition> {
        let conditions = self.value["status"]["conditions"].as_array();
        let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
        ready.and_then(|condition| WrittenCondition::deserialize(condition).ok())
    }
}

/// A condition as it stands in a document. Another version of a program may have written it, so the
/// reason may be a word that this version does not know.
#[derive(Deserialize)]
struct WrittenCondition {
    status: String,
    reason: String,
    message: String,
}

/// The spec of a kind of document that the program owns.
pub trait Kind: DeserializeOwned + JsonSchema + Sync {
    /// Value of the document's `kind` field, for example `Cluster`.
    const KIND: &'static str;
    /// Facts in the status of the document.
    type Observed: Serialize + JsonSchema + Send;
    /// Digests in the status of the document.
    type Evidence: Serialize + JsonSchema + Send;
    /// A step of the document's plan.
    type Step: Serialize + JsonSchema + Send;
}

/// The status of a document of kind `K`.
pub type StatusOf<K> = Status<<K as Kind>::Observed, <K as Kind>::Evidence, <K as Kind>::Step>;

/// A document of a kind that the program owns.
#[derive(Debug)]
pub struct Declared<K> {
    /// Name of the document (`metadata.name`).
    pub name: Name,
    /// State that the document declares.
    pub spec: K,
    /// Index of the document in the stream.
    pub(crate) position: usize,
}

/// A document as its program reads it. Unknown fields are errors, except in `status`, which another
/// version of the program may have written.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound = "")]
pub(crate) struct Object<K: Kind> {
    #[serde(rename = "apiVersion")]
    _version: Version,
    #[serde(rename = "kind")]
    _kind: String,
    pub(crate) metadata: Metadata,
    /// State that the document declares.
    pub(crate) spec: K,
    /// State that the program observed. Only programs write it.
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
    /// Name by which other documents refer to this one.
    pub(crate) name: Name,
    /// Labels for other tools. The programs pass labels on unchanged.
    #[serde(default, rename = "labels")]
    _labels: BTreeMap<String, String>,
    /// Annotations for other tools. The programs pass annotations on unchanged.
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
}
