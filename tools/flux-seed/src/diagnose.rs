//! Collects the causes for which a Delivery is not ready. Reads only.
//!
//! The objects of the observation are not read again. The objects that explain them are read at most once a
//! second: pods, events, claims and nested deliveries.

pub(crate) mod known;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use documents::Diagnostic as _;
use jiff::Timestamp;
use serde_json::Value;

use crate::Error;
use crate::cause::workload::{self, Surroundings, runs_pods};
use crate::cause::{Cause, Failure, Subject, flux, sorted};
use crate::clients::cluster::{Answer, Reader};
use crate::desired::Desired;
use crate::graph;
use crate::inventory::Inventory;
use crate::kstatus::{self, Reading, State, text};
use crate::object::Identity;
use crate::observe::{ObservedObjects, has_answered, stale_reason};
use crate::status::Facts;
use crate::summary;
use known::Known;

/// Pause between two collections. The looks of a wait are closer.
const COLLECTION_PAUSE: Duration = Duration::from_secs(1);

/// Maximum depth of Flux objects that deliver one another.
const DEPTH_MAX: usize = 8;
/// Most objects of nested deliveries that one collection reads.
const NESTED_MAX: usize = 500;

/// The causes of a run.
#[derive(Default)]
pub(crate) struct Diagnosis(RefCell<Collected>);

/// The last collection.
#[derive(Default)]
struct Collected {
    at: Option<Instant>,
    /// Whether an observation came too soon after the last collection for another one.
    is_outdated: bool,
    facts: Option<Box<Facts>>,
    known: Known,
    /// Rollouts that were too slow already before this run. A person may have removed the cause since.
    overdue_before: Option<BTreeSet<Subject>>,
}

impl Diagnosis {
    /// Collects the causes, and fails if waiting cannot remove one of them. A read that fails is no news:
    /// the causes of the collection before stay.
    pub(crate) fn check(
        &self,
        reader: &Reader,
        desired: &Desired,
        seen: &ObservedObjects,
    ) -> Result<Vec<Cause>, Error> {
        let mut collected = self.0.borrow_mut();
        let now = Instant::now();
        let is_recent = collected.at.is_some_and(|at| now.duration_since(at) < COLLECTION_PAUSE);
        collected.is_outdated = is_recent;
        if !is_recent {
            match collect(reader, desired, seen) {
                Ok(causes) => collected.update(desired, seen, causes, now),
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
        let causes = collected.causes();
        if !is_recent && causes.iter().any(|cause| collected.known.is_final(cause)) {
            let facts = collected.facts.take();
            return Err(Error::Failed { causes, facts });
        }
        Ok(causes)
    }

    /// Returns the time at which the next observation would tell more than the last one, although no object
    /// has changed.
    pub(crate) fn next_look(&self, now: Instant) -> Option<Instant> {
        let mut collected = self.0.borrow_mut();
        let is_outdated = std::mem::take(&mut collected.is_outdated);
        let next = collected.at.map(|at| at + COLLECTION_PAUSE).filter(|_| is_outdated);
        let last = collected.facts.as_ref().map_or(&[][..], |facts| &facts.causes);
        next.into_iter().chain(collected.known.next_final(last, now)).min()
    }

    /// Returns the facts of an observation with its causes. They are collected at most once a second.
    pub(crate) fn facts(
        &self,
        reader: &Reader,
        desired: &Desired,
        seen: &ObservedObjects,
    ) -> Result<Option<Box<Facts>>, Error> {
        match self.check(reader, desired, seen) {
            Ok(_) => Ok(self.0.borrow().facts.clone()),
            Err(Error::Failed { facts, .. }) => Ok(facts),
            Err(error) => Err(error),
        }
    }

    /// Returns the error at the end of a wait; `None` if no cause is known.
    pub(crate) fn timed_out(&self, seconds: u64) -> Option<Error> {
        let mut collected = self.0.borrow_mut();
        let causes = collected.causes();
        let facts = collected.facts.take();
        (!causes.is_empty()).then_some(Error::NotDelivered { seconds, causes, facts })
    }
}

impl Collected {
    fn causes(&self) -> Vec<Cause> {
        self.facts.as_ref().map(|facts| facts.causes.clone()).unwrap_or_default()
    }

    fn update(
        &mut self,
        desired: &Desired,
        seen: &ObservedObjects,
        mut causes: Vec<Cause>,
        now: Instant,
    ) {
        let is_overdue = |cause: &&Cause| cause.is_overdue;
        let overdue = || causes.iter().filter(is_overdue).map(|cause| cause.object.clone());
        let before = self.overdue_before.get_or_insert_with(|| overdue().collect());
        let overdue: BTreeSet<_> = overdue().collect();
        before.retain(|object| overdue.contains(object));
        for cause in causes.iter_mut().filter(|cause| before.contains(&cause.object)) {
            *cause = cause.clone().may_pass();
        }
        self.known.update(&mut causes, now);
        let mut facts = summary::facts(desired, Some(seen));
        facts.causes = sorted(causes);
        self.facts = Some(Box::new(facts));
        self.at = Some(now);
    }
}

/// Collects the causes of one observation, the worst first.
pub(crate) fn collect(
    reader: &Reader,
    desired: &Desired,
    seen: &ObservedObjects,
) -> Result<Vec<Cause>, Error> {
    let kustomization = seen.actual.get(&desired.kustomization).map(|live| &live.object);
    let revision = desired.revision().value().cloned();
    let reports = |field: &str| {
        let reported = kustomization.and_then(|live| live["status"][field].as_str());
        reported.is_some() && reported == revision.as_deref()
    };
    let has_answered = kustomization.is_some_and(has_answered);
    let mut collector = Collector {
        reader,
        now: Timestamp::now(),
        // Objects of the revision before do not show whether this revision fails.
        is_applied: has_answered && reports("lastAppliedRevision"),
        is_fetched: has_answered && {
            let source = seen.actual.get(&desired.source).map(|live| &live.object);
            let fetched =
                source.and_then(|source| source["status"]["artifact"]["revision"].as_str());
            fetched.is_some() && fetched == revision.as_deref()
        },
        is_attempted: has_answered && reports("lastAttemptedRevision"),
        around: BTreeMap::new(),
        nested: 0,
        causes: Vec::new(),
    };
    for (id, live) in &seen.actual {
        if let Some(reason) = &live.not_ready_reason {
            collector.declared(desired, id, (&live.object, reason))?;
        }
    }
    let by = desired.kustomization.to_string();
    collector.inventory(&by, &seen.inventory, &seen.silent)?;
    for nested in &seen.nested {
        if let Some(reason) = stale_reason(desired, &nested.kustomization) {
            let cause = Cause::new(&nested.id, Failure::InProgress, "Progressing", &reason);
            collector.add(&by, cause);
        }
        let Inventory { entries, silent, .. } = &nested.inventory;
        collector.inventory(&nested.id.to_string(), entries, silent)?;
    }
    Ok(sorted(collector.causes))
}

struct Collector<'a> {
    reader: &'a Reader,
    now: Timestamp,
    /// Whether Flux has applied the declared revision.
    is_applied: bool,
    /// Whether Flux has pulled the declared revision.
    is_fetched: bool,
    /// Whether Flux has tried to apply the declared revision.
    is_attempted: bool,
    around: BTreeMap<String, Surroundings>,
    /// Number of objects of nested deliveries that were read.
    nested: usize,
    causes: Vec<Cause>,
}

impl Collector<'_> {
    /// Adds the cause of an object of the installation that is not ready because of `reason`.
    fn declared(
        &mut self,
        desired: &Desired,
        id: &Identity,
        (object, reason): (&Value, &str),
    ) -> Result<(), Error> {
        let reading = kstatus::read(object, self.now);
        let waits = || Cause::new(id, Failure::InProgress, "Progressing", reason);
        let cause = if *id == desired.source {
            flux::source(id, object).unwrap_or_else(waits)
        } else if *id == desired.kustomization {
            match flux::kustomization(id, object) {
                Some(cause) => self.confirmed(cause)?,
                // It waits for its inventory, whose objects are causes of their own.
                None if reading.state == State::Current && self.is_applied => return Ok(()),
                None => waits(),
            }
        } else if runs_pods(id) {
            workload::workload(id, object, &reading, self.around(id)?)
        } else {
            workload::other(id, object, &reading)
        };
        let is_old = *id == desired.kustomization
            && match cause.failure {
                Failure::ObjectStalled => false,
                // Flux looks for the folder before it notes the revision.
                Failure::PathNotFound => !self.is_fetched,
                _ => !self.is_attempted,
            };
        self.causes.push(if is_old { cause.may_pass() } else { cause });
        Ok(())
    }

    /// Adds the causes of the objects that the Kustomization `by` delivers.
    fn inventory(
        &mut self,
        by: &str,
        entries: &[(Identity, Option<Value>)],
        silent: &[Identity],
    ) -> Result<(), Error> {
        for (id, object) in entries {
            self.delivered(id, object.as_ref(), by, 0)?;
        }
        for id in silent {
            let message = format!("{} does not answer", id.api_version);
            self.add(by, Cause::new(id, Failure::ApiSilent, "ServiceUnavailable", &message));
        }
        Ok(())
    }

    /// Adds the cause of a delivered object that is not ready, and the causes below it. The observation
    /// has the objects of nested Kustomizations.
    fn delivered(
        &mut self,
        id: &Identity,
        object: Option<&Value>,
        by: &str,
        depth: usize,
    ) -> Result<(), Error> {
        let Some(object) = object else {
            // A Job is there when the inventory is written, and goes with its `ttlSecondsAfterFinished`
            // (https://github.com/fluxcd/kustomize-controller/pull/1578).
            if id.kind != "Job" {
                let message = "it is in the inventory, and does not exist";
                self.add(by, Cause::new(id, Failure::ObjectMissing, "Missing", message));
            }
            return Ok(());
        };
        let reading = kstatus::read(object, self.now);
        if reading.state == State::Current {
            return Ok(());
        }
        let cause = self.of_object(id, object, &reading)?;
        self.add(by, cause);
        let is_flux = id.group().ends_with(".toolkit.fluxcd.io") && id.kind != "Kustomization";
        if is_flux && depth < DEPTH_MAX {
            let by = id.to_string();
            for entry in graph::inventory(object) {
                self.nested += 1;
                if self.nested > NESTED_MAX {
                    break;
                }
                match self.reader.get_unless_silent(&entry) {
                    Ok(Answer::Object(nested)) => {
                        self.delivered(&entry, nested.as_ref(), &by, depth + 1)?;
                    }
                    Ok(Answer::Silent) => {
                        let message = format!("{} does not answer", entry.api_version);
                        let (failure, reason) = (Failure::ApiSilent, "ServiceUnavailable");
                        self.add(&by, Cause::new(&entry, failure, reason, &message));
                    }
                    Err(Error::Cluster(kubernetes::Error::Forbidden { .. }))
                        if self.reader.is_limited() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn of_object(
        &mut self,
        id: &Identity,
        object: &Value,
        reading: &Reading,
    ) -> Result<Cause, Error> {
        if reading.state == State::Terminating {
            return Ok(workload::other(id, object, reading));
        }
        if runs_pods(id) {
            return Ok(workload::workload(id, object, reading, self.around(id)?));
        }
        let reported = match (id.group(), id.kind.as_str()) {
            ("", "PersistentVolumeClaim") => {
                return Ok(workload::claim(id, object, reading, self.around(id)?));
            }
            ("kustomize.toolkit.fluxcd.io", "Kustomization") => {
                match flux::kustomization(id, object) {
                    Some(cause) => Some(self.confirmed(cause)?),
                    None => None,
                }
            }
            ("source.toolkit.fluxcd.io", "OCIRepository") => flux::source(id, object),
            _ => flux::stalled(id, object),
        };
        Ok(reported.unwrap_or_else(|| workload::other(id, object, reading)))
    }

    /// Adds a cause of an object that the Flux object `by` delivers.
    fn add(&mut self, by: &str, mut cause: Cause) {
        cause.delivered_by.get_or_insert_with(|| by.to_owned());
        self.causes.push(if self.is_applied { cause } else { cause.may_pass() });
    }

    /// Compares what Flux says about a missing kind or Namespace with the API server. Another program may
    /// have created it since.
    fn confirmed(&self, cause: Cause) -> Result<Cause, Error> {
        let exists = match cause.failure {
            Failure::KindMissing => match flux::unserved(&cause.message) {
                Some((kind, api_version)) => self.reader.serves(api_version, kind)?,
                None => true,
            },
            Failure::NamespaceMissing => {
                let name = cause.object.namespace.clone().unwrap_or_default();
                let (api_version, kind) = ("v1".to_owned(), "Namespace".to_owned());
                let namespace = Identity { api_version, kind, namespace: None, name };
                self.reader.get(&namespace)?.is_some()
            }
            _ => false,
        };
        Ok(if exists { cause.may_pass() } else { cause })
    }

    /// Returns the objects of the namespace of `id` that explain its state.
    fn around(&mut self, id: &Identity) -> Result<&Surroundings, Error> {
        let namespace = id.namespace.clone().unwrap_or_default();
        if !self.around.contains_key(&namespace) {
            let around = surroundings(self.reader, &namespace)?;
            self.around.insert(namespace.clone(), around);
        }
        Ok(&self.around[&namespace])
    }
}

fn surroundings(reader: &Reader, namespace: &str) -> Result<Surroundings, Error> {
    let list = |api_version: &str, kind: &str| {
        unless_denied(reader, reader.list(api_version, kind, Some(namespace)))
    };
    let claims = list("v1", "PersistentVolumeClaim")?;
    let events = |selector: &str| {
        unless_denied(reader, reader.selected("v1", "Event", Some(namespace), selector))
    };
    let mut warnings = events("type%3DWarning")?;
    if claims.iter().any(|claim| text(&claim["status"], "phase") != "Bound") {
        // The volume controller reports a claim without a class in an event of the type `Normal`.
        let about_claims = events("involvedObject.kind%3DPersistentVolumeClaim")?;
        warnings.extend(about_claims.into_iter().filter(|event| event["type"] == "Normal"));
    }
    Ok(Surroundings {
        pods: list("v1", "Pod")?,
        replica_sets: list("apps/v1", "ReplicaSet")?,
        claims,
        events: warnings,
    })
}

/// Returns nothing where the API server denies a reader a kind.
fn unless_denied(reader: &Reader, found: Result<Vec<Value>, Error>) -> Result<Vec<Value>, Error> {
    match found {
        Err(Error::Cluster(kubernetes::Error::Forbidden { .. })) if reader.is_limited() => {
            Ok(Vec::new())
        }
        other => other,
    }
}
