//! What a status says: facts that other documents refer to, and evidence.

use std::collections::{BTreeMap, BTreeSet};

use documents::Deferred;
use schemars::JsonSchema;
use serde::Serialize;

use crate::foreign::Foreign;
use crate::plan::Step;
use crate::spec::Component;

/// The status of a Delivery.
pub(crate) type Status = documents::Status<Observed, Evidence, Step>;

/// Facts about a Delivery that other documents may refer to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// Digest of the artifact that Flux must have applied.
    pub revision: Deferred<String>,
    /// The images of the controllers.
    pub images: BTreeMap<Component, Deferred<String>>,
    /// Encrypt to this with `sops`, and Flux can decrypt. Absent from the plan of a reader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sops_recipient: Option<String>,
    /// Everything that has been delivered.
    pub objects: Vec<String>,
    /// Delivered objects that run pods.
    pub workloads: Vec<Workload>,
    /// Images that attested manifests pin, and that no artifact of the stream is.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub third_party: BTreeSet<ThirdParty>,
    /// Claims whose data the planned steps would lose.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<LostClaim>,
    /// Fields that others have added to the installation itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<Foreign>,
}

/// Something delivered that runs pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Which.
    pub object: String,
    /// Ready pods of all, for example `1/1`.
    pub ready: String,
}

/// A digest that binds what is there to what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Subject of the digest, for example `artifact`.
    #[serde(rename = "type")]
    pub of: String,
    /// Its digest.
    pub digest: String,
}

/// An image that an attested manifest pins, and that no artifact of this project is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ThirdParty {
    /// The reference, with its digest.
    pub image: String,
    /// The object whose manifest names it.
    pub object: String,
}

/// A claim whose data an operation would lose.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LostClaim {
    /// `namespace/name`.
    pub claim: String,
    /// Its UID.
    pub uid: String,
    /// Why it goes.
    pub because: String,
}
