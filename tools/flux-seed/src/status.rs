//! Status of a Delivery: facts that other documents refer to, and evidence.

use std::collections::{BTreeMap, BTreeSet};

use documents::Deferred;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cause::Cause;
use crate::foreign::Foreign;
use crate::spec::Component;
use crate::step::Step;

/// The status of a Delivery.
pub(crate) type Status = documents::Status<Facts, Evidence, Step>;

/// Facts about a Delivery that other documents may refer to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Digest of the artifact that Flux must have applied.
    pub revision: Deferred<String>,
    /// Image reference of each controller, with its digest.
    pub images: BTreeMap<Component, Deferred<String>>,
    /// Age recipient for `sops`. Flux can decrypt a file that is encrypted to it. Absent from the plan of
    /// a reader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sops_recipient: Option<String>,
    /// Delivered objects, each for example `Deployment default/greeter`.
    pub objects: Vec<String>,
    /// Delivered objects that run pods.
    pub workloads: Vec<Workload>,
    /// Images that attested manifests pin and that are not artifacts of the stream.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub third_party: BTreeSet<ThirdParty>,
    /// Causes for which the Delivery is not ready, the worst first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Claims whose data the planned steps would lose.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<LostClaim>,
    /// Fields that other writers have added to the installation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<Foreign>,
}

/// A delivered object that runs pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Kind, namespace and name, for example `Deployment default/greeter`.
    pub object: String,
    /// Ready pods and declared pods, for example `1/1`.
    pub ready: String,
}

/// Digest of an input of the installation or the delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Subject of the digest, for example `artifact`.
    #[serde(rename = "type")]
    pub subject: String,
    /// Digest of the subject, `sha256:` and 64 hexadecimal digits.
    pub digest: String,
}

/// An image that an attested manifest pins and that is not an artifact of this project.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ThirdParty {
    /// Image reference with its digest.
    pub image: String,
    /// Object whose manifest names the image.
    pub object: String,
}

/// A claim whose data an operation would lose.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LostClaim {
    /// Namespace and name of the claim, for example `default/data`.
    pub claim: String,
    /// UID of the claim.
    pub uid: String,
    /// Cause of the deletion, for example `its Namespace team is deleted`.
    pub because: String,
}
