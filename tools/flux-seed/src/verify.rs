//! Proves that running containers have the attested images, from the kubelets' reports in the API
//! server.
//!
//! Each container of each delivered pod is compared with the digest in its own manifest. A manifest is
//! attested if Flux applied it from our artifact, directly or through a Kustomization in the artifact.
//! An image that an attested manifest pins is accepted even if the image itself is not attested here.
//! Such images are listed as third-party images.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::Error;
use crate::clients::cluster::Reader;
use crate::desired::Desired;
use crate::diff::{Leaf, leaves, managed};
use crate::graph::{inventory, uid};
use crate::kstatus::{condition, text};
use crate::object::Identity;
use crate::observe::{self, ObservedObjects};
use crate::status::ThirdParty;
use crate::step::Step;

/// Maximum number of owners above a pod. Operators nest deeper than workloads of Kubernetes.
const OWNERS_MAX: usize = 8;
/// Maximum depth of Kustomizations that deliver one another.
const DEPTH_MAX: usize = 16;

/// Result of the comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Proof {
    /// Number of containers that run the image of their manifest.
    pub(crate) containers: usize,
    /// Pinned images that are not artifacts of the stream.
    pub(crate) third_party: BTreeSet<ThirdParty>,
    /// Differences from the attested manifests, as texts for people.
    pub(crate) wrong: Vec<String>,
    /// Objects that are not finished, as texts for people.
    pub(crate) pending: Vec<String>,
}

/// An installed or delivered object, and whether its manifest is attested.
#[derive(Clone, Debug)]
struct Origin {
    object: Value,
    /// Reason why the manifest is not attested; `None` if it is attested.
    unattested: Option<String>,
}

/// Proves that the cluster matches `desired` and that every container runs the image of its attested
/// manifest. `left` are the steps of the plan, which must be none. `attested` are the digests of all
/// artifacts in the stream.
pub(crate) fn verify(
    reader: &Reader,
    desired: &Desired,
    (seen, left): (&ObservedObjects, &[Step]),
    attested: &BTreeSet<String>,
) -> Result<Proof, Error> {
    observe::signature(desired, seen)?;
    let mut proof = Proof::default();
    for step in left {
        // An unfinished reconciliation does not disprove anything: report it as pending.
        let pending = matches!(step, Step::Reconcile { .. });
        if pending { &mut proof.pending } else { &mut proof.wrong }.push(step.to_string());
    }
    proof.wrong.extend(unverified(desired, seen));
    let origins = origins(reader, desired, seen, &mut proof)?;
    let releases: Vec<_> =
        origins.values().filter(|origin| origin.object["kind"] == "HelmRelease").cloned().collect();
    let owners = Owners { reader, known: RefCell::default() };
    for pod in reader.list("v1", "Pod", None)? {
        if ["Succeeded", "Failed"].contains(&text(&pod["status"], "phase")) {
            continue;
        }
        let chain = owners.of(&pod)?;
        let origin = chain.iter().find_map(|owner| origins.get(&uid(owner)).cloned());
        let origin = origin.or_else(|| released(&chain, &releases));
        if let Some(origin) = origin {
            containers(&pod, &origin, attested, &mut proof);
        }
    }
    match (proof.wrong.is_empty(), proof.pending.is_empty()) {
        (true, true) => Ok(proof),
        (true, false) => Err(Error::NotYetProven { what: proof.pending, facts: None }),
        (false, _) => Err(Error::Unproven { what: proof.wrong, facts: None }),
    }
}

/// Returns an error text unless Flux reports that it has verified the signature.
fn unverified(desired: &Desired, seen: &ObservedObjects) -> Option<String> {
    let live = seen.actual.get(&desired.source)?;
    let verified = condition(&live.object, "SourceVerified");
    let is_verified = verified.is_some_and(|condition| {
        text(condition, "status") == "True"
            && condition["observedGeneration"] == live.object["metadata"]["generation"]
    });
    (!is_verified).then(|| format!("{} does not report a verified signature", desired.source))
}

/// Returns every installed and delivered object by UID. Follows the inventories of nested
/// Kustomizations.
fn origins(
    reader: &Reader,
    desired: &Desired,
    seen: &ObservedObjects,
    proof: &mut Proof,
) -> Result<BTreeMap<String, Origin>, Error> {
    let mut origins = BTreeMap::new();
    for live in seen.actual.values().filter(|live| live.object["kind"] == "Deployment") {
        let origin = Origin { object: live.object.clone(), unattested: None };
        origins.insert(uid(&live.object), origin);
    }
    let delivered = seen.inventory.iter().filter_map(|(_, object)| object.clone());
    let mut next: Vec<(Value, Option<String>, usize)> =
        delivered.map(|object| (object, None, 0)).collect();
    while let Some((object, unattested, depth)) = next.pop() {
        let id = Identity::of(&object);
        let is_kustomization =
            id.kind == "Kustomization" && id.group() == "kustomize.toolkit.fluxcd.io";
        let origin = Origin { object: object.clone(), unattested: unattested.clone() };
        if origins.insert(uid(&object), origin).is_some() || !is_kustomization {
            continue;
        }
        if !object["spec"]["kubeConfig"].is_null() || depth > DEPTH_MAX {
            proof.wrong.push(format!("{id} delivers to another cluster or is nested too deeply, so that it cannot be verified"));
            continue;
        }
        let unattested = unattested.or_else(|| other_source(desired, &object));
        for entry in reader.each(inventory(&object), |reader, entry| reader.get(&entry)) {
            next.extend(entry?.map(|entry| (entry, unattested.clone(), depth + 1)));
        }
    }
    Ok(origins)
}

/// Returns the reason why objects of a Kustomization are not attested: it has another source than ours.
fn other_source(desired: &Desired, kustomization: &Value) -> Option<String> {
    let id = Identity::of(kustomization);
    let source = &kustomization["spec"]["sourceRef"];
    let namespace = source["namespace"].as_str().or(id.namespace.as_deref());
    let is_ours = source["kind"] == desired.source.kind.as_str()
        && source["name"] == desired.source.name.as_str()
        && namespace == desired.source.namespace.as_deref();
    let name = format!("{} {}", text(source, "kind"), text(source, "name"));
    (!is_ours).then(|| format!("{id} applies its manifest from {name}, which is not attested"))
}

/// Returns the origin of a pod that a `HelmRelease` created. It is unattested, because charts are.
fn released(chain: &[Value], releases: &[Origin]) -> Option<Origin> {
    let is_created_by = |owner: &Value, release: &Origin| {
        let annotations = &owner["metadata"]["annotations"];
        let (metadata, spec) = (&release.object["metadata"], &release.object["spec"]);
        let namespace = match text(spec, "targetNamespace") {
            "" => text(metadata, "namespace"),
            target => target,
        };
        let name = match (text(spec, "releaseName"), text(spec, "targetNamespace")) {
            ("", "") => text(metadata, "name").to_owned(),
            ("", target) => format!("{target}-{}", text(metadata, "name")),
            (name, _) => name.to_owned(),
        };
        text(annotations, "meta.helm.sh/release-name") == name
            && text(annotations, "meta.helm.sh/release-namespace") == namespace
    };
    chain.iter().find_map(|owner| {
        let release = releases.iter().find(|release| is_created_by(owner, release))?;
        let id = Identity::of(&release.object);
        let unattested = Some(format!("{id} created it from a chart, which is not attested"));
        Some(Origin { object: owner.clone(), unattested })
    })
}

/// Owners of objects by UID; `None` for an owner that does not exist.
struct Owners<'a> {
    reader: &'a Reader,
    known: RefCell<BTreeMap<String, Option<Value>>>,
}

impl Owners<'_> {
    /// Lists every object of a kind, because most pods of a cluster have owners of the same kinds.
    fn read(&self, api_version: &str, kind: &str) -> Result<(), Error> {
        let objects = self.reader.list(api_version, kind, None)?;
        let objects = objects.into_iter().map(|object| (uid(&object), Some(object)));
        self.known.borrow_mut().extend(objects);
        Ok(())
    }

    /// Returns `pod` and its controllers, the nearest first.
    fn of(&self, pod: &Value) -> Result<Vec<Value>, Error> {
        let mut chain = vec![pod.clone()];
        for _ in 0..OWNERS_MAX {
            let last =
                chain.last().map_or(&Value::Null, |object| &object["metadata"]["ownerReferences"]);
            let references = last.as_array().into_iter().flatten();
            let Some(owner) =
                references.into_iter().find(|reference| reference["controller"] == true)
            else {
                break;
            };
            let key = text(owner, "uid").to_owned();
            let known = self.known.borrow().get(&key).cloned();
            let object = if let Some(object) = known {
                object
            } else {
                self.read(text(owner, "apiVersion"), text(owner, "kind"))?;
                let object = self.known.borrow().get(&key).cloned().flatten();
                self.known.borrow_mut().insert(key, object.clone());
                object
            };
            match object {
                Some(object) => chain.push(object),
                None => break,
            }
        }
        Ok(chain)
    }
}

/// Returns the pod spec in the manifest of a workload.
fn template(object: &Value) -> &Value {
    match text(object, "kind") {
        "Pod" => &object["spec"],
        "CronJob" => &object["spec"]["jobTemplate"]["spec"]["template"]["spec"],
        _ => &object["spec"]["template"]["spec"],
    }
}

/// Judges the containers of `pod` and adds the results to `proof`.
fn containers(pod: &Value, origin: &Origin, attested: &BTreeSet<String>, proof: &mut Proof) {
    let (id, owner) = (Identity::of(pod), Identity::of(&origin.object));
    if pod["metadata"]["deletionTimestamp"].is_string() {
        proof.pending.push(format!("{id} is being deleted"));
        return;
    }
    let mut reported = 0;
    for (list, declared_in) in [
        ("initContainerStatuses", "initContainers"),
        ("containerStatuses", "containers"),
        ("ephemeralContainerStatuses", "ephemeralContainers"),
    ] {
        for status in pod["status"][list].as_array().into_iter().flatten() {
            let (name, image) = (text(status, "name"), text(status, "imageID"));
            if image.is_empty() {
                continue;
            }
            reported += 1;
            let declared = template(&origin.object)[declared_in].as_array().into_iter().flatten();
            let declared = declared.into_iter().find(|container| container["name"] == name);
            let declared = declared.map(|container| text(container, "image"));
            let setter = setter(&origin.object, declared_in, name);
            let expected = Expected { declared, setter, unattested: origin.unattested.as_deref() };
            let digest = image.rsplit_once('@').map_or("", |(_, digest)| digest);
            match judge(digest, &expected, attested) {
                Judgement::Attested => proof.containers += 1,
                Judgement::Pinned => {
                    proof.containers += 1;
                    let image = declared.unwrap_or_default().to_owned();
                    // The status lists the images of Flux's controllers in `observed.images`.
                    if origin.object["metadata"]["namespace"] != crate::object::NAMESPACE
                        || !crate::diff::is_managed(&origin.object)
                    {
                        proof.third_party.insert(ThirdParty { image, object: owner.to_string() });
                    }
                }
                Judgement::Wrong(why) => {
                    let what = format!("container {name} of {id} runs {image}: {why}");
                    // A Job that began before the last change of its CronJob ends by itself.
                    let is_ending = owner.kind == "CronJob" && attested.contains(digest);
                    if is_ending { &mut proof.pending } else { &mut proof.wrong }.push(what);
                }
            }
        }
    }
    let declared = ["initContainers", "containers", "ephemeralContainers"];
    let declared = declared.map(|list| pod["spec"][list].as_array().map_or(0, Vec::len));
    if reported < declared.iter().sum::<usize>() {
        proof.pending.push(format!("the kubelet has not reported the images of {id} yet"));
    }
}

/// Expected image of a container.
struct Expected<'a> {
    /// Image in the manifest; `None` if the manifest has no such container.
    declared: Option<&'a str>,
    /// Manager that set the image, if it is neither Flux nor this program.
    setter: Option<String>,
    /// Reason why the manifest is not attested; `None` if it is attested.
    unattested: Option<&'a str>,
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// The container runs an artifact of the stream.
    Attested,
    /// The container runs the image that its attested manifest pins.
    Pinned,
    /// The container runs another image; holds the reason.
    Wrong(String),
}

/// Compares the digest of a running container with the expected image.
fn judge(digest: &str, expected: &Expected<'_>, attested: &BTreeSet<String>) -> Judgement {
    let is_attested = attested.contains(digest);
    if let Some(setter) = &expected.setter {
        return Judgement::Wrong(format!("its image was set by {setter} instead of Flux"));
    }
    match (expected.declared, expected.unattested) {
        (None, _) if is_attested => Judgement::Attested,
        (None, _) => Judgement::Wrong("its manifest has no such container".to_owned()),
        (Some(image), unattested) => match (image.rsplit_once('@'), unattested) {
            (Some((_, pinned)), _) if pinned != digest => {
                Judgement::Wrong(format!("its manifest names {image}"))
            }
            _ if is_attested => Judgement::Attested,
            (_, Some(why)) => Judgement::Wrong(why.to_owned()),
            (Some(_), None) => Judgement::Pinned,
            (None, None) => {
                Judgement::Wrong(format!("its manifest names {image} without a digest"))
            }
        },
    }
}

/// Returns the field manager of a container's image, unless Flux or this program manages it.
fn setter(object: &Value, list: &str, container: &str) -> Option<String> {
    let ours = ["kustomize-controller", crate::diff::MANAGER, "helm-controller", "helm"];
    let field = format!(".{list}[name={container}].image");
    let (mut by_us, mut other) = (false, None);
    for entry in managed(object).filter(|entry| entry["subresource"] != "status") {
        let manager = text(entry, "manager");
        leaves(&entry["fieldsV1"], &Leaf::root(object, object), &mut |leaf| {
            if leaf.path.ends_with(&field) {
                if ours.contains(&manager) {
                    by_us = true;
                } else {
                    other = Some(manager.to_owned());
                }
            }
        });
    }
    // Two managers may own one value.
    other.filter(|_| !by_us)
}

#[cfg(test)]
mod tests;
