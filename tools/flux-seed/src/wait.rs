//! Conditions that the program waits for. Reads only.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Error;
use crate::cause;
use crate::clients::cluster::Reader;
use crate::desired::Desired;
use crate::diagnose::Diagnosis;
use crate::graph::uid;
use crate::kstatus::{condition, text};
use crate::object::{Identity, Stage};
use crate::observe::{self, Look, ObservedObjects, observe};
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
    (stage, diagnosis): (Stage, &Diagnosis),
) -> Result<Option<String>, Error> {
    let seen = observe(reader, name, desired, Look::Progress(stage))?;
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
    let causes = causes(reader, desired, &seen, diagnosis)?;
    Ok(Some(causes.unwrap_or_else(|| missing.join("; "))))
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

/// Returns the causes for which the objects are not ready, as one line; `None` if no cause is known. Fails
/// when Flux, or an object that it delivered, reports a failure that waiting cannot change.
pub(crate) fn causes(
    reader: &Reader,
    desired: &Desired,
    seen: &ObservedObjects,
    diagnosis: &Diagnosis,
) -> Result<Option<String>, Error> {
    observe::signature(desired, seen)?;
    let causes = diagnosis.check(reader, desired, seen)?;
    Ok((!causes.is_empty()).then(|| cause::line(&causes)))
}
