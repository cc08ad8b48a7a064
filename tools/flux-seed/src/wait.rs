//! Conditions that the program waits for. Reads only.

use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use crate::Error;
use crate::clients::cluster::Reader;
use crate::desired::Desired;
use crate::graph::uid;
use crate::kstatus::{self, State, condition, text};
use crate::object::{Identity, Stage};
use crate::observe::{self, Look, ObservedObjects, has_answered, observe};
use crate::plan::{ActualState, still_there};

/// Pause between two observations. One observation takes about 20 requests of a millisecond each.
pub(crate) const POLL: Duration = Duration::from_millis(200);

/// Whether the controller of `object` is at work, so that it need not be asked. A controller that waits
/// for its next attempt is not.
pub(crate) fn is_at_work(object: &Value) -> bool {
    let reconciling = condition(object, "Reconciling");
    match reconciling.filter(|condition| text(condition, "status") == "True") {
        Some(condition) => text(condition, "reason") == "Progressing",
        None => object["status"]["observedGeneration"] != object["metadata"]["generation"],
    }
}

/// Repeats `check` until it returns a value. Returns `None` when `limit` is over.
pub(crate) fn poll<T>(
    limit: Duration,
    mut check: impl FnMut() -> Result<Option<T>, Error>,
) -> Result<Option<T>, Error> {
    let until = Instant::now() + limit;
    loop {
        if let Some(value) = check()? {
            return Ok(Some(value));
        }
        documents::check_interrupt()?;
        if Instant::now() >= until {
            return Ok(None);
        }
        sleep(POLL);
    }
}

/// Returns the reason to wait while the object with this UID still exists; `None` once it is deleted.
pub(crate) fn not_deleted_reason(
    reader: &Reader,
    id: &Identity,
    was: &str,
) -> Result<Option<String>, Error> {
    let live = reader.get(id)?.filter(|live| uid(live) == was);
    Ok(live.map(|live| still_there(id, &live)))
}

/// Returns which objects of a stage are not ready yet; `None` when all are ready.
pub(crate) fn not_ready_reason(
    reader: &Reader,
    name: &str,
    desired: &Desired,
    stage: Stage,
) -> Result<Option<String>, Error> {
    let seen = observe(reader, name, desired, Look::Progress(stage))?;
    check_refused(desired, &seen)?;
    let awaited = desired.objects.iter().map(Identity::of);
    let awaited = awaited.filter(|id| observe::takes_time(id, stage));
    let missing = awaited.filter_map(|id| match seen.actual.get(&id) {
        None => Some(format!("{id}: it is not there")),
        Some(live) => live.not_ready_reason.as_ref().map(|why| format!("{id}: {why}")),
    });
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        if stage == Stage::Definitions {
            check_served(reader, &seen.actual)?;
        }
        return Ok(None);
    }
    Ok(Some(missing.join("; ")))
}

/// Lists one object of every kind that was defined. The API server prepares its storage of a kind at the
/// first request, and rejects watches of that kind for a second meanwhile. Measured: Flux's controllers
/// were rejected, and began to work that much later.
fn check_served(reader: &Reader, actual: &ActualState) -> Result<(), Error> {
    let definitions = actual.iter().filter(|(id, _)| id.kind == "CustomResourceDefinition");
    for (_, live) in definitions {
        observe::ask_for_any(reader, &live.object)?;
    }
    Ok(())
}

/// Fails when Flux, or an object that it delivered, reports a failure that waiting cannot change.
pub(crate) fn check_refused(desired: &Desired, seen: &ObservedObjects) -> Result<(), Error> {
    observe::signature(desired, seen)?;
    let now = Timestamp::now();
    let stalled = |id: &Identity, object: &Value| {
        let reading = kstatus::read(object, now);
        (reading.state == State::Failed).then(|| {
            let message = format!("{}: {}", reading.reason, reading.message);
            Error::Stalled { object: id.to_string(), message }
        })
    };
    for (id, live) in &seen.actual {
        if id.kind != "Deployment"
            && has_answered(&live.object)
            && let Some(error) = stalled(id, &live.object)
        {
            return Err(error);
        }
    }
    // Objects of the revision before do not show whether this revision fails.
    let is_applied = seen.actual.get(&desired.kustomization).is_some_and(|live| {
        let applied = live.object["status"]["lastAppliedRevision"].as_str();
        has_answered(&live.object)
            && applied.is_some()
            && applied == desired.revision().value().map(String::as_str)
    });
    let failed = |(id, object): &(Identity, Option<Value>)| {
        // A Job that has failed is never run again. Any other object may still recover: a kubelet pulls
        // again, an operator tries again.
        let object = object.as_ref().filter(|object| object["kind"] == "Job")?;
        stalled(id, object)
    };
    match seen.inventory.iter().find_map(failed).filter(|_| is_applied) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
