//! Status of a Delivery: facts that other documents refer to, and evidence.

use std::collections::{BTreeMap, BTreeSet};

use documents::Deferred;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::desired::{Desired, sha256};
use crate::foreign::{self, Foreign};
use crate::install;
use crate::object::Identity;
use crate::observe::ObservedObjects;
use crate::plan::{ActualState, Owner};
use crate::spec::{Component, Flux};
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

impl Facts {
    /// Returns the facts of an observation; `None` for a cluster that does not exist yet.
    pub(crate) fn of(desired: &Desired, seen: Option<&ObservedObjects>) -> Self {
        let none = ObservedObjects::nothing();
        let seen = seen.unwrap_or(&none);
        let workload = |(id, object): &(Identity, Option<Value>)| {
            let object = object.as_ref()?;
            let (all, ready) = match id.kind.as_str() {
                "DaemonSet" => {
                    let count = |field: &str| object["status"][field].as_i64().unwrap_or(0);
                    (count("desiredNumberScheduled"), count("numberReady"))
                }
                "Deployment" | "StatefulSet" | "ReplicaSet" => (
                    object["spec"]["replicas"].as_i64().unwrap_or(1),
                    object["status"]["readyReplicas"].as_i64().unwrap_or(0),
                ),
                _ => return None,
            };
            Some(Workload { object: id.to_string(), ready: format!("{ready}/{all}") })
        };
        Self {
            revision: desired.revision(),
            images: desired.images.clone(),
            sops_recipient: desired.sops_recipient.clone(),
            objects: seen.inventory.iter().map(|(id, _)| id.to_string()).collect(),
            workloads: seen.inventory.iter().filter_map(workload).collect(),
            third_party: BTreeSet::new(),
            losses: Vec::new(),
            foreign: added(desired, &seen.actual),
        }
    }
}

/// Returns the fields that other writers added to our objects.
fn added(desired: &Desired, actual: &ActualState) -> Vec<Foreign> {
    let fields = |declared: &Value| {
        let id = Identity::of(declared);
        let live =
            actual.get(&id).filter(|live| [Owner::Ours, Owner::Unmarked].contains(&live.owner));
        let added = live.map(|live| foreign::extras(declared, &live.object)).unwrap_or_default();
        let object = id.to_string();
        added.into_iter().map(move |extra| Foreign {
            object: object.clone(),
            path: extra.path,
            manager: extra.manager,
        })
    };
    desired.objects.iter().flat_map(fields).collect()
}

/// Returns the digests of what the installation and the delivery consist of.
pub(crate) fn evidence(flux: Option<&Flux>, desired: &Desired) -> Vec<Evidence> {
    let evidence = |subject: &str, digest: String| Evidence { subject: subject.to_owned(), digest };
    let install = flux.map(|flux| evidence("install", install::digest(flux.version)));
    let mut all = Vec::from_iter(install);
    if let Some(artifact) = desired.artifact.value() {
        all.push(evidence("artifact", artifact.digest.clone()));
        all.extend(artifact.public_keys.iter().map(|key| evidence("publicKey", sha256(key))));
    }
    let images = desired.images.iter().filter_map(|(component, image)| {
        let (_, digest) = image.value()?.rsplit_once('@')?;
        Some(evidence(&format!("image/{component}"), digest.to_owned()))
    });
    all.extend(images);
    let recipient = desired.sops_recipient.as_deref();
    all.extend(recipient.map(|recipient| evidence("sopsRecipient", sha256(recipient))));
    all
}
