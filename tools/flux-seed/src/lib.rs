//! Puts Flux into a cluster, and has it deliver one attested artifact.
//!
//! ```text
//! documents ── desired ─┐
//!                       ├── plan ──► execute ──► observe again ──► documents with status
//! cluster ──── observe ─┘
//! ```
//!
//! The loop is the engine's ([`documents::Program`]).
//!
//! **Invariant:** [`plan`](crate::plan) is a function of values: it opens nothing and asks nothing.
//! **Invariant:** a writer needs the engine's permit, so that only `execute` and `authorize` write.
//! **Invariant:** a status is computed from an observation, never from what was executed; so the second
//! run writes the same bytes as the first, and nothing to the cluster.

mod adopt;
mod archive;
mod artifact;
mod build;
mod cause;
mod cli;
mod clients;
mod contents;
mod credentials;
mod desired;
mod diagnose;
mod diff;
mod error;
mod execute;
mod facts;
mod foreign;
mod gate;
mod graph;
mod impact;
mod install;
mod inventory;
mod keeper;
mod kstatus;
mod lifetime;
mod lists;
mod object;
mod observe;
mod picture;
mod plan;
mod prune;
mod reader;
mod record;
mod scan;
mod session;
mod sops;
pub mod spec;
mod status;
mod step;
mod summary;
mod sunset;
mod validate;
mod verify;
mod wait;

pub use cli::Cli;
pub use error::Error;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use age::secrecy::ExposeSecret as _;
use contract::Projects;
use documents::{
    Condition, Conflict, Declared, Dependency, Derived, Exit, Intent, Next, Opened, Plan, Program,
    Reason, Rendering, ResultForm, Stream, Verb, WritePermit,
};

use execute::StepContext;
use lists::Hidden;
use observe::{ObservedObjects, has_answered};
use picture::{Format, Lane, Picture};
use session::{Observation, Session};
use spec::Delivery;
use status::{Evidence, Facts, Status};
use step::Step;
use wait::is_at_work;

impl documents::Kind for Delivery {
    const KIND: &'static str = "Delivery";
    type Observed = Facts;
    type Evidence = Evidence;
    type Step = Step;
}

/// Runs one command.
///
/// # Errors
///
/// [`documents::Error`], which carries its own help and exit status.
pub fn run(cli: &Cli) -> Result<Exit, documents::Error> {
    let output = match &cli.verb {
        Verb::Verify { options, .. } => options.output.clone(),
        _ => ResultForm::Documents,
    };
    let read = |stream: &mut Stream, declared: &[Declared<Delivery>]| {
        FluxSeed::read(stream, declared, output)
    };
    documents::run::<Cli, _>("flux-seed", &cli.verb, read)
}

type Context<'a> = documents::Context<'a, Delivery>;

struct FluxSeed {
    projects: Projects,
    output: ResultForm<Format>,
    /// The last comparison of each Delivery, by its name, for the picture.
    compared: Mutex<BTreeMap<String, Vec<Lane>>>,
}

impl FluxSeed {
    fn read(
        stream: &mut Stream,
        declared: &[Declared<Delivery>],
        output: ResultForm<Format>,
    ) -> Self {
        validate::validate(stream, declared);
        Self { projects: Projects::read(stream), output, compared: Mutex::default() }
    }
}

impl Program for FluxSeed {
    type Kind = Delivery;
    type Error = Error;
    type Session<'a> = Session<'a>;
    type Observation = Observation;
    type StepContext = StepContext;

    const POLL: Duration = wait::POLL;

    fn dependencies(document: &Declared<Delivery>) -> Vec<Dependency> {
        let spec = &document.spec;
        let cluster =
            spec.cluster.iter().map(|name| Dependency::to_ready("/spec/cluster", "Cluster", name));
        let artifact = spec.artifact.iter();
        let artifact =
            artifact.map(|name| Dependency::to_ready("/spec/artifact", "Artifact", name));
        let depends_on = spec.depends_on.iter().enumerate().map(|(index, name)| {
            Dependency::to_ready(format!("/spec/dependsOn/{index}"), "Delivery", name)
        });
        cluster.chain(artifact).chain(depends_on).collect()
    }

    fn open<'a>(
        &'a self,
        context: &Context<'a>,
        intent: Intent,
    ) -> Result<Opened<Session<'a>, Status>, Error> {
        Session::open(&self.projects, context, intent)
    }

    fn observe(
        &self,
        session: &Session<'_>,
        step_context: &StepContext,
    ) -> Result<Observation, Error> {
        session.observe(step_context.touched())
    }

    fn plan(&self, session: &Session<'_>, observation: &Observation, _: Intent) -> Plan<Step> {
        let desired = &session.desired;
        match observation {
            Observation::NoCluster => plan::plan(&desired.objects, &plan::ActualState::new()),
            Observation::Delivery { seen, .. } => {
                let mut plan = plan::plan(&desired.compared(&seen.actual), &seen.actual);
                // A reader cannot know whether an object that the API server denies it exists.
                let is_hidden =
                    |step: &Step| seen.hidden.contains(&Hidden::Object(step.object().clone()));
                plan.steps.retain(|step| !is_hidden(step));
                plan
            }
            Observation::Removal(sunset) => sunset.steps().into(),
        }
    }

    fn footer(&self, observation: &Observation, _: &[Step]) -> Option<String> {
        match observation {
            Observation::Removal(sunset) if !sunset.stays.is_empty() => {
                Some(format!("stays: {}", sunset.stays.join("; ")))
            }
            _ => None,
        }
    }

    fn authorize(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        _: &[Step],
        step_context: &mut StepContext,
        permit: &WritePermit,
    ) -> Result<(), Error> {
        execute::authorize(session, observation, step_context, permit)
    }

    fn next(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        steps: &[Step],
    ) -> Result<Next, Error> {
        match observation {
            Observation::NoCluster => Ok(Next::Finish),
            Observation::Delivery { seen, touched } => {
                let next = plan::next(steps, &seen.actual, touched);
                let is_terminating = seen.actual.values().any(plan::LiveObject::is_terminating);
                match next {
                    Next::Wait { reason } if !is_terminating => {
                        Ok(Next::Wait { reason: session.wait_reason(seen, reason)? })
                    }
                    next => Ok(next),
                }
            }
            Observation::Removal(sunset) => Ok(sunset.next(steps)),
        }
    }

    fn execute(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        step: &Step,
        step_context: &mut StepContext,
        permit: &WritePermit,
    ) -> Result<String, Error> {
        execute::execute(session, observation, step, step_context, permit)
    }

    fn pending(
        &self,
        session: &Session<'_>,
        step_context: &StepContext,
        executed: &[Step],
    ) -> Result<Option<String>, Error> {
        execute::pending(session, step_context, executed)
    }

    /// Flux reconciles at every interval and reports it. That is no change, and no proof of the contrary.
    fn is_passing(&self, _: &Session<'_>, observation: &Observation, steps: &[Step]) -> bool {
        let is_passing = |step: &Step| {
            let live = observation.live(step.object()).map(|live| &live.object);
            matches!(step, Step::Reconcile { .. })
                && live.is_some_and(|live| is_at_work(live) || !has_answered(live))
        };
        !steps.is_empty() && steps.iter().all(is_passing)
    }

    fn pause(&self, session: &Session<'_>, most: Duration) -> bool {
        session.pause(most)
    }

    fn time_limit(&self, session: &Session<'_>) -> Duration {
        Duration::from_secs(session.document.spec.timeout_seconds.seconds().into())
    }

    /// The status names the conflicts as refusals.
    fn plans_despite_conflicts(&self, plan: &Plan<Step>, intent: Intent) -> bool {
        intent == Intent::Plan && !plan.steps.is_empty()
    }

    fn conflict(
        &self,
        _: &Session<'_>,
        _: &Observation,
        _: Intent,
        conflicts: Vec<Conflict>,
    ) -> Error {
        Error::Foreign { objects: conflicts.into_iter().map(|conflict| conflict.message).collect() }
    }

    fn timed_out(&self, session: &Session<'_>, seconds: u64, reason: String) -> Error {
        let error = session.diagnosis.timed_out(seconds);
        error.unwrap_or_else(|| documents::Error::NotConverged { seconds, reason }.into())
    }

    fn facts_of(error: Error) -> Option<Facts> {
        error.into_facts()
    }

    fn status(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        steps: Vec<Step>,
        intent: Intent,
    ) -> Result<Status, Error> {
        match observation {
            Observation::NoCluster => {
                Ok(Status::planned(Some(summary::facts(&session.desired, None)), steps))
            }
            Observation::Delivery { seen, .. } if intent == Intent::Plan => {
                planned(session, seen, steps)
            }
            Observation::Delivery { seen, .. } => Ok(delivered(session, seen, Reason::Delivered)),
            Observation::Removal(sunset) if intent.is_write() => {
                Ok(Status::destroyed(match sunset.stays.as_slice() {
                    [] => "nothing is left of it".to_owned(),
                    stays => format!("left in the cluster: {}", stays.join("; ")),
                }))
            }
            Observation::Removal(sunset) => {
                let mut observed = summary::facts(&session.desired, Some(&sunset.seen));
                observed.losses = gate::losses(&sunset.facts, &sunset.going);
                let (facts, going) = (&sunset.facts, &sunset.going);
                let refusals = session.gate.refusals(session.reader()?, facts, going)?.1;
                Ok(Status { refusals, ..Status::planned(Some(observed), steps) })
            }
        }
    }

    fn verify(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        steps: Vec<Step>,
    ) -> Result<Status, Error> {
        let (reader, desired) = (session.reader()?, &session.desired);
        let none = ObservedObjects::nothing();
        let seen = match observation {
            Observation::Delivery { seen, .. } => seen,
            Observation::NoCluster | Observation::Removal(_) => &none,
        };
        let running = documents::step(session.name(), "prove");
        let attested = contract::facts::attested_digests(session.stream);
        let proof = verify::compare(reader, desired, (seen, &steps), &attested)?;
        let lanes =
            picture::compared_lanes(session.stream, &compared(session, seen, (&steps, &proof)));
        let mut all = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(session.name().to_owned(), lanes);
        drop(all);
        let proven = proof.judged().or_else(|error| Err(session.explained(seen, error)?))?;
        running
            .done(format_args!("{} containers run what their manifests name", proven.containers));
        let mut status = delivered(session, seen, Reason::Verified);
        if let Some(observed) = &mut status.observed {
            observed.third_party = proven.third_party;
        }
        Ok(status)
    }

    fn rendering(&self, stream: &Stream, declared: &[Declared<Delivery>]) -> Option<Rendering> {
        let ResultForm::Other(format, file) = &self.output else { return None };
        let compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        let chain = |document: &Declared<Delivery>| {
            let lanes = compared.get(document.name.as_str()).cloned();
            let lanes = lanes.unwrap_or_else(|| picture::unchecked_lanes(stream, document));
            picture::chain(stream, document, lanes)
        };
        let chains = declared.iter().map(chain).collect();
        Some(Picture { chains }.render(*format, file.clone()))
    }

    fn derive(&self, context: &Context<'_>) -> Result<Vec<Derived>, Error> {
        let key = session::key(&self.projects, context)?;
        let identities = desired::sops_identities(context.document, &key).into_iter();
        let derived = identities.map(|(name, identity)| {
            let text = identity.to_string().expose_secret().as_bytes().to_vec();
            Derived::new(name, text.into())
        });
        Ok(derived.collect())
    }
}

/// Returns everything that the picture of a Delivery shows.
fn compared<'a>(
    session: &'a Session<'_>,
    seen: &'a ObservedObjects,
    (left, proof): (&'a [Step], &'a verify::Proof),
) -> picture::Comparison<'a> {
    let desired = &session.desired;
    let live = |id| (id, seen.actual.get(id).map(|live| &live.object));
    let artifact = desired.artifact.value();
    picture::Comparison {
        spec: &session.document.spec,
        artifact: picture::ArtifactReference {
            repository: artifact.map_or("", |artifact| &artifact.repository),
            digest: artifact.map_or("", |artifact| &artifact.digest),
        },
        installation: &desired.installation,
        source: live(&desired.source),
        kustomization: live(&desired.kustomization),
        objects: seen.inventory.len(),
        left,
        proof,
    }
}

/// Returns the status of a plan, with the data that its steps would lose.
fn planned(
    session: &Session<'_>,
    seen: &ObservedObjects,
    steps: Vec<Step>,
) -> Result<Status, Error> {
    let reader = session.reader()?;
    let prune = session.prune(seen)?;
    if steps.is_empty() && !reader.is_limited() {
        return Ok(delivered(session, seen, Reason::Delivered));
    }
    let mut observed = summary::facts(&session.desired, Some(seen));
    observed.causes = diagnose::collect(reader, &session.desired, seen)?;
    let mut refusals = plan::refusals(&session.desired.compared(&seen.actual), &seen.actual);
    if let Some((facts, going)) = &prune {
        refusals.extend(session.gate.refusals(reader, facts, going)?.1);
        observed.losses = gate::losses(facts, going);
    }
    let status = if reader.is_limited() {
        let scanned = prune.as_ref().map(|(facts, _)| facts.scan.silent.as_slice());
        reader::status(observed, steps, seen, scanned.unwrap_or_default())
    } else {
        Status::planned(Some(observed), steps)
    };
    Ok(Status { refusals, ..status })
}

fn delivered(session: &Session<'_>, seen: &ObservedObjects, reason: Reason) -> Status {
    let desired = &session.desired;
    let (revision, spec) = (desired.revision(), &session.document.spec);
    let message =
        format!("{} delivers {revision} to {}", desired.kustomization, spec.destination());
    Status {
        observed: Some(summary::facts(desired, Some(seen))),
        evidence: summary::evidence(spec.flux.as_ref(), desired),
        ..Status::new(Condition::ready(true, reason, message))
    }
}
