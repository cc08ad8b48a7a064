//! The only writer, and what it waits for between its steps.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Error;
use crate::cluster::{Reader, Writer};
use crate::deadline::Deadline;
use crate::foreign;
use crate::graph::uid;
use crate::kstatus::{self, State, text};
use crate::object::{Identity, Stage, order};
use crate::observe::{self, Look, REQUESTED_AT, Seen, has_answered, observe};
use crate::plan::{Live, Step, World, plan};
use crate::sunset::wait_deleted;
use crate::wait::is_at_work;
use crate::wanted::Wanted;

/// Fails when anything of what is wanted is there, and not ours.
pub(crate) fn unblocked(steps: &[Step]) -> Result<(), Error> {
    let blocked = steps.iter().filter_map(|it| match it {
        Step::Blocked { object, made_by } => Some(format!("{object}, made by {made_by}")),
        _ => None,
    });
    let objects: Vec<_> = blocked.collect();
    if !objects.is_empty() {
        return Err(Error::Foreign { objects });
    }
    Ok(())
}

/// Waits until no object of ours is being deleted any more, and looks again: what is in a Namespace
/// that goes, goes with it.
pub(crate) fn without_terminating(
    name: &str,
    wanted: &Wanted,
    mut seen: Seen,
    reader: &Reader,
    deadline: &Deadline,
) -> Result<Seen, Error> {
    loop {
        let going = seen.world.iter().find(|(_, live)| live.is_terminating());
        let Some((id, live)) = going else { return Ok(seen) };
        let doing = documents::step(name, "wait for removal");
        wait_deleted(reader, id, &uid(&live.object), deadline)?;
        doing.done(id);
        seen = observe(reader, name, wanted, Look::Whole)?;
    }
}

/// Takes `steps`, and waits until the cluster and Flux have acted on them.
pub(crate) fn apply(
    name: &str,
    wanted: &Wanted,
    steps: &[Step],
    world: &World,
    (reader, writer): (&Reader, &Writer),
    deadline: &Deadline,
) -> Result<(), Error> {
    // The Kustomization acts on a new artifact by itself; asked before that, on the old one.
    let follows = steps.iter().any(|it| *it.object() == wanted.source);
    for stage in [Stage::Definitions, Stage::Classes, Stage::Rest] {
        let mut taken = 0;
        for step in steps.iter().filter(|it| order(it.object()).0 == stage) {
            documents::check_interrupt()?;
            if matches!(step, Step::Reconcile { .. })
                && *step.object() == wanted.kustomization
                && follows
            {
                continue;
            }
            take(name, wanted, step, world.get(step.object()), (reader, writer), deadline)?;
            taken += 1;
        }
        // What follows a definition needs the API server to serve it.
        if stage == Stage::Rest || taken > 0 {
            delivered(name, wanted, reader, deadline, stage)?;
        }
    }
    Ok(())
}

fn take(
    name: &str,
    wanted: &Wanted,
    step: &Step,
    live: Option<&Live>,
    (reader, writer): (&Reader, &Writer),
    deadline: &Deadline,
) -> Result<(), Error> {
    let object = step.object();
    match step {
        Step::Create { .. } | Step::Update { .. } => {
            let declared = wanted.objects.iter().find(|it| Identity::of(it) == *object);
            let declared = declared.filter(|it| !is_unknown(it));
            let unknown = || Error::NotKnownYet { object: object.to_string() };
            let doing = documents::step(name, if live.is_none() { "create" } else { "update" });
            if declared.is_some_and(recreates) && live.is_some_and(|it| rolls(&it.object)) {
                // Nobody owns what defaulting has added, so no apply takes it away; and the two
                // together are refused.
                let recreate = json!({"type": "Recreate", "rollingUpdate": null});
                writer.merge(object, &json!({"spec": {"strategy": recreate}}))?;
            }
            let declared = declared.ok_or_else(unknown)?;
            let immutable =
                live.filter(|it| it.object["kind"] == "Secret" && it.object["immutable"] == true);
            if let Some(live) = immutable {
                writer.delete(&live.object)?;
                wait_deleted(reader, object, &uid(&live.object), deadline)?;
            }
            write(writer, declared, deadline)?;
            doing.done(step);
        }
        Step::Reconcile { .. } if object.group().ends_with(".toolkit.fluxcd.io") => {
            let live = live.map_or(&Value::Null, |it| &it.object);
            // What it is at may have begun before the artifact was signed, and will refuse it then.
            if *object != wanted.source && is_at_work(live) {
                return Ok(());
            }
            let revision = wanted.revision().value().cloned().unwrap_or_default();
            // Any string that has changed will do. No clock: the revision says why we ask.
            let asked = live["metadata"]["annotations"][REQUESTED_AT] == revision.as_str();
            let at = if asked {
                format!("{revision}/{}", text(&live["metadata"], "resourceVersion"))
            } else {
                revision
            };
            let doing = documents::step(name, "reconcile");
            writer.merge(object, &json!({"metadata": {"annotations": {REQUESTED_AT: at}}}))?;
            doing.done(step);
        }
        Step::RemoveFields { .. } => {
            let declared = wanted.objects.iter().find(|it| Identity::of(it) == *object);
            // As it is after the step before, which may have been an update of the same object.
            let (Some(declared), Some(live)) = (declared, reader.get(object)?) else {
                return Ok(());
            };
            let doing = documents::step(name, "remove fields");
            if live["kind"] == "Secret" && live["immutable"] == true {
                // The API server refuses every change of an immutable Secret, this one included.
                writer.delete(&live)?;
                wait_deleted(reader, object, &uid(&live), deadline)?;
                write(writer, declared, deadline)?;
            } else {
                let extras = foreign::extras(declared, &live);
                if !extras.is_empty() {
                    writer.patch(object, &foreign::removal(&extras, &live))?;
                }
            }
            doing.done(step);
        }
        Step::Reconcile { .. } | Step::Blocked { .. } => {}
        Step::Remove { .. } => {
            let Some(live) = live else { return Ok(()) };
            let doing = documents::step(name, "remove");
            writer.delete(&live.object)?;
            wait_deleted(reader, object, &uid(&live.object), deadline)?;
            doing.done(step);
        }
    }
    Ok(())
}

/// Applies one object. A definition that is served may still be unknown to the server that
/// answers: that passes.
fn write(writer: &Writer, declared: &Value, deadline: &Deadline) -> Result<(), Error> {
    loop {
        match writer.apply(declared) {
            Err(Error::NotKnownYet { object }) => {
                deadline
                    .wait(|| vec![format!("{object}: the API server does not know its kind")])?;
            }
            other => return other,
        }
    }
}

fn recreates(deployment: &Value) -> bool {
    deployment.pointer("/spec/strategy/type").is_some_and(|it| it == "Recreate")
}

fn rolls(deployment: &Value) -> bool {
    deployment.pointer("/spec/strategy/rollingUpdate").is_some_and(Value::is_object)
}

/// Whether anything in it is not known yet.
fn is_unknown(of: &Value) -> bool {
    match of {
        Value::Null => true,
        Value::Array(items) => items.iter().any(is_unknown),
        Value::Object(fields) => fields.values().any(is_unknown),
        _ => false,
    }
}

/// Waits until what is wanted of one stage is there and works. Says what it waits for, whenever that
/// changes.
fn delivered(
    name: &str,
    wanted: &Wanted,
    reader: &Reader,
    deadline: &Deadline,
    stage: Stage,
) -> Result<(), Error> {
    let mut said = BTreeMap::new();
    let last = stage == Stage::Rest;
    let doing = documents::step(name, if last { "deliver" } else { "establish" });
    loop {
        let seen = deadline.look(|| observe(reader, name, wanted, Look::Progress(stage)))?;
        refused(wanted, &seen)?;
        let missing = missing(wanted, &seen, stage);
        if missing.is_empty() {
            if last {
                doing.done(format_args!("{} objects", seen.inventory.len()));
            } else {
                served(reader, &seen.world)?;
                doing.done("the API server serves what was defined");
            }
            return Ok(());
        }
        for (object, why) in &missing {
            if said.get(object) != Some(why) {
                documents::note(name, format_args!("waiting for {object}: {why}"));
            }
        }
        said = missing.into_iter().collect();
        deadline.wait(|| said.iter().map(|(object, why)| format!("{object}: {why}")).collect())?;
    }
}

/// Asks for objects of every kind that was defined. The API server makes ready to keep them at the
/// first question, and whoever begins to watch them meanwhile is sent away for a second: Flux's
/// controllers were, and began that much later.
fn served(reader: &Reader, world: &World) -> Result<(), Error> {
    let definitions = world.iter().filter(|(id, _)| id.kind == "CustomResourceDefinition");
    for (_, live) in definitions {
        observe::ask_for_any(reader, &live.object)?;
    }
    Ok(())
}

fn missing(wanted: &Wanted, seen: &Seen, stage: Stage) -> Vec<(String, String)> {
    let ids = wanted.objects.iter().map(Identity::of).filter(|it| observe::takes_time(it, stage));
    let not_ready_reason = |id: Identity| match seen.world.get(&id) {
        None => Some((id.to_string(), "it is not there".to_owned())),
        Some(live) => live.not_ready_reason.clone().map(|why| (id.to_string(), why)),
    };
    ids.filter_map(not_ready_reason).collect()
}

/// Fails for good when Flux, or something that it delivered, has said something that waiting will
/// not change.
fn refused(wanted: &Wanted, seen: &Seen) -> Result<(), Error> {
    observe::signature(wanted, seen)?;
    let now = jiff::Timestamp::now();
    let stalled = |id: &Identity, object: &Value| {
        let reading = kstatus::read(object, now);
        (reading.state == State::Failed).then(|| {
            let message = format!("{}: {}", reading.reason, reading.message);
            Error::Stalled { object: id.to_string(), message }
        })
    };
    for (id, live) in &seen.world {
        if id.kind != "Deployment"
            && has_answered(&live.object)
            && let Some(error) = stalled(id, &live.object)
        {
            return Err(error);
        }
    }
    // What the revision before has delivered says nothing of this one.
    let applied = seen.world.get(&wanted.kustomization).is_some_and(|live| {
        let applied = live.object["status"]["lastAppliedRevision"].as_str();
        has_answered(&live.object)
            && applied.is_some()
            && applied == wanted.revision().value().map(String::as_str)
    });
    let failed = |(id, object): &(Identity, Option<Value>)| {
        // A Job that has failed is never run again. Anything else may still recover: a kubelet pulls
        // again, an operator tries again.
        let object = object.as_ref().filter(|it| it["kind"] == "Job")?;
        stalled(id, object)
    };
    match seen.inventory.iter().find_map(failed).filter(|_| applied) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Whole looks after the steps, until nothing is left to do. Flux may be at it once more by the
/// time we look: only that is worth another look.
pub(crate) fn settled(
    name: &str,
    wanted: &Wanted,
    reader: &Reader,
    deadline: &Deadline,
) -> Result<Seen, Error> {
    loop {
        let seen = deadline.look(|| observe(reader, name, wanted, Look::Whole))?;
        let left = plan(&wanted.objects, &seen.world);
        if left.is_empty() {
            return Ok(seen);
        }
        let steps = || left.iter().map(ToString::to_string).collect();
        if !left.iter().all(|it| matches!(it, Step::Reconcile { .. })) {
            return Err(Error::Unsettled { steps: steps() });
        }
        refused(wanted, &seen)?;
        deadline.wait(steps)?;
    }
}
