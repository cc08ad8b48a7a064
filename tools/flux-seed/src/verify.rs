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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Proof {
    /// Number of containers that run the image of their manifest.
    pub(crate) containers: usize,
    /// Pinned images that are not artifacts of the stream.
    pub(crate) third_party: BTreeSet<ThirdParty>,
    /// Differences from the attested manifests, as texts for people.
    pub(crate) wrong: Vec<String>,
    /// Objects that are not finished, as texts for people.
    pub(crate) pending: Vec<String>,
    /// Flux's message if it rejected the signature. Then no pod was compared.
    pub(crate) refused: Option<String>,
    /// Whether Flux reports that it has verified the signature; `None` if the source does not exist.
    pub(crate) is_signature_verified: Option<bool>,
    /// Kustomizations whose objects cannot be compared, each with the reason.
    pub(crate) unreachable: Vec<(Identity, String)>,
    /// Every container that was compared.
    pub(crate) checks: Vec<Check>,
}

/// A container of a delivered pod, and the result of its comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) pod: Identity,
    /// Object whose manifest declares the container.
    pub(crate) owner: Identity,
    /// Manager that applied the manifest.
    pub(crate) by: Deliverer,
    /// Name of the container; empty if the result is one of the whole pod.
    pub(crate) container: String,
    /// Image that the kubelet reports, with its digest; empty if it has not reported any.
    pub(crate) image: String,
    /// Reason why the manifest proves nothing about this container; `None` if it does.
    pub(crate) unattested: Option<String>,
    pub(crate) result: CheckResult,
}

/// Manager that applied a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deliverer {
    /// This program, with the installation of Flux.
    Installation,
    /// Flux, by a Kustomization.
    Kustomization(Identity),
    /// Flux, by a `HelmRelease` of a chart.
    Release(Identity),
}

/// Result of one comparison.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CheckResult {
    /// The container runs an artifact of the stream.
    Attested,
    /// The container runs the image that its attested manifest pins.
    Pinned,
    /// The container runs another image; holds the reason and the broken link.
    Wrong(String, BrokenLink),
    /// The kubelet or the API server has not finished; holds the reason.
    Pending(String),
}

/// The link of the chain that a comparison found broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BrokenLink {
    /// Between the pod and its attested manifest.
    Manifest,
    /// Between the pod and the image that its manifest names.
    Image,
}

impl Proof {
    /// Returns the proof unless it found a difference or an unfinished object.
    pub(crate) fn judged(self) -> Result<Self, Error> {
        if let Some(message) = self.refused {
            return Err(Error::SignatureRefused { message });
        }
        match (self.wrong.is_empty(), self.pending.is_empty()) {
            (true, true) => Ok(self),
            (true, false) => Err(Error::NotYetProven { what: self.pending, facts: None }),
            (false, _) => Err(Error::Unproven { what: self.wrong, facts: None }),
        }
    }
}

/// An installed or delivered object, and whether its manifest is attested.
#[derive(Clone, Debug)]
struct Origin {
    object: Value,
    by: Deliverer,
    /// Reason why the manifest is not attested; `None` if it is attested.
    unattested: Option<String>,
}

/// Compares the cluster with `desired`, and every container with the image of its attested manifest. `left`
/// are the steps of the plan, which must be none. `attested` are the digests of all artifacts in the stream.
/// [`Proof::judged`] says whether the comparison proves anything.
pub(crate) fn compare(
    reader: &Reader,
    desired: &Desired,
    (seen, left): (&ObservedObjects, &[Step]),
    attested: &BTreeSet<String>,
) -> Result<Proof, Error> {
    let mut proof = Proof::default();
    if let Err(Error::SignatureRefused { message }) = observe::signature(desired, seen) {
        proof.refused = Some(message);
        return Ok(proof);
    }
    for step in left {
        // An unfinished reconciliation does not disprove anything: report it as pending.
        let pending = matches!(step, Step::Reconcile { .. });
        if pending { &mut proof.pending } else { &mut proof.wrong }.push(step.to_string());
    }
    proof.is_signature_verified = is_signature_verified(desired, seen);
    if proof.is_signature_verified == Some(false) {
        proof.wrong.push(format!("{} does not report a verified signature", desired.source));
    }
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
    Ok(proof)
}

/// Whether Flux reports that it has verified the signature; `None` if the source does not exist.
fn is_signature_verified(desired: &Desired, seen: &ObservedObjects) -> Option<bool> {
    let live = seen.actual.get(&desired.source)?;
    let verified = condition(&live.object, "SourceVerified");
    Some(verified.is_some_and(|condition| {
        text(condition, "status") == "True"
            && condition["observedGeneration"] == live.object["metadata"]["generation"]
    }))
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
        let by = Deliverer::Installation;
        let origin = Origin { object: live.object.clone(), by, unattested: None };
        origins.insert(uid(&live.object), origin);
    }
    let delivered = seen.inventory.iter().filter_map(|(_, object)| object.clone());
    let by = Deliverer::Kustomization(desired.kustomization.clone());
    let mut next: Vec<(Value, Deliverer, Option<String>, usize)> =
        delivered.map(|object| (object, by.clone(), None, 0)).collect();
    while let Some((object, by, unattested, depth)) = next.pop() {
        let id = Identity::of(&object);
        let is_kustomization =
            id.kind == "Kustomization" && id.group() == "kustomize.toolkit.fluxcd.io";
        let origin = Origin { object: object.clone(), by, unattested: unattested.clone() };
        if origins.insert(uid(&object), origin).is_some() || !is_kustomization {
            continue;
        }
        if !object["spec"]["kubeConfig"].is_null() || depth > DEPTH_MAX {
            let why = "delivers to another cluster or is nested too deeply, so that it cannot be verified";
            proof.wrong.push(format!("{id} {why}"));
            proof.unreachable.push((id, why.to_owned()));
            continue;
        }
        let unattested = unattested.or_else(|| other_source(desired, &object));
        for entry in reader.each(inventory(&object), |reader, entry| reader.get(&entry)) {
            let by = Deliverer::Kustomization(id.clone());
            next.extend(entry?.map(|entry| (entry, by, unattested.clone(), depth + 1)));
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
        Some(Origin { object: owner.clone(), by: Deliverer::Release(id), unattested })
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
    let check = |(container, image): (&str, &str), unattested, result| Check {
        pod: id.clone(),
        owner: owner.clone(),
        by: origin.by.clone(),
        container: container.to_owned(),
        image: image.to_owned(),
        unattested,
        result,
    };
    let pending = |why: &str| check(("", ""), None, CheckResult::Pending(why.to_owned()));
    if pod["metadata"]["deletionTimestamp"].is_string() {
        proof.pending.push(format!("{id} is being deleted"));
        proof.checks.push(pending("the pod is being deleted"));
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
            let mut result = judge(digest, &expected, attested);
            match &result {
                CheckResult::Attested => proof.containers += 1,
                CheckResult::Pending(_) => {} // only a whole pod
                CheckResult::Pinned => {
                    proof.containers += 1;
                    let image = declared.unwrap_or_default().to_owned();
                    // The status lists the images of Flux's controllers in `observed.images`.
                    if origin.object["metadata"]["namespace"] != crate::object::NAMESPACE
                        || !crate::diff::is_managed(&origin.object)
                    {
                        proof.third_party.insert(ThirdParty { image, object: owner.to_string() });
                    }
                }
                CheckResult::Wrong(why, _) => {
                    let what = format!("container {name} of {id} runs {image}: {why}");
                    // A Job that began before the last change of its CronJob ends by itself.
                    if owner.kind == "CronJob" && attested.contains(digest) {
                        proof.pending.push(what);
                        result = CheckResult::Pending(why.clone());
                    } else {
                        proof.wrong.push(what);
                    }
                }
            }
            proof.checks.push(check((name, image), expected.unattested(), result));
        }
    }
    let declared = ["initContainers", "containers", "ephemeralContainers"];
    let declared = declared.map(|list| pod["spec"][list].as_array().map_or(0, Vec::len));
    if reported < declared.iter().sum::<usize>() {
        let why = "the kubelet has not reported the images";
        proof.pending.push(format!("{why} of {id} yet"));
        proof.checks.push(pending(&format!("{why} yet")));
    }
}

/// Reason for a container that is not in the manifest of its object.
const NOT_DECLARED: &str = "its manifest has no such container";

/// Expected image of a container.
struct Expected<'a> {
    /// Image in the manifest; `None` if the manifest has no such container.
    declared: Option<&'a str>,
    /// Manager that set the image, if it is neither Flux nor this program.
    setter: Option<String>,
    /// Reason why the manifest is not attested; `None` if it is attested.
    unattested: Option<&'a str>,
}

impl Expected<'_> {
    /// Returns the reason why the manifest proves nothing about the container.
    fn unattested(&self) -> Option<String> {
        let missing = || self.declared.is_none().then_some(NOT_DECLARED);
        self.unattested.or_else(missing).map(str::to_owned)
    }
}

/// Compares the digest of a running container with the expected image.
fn judge(digest: &str, expected: &Expected<'_>, attested: &BTreeSet<String>) -> CheckResult {
    let is_attested = attested.contains(digest);
    let wrong = |why: String, link| CheckResult::Wrong(why, link);
    if let Some(setter) = &expected.setter {
        let why = format!("its image was set by {setter} instead of Flux");
        return wrong(why, BrokenLink::Manifest);
    }
    match (expected.declared, expected.unattested) {
        (None, _) if is_attested => CheckResult::Attested,
        (None, _) => wrong(NOT_DECLARED.to_owned(), BrokenLink::Manifest),
        (Some(image), unattested) => match (image.rsplit_once('@'), unattested) {
            (Some((_, pinned)), _) if pinned != digest => {
                wrong(format!("its manifest names {image}"), BrokenLink::Image)
            }
            _ if is_attested => CheckResult::Attested,
            (_, Some(why)) => wrong(why.to_owned(), BrokenLink::Manifest),
            (Some(_), None) => CheckResult::Pinned,
            (None, None) => {
                wrong(format!("its manifest names {image} without a digest"), BrokenLink::Image)
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
