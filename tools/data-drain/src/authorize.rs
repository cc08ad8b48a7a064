//! Checks before a round, and the lease under which a run writes.
//!
//! **Invariant:** what cannot be drained is refused before anything is stopped or held.
//! **Invariant:** a copy begins only after the API server was seen to enforce the hold.

use documents::{Reason, Refusal, WritePermit};

use crate::claim::Report;
use crate::clients::cluster;
use crate::desired::ReaderImage;
use crate::observe::{LiveClaim, Observation};
use crate::session::Session;
use crate::step::Step;
use crate::step_context::{StepContext, Writers};
use crate::{Error, hold, volume};

/// Authorises a round of `steps`, all that is planned.
///
/// # Errors
///
/// [`Error::Busy`]: another run is at work. [`Error::Refused`]: a claim cannot be drained.
pub(crate) fn authorize(
    session: &Session<'_>,
    observation: &Observation,
    steps: &[Step],
    step_context: &mut StepContext,
    permit: &WritePermit,
) -> Result<(), Error> {
    if step_context.writers.is_none() {
        step_context.writers = Some(Writers::open(session, permit)?);
        check_unchanged(session, observation)?;
    }
    let Some(first) = steps.first() else { return Ok(()) };
    match first {
        Step::Thaw { .. } | Step::Start { .. } => Ok(()),
        // Everything is copied and signed, so there is nothing to survey.
        Step::Record { .. } => session.read_back(observation),
        Step::RecordNode { .. } | Step::Stop { .. } | Step::Hold { .. } => {
            admit(session, observation, step_context)
        }
        Step::Copy { .. } | Step::Sign { .. } => {
            admit(session, observation, step_context)?;
            secure(session, observation, step_context)
        }
    }
}

/// Checks that no run that held the lease until now has changed what this run observed before.
fn check_unchanged(session: &Session<'_>, observation: &Observation) -> Result<(), Error> {
    if session.observe()?.actual() == observation.actual() {
        return Ok(());
    }
    Err(Error::Busy { holder: "a run that ended while this one waited for the lease".to_owned() })
}

/// Checks once in a run that everything can be drained.
fn admit(
    session: &Session<'_>,
    observation: &Observation,
    step_context: &mut StepContext,
) -> Result<(), Error> {
    if !step_context.is_admitted {
        preflight(session, observation, step_context)?;
        step_context.is_admitted = true;
    }
    Ok(())
}

/// Checks that no pod can write to a claim, and begins the receipt.
fn secure(
    session: &Session<'_>,
    observation: &Observation,
    step_context: &mut StepContext,
) -> Result<(), Error> {
    let desired = &session.copies()?.desired;
    let draft = observation.draft(desired).ok_or_else(changed)?;
    if !step_context.is_hold_enforced && !observation.held.claims.is_empty() {
        observation.held.prove(&session.reader, &session.limit())?;
        // The API server may have admitted a pod before it enforced the hold.
        check_draft(session, &draft.run)?;
        step_context.is_hold_enforced = true;
    }
    step_context.draft = Some(draft);
    Ok(())
}

/// Observes again, and checks that the state is still the one of the receipt `run`.
pub(crate) fn check_draft(session: &Session<'_>, run: &str) -> Result<(), Error> {
    let draft = session.observe()?.draft(&session.copies()?.desired);
    if draft.is_some_and(|draft| draft.run == run) { Ok(()) } else { Err(changed()) }
}

fn changed() -> Error {
    let what = "a workload, a pod, the hold or a repository";
    Error::Changed { source_name: what.to_owned() }
}

/// Refuses what cannot be drained, before anything is stopped.
fn preflight(
    session: &Session<'_>,
    observation: &Observation,
    step_context: &StepContext,
) -> Result<(), Error> {
    let desired = &session.copies()?.desired;
    let write_session = step_context.write_session(session)?;
    let readers = write_session.readers(desired.drain);
    admissible(write_session.reader, desired.drain, write_session.image, observation)?;
    // Credentials that do not work are found while everything still runs.
    write_session.store.head(&format!("{}/probe", observation.prefix(desired)))?;
    let mut refused: Vec<Refusal> = Vec::new();
    for live in observation.claims() {
        // A claim without a pod is surveyed right before it is copied.
        let (Some(place), false) = (&live.verdict.place, live.verdict.users.is_empty()) else {
            continue;
        };
        if live.verdict.exclusive {
            continue;
        }
        write_session.check()?;
        let survey = documents::step(desired.drain, "survey");
        let report = readers.mount(&live.claim, place)?.survey()?;
        refused.extend(judged(desired.drain, live, &report));
        survey.done(format_args!("{}: {} entries", live.claim, report.entries));
    }
    refuse(false, refused)
}

/// Checks what the cluster alone tells: the judgement on each claim, and whether readers are admitted.
pub(crate) fn admissible(
    reader: &cluster::Reader,
    drain: &str,
    image: &ReaderImage,
    observation: &Observation,
) -> Result<(), Error> {
    let mut refused = Vec::new();
    for live in observation.claims() {
        for fact in &live.verdict.notes {
            documents::note(drain, format_args!("{}: {fact}", live.claim));
        }
        refused.extend(refusals(live, &live.verdict.refused));
        let Some(place) = &live.verdict.place else { continue };
        if let Some(why) = volume::refusal(reader, drain, image, (&live.claim, place))? {
            refused.extend(refusals(live, &[format!("the reader's pod is not admitted: {why}")]));
        }
    }
    if !observation.held.claims.is_empty() && !hold::is_supported(reader)? {
        let why = "the cluster has no ValidatingAdmissionPolicy, which came with Kubernetes 1.30, so \
                   nothing could keep pods off the claims";
        refused.push(Refusal {
            object: "the cluster".to_owned(),
            reason: Reason::NotDrainable,
            message: why.to_owned(),
        });
    }
    refuse(false, refused)
}

/// Returns the refusals that the content of a claim causes, and notes what a copy does not keep.
pub(crate) fn judged(drain: &str, live: &LiveClaim, report: &Report) -> Vec<Refusal> {
    for fact in report.not_kept() {
        documents::note(drain, format_args!("{}: {fact}", live.claim));
    }
    refusals(live, &report.refused(live.allow_empty))
}

pub(crate) fn refusals(live: &LiveClaim, reasons: &[String]) -> Vec<Refusal> {
    let refusal = |why: &String| Refusal {
        object: live.claim.to_string(),
        reason: Reason::NotDrainable,
        message: why.clone(),
    };
    reasons.iter().map(refusal).collect()
}

/// Fails when there are refusals. `stopped` says whether workloads are stopped by now.
pub(crate) fn refuse(stopped: bool, refusals: Vec<Refusal>) -> Result<(), Error> {
    if refusals.is_empty() { Ok(()) } else { Err(Error::Refused { stopped, refusals }) }
}
