//! Observes the declared objects of a cluster and what Flux has delivered. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use contract::labels::DELIVERY;
use documents::Deferred;
use jiff::Timestamp;
use serde_json::Value;

use crate::Error;
use crate::adopt;
use crate::clients::cluster::Reader;
use crate::desired::Desired;
use crate::diff;
use crate::install;
use crate::inventory::{self, Nested};
use crate::kstatus::{self, Reading, State, condition, text};
use crate::lists::{Hidden, kinds_of, label, list, unless_hidden};
use crate::object::{Identity, NAMESPACE, Stage, order};
use crate::plan::{ActualState, LiveObject, Owner};
use crate::spec::Flux;

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
    /// Kustomizations of the artifact with what they deliver. A removal reads its objects otherwise.
    pub(crate) nested: Vec<Nested>,
    /// Objects and kinds that the caller, a reader, is not allowed to see.
    pub(crate) hidden: BTreeSet<Hidden>,
}

impl ObservedObjects {
    /// Returns an observation without any object.
    pub(crate) fn nothing() -> Self {
        let (inventory, silent, nested) = (Vec::new(), Vec::new(), Vec::new());
        Self { actual: ActualState::new(), inventory, silent, nested, hidden: BTreeSet::new() }
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

/// Reads the declared objects of the Delivery called `name`, and in a whole look also the objects that
/// it created and no longer declares. Their label tells them.
///
/// Each kind is listed once, because a list of a kind takes as long as one object. An object that is not
/// in its list may exist without our label, and is read by its name.
pub(crate) fn observe(
    reader: &Reader,
    name: &str,
    desired: &Desired,
    look: Look,
) -> Result<ObservedObjects, Error> {
    let now = Timestamp::now();
    let mut seen = ObservedObjects::nothing();
    let declared = desired.objects.iter().map(Identity::of);
    let declared: Vec<_> = declared
        .filter(|id| match look {
            Look::Progress(stage) => takes_time(id, stage),
            Look::Whole | Look::Removal => true,
        })
        .collect();
    let label = label(DELIVERY, name);
    let mut kinds = kinds_of(&declared);
    if !desired.installation.is_empty() && !matches!(look, Look::Progress(_)) {
        kinds.extend(install::NAMESPACED);
    }
    let mut live = list(reader, &kinds, &label, &mut seen.hidden)?;
    let absent = declared.iter().filter(|id| {
        !live.contains_key(id) && !seen.hidden.contains(&Hidden::Kind(id.kind.clone()))
    });
    live.extend(get(reader, absent.cloned().collect(), &mut seen.hidden)?);
    if let Some(object) = live.get(&desired.kustomization) {
        let read = inventory::read(reader, object)?;
        (seen.inventory, seen.silent) = (read.entries, read.silent);
        seen.hidden.extend(read.hidden);
        if look != Look::Removal {
            seen.nested = inventory::nested(reader, &desired.kustomization, &seen.inventory)?;
        }
    }
    for (id, mut object) in live {
        let is_declared = declared.contains(&id);
        let owner = match owner(&object, name, look) {
            Owner::Foreign if look == Look::Whole && desired.adopts(&id) => adopt::owner(&object),
            owner => owner,
        };
        if !is_declared && (owner != Owner::Ours || matches!(look, Look::Progress(_))) {
            continue;
        }
        let is_whole = look == Look::Whole;
        let not_ready_reason =
            is_declared.then(|| not_ready_reason((&id, &object), desired, &seen, now)).flatten();
        if matches!(look, Look::Progress(_)) {
            // Only whole looks compare; the others need not carry it.
            object.pointer_mut("/metadata/managedFields").map(Value::take);
        }
        let declaration = desired.objects.iter().find(|object| Identity::of(object) == id);
        let admitted = match declaration {
            Some(declared) if is_whole && owner != Owner::Foreign => {
                admitted(reader, declared, &object)?
            }
            _ => None,
        };
        let holds = Vec::new();
        let live = LiveObject { object, owner, admitted, holds, not_ready_reason };
        seen.actual.insert(id, live);
    }
    for id in &declared {
        if seen.hidden.contains(&Hidden::Kind(id.kind.clone())) {
            seen.hidden.insert(Hidden::Object(id.clone()));
        }
    }
    if let (Look::Whole, Some(flux)) = (look, &desired.adoption) {
        beside(reader, name, (flux, &declared), &mut seen)?;
    }
    Ok(seen)
}

/// Adds the objects of Flux that another program installed and that the Delivery does not declare, if
/// an adoption concerns them.
fn beside(
    reader: &Reader,
    name: &str,
    (flux, declared): (&Flux, &[Identity]),
    seen: &mut ObservedObjects,
) -> Result<(), Error> {
    let mut known = install::controllers(flux.version);
    known.retain(|id, _| !declared.contains(id));
    let mut found: BTreeMap<_, _> =
        get(reader, known.keys().cloned().collect(), &mut seen.hidden)?.into_iter().collect();
    let label = label("app.kubernetes.io/part-of", "flux");
    let kinds = BTreeSet::from([("apps/v1", "Deployment")]);
    found.extend(list(reader, &kinds, &label, &mut seen.hidden)?);
    for (id, object) in found {
        let is_in = id.namespace.as_deref() == Some(NAMESPACE) && !declared.contains(&id);
        if !is_in || owner(&object, name, Look::Whole) != Owner::Foreign {
            continue;
        }
        let owner = adopt::beside(flux, &id, known.get(&id).copied(), &object);
        if owner != Owner::Foreign {
            let (admitted, holds, not_ready_reason) = (None, Vec::new(), None);
            let live = LiveObject { object, owner, admitted, holds, not_ready_reason };
            seen.actual.insert(id, live);
        }
    }
    Ok(())
}

/// Reads the objects by their names. Objects that do not exist are left out.
fn get(
    reader: &Reader,
    ids: Vec<Identity>,
    hidden: &mut BTreeSet<Hidden>,
) -> Result<Vec<(Identity, Value)>, Error> {
    let objects = reader.each(&ids, Reader::get);
    let mut found = Vec::new();
    for (id, object) in ids.into_iter().zip(objects) {
        let object = unless_hidden(reader, object, Hidden::Object(id.clone()), hidden)?;
        found.extend(object.flatten().map(|object| (id, object)));
    }
    Ok(found)
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
    if *id == desired.source {
        // Delivered objects say nothing about the source, and the Kustomization is asked to repair it.
        return None;
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
    // Flux says of a nested Kustomization only what it reports itself: before it has seen the new artifact,
    // and without `wait`, that it is ready.
    let nested = || seen.nested.iter();
    let stale = nested().filter_map(|nested| {
        let stale = stale_reason(desired, &nested.kustomization);
        stale.map(|reason| format!("{}: {reason}", nested.id))
    });
    let entries =
        inventory.iter().chain(nested().flat_map(|nested| nested.inventory.entries.iter()));
    let silent = seen.silent.iter().chain(nested().flat_map(|nested| &nested.inventory.silent));
    let silent = silent.map(|id| format!("{id}: {} does not answer", id.api_version));
    let missing: Vec<_> = entries.filter_map(missing).chain(stale).chain(silent).collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

/// Returns the reason if a Kustomization of our source has not applied the declared revision yet.
pub(crate) fn stale_reason(desired: &Desired, kustomization: &Value) -> Option<String> {
    let source = &kustomization["spec"]["sourceRef"];
    let namespace =
        source["namespace"].as_str().or(kustomization["metadata"]["namespace"].as_str());
    let is_ours = text(source, "kind") == desired.source.kind
        && text(source, "name") == desired.source.name
        && namespace == desired.source.namespace.as_deref();
    let applied = &kustomization["status"]["lastAppliedRevision"];
    let is_applied =
        desired.revision().value().is_none_or(|revision| *applied == revision.as_str());
    let stale = is_ours && !is_applied;
    stale.then(|| format!("its revision is {}", applied.as_str().unwrap_or("none")))
}

/// Lists one object of the kind that `definition` defines.
pub(crate) fn ask_for_any(reader: &Reader, definition: &Value) -> Result<(), Error> {
    let spec = &definition["spec"];
    let versions = spec["versions"].as_array().into_iter().flatten();
    let served = versions.into_iter().find(|version| version["served"] == true);
    let version = served.map(|version| text(version, "name")).unwrap_or_default();
    reader.ask_for_any(&format!("{}/{version}", text(spec, "group")), text(&spec["names"], "kind"))
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
