//! Computes the facts and the evidence of a status from an observation. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::desired::{Desired, sha256};
use crate::foreign::{self, Foreign};
use crate::install;
use crate::object::Identity;
use crate::observe::ObservedObjects;
use crate::plan::{ActualState, Owner};
use crate::spec::Flux;
use crate::status::{Evidence, Facts, Workload};

/// Returns the facts of an observation; `None` for a cluster that does not exist yet.
pub(crate) fn facts(desired: &Desired, seen: Option<&ObservedObjects>) -> Facts {
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
    Facts {
        revision: desired.revision(),
        images: desired.images.clone(),
        sops_recipient: desired.sops_recipient.clone(),
        objects: objects(seen),
        workloads: seen.inventory.iter().filter_map(workload).collect(),
        third_party: BTreeSet::new(),
        causes: Vec::new(),
        losses: Vec::new(),
        foreign: added(desired, &seen.actual),
    }
}

/// Names the delivered objects, those of an API that does not answer, too.
fn objects(seen: &ObservedObjects) -> Vec<String> {
    let mut ids: Vec<_> = seen.inventory.iter().map(|(id, _)| id).chain(&seen.silent).collect();
    ids.sort();
    ids.into_iter().map(ToString::to_string).collect()
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
