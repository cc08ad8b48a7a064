//! Conditions that the program waits for. Reads only.

use std::thread::sleep;
use std::time::{Duration, Instant};

use kubernetes::Watches;
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

/// Pause between two observations, unless every object that the last one read is watched. One observation
/// takes about 20 requests of a millisecond each.
pub(crate) const POLL: Duration = Duration::from_millis(200);

/// Number of polls before a wait opens watches, each of which takes a connection. Most waits are shorter.
const POLLS_MAX: usize = 10;

/// Longest pause between two observations. It limits the delay where a watch is silent although its
/// connection seems open, and where the time alone changes what an object means.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// Most watches at a time. A removal reads every kind of the cluster, and polls.
const WATCHES_MAX: usize = 40;

/// Time for which something that was read counts as part of the last observation. It is longer than the
/// pause between two collections of causes, which not every observation needs.
const READ_TIME: Duration = Duration::from_secs(2);

/// Longest time between a change, or a signal, and the end of a pause.
const TICK: Duration = Duration::from_millis(50);

/// The pauses of a run: they end when an object has changed that the last observation read.
#[derive(Default)]
pub(crate) struct Pauses {
    watches: Option<Watches>,
    /// Number of pauses since the last step.
    polls: usize,
    /// Beginning of the current pause.
    since: Option<Instant>,
    /// Beginning of the last observation.
    observed: Option<Instant>,
    due: Option<Instant>,
}

impl Pauses {
    /// Begins another wait, after a step.
    pub(crate) fn restart(&mut self) {
        self.polls = 0;
    }

    /// Ends the next pause at this time, or sooner.
    pub(crate) fn end_at(&mut self, time: Instant) {
        self.due = Some(self.due.map_or(time, |due| due.min(time)));
    }

    /// Pauses for some milliseconds, at most for `most`. Returns whether the next observation is due.
    /// `next_look` is called at the beginning of a pause, and returns when the time alone calls for an
    /// observation.
    pub(crate) fn pause(
        &mut self,
        reader: &Reader,
        most: Duration,
        next_look: impl FnOnce() -> Option<Instant>,
    ) -> bool {
        let since = if let Some(since) = self.since {
            since
        } else {
            if let Some(time) = next_look() {
                self.end_at(time);
            }
            self.begin(reader)
        };
        match &self.watches {
            Some(watches) => watches.drive(TICK.min(most)),
            None => sleep(TICK.min(most)),
        }
        let paused = since.elapsed();
        let is_watched = self.polls > POLLS_MAX && self.watches.as_ref().is_some_and(is_quiet);
        let is_due = self.due.is_some_and(|due| Instant::now() >= due);
        if paused < POLL || is_watched && !is_due && paused < QUIET_MAX {
            return false;
        }
        if let Some(watches) = &mut self.watches {
            watches.take();
        }
        (self.since, self.due, self.observed) = (None, None, Some(Instant::now()));
        true
    }

    /// Begins a pause, with watches of everything that the last observation read.
    fn begin(&mut self, reader: &Reader) -> Instant {
        let now = Instant::now();
        self.since = Some(now);
        self.polls += 1;
        let observed = self.observed.unwrap_or(now).checked_sub(READ_TIME);
        let collections = reader.reads().since(observed.unwrap_or(now));
        if self.polls > POLLS_MAX {
            if collections.len() <= WATCHES_MAX {
                self.watches.get_or_insert_with(|| reader.watches()).set(&collections);
            } else {
                self.watches = None;
            }
        }
        now
    }
}

/// Whether nothing has changed, as far as the watches can tell.
fn is_quiet(watches: &Watches) -> bool {
    watches.are_live() && !watches.has_changed()
}

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
