//! The way back: Flux takes away what it delivered, then we what we installed.

use serde_json::{Value, json};

use crate::Error;
use crate::cluster::{Reader, Writer};
use crate::gate::{Claim, uid};
use crate::kstatus::text;
use crate::object::Identity;
use crate::observe::{Look, Seen, observe};
use crate::plan::{Step, kept, undo};
use crate::wait::Deadline;
use crate::wanted::Wanted;

/// How often we look again. What others kept may have been delivered itself, and gone by now.
const ROUNDS: usize = 4;

/// Removes what is ours, in the reverse order, and tells what stays.
pub(crate) fn remove(
    name: &str,
    wanted: &Wanted,
    (reader, writer): (&Reader, &Writer),
    deadline: &Deadline,
) -> Result<Vec<String>, Error> {
    let mut survivors = Vec::new();
    for _ in 0..ROUNDS {
        let seen = observe(reader, name, wanted, Look::Removal)?;
        let steps = undo(&seen.world);
        if steps.is_empty() {
            for object in stopped(reader, &wanted.kustomization)? {
                phase::uninterrupted()?;
                let (id, doing) = (Identity::of(&object), phase::begin(name, "remove"));
                writer.delete(&object)?;
                gone(reader, &id, &object, deadline)?;
                doing.done(id);
            }
            let kept = kept(&seen.world);
            return Ok(kept.into_iter().chain(survivors).collect());
        }
        for step in &steps {
            phase::uninterrupted()?;
            let doing = phase::begin(name, "remove");
            take(step, wanted, &seen, (reader, writer), deadline, &mut survivors)?;
            doing.done(step.object());
        }
    }
    let seen = observe(reader, name, wanted, Look::Removal)?;
    let left = undo(&seen.world);
    Err(Error::Unsettled { steps: left.iter().map(ToString::to_string).collect() })
}

fn take(
    step: &Step,
    wanted: &Wanted,
    seen: &Seen,
    (reader, writer): (&Reader, &Writer),
    deadline: &Deadline,
    survivors: &mut Vec<String>,
) -> Result<(), Error> {
    let id = step.object();
    let Some(live) = seen.world.get(id) else { return Ok(()) };
    if *id != wanted.kustomization {
        writer.delete(&live.object)?;
        return gone(reader, id, &live.object, deadline);
    }
    if live.object["spec"]["suspend"] == true {
        // A suspended one would be gone at once, and have removed nothing.
        writer.merge(id, &json!({"spec": {"suspend": false}}))?;
    }
    writer.delete(&live.object)?;
    gone(reader, id, &live.object, deadline)?;
    for (id, object) in &seen.inventory {
        let Some(object) = object else { continue };
        if is_pruned(&live.object, object) {
            gone(reader, id, object, deadline)?;
        } else if !is_stopped(object) {
            survivors.push(format!("{id} (Flux was told to leave it)"));
        }
    }
    Ok(())
}

/// Waits until the very object is no longer there.
pub(crate) fn gone(
    reader: &Reader,
    id: &Identity,
    was: &Value,
    deadline: &Deadline,
) -> Result<(), Error> {
    loop {
        let there = reader.get(id)?;
        let Some(there) = there.filter(|it| it["metadata"]["uid"] == was["metadata"]["uid"]) else {
            return Ok(());
        };
        deadline.wait(|| {
            let finalizers = &there["metadata"]["finalizers"];
            let waits =
                if finalizers.is_null() { String::new() } else { format!(": {finalizers}") };
            vec![format!("{id} is still there{waits}")]
        })?;
    }
}

/// Whether the end of `kustomization` takes `object` with it, by Flux's own rules.
pub(crate) fn is_pruned(kustomization: &Value, object: &Value) -> bool {
    let (labels, annotations) = (&object["metadata"]["labels"], &object["metadata"]["annotations"]);
    let says = |key: &str, value: &str| {
        let key = format!("kustomize.toolkit.fluxcd.io/{key}");
        [labels, annotations]
            .into_iter()
            .any(|it| it[&key].as_str().is_some_and(|it| it.eq_ignore_ascii_case(value)))
    };
    let owner = |key: &str| text(labels, &format!("kustomize.toolkit.fluxcd.io/{key}")).to_owned();
    let metadata = &kustomization["metadata"];
    kustomization["spec"]["prune"] == true
        && owner("name") == text(metadata, "name")
        && owner("namespace") == text(metadata, "namespace")
        && !says("prune", "disabled")
        && !says("reconcile", "disabled")
        && !says("ssa", "Ignore")
}

/// The volume claims that would go.
pub(crate) fn claims(wanted: &Wanted, seen: &Seen) -> Vec<Claim> {
    let Some(kustomization) = seen.world.get(&wanted.kustomization) else { return Vec::new() };
    let claim = |(id, object): &(Identity, Option<Value>)| {
        let object = object.as_ref().filter(|it| is_pruned(&kustomization.object, it))?;
        let name = format!("{}/{}", id.namespace.as_deref().unwrap_or_default(), id.name);
        let claim = Claim { name, uid: uid(object).to_owned() };
        (id.kind == "PersistentVolumeClaim").then_some(claim)
    };
    seen.inventory.iter().filter_map(claim).collect()
}

/// What Flux has delivered and left, since a drain had told it to keep its hands off: nobody else
/// will take it away.
fn stopped(reader: &Reader, kustomization: &Identity) -> Result<Vec<Value>, Error> {
    let label = format!("kustomize.toolkit.fluxcd.io%2Fname%3D{}", kustomization.name);
    let mut all = reader.labelled("apps/v1", "Deployment", None, &label)?;
    all.extend(reader.labelled("apps/v1", "StatefulSet", None, &label)?);
    all.retain(|it| is_stopped(it) && is_of(kustomization, it));
    Ok(all)
}

fn is_stopped(object: &Value) -> bool {
    object["metadata"]["annotations"]["data-drain.holistic/replicas"].is_string()
}

fn is_of(kustomization: &Identity, object: &Value) -> bool {
    let label = |it: &str| {
        text(&object["metadata"]["labels"], &format!("kustomize.toolkit.fluxcd.io/{it}")).to_owned()
    };
    label("name") == kustomization.name
        && kustomization.namespace.as_deref() == Some(label("namespace").as_str())
}
