//! What is there, as far as a Delivery can speak of it. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use documents::Deferred;
use jiff::Timestamp;
use serde_json::Value;

use crate::Error;
use crate::cluster::Reader;
use crate::diff;
use crate::foreign::{self, Foreign};
use crate::graph::{Going, key};
use crate::kstatus::{self, Reading, State, condition, text};
use crate::object::{Identity, NAMESPACE, Stage, order};
use crate::plan::{Live, Owner, World};
use crate::scan::Scan;
use crate::spec::{Component, Version};
use crate::status::{Evidence, Observed, Workload};
use crate::wanted::{LABEL, Wanted, sha256};
use crate::{install, wanted};

/// By which Flux is asked: any string that has changed.
pub(crate) const REQUESTED_AT: &str = "reconcile.fluxcd.io/requestedAt";

/// All that one look has shown.
pub(crate) struct Seen {
    pub(crate) world: World,
    /// What Flux has delivered, by its own account, and what there is of it.
    pub(crate) inventory: Vec<(Identity, Option<Value>)>,
    /// Objects and kinds that the caller, a reader, is not allowed to see.
    pub(crate) hidden: BTreeSet<Hidden>,
}

/// A part of the cluster that a reader is not allowed to see.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hidden {
    /// One object.
    Object(Identity),
    /// Every object of a kind.
    Kind(String),
}

impl std::fmt::Display for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Object(object) => write!(f, "{object}"),
            Self::Kind(kind) => write!(f, "every {kind}"),
        }
    }
}

impl Seen {
    /// Nothing has been looked at.
    pub(crate) fn nothing() -> Self {
        Self { world: World::new(), inventory: Vec::new(), hidden: BTreeSet::new() }
    }
}

/// At what to look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// At everything.
    Whole,
    /// At what of one stage takes time to get ready. Definitions are 40 kB each.
    Progress(Stage),
    /// At everything, and at what others keep in it.
    Removal,
}

/// Looks at all that is `wanted` by the Delivery called `name`.
pub(crate) fn observe(
    reader: &Reader,
    name: &str,
    wanted: &Wanted,
    look: Look,
) -> Result<Seen, Error> {
    let now = Timestamp::now();
    let mut seen = Seen::nothing();
    for declared in &wanted.objects {
        let id = Identity::of(declared);
        if let Look::Progress(stage) = look
            && !takes_time(&id, stage)
        {
            continue;
        }
        let hidden = Hidden::Object(id.clone());
        let object = unless_hidden(reader, reader.get(&id), hidden, &mut seen.hidden)?;
        let Some(mut object) = object.flatten() else { continue };
        if id == wanted.kustomization {
            seen.inventory = inventory(reader, &object, &mut seen.hidden)?;
        }
        let not_ready_reason = not_ready_reason(&id, &object, wanted, &seen.inventory, now);
        if matches!(look, Look::Progress(_)) {
            // Only whole looks compare; the others need not carry it.
            object.pointer_mut("/metadata/managedFields").map(Value::take);
        }
        let owner = owner(&object, name, look);
        seen.world.insert(id, Live { object, owner, holds: Vec::new(), not_ready_reason });
    }
    if !matches!(look, Look::Progress(_)) {
        stale(reader, name, wanted, &mut seen)?;
    }
    Ok(seen)
}

/// Finds what the Delivery has made and declares no longer, by its label.
fn stale(reader: &Reader, name: &str, wanted: &Wanted, seen: &mut Seen) -> Result<(), Error> {
    let ids: Vec<_> = wanted.objects.iter().map(Identity::of).collect();
    let kinds: BTreeSet<_> =
        ids.iter().map(|it| (&it.api_version, &it.kind, &it.namespace)).collect();
    let label = format!("{}%3D{name}", LABEL.replace('/', "%2F"));
    for (api_version, kind, namespace) in kinds {
        let objects = reader.labelled(api_version, kind, namespace.as_deref(), &label);
        let hidden = Hidden::Kind(kind.clone());
        let objects = unless_hidden(reader, objects, hidden, &mut seen.hidden)?;
        for object in objects.unwrap_or_default() {
            let id = Identity::of(&object);
            if !ids.contains(&id) && owner(&object, name, Look::Whole) == Owner::Ours {
                let live =
                    Live { object, owner: Owner::Ours, holds: Vec::new(), not_ready_reason: None };
                seen.world.insert(id, live);
            }
        }
    }
    Ok(())
}

/// `found`, or `None` when the API server denies it to a reader; then `what` is noted in `hidden`.
fn unless_hidden<T>(
    reader: &Reader,
    found: Result<T, Error>,
    what: Hidden,
    hidden: &mut BTreeSet<Hidden>,
) -> Result<Option<T>, Error> {
    match found {
        Err(Error::Forbidden { .. }) if reader.is_limited() => {
            hidden.insert(what);
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// Whether it is one for whose readiness we wait.
fn is_awaited(id: &Identity) -> bool {
    let waits = ["CustomResourceDefinition", "Deployment", "OCIRepository", "Kustomization"];
    waits.contains(&id.kind.as_str())
}

/// Whether it is one for whose readiness we wait in `stage`.
pub(crate) fn takes_time(id: &Identity, stage: Stage) -> bool {
    is_awaited(id) && order(id).0 == stage
}

fn owner(object: &Value, name: &str, look: Look) -> Owner {
    let label = object["metadata"]["labels"][LABEL].as_str();
    match label {
        Some(label) if label != name => Owner::Foreign,
        _ if matches!(look, Look::Progress(_)) => Owner::Ours,
        _ if !diff::is_managed(object) => Owner::Foreign,
        Some(_) => Owner::Ours,
        None => Owner::Unmarked,
    }
}

fn inventory(
    reader: &Reader,
    kustomization: &Value,
    hidden: &mut BTreeSet<Hidden>,
) -> Result<Vec<(Identity, Option<Value>)>, Error> {
    let entries = kustomization["status"]["inventory"]["entries"].as_array();
    let mut inventory = Vec::new();
    for entry in entries.into_iter().flatten() {
        let id = Identity::of_entry(text(entry, "id"), text(entry, "v"));
        let id = id.ok_or_else(|| Error::Garbled { request: "get the inventory".to_owned() })?;
        let object = unless_hidden(reader, reader.get(&id), Hidden::Object(id.clone()), hidden)?;
        inventory.extend(object.map(|object| (id, object)));
    }
    inventory.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(inventory)
}

/// Whether what its status says came after anybody last asked.
pub(crate) fn has_answered(object: &Value) -> bool {
    let asked = &object["metadata"]["annotations"][REQUESTED_AT];
    asked.is_null() || *asked == object["status"]["lastHandledReconcileAt"]
}

/// Fails when Flux has looked at the signature of what it is to deliver, and refuses it.
pub(crate) fn signature(wanted: &Wanted, seen: &Seen) -> Result<(), Error> {
    let live = seen.world.get(&wanted.source).map(|it| &it.object);
    let Some(object) = live.filter(|it| has_answered(it)) else { return Ok(()) };
    let Some(verified) = condition(object, "SourceVerified") else { return Ok(()) };
    let message = text(verified, "message");
    let refused = text(verified, "status") == "False"
        && verified["observedGeneration"] == object["metadata"]["generation"]
        && !is_about_the_way(message)
        && !wanted.revision().value().is_some_and(|it| is_about_another(message, it));
    if refused { Err(Error::SignatureRefused { message: message.to_owned() }) } else { Ok(()) }
}

/// Whether a verification failed on the way to the registry, and not on what was found there.
fn is_about_the_way(message: &str) -> bool {
    let signs = [
        "dial tcp",
        "connection re",
        "i/o timeout",
        "deadline exceeded",
        "EOF",
        "TOOMANYREQUESTS",
        "status code 500",
        "status code 502",
        "status code 503",
        "status code 504",
    ];
    signs.iter().any(|it| message.contains(it))
}

/// Whether a verification was one of another digest. Measured: Flux puts what it says of an artifact
/// under the generation that is there when it says so, which may be newer than the one that it read.
fn is_about_another(message: &str, digest: &str) -> bool {
    message.contains("@sha256:") && !message.contains(digest)
}

/// What an object that is not current says of itself: why it is not ready, before what its
/// controller does about it.
fn why(object: &Value, reading: &Reading) -> String {
    let ready = condition(object, "Ready").filter(|it| text(it, "status") == "False");
    let told = |it: &Value| format!("{}: {}", text(it, "reason"), text(it, "message"));
    match ready
        .filter(|it| text(it, "reason") != reading.reason && text(it, "reason") != "Progressing")
    {
        Some(ready) if reading.state == State::InProgress => told(ready),
        _ => format!("{}: {}", reading.reason, reading.message),
    }
}

/// Why the controller of `object` has not done yet what it says; `None` when it has.
fn not_ready_reason(
    id: &Identity,
    object: &Value,
    wanted: &Wanted,
    inventory: &[(Identity, Option<Value>)],
    now: Timestamp,
) -> Option<String> {
    if !is_awaited(id) {
        return None;
    }
    let reading = kstatus::read(object, now);
    if reading.state != State::Current {
        // Flux itself waits for what is being deleted, and does not say so.
        let going = inventory.iter().filter(|(_, object)| {
            *id == wanted.kustomization
                && object.as_ref().is_some_and(|it| it["metadata"]["deletionTimestamp"].is_string())
        });
        let going = going.map(|(id, _)| format!("{id} is being deleted"));
        return Some(
            std::iter::once(why(object, &reading)).chain(going).collect::<Vec<_>>().join("; "),
        );
    }
    if !has_answered(object) {
        return Some("it was asked, and has not answered".to_owned());
    }
    let has = if *id == wanted.source {
        &object["status"]["artifact"]["revision"]
    } else if *id == wanted.kustomization {
        &object["status"]["lastAppliedRevision"]
    } else {
        return None;
    };
    match wanted.revision() {
        Deferred::Value(revision) if has.as_str() == Some(&revision) => {}
        _ => return Some(format!("its revision is {}", has.as_str().unwrap_or("none"))),
    }
    let missing = |(id, object): &(Identity, Option<Value>)| match object {
        // A Job is there when the inventory is written, and goes with its `ttlSecondsAfterFinished`:
        // https://github.com/fluxcd/kustomize-controller/pull/1578
        None if id.kind == "Job" && id.group() == "batch" => None,
        None => Some(format!("{id} is not there")),
        Some(object) => match kstatus::read(object, now) {
            it if it.state == State::Current => None,
            it => Some(format!("{id}: {}: {}", it.reason, it.message)),
        },
    };
    let missing: Vec<_> = inventory.iter().filter_map(missing).collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

/// Asks whether there are objects of what is defined.
pub(crate) fn ask_for_any(reader: &Reader, definition: &Value) -> Result<(), Error> {
    let spec = &definition["spec"];
    let versions = spec["versions"].as_array().into_iter().flatten();
    let served = versions.into_iter().find(|it| it["served"] == true);
    let version = served.map(|it| text(it, "name")).unwrap_or_default();
    reader.ask_for_any(&format!("{}/{version}", text(spec, "group")), text(&spec["names"], "kind"))
}

/// Finds what others keep in our definitions and in our Namespace: neither goes with `going`.
pub(crate) fn foreign_contents(scan: &Scan, going: &Going, wanted: &Wanted, world: &mut World) {
    let ours: BTreeSet<_> = wanted.objects.iter().map(|it| key(&Identity::of(it))).collect();
    let definitions: BTreeMap<_, _> = scan.kinds.iter().map(|it| (it.definition(), it)).collect();
    for (id, live) in world {
        let is_in: Box<dyn Fn(&Value) -> bool> = match id.kind.as_str() {
            "CustomResourceDefinition" => {
                let Some(kind) = definitions.get(&id.name) else { continue };
                Box::new(move |object| {
                    object["kind"] == *kind.kind && object["apiVersion"] == *kind.api_version
                })
            }
            "Namespace" => {
                let silent = scan.silent.iter();
                live.holds.extend(silent.map(|api| format!("what {api} serves, which is silent")));
                Box::new(|object| {
                    object["metadata"]["namespace"] == NAMESPACE && !is_auto_created(object)
                })
            }
            _ => continue,
        };
        let objects = scan.objects.iter().filter(|object| is_in(object)).map(Identity::of);
        let others = objects.filter(|it| !ours.contains(&key(it)) && !going.contains_key(&key(it)));
        live.holds.extend(others.map(|it| it.to_string()));
        live.holds.sort();
        live.holds.dedup();
    }
}

/// Whether an object of a namespace comes and goes with it, or with its owner.
fn is_auto_created(object: &Value) -> bool {
    let owned = object["metadata"]["ownerReferences"].as_array().is_some_and(|it| !it.is_empty());
    let id = Identity::of(object);
    let always = [("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")];
    let elections = Component::all().into_iter().map(|it| format!("{it}-leader-election"));
    // Endpoints carry the name of their Service, and no owner.
    owned
        || always.contains(&(id.kind.as_str(), id.name.as_str()))
        || id.kind == "Endpoints"
        || id.kind == "Lease" && elections.into_iter().any(|it| it == id.name)
}

impl Observed {
    /// What `seen` shows of all that is `wanted`; nothing has been seen of a cluster that is not
    /// there yet.
    pub(crate) fn of(wanted: &Wanted, seen: Option<&Seen>) -> Self {
        let none = Seen::nothing();
        let seen = seen.unwrap_or(&none);
        let workload = |(id, object): &(Identity, Option<Value>)| {
            let object = object.as_ref()?;
            let (of, ready) = match id.kind.as_str() {
                "DaemonSet" => {
                    let count = |it: &str| object["status"][it].as_i64().unwrap_or(0);
                    (count("desiredNumberScheduled"), count("numberReady"))
                }
                "Deployment" | "StatefulSet" | "ReplicaSet" => (
                    object["spec"]["replicas"].as_i64().unwrap_or(1),
                    object["status"]["readyReplicas"].as_i64().unwrap_or(0),
                ),
                _ => return None,
            };
            Some(Workload { object: id.to_string(), ready: format!("{ready}/{of}") })
        };
        Self {
            revision: wanted.revision(),
            images: wanted.images.clone(),
            sops_recipient: wanted.sops_recipient.clone(),
            objects: seen.inventory.iter().map(|(id, _)| id.to_string()).collect(),
            workloads: seen.inventory.iter().filter_map(workload).collect(),
            third_party: BTreeSet::new(),
            losses: Vec::new(),
            foreign: added(wanted, &seen.world),
        }
    }
}

/// What others have added to our objects.
pub(crate) fn added(wanted: &Wanted, world: &World) -> Vec<Foreign> {
    let of = |declared: &Value| {
        let id = Identity::of(declared);
        let live = world.get(&id).filter(|it| it.owner != Owner::Foreign);
        let added = live.map(|it| foreign::extras(declared, &it.object)).unwrap_or_default();
        let object = id.to_string();
        added.into_iter().map(move |extra| Foreign {
            object: object.clone(),
            path: extra.path,
            manager: extra.manager,
        })
    };
    wanted.objects.iter().flat_map(of).collect()
}

/// What binds the installation and the delivery to what they were made of.
pub(crate) fn evidence(version: Version, wanted: &Wanted) -> Vec<Evidence> {
    let evidence = |subject: &str, digest: String| Evidence { subject: subject.to_owned(), digest };
    let mut all = vec![evidence("install", install::digest(version))];
    if let Some(artifact) = wanted.artifact.value() {
        all.push(evidence("artifact", artifact.digest.clone()));
        all.push(evidence("publicKey", wanted::sha256(&artifact.public_key)));
    }
    let images = wanted.images.iter().filter_map(|(component, image)| {
        let (_, digest) = image.value()?.rsplit_once('@')?;
        Some(evidence(&format!("image/{component}"), digest.to_owned()))
    });
    all.extend(images);
    let recipient = wanted.sops_recipient.as_deref();
    all.extend(recipient.map(|recipient| evidence("sopsRecipient", sha256(recipient))));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flux_says_of_the_artifact_before_is_not_about_this_one() {
        let says = |digest: &str| {
            format!(
                "failed to verify the signature using provider 'cosign': no matching signatures were \
                 found for '127.99.0.1:5000/zabronax/deployments@{digest}'"
            )
        };
        assert!(is_about_another(&says("sha256:437c"), "sha256:368e"));
        assert!(!is_about_another(&says("sha256:368e"), "sha256:368e"));
        let unnamed = "failed to verify the signature using provider 'cosign': no key";
        assert!(!is_about_another(unnamed, "sha256:368e"));
    }
}
