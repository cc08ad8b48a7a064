//! Executes the steps of a plan, one at a time, and prepares and completes their rounds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use documents::WritePermit;
use serde_json::{Value, json};

use crate::Error;
use crate::clients::cluster::{Reader, Writer};
use crate::desired::Desired;
use crate::diff;
use crate::foreign;
use crate::graph::{Because, Doomed, is_kept, key, uid};
use crate::kstatus::text;
use crate::object::Identity;
use crate::observe::REQUESTED_AT;
use crate::plan::LiveObject;
use crate::record::Record;
use crate::session::{Observation, Session};
use crate::step::Step;
use crate::sunset::Sunset;
use crate::wait::{is_at_work, not_deleted_reason, poll};

/// Longest wait for the deletion of a Secret that is created again. A Secret has no finalizers, unless
/// another program added one.
const RECREATION_MAX: Duration = Duration::from_secs(30);

/// Longest time until every API server of a control plane serves a new definition. A server that does not
/// serve it yet answers 404.
const SERVED_MAX: Duration = Duration::from_secs(30);

/// Longest wait for the end of an apply that began before its Kustomization was suspended. A controller
/// that does not run never ends its work, so the wait is short.
const SUSPENSION_MAX: Duration = Duration::from_secs(10);

/// Values that a step hands to later steps of the run.
#[derive(Default)]
pub(crate) struct StepContext {
    writer: Option<Writer>,
    /// Objects on which a step of this run was executed.
    touched: BTreeSet<Identity>,
    round: Round,
}

/// Effects of the current round.
#[derive(Default)]
struct Round {
    executed: Vec<Step>,
    /// Deleted objects and what goes with them, each with its UID.
    deleted: Vec<(Identity, String)>,
    /// Kustomizations that were at work when they were suspended.
    suspended: Vec<(Identity, Instant)>,
}

impl StepContext {
    /// Returns the objects on which a step of this run was executed.
    pub(crate) fn touched(&self) -> &BTreeSet<Identity> {
        &self.touched
    }

    fn writer(&mut self, session: &Session<'_>, permit: &WritePermit) -> Result<&Writer, Error> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => Writer::open(session.kubeconfig()?, permit)?,
        };
        Ok(self.writer.insert(writer))
    }
}

/// Asks the data gate before a round, and records what a removal deletes.
pub(crate) fn authorize(
    session: &Session<'_>,
    observation: &Observation,
    step_context: &mut StepContext,
    permit: &WritePermit,
) -> Result<(), Error> {
    step_context.round = Round::default();
    match observation {
        Observation::NoCluster => Ok(()),
        Observation::Delivery { seen, .. } => {
            if let Some((facts, going)) = session.prune(seen)? {
                let writer = step_context.writer(session, permit)?;
                session.gate.pass((session.reader()?, writer), &facts, &going)?;
            }
            session.prove_pull()
        }
        Observation::Removal(sunset) => {
            let writer = step_context.writer(session, permit)?;
            session.gate.pass((session.reader()?, writer), &sunset.facts, &sunset.going)?;
            // Before the first deletion: an interrupted removal must know later what it waited for.
            sunset.record.add(writer, session.name(), &sunset.going)
        }
    }
}

/// Executes one step, and returns a detail for people.
pub(crate) fn execute(
    session: &Session<'_>,
    observation: &Observation,
    step: &Step,
    step_context: &mut StepContext,
    permit: &WritePermit,
) -> Result<String, Error> {
    session.pauses().restart();
    let desired = &session.desired;
    let live = observation.live(step.object());
    let clients = (session.reader()?, step_context.writer(session, permit)?);
    let mut round = Round::default();
    let detail = match step {
        Step::Create { object } | Step::Adopt { object, .. } | Step::Update { object, .. } => {
            apply(desired, object, live, clients)?;
            ""
        }
        Step::RemoveFields { object, .. } => {
            remove_fields(desired, object, clients)?;
            ""
        }
        Step::Reconcile { object, .. } => reconcile(desired, object, live, clients.1)?,
        Step::Suspend { object } => {
            clients.1.merge(object, &json!({"spec": {"suspend": true}}))?;
            if is_applying(&clients.0.get(object)?.unwrap_or_default()) {
                round.suspended.push((object.clone(), Instant::now()));
            }
            ""
        }
        Step::Remove { object, .. } => match observation {
            Observation::Removal(sunset) => remove(sunset, object, clients, &mut round)?,
            Observation::Delivery { .. } | Observation::NoCluster => {
                if let Some(live) = live {
                    clients.1.delete(&live.object)?;
                    round.deleted.push((object.clone(), uid(&live.object)));
                }
                ""
            }
        },
        Step::RemoveRecord { .. } => {
            Record::remove(clients.0, clients.1, session.name())?;
            ""
        }
    };
    step_context.touched.insert(step.object().clone());
    if *step.object() == desired.source {
        // The Kustomization acts on a new artifact by itself.
        step_context.touched.insert(desired.kustomization.clone());
    }
    step_context.round.executed.push(step.clone());
    step_context.round.deleted.extend(round.deleted);
    step_context.round.suspended.extend(round.suspended);
    Ok(detail.to_owned())
}

/// Returns what the `executed` steps have yet to bring about.
pub(crate) fn pending(
    session: &Session<'_>,
    step_context: &StepContext,
    executed: &[Step],
) -> Result<Option<String>, Error> {
    let (round, reader) = (&step_context.round, session.reader()?);
    if executed.iter().any(|step| !round.executed.contains(step)) {
        // The response to a step was lost, and the steps after it were not executed.
        return Ok(None);
    }
    for (id, uid) in &round.deleted {
        if let Some(reason) = not_deleted_reason(reader, id, uid)? {
            return Ok(Some(reason));
        }
    }
    for (id, since) in &round.suspended {
        session.pauses().end_at(*since + SUSPENSION_MAX);
        if since.elapsed() < SUSPENSION_MAX && is_applying(&reader.get(id)?.unwrap_or_default()) {
            return Ok(Some(format!("{id} still applies what it had begun")));
        }
    }
    match executed.iter().map(Step::stage).max() {
        Some(stage) if !session.is_removal() => session.not_ready_reason(stage),
        _ => Ok(None),
    }
}

fn is_applying(kustomization: &Value) -> bool {
    let conditions = kustomization["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| {
        condition["type"] == "Reconciling"
            && condition["status"] == "True"
            && condition["reason"] == "Progressing"
    })
}

/// Makes an object as declared.
fn apply(
    desired: &Desired,
    object: &Identity,
    live: Option<&LiveObject>,
    (reader, writer): (&Reader, &Writer),
) -> Result<(), Error> {
    let declared = desired.objects.iter().find(|declared| Identity::of(declared) == *object);
    let declared = declared.filter(|declared| !diff::has_unknown(declared));
    let declared = declared.ok_or_else(|| Error::NotKnownYet { object: object.to_string() })?;
    let live = live.map(|live| &live.object);
    if recreates(declared) && live.is_some_and(rolls) {
        // Defaulting added `rollingUpdate`, which no manager owns, so that no apply removes it. The API
        // server rejects it beside `Recreate`.
        let recreate = json!({"type": "Recreate", "rollingUpdate": null});
        writer.merge(object, &json!({"spec": {"strategy": recreate}}))?;
    }
    match live.filter(|live| is_immutable_secret(live)) {
        Some(live) => recreate((reader, writer), declared, live),
        None => write(writer, declared),
    }
}

/// Removes the fields that other writers added.
fn remove_fields(
    desired: &Desired,
    object: &Identity,
    (reader, writer): (&Reader, &Writer),
) -> Result<(), Error> {
    let declared = desired.objects.iter().find(|declared| Identity::of(declared) == *object);
    // Read again, because the step before may have been an update of the same object.
    let (Some(declared), Some(live)) = (declared, reader.get(object)?) else { return Ok(()) };
    if is_immutable_secret(&live) {
        return recreate((reader, writer), declared, &live);
    }
    let extras = foreign::extras(declared, &live);
    if extras.is_empty() {
        return Ok(());
    }
    writer.patch(object, &foreign::removal(&extras, &live))
}

/// Asks Flux to act on an object.
fn reconcile(
    desired: &Desired,
    object: &Identity,
    live: Option<&LiveObject>,
    writer: &Writer,
) -> Result<&'static str, Error> {
    if !object.group().ends_with(".toolkit.fluxcd.io") {
        return Ok("its controller acts by itself");
    }
    let live = live.map_or(&Value::Null, |live| &live.object);
    // The source is asked even so: its attempt may have begun before the artifact was signed, and
    // will fail then.
    if *object != desired.source && is_at_work(live) {
        return Ok("its controller is at work");
    }
    let revision = desired.revision().value().cloned().unwrap_or_default();
    // Any string that has changed will do. No clock: the revision says why we ask.
    let asked = live["metadata"]["annotations"][REQUESTED_AT] == revision.as_str();
    let at = if asked {
        format!("{revision}/{}", text(&live["metadata"], "resourceVersion"))
    } else {
        revision
    };
    writer.merge(object, &json!({"metadata": {"annotations": {REQUESTED_AT: at}}}))?;
    Ok("")
}

/// Deletes one object of a removal.
fn remove(
    sunset: &Sunset,
    object: &Identity,
    (reader, writer): (&Reader, &Writer),
    round: &mut Round,
) -> Result<&'static str, Error> {
    // Read again, because a person may have told Flux meanwhile to leave it, or created another one.
    let Some(live) = reader.get(object)? else { return Ok("it is gone already") };
    let doomed = sunset.going.get(&key(object));
    if doomed.is_some_and(|doomed| doomed.uid != uid(&live)) {
        return Ok("another object has its name by now");
    }
    if !sunset.is_installed(object) && is_kept(&live) {
        return Ok("Flux was told to leave it");
    }
    writer.delete(&live)?;
    round.deleted.push((object.clone(), uid(&live)));
    // Pods of a workload that has claims are deleted before the claims.
    let pods = sunset.facts.pods_of(doomed.map_or("", |doomed| &doomed.uid));
    round.deleted.extend(pods.map(|pod| (Identity::of(pod), uid(pod))));
    // A Namespace and a definition are deleted only after their contents, which may be thousands.
    let is_content =
        |doomed: &&Doomed| matches!(doomed.because, Because::Namespace(_) | Because::Definition(_));
    let dependents = sunset.dependents(object).into_iter().filter(|doomed| !is_content(doomed));
    round.deleted.extend(dependents.map(|doomed| (doomed.id.clone(), doomed.uid.clone())));
    Ok("")
}

/// Deletes a Secret and creates it again. The API server rejects every change of an immutable one.
fn recreate(
    (reader, writer): (&Reader, &Writer),
    declared: &Value,
    live: &Value,
) -> Result<(), Error> {
    writer.delete(live)?;
    let (id, was) = (Identity::of(live), uid(live));
    poll(RECREATION_MAX, || Ok(not_deleted_reason(reader, &id, &was)?.is_none().then_some(())))?;
    write(writer, declared)
}

/// Applies one object. An API server may not know a kind yet that another one serves already.
fn write(writer: &Writer, declared: &Value) -> Result<(), Error> {
    let written = poll(SERVED_MAX, || match writer.apply(declared) {
        Err(Error::NotKnownYet { .. }) => Ok(None),
        other => other.map(Some),
    })?;
    let object = || Identity::of(declared).to_string();
    written.ok_or_else(|| Error::NotKnownYet { object: object() })
}

fn is_immutable_secret(live: &Value) -> bool {
    live["kind"] == "Secret" && live["immutable"] == true
}

fn recreates(deployment: &Value) -> bool {
    deployment.pointer("/spec/strategy/type").is_some_and(|strategy| strategy == "Recreate")
}

fn rolls(deployment: &Value) -> bool {
    deployment.pointer("/spec/strategy/rollingUpdate").is_some_and(Value::is_object)
}
