//! Observes the declared objects of a cluster and what Flux has delivered. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use contract::labels::DELIVERY;
use documents::Deferred;
use jiff::Timestamp;
use serde_json::Value;

use crate::Error;
use crate::clients::cluster::{Answer, Reader};
use crate::desired::Desired;
use crate::diff;
use crate::graph::{Going, key};
use crate::kstatus::{self, Reading, State, condition, text};
use crate::object::{Identity, NAMESPACE, Stage, order};
use crate::plan::{ActualState, LiveObject, Owner};
use crate::scan::Scan;
use crate::spec::Component;

/// Annotation that asks Flux to reconcile an object. Flux acts whenever its value changes
/// (<https://fluxcd.io/flux/components/source/ocirepositories/#triggering-a-reconcile>).
pub(crate) const REQUESTED_AT: &str = "reconcile.fluxcd.io/requestedAt";

/// Objects of one observation.
pub(crate) struct ObservedObjects {
    pub(crate) actual: ActualState,
    /// Inventory of the Kustomization, each entry with its object; `None` if the object does not exist.
    pub(crate) inventory: Vec<(Identity, Option<Value>)>,
    /// Entries of the inventory whose API does not answer.
    pub(crate) silent: Vec<Identity>,
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

impl ObservedObjects {
    /// Returns an observation without any object.
    pub(crate) fn nothing() -> Self {
        let (inventory, silent) = (Vec::new(), Vec::new());
        Self { actual: ActualState::new(), inventory, silent, hidden: BTreeSet::new() }
    }
}

/// Extent of an observation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Every object.
    Whole,
    /// Objects of one stage that take time to become ready. Other objects are left out, because a
    /// definition has 40 kB and progress is read five times a second.
    Progress(Stage),
    /// Every object, for a removal.
    Removal,
}

/// Reads the declared objects of the Delivery called `name`.
pub(crate) fn observe(
    reader: &Reader,
    name: &str,
    desired: &Desired,
    look: Look,
) -> Result<ObservedObjects, Error> {
    let now = Timestamp::now();
    let mut seen = ObservedObjects::nothing();
    for declared in &desired.objects {
        let id = Identity::of(declared);
        if let Look::Progress(stage) = look
            && !takes_time(&id, stage)
        {
            continue;
        }
        let hidden = Hidden::Object(id.clone());
        let object = unless_hidden(reader, reader.get(&id), hidden, &mut seen.hidden)?;
        let Some(mut object) = object.flatten() else { continue };
        if id == desired.kustomization {
            inventory(reader, &object, &mut seen)?;
        }
        let not_ready_reason = not_ready_reason((&id, &object), desired, &seen, now);
        if matches!(look, Look::Progress(_)) {
            // Only whole looks compare; the others need not carry it.
            object.pointer_mut("/metadata/managedFields").map(Value::take);
        }
        let owner = owner(&object, name, look);
        let admitted = match look {
            Look::Whole if owner != Owner::Foreign => admitted(reader, declared, &object)?,
            Look::Whole | Look::Progress(_) | Look::Removal => None,
        };
        let holds = Vec::new();
        let live = LiveObject { object, owner, admitted, holds, not_ready_reason };
        seen.actual.insert(id, live);
    }
    if !matches!(look, Look::Progress(_)) {
        stale(reader, name, desired, &mut seen)?;
    }
    Ok(seen)
}

/// Adds the objects that the Delivery created and no longer declares. Their label tells them.
fn stale(
    reader: &Reader,
    name: &str,
    desired: &Desired,
    seen: &mut ObservedObjects,
) -> Result<(), Error> {
    let ids: Vec<_> = desired.objects.iter().map(Identity::of).collect();
    let kinds: BTreeSet<_> =
        ids.iter().map(|id| (&id.api_version, &id.kind, &id.namespace)).collect();
    let label = format!("{}%3D{name}", DELIVERY.replace('/', "%2F"));
    for (api_version, kind, namespace) in kinds {
        let objects = reader.labelled(api_version, kind, namespace.as_deref(), &label);
        let hidden = Hidden::Kind(kind.clone());
        let objects = unless_hidden(reader, objects, hidden, &mut seen.hidden)?;
        for object in objects.unwrap_or_default() {
            let id = Identity::of(&object);
            if !ids.contains(&id) && owner(&object, name, Look::Whole) == Owner::Ours {
                let live = LiveObject {
                    object,
                    owner: Owner::Ours,
                    admitted: None,
                    holds: Vec::new(),
                    not_ready_reason: None,
                };
                seen.actual.insert(id, live);
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
        Err(Error::Cluster(kubernetes::Error::Forbidden { .. })) if reader.is_limited() => {
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
    let label = object["metadata"]["labels"][DELIVERY].as_str();
    match label {
        Some(label) if label != name => Owner::Foreign,
        _ if matches!(look, Look::Progress(_)) => Owner::Ours,
        _ if !diff::is_managed(object) => Owner::Foreign,
        Some(_) => Owner::Ours,
        None => Owner::Unmarked,
    }
}

/// Returns the declared object as the API server would store it, if its plain comparison differs. No
/// other object needs the request, so that a second `apply` only reads.
fn admitted(reader: &Reader, declared: &Value, live: &Value) -> Result<Option<Value>, Error> {
    let is_known = !diff::has_unknown(declared);
    if is_known && !reader.is_limited() && !diff::changed(declared, live).is_empty() {
        let mut admitted = reader.admitted(declared)?;
        if let Some(fields) = admitted.as_mut().and_then(Value::as_object_mut) {
            fields.remove("status");
        }
        return Ok(admitted);
    }
    Ok(None)
}

/// Reads the inventory of the Kustomization.
fn inventory(
    reader: &Reader,
    kustomization: &Value,
    seen: &mut ObservedObjects,
) -> Result<(), Error> {
    let entries = kustomization["status"]["inventory"]["entries"].as_array();
    for entry in entries.into_iter().flatten() {
        let id = Identity::of_entry(text(entry, "id"), text(entry, "v"));
        let id = id.ok_or_else(|| Error::Garbled { request: "get the inventory".to_owned() })?;
        let answer = reader.get_unless_silent(&id);
        match unless_hidden(reader, answer, Hidden::Object(id.clone()), &mut seen.hidden)? {
            Some(Answer::Object(object)) => seen.inventory.push((id, object)),
            Some(Answer::Silent) => seen.silent.push(id),
            None => {}
        }
    }
    seen.inventory.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(())
}

/// Whether what its status says came after anybody last asked.
pub(crate) fn has_answered(object: &Value) -> bool {
    let asked = &object["metadata"]["annotations"][REQUESTED_AT];
    asked.is_null() || *asked == object["status"]["lastHandledReconcileAt"]
}

/// Fails when Flux has looked at the signature of what it is to deliver, and refuses it.
pub(crate) fn signature(desired: &Desired, seen: &ObservedObjects) -> Result<(), Error> {
    let live = seen.actual.get(&desired.source).map(|live| &live.object);
    let Some(object) = live.filter(|live| has_answered(live)) else { return Ok(()) };
    let Some(verified) = condition(object, "SourceVerified") else { return Ok(()) };
    let message = text(verified, "message");
    let refused = text(verified, "status") == "False"
        && verified["observedGeneration"] == object["metadata"]["generation"]
        && !is_about_the_way(message)
        && !desired.revision().value().is_some_and(|digest| is_about_another(message, digest));
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
    signs.iter().any(|sign| message.contains(sign))
}

/// Whether a verification was one of another digest. Measured: Flux puts what it says of an artifact
/// under the generation that is there when it says so, which may be newer than the one that it read.
fn is_about_another(message: &str, digest: &str) -> bool {
    message.contains("@sha256:") && !message.contains(digest)
}

/// Returns the reason that an object reports for not being current: why it is not ready, then what its
/// controller does about it.
fn why(object: &Value, reading: &Reading) -> String {
    let ready = condition(object, "Ready").filter(|ready| text(ready, "status") == "False");
    let told = |ready: &Value| format!("{}: {}", text(ready, "reason"), text(ready, "message"));
    match ready
        .filter(|ready| ![reading.reason.as_str(), "Progressing"].contains(&text(ready, "reason")))
    {
        Some(ready) if reading.state == State::InProgress => told(ready),
        _ => format!("{}: {}", reading.reason, reading.message),
    }
}

/// Why the controller of `object` has not done yet what it says; `None` when it has.
fn not_ready_reason(
    (id, object): (&Identity, &Value),
    desired: &Desired,
    seen: &ObservedObjects,
    now: Timestamp,
) -> Option<String> {
    let inventory = &seen.inventory;
    if !is_awaited(id) {
        return None;
    }
    let reading = kstatus::read(object, now);
    if reading.state != State::Current {
        // Flux itself waits for what is being deleted, and does not say so.
        let going = inventory.iter().filter(|(_, object)| {
            *id == desired.kustomization
                && object
                    .as_ref()
                    .is_some_and(|live| live["metadata"]["deletionTimestamp"].is_string())
        });
        let going = going.map(|(id, _)| format!("{id} is being deleted"));
        return Some(
            std::iter::once(why(object, &reading)).chain(going).collect::<Vec<_>>().join("; "),
        );
    }
    if !has_answered(object) {
        return Some("it was asked, and has not answered".to_owned());
    }
    let has = if *id == desired.source {
        &object["status"]["artifact"]["revision"]
    } else if *id == desired.kustomization {
        &object["status"]["lastAppliedRevision"]
    } else {
        return None;
    };
    match desired.revision() {
        Deferred::Value(revision) if has.as_str() == Some(&revision) => {}
        _ => return Some(format!("its revision is {}", has.as_str().unwrap_or("none"))),
    }
    let missing = |(id, object): &(Identity, Option<Value>)| match object {
        // A Job is there when the inventory is written, and goes with its `ttlSecondsAfterFinished`:
        // https://github.com/fluxcd/kustomize-controller/pull/1578
        None if id.kind == "Job" && id.group() == "batch" => None,
        None => Some(format!("{id} is not there")),
        Some(object) => match kstatus::read(object, now) {
            reading if reading.state == State::Current => None,
            reading => Some(format!("{id}: {}: {}", reading.reason, reading.message)),
        },
    };
    let silent = seen.silent.iter().map(|id| format!("{id}: {} does not answer", id.api_version));
    let missing: Vec<_> = inventory.iter().filter_map(missing).chain(silent).collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

/// Lists one object of the kind that `definition` defines.
pub(crate) fn ask_for_any(reader: &Reader, definition: &Value) -> Result<(), Error> {
    let spec = &definition["spec"];
    let versions = spec["versions"].as_array().into_iter().flatten();
    let served = versions.into_iter().find(|version| version["served"] == true);
    let version = served.map(|version| text(version, "name")).unwrap_or_default();
    reader.ask_for_any(&format!("{}/{version}", text(spec, "group")), text(&spec["names"], "kind"))
}

/// Adds the foreign contents of our definitions and of our Namespace to `actual`. Such a definition or
/// Namespace stays, because its deletion would delete these contents.
pub(crate) fn foreign_contents(
    scan: &Scan,
    going: &Going,
    desired: &Desired,
    actual: &mut ActualState,
) {
    let ours: BTreeSet<_> =
        desired.objects.iter().map(|object| key(&Identity::of(object))).collect();
    let definitions: BTreeMap<_, _> =
        scan.kinds.iter().map(|kind| (kind.definition(), kind)).collect();
    for (id, live) in actual {
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
        let is_foreign = |id: &Identity| !ours.contains(&key(id)) && !going.contains_key(&key(id));
        live.holds.extend(objects.filter(is_foreign).map(|id| id.to_string()));
        live.holds.sort();
        live.holds.dedup();
    }
}

/// Whether Kubernetes creates and deletes an object with its Namespace or with its owner.
fn is_auto_created(object: &Value) -> bool {
    let owned =
        object["metadata"]["ownerReferences"].as_array().is_some_and(|owners| !owners.is_empty());
    let id = Identity::of(object);
    let always = [("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")];
    let elections =
        Component::all().into_iter().map(|component| format!("{component}-leader-election"));
    // Endpoints have the name of their Service and no owner.
    owned
        || always.contains(&(id.kind.as_str(), id.name.as_str()))
        || id.kind == "Endpoints"
        || id.kind == "Lease" && elections.into_iter().any(|election| election == id.name)
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
