//! Is what runs what was attested? Asks the kubelets' own reports, by way of the API server.
//!
//! Each container of each pod that the Delivery brought about is compared with the digest that its
//! own manifest names. A manifest is attested when Flux applied it from our artifact, directly or by
//! a Kustomization that the artifact holds. Images that attested manifests pin and nobody here has
//! attested are accepted, and listed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::Error;
use crate::cluster::Reader;
use crate::diff::{Leaf, leaves, managed};
use crate::graph::{inventory, uid};
use crate::kstatus::{condition, text};
use crate::object::Identity;
use crate::observe::{self, Seen};
use crate::plan::Step;
use crate::status::ThirdParty;
use crate::wanted::Wanted;

/// How many owners stand between a pod and what was declared; operators nest deeper than workloads.
const OWNERS_MAX: usize = 8;
/// How deep Kustomizations may deliver one another.
const DEPTH_MAX: usize = 16;

/// What was proven.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Proof {
    /// How many containers run what their manifests name.
    pub(crate) containers: usize,
    pub(crate) third_party: BTreeSet<ThirdParty>,
    pub(crate) wrong: Vec<String>,
    pub(crate) pending: Vec<String>,
}

/// Where an object came from.
#[derive(Clone, Debug)]
struct Origin {
    object: Value,
    /// Why its manifest is not attested; `None` if it is.
    unattested: Option<String>,
}

/// Proves that `seen` is what is wanted, nothing being `left` to do, and that every container runs
/// the image that its attested manifest names; `attested` are the digests of all artifacts of the
/// stream.
pub(crate) fn verify(
    reader: &Reader,
    wanted: &Wanted,
    (seen, left): (&Seen, &[Step]),
    attested: &BTreeSet<String>,
) -> Result<Proof, Error> {
    observe::signature(wanted, seen)?;
    let mut proof = Proof::default();
    for step in left {
        // What a controller is still at work on is no proof of the contrary.
        let pending = matches!(step, Step::Reconcile { .. });
        if pending { &mut proof.pending } else { &mut proof.wrong }.push(step.to_string());
    }
    proof.wrong.extend(unverified(wanted, seen));
    let origins = origins(reader, wanted, seen, &mut proof)?;
    let releases: Vec<_> =
        origins.values().filter(|it| it.object["kind"] == "HelmRelease").cloned().collect();
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
        (true, false) => Err(Error::NotYetProven { what: proof.pending }),
        (false, _) => Err(Error::Unproven { what: proof.wrong }),
    }
}

/// Whether Flux itself says that it has verified what it delivers.
fn unverified(wanted: &Wanted, seen: &Seen) -> Option<String> {
    let live = seen.world.get(&wanted.source)?;
    let verified = condition(&live.object, "SourceVerified");
    let is = verified.is_some_and(|it| {
        text(it, "status") == "True"
            && it["observedGeneration"] == live.object["metadata"]["generation"]
    });
    (!is).then(|| format!("{} does not say that its signature is verified", wanted.source))
}

/// Everything that was installed and delivered, by UID: what our Kustomization has applied, and what
/// the Kustomizations among that have applied, and so on.
fn origins(
    reader: &Reader,
    wanted: &Wanted,
    seen: &Seen,
    proof: &mut Proof,
) -> Result<BTreeMap<String, Origin>, Error> {
    let mut origins = BTreeMap::new();
    for live in seen.world.values().filter(|live| live.object["kind"] == "Deployment") {
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
            proof.wrong.push(format!("{id} delivers where nothing can be verified from here"));
            continue;
        }
        let unattested = unattested.or_else(|| other_source(wanted, &object));
        for entry in inventory(&object) {
            if let Some(entry) = reader.get(&entry)? {
                next.push((entry, unattested.clone(), depth + 1));
            }
        }
    }
    Ok(origins)
}

/// Why what this Kustomization applies is not attested, if it builds from another source than ours.
fn other_source(wanted: &Wanted, kustomization: &Value) -> Option<String> {
    let id = Identity::of(kustomization);
    let source = &kustomization["spec"]["sourceRef"];
    let namespace = source["namespace"].as_str().or(id.namespace.as_deref());
    let is_ours = source["kind"] == wanted.source.kind.as_str()
        && source["name"] == wanted.source.name.as_str()
        && namespace == wanted.source.namespace.as_deref();
    let name = format!("{} {}", text(source, "kind"), text(source, "name"));
    (!is_ours).then(|| format!("{id} applies it from {name}, which is not attested"))
}

/// The `HelmRelease` that made a pod's owner. A chart is not attested.
fn released(chain: &[Value], releases: &[Origin]) -> Option<Origin> {
    let made = |owner: &Value, release: &Origin| {
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
        let release = releases.iter().find(|release| made(owner, release))?;
        let id = Identity::of(&release.object);
        let unattested = Some(format!("{id} made it from a chart, which is not attested"));
        Some(Origin { object: owner.clone(), unattested })
    })
}

/// Owners of objects, each asked for once.
struct Owners<'a> {
    reader: &'a Reader,
    known: RefCell<BTreeMap<String, Option<Value>>>,
}

impl Owners<'_> {
    /// `pod` and all that it belongs to, the nearest first.
    fn of(&self, pod: &Value) -> Result<Vec<Value>, Error> {
        let namespace = text(&pod["metadata"], "namespace").to_owned();
        let mut chain = vec![pod.clone()];
        for _ in 0..OWNERS_MAX {
            let last = chain.last().map_or(&Value::Null, |it| &it["metadata"]["ownerReferences"]);
            let references = last.as_array().into_iter().flatten();
            let Some(owner) = references.into_iter().find(|it| it["controller"] == true) else {
                break;
            };
            let key = text(owner, "uid").to_owned();
            let known = self.known.borrow().get(&key).cloned();
            let object = if let Some(object) = known {
                object
            } else {
                let id = Identity {
                    api_version: text(owner, "apiVersion").to_owned(),
                    kind: text(owner, "kind").to_owned(),
                    namespace: Some(namespace.clone()),
                    name: text(owner, "name").to_owned(),
                };
                let object = self.reader.get(&id)?.filter(|it| uid(it) == key);
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

/// The pod template of a workload.
fn template(object: &Value) -> &Value {
    match text(object, "kind") {
        "Pod" => &object["spec"],
        "CronJob" => &object["spec"]["jobTemplate"]["spec"]["template"]["spec"],
        _ => &object["spec"]["template"]["spec"],
    }
}

/// Adds to `proof` what the containers of `pod` run.
fn containers(pod: &Value, origin: &Origin, attested: &BTreeSet<String>, proof: &mut Proof) {
    let (id, owner) = (Identity::of(pod), Identity::of(&origin.object));
    if pod["metadata"]["deletionTimestamp"].is_string() {
        proof.pending.push(format!("{id} is being removed"));
        return;
    }
    let mut told = 0;
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
            told += 1;
            let declared = template(&origin.object)[declared_in].as_array().into_iter().flatten();
            let declared = declared.into_iter().find(|it| it["name"] == name);
            let declared = declared.map(|it| text(it, "image"));
            let setter = setter(&origin.object, declared_in, name);
            let expected = Expected { declared, setter, unattested: origin.unattested.as_deref() };
            let digest = image.rsplit_once('@').map_or("", |(_, digest)| digest);
            match judge(digest, &expected, attested) {
                Judgement::Attested => proof.containers += 1,
                Judgement::Pinned => {
                    proof.containers += 1;
                    let image = declared.unwrap_or_default().to_owned();
                    // Flux's own controllers are listed in the status by themselves.
                    if origin.object["metadata"]["namespace"] != crate::object::NAMESPACE
                        || !crate::diff::is_managed(&origin.object)
                    {
                        proof.third_party.insert(ThirdParty { image, object: owner.to_string() });
                    }
                }
                Judgement::Wrong(why) => {
                    let what = format!("container {name} of {id} runs {image}: {why}");
                    // A run that began before the last change of its CronJob ends by itself.
                    let passing = owner.kind == "CronJob" && attested.contains(digest);
                    if passing { &mut proof.pending } else { &mut proof.wrong }.push(what);
                }
            }
        }
    }
    let declared = ["initContainers", "containers", "ephemeralContainers"];
    let declared = declared.map(|it| pod["spec"][it].as_array().map_or(0, Vec::len));
    if told < declared.iter().sum::<usize>() {
        proof.pending.push(format!("the kubelet has not said yet which images {id} runs"));
    }
}

/// What a container should run.
struct Expected<'a> {
    /// The image that the manifest names; `None` if the manifest has no such container.
    declared: Option<&'a str>,
    /// Who set that image, if it was neither Flux nor this program.
    setter: Option<String>,
    unattested: Option<&'a str>,
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// It runs an artifact of the stream.
    Attested,
    /// It runs what the attested manifest pins.
    Pinned,
    /// It does not, and why.
    Wrong(String),
}

/// Whether a container that runs `digest` runs what it should.
fn judge(digest: &str, expected: &Expected<'_>, attested: &BTreeSet<String>) -> Judgement {
    let is_attested = attested.contains(digest);
    if let Some(setter) = &expected.setter {
        return Judgement::Wrong(format!("{setter} has set this image, not Flux"));
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

/// Who owns the image of a container in the API server's record, unless Flux or this program does.
fn setter(object: &Value, list: &str, container: &str) -> Option<String> {
    let ours = ["kustomize-controller", crate::diff::MANAGER, "helm-controller", "helm"];
    let wanted = format!(".{list}[name={container}].image");
    let (mut by_us, mut other) = (false, None);
    for entry in managed(object).filter(|entry| entry["subresource"] != "status") {
        let manager = text(entry, "manager");
        leaves(&entry["fieldsV1"], &Leaf::root(object, object), &mut |leaf| {
            if leaf.path.ends_with(&wanted) {
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
