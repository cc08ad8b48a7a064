//! Copies every persistent byte out of a cluster, before the cluster is destroyed.
//!
//! ```text
//! documents ────────────── session ──┐
//!                                    ├── plan ──► stop ► hold ► copy, read back, sign ► record
//! cluster, forge, store ── observe ──┘     (the engine observes again after each of the four stages)
//! ```
//!
//! **Invariant:** [`plan`] is a pure function of values.
//! **Invariant:** every writer is made with the engine's permit. Nothing in the store is ever
//! overwritten or deleted.
//! **Invariant:** from the first stop until `destroy`, nothing starts again: a failure leaves the
//! workloads stopped and the claims held.
//! **Invariant:** a receipt is signed only after every source was read twice, and every object was read
//! back from the store.
//! **Invariant:** a status is computed from an observation, never from the steps that were executed; so
//! a second run writes the same bytes as the first, and nothing to the cluster or the store.

mod archive;
mod authorize;
mod claim;
mod cli;
mod clients;
mod copy;
mod desired;
mod error;
mod execute;
mod extract;
mod hold;
mod lease;
mod limit;
mod observe;
mod pack;
mod plan;
mod restore;
mod scratch;
mod session;
pub mod spec;
mod status;
mod step;
mod step_context;
mod validate;
mod volume;
mod write_session;

pub use cli::Cli;
pub use error::Error;

use std::time::Duration;

use contract::{Project, Projects, facts};
use documents::{
    Context, Declared, Dependency, Derived, Exit, Intent, Next, OpenedBy, Plan, Program, Reason,
    Stream, WritePermit,
};

use cli::Command;
use execute::Execution;
pub(crate) use limit::Limit;
use observe::{Absent, Observation};
use session::Session;
use spec::Drain;
use status::{Evidence, Facts, Status};
use step::Step;
use step_context::StepContext;

impl documents::Kind for Drain {
    const KIND: &'static str = "Drain";
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
    match &cli.command {
        Command::Phase(verb) => documents::run::<Cli, _>("data-drain", verb, DataDrain::read),
        Command::Restore { target, to, receipt } => {
            documents::start("data-drain", target.output);
            let mut stream = Stream::read(&target.documents);
            let drains = stream.documents_of::<Drain>();
            let program = DataDrain::read(&mut stream, &drains);
            stream.accept()?;
            let restored = drains.iter().try_for_each(|document| {
                let context = Context { document, stream: &stream };
                restore::restore(program.project(&context)?, &context, to, receipt.as_deref())
            });
            Ok(restored.map_or_else(|error: Error| documents::report(&error), |()| Exit::Done))
        }
    }
}

/// The program, after every document has been read.
struct DataDrain {
    projects: Projects,
}

impl DataDrain {
    fn read(stream: &mut Stream, declared: &[Declared<Drain>]) -> Self {
        let projects = Projects::read(stream);
        validate::validate(stream, &projects, declared);
        Self { projects }
    }

    fn project(&self, context: &Context<'_, Drain>) -> Result<&Declared<Project>, Error> {
        let project =
            facts::project_of_cluster(context.stream, context.document.spec.cluster.as_str());
        Ok(self.projects.get(project.unwrap_or_default())?)
    }
}

impl Program for DataDrain {
    type Kind = Drain;
    type Error = Error;
    type Session<'a> = Session<'a>;
    type Observation = Observation;
    type StepContext = StepContext;

    const POLL: Duration = limit::TICK;

    fn dependencies(document: &Declared<Drain>) -> Vec<Dependency> {
        let Drain { cluster, reader, sources, .. } = &document.spec;
        let mut dependencies = vec![Dependency::to_ready("/spec/cluster", "Cluster", cluster)];
        if sources.iter().any(|source| source.claim.is_some()) {
            dependencies.push(Dependency::to_ready("/spec/reader", "Artifact", reader));
        }
        let forges = sources.iter().enumerate().filter_map(|(index, source)| {
            let path = format!("/spec/sources/{index}/forge");
            Some(Dependency::to_ready(path, "Repository", source.forge.as_ref()?))
        });
        dependencies.extend(forges);
        dependencies
    }

    fn open<'a>(
        &'a self,
        context: &Context<'a, Drain>,
        intent: Intent,
    ) -> Result<OpenedBy<'a, Self>, Error> {
        Session::open(&self.projects, context, intent)
    }

    fn observe(
        &self,
        session: &Session<'_>,
        step_context: &StepContext,
    ) -> Result<Observation, Error> {
        let mut observation = session.observe()?;
        if let Some((receipt, _)) = &observation.receipt {
            observation.is_read_back = step_context.read_back.as_ref() == Some(&receipt.run);
        }
        Ok(observation)
    }

    fn plan(&self, _: &Session<'_>, observation: &Observation, intent: Intent) -> Plan<Step> {
        let actual = observation.actual();
        let plan = if intent.is_removal() { plan::plan_destroy } else { plan::plan };
        plan(&actual).into()
    }

    fn footer(&self, observation: &Observation, _: &[Step]) -> Option<String> {
        let lines = status::uncovered(observation);
        (!lines.is_empty()).then(|| lines.join("\n  "))
    }

    fn authorize(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        steps: &[Step],
        step_context: &mut StepContext,
        permit: &WritePermit,
    ) -> Result<(), Error> {
        authorize::authorize(session, observation, steps, step_context, permit)
    }

    fn next(
        &self,
        _: &Session<'_>,
        observation: &Observation,
        steps: &[Step],
    ) -> Result<Next, Error> {
        Ok(match steps.first() {
            None => Next::Finish,
            // The pods of a run that was killed after it put the hold may still end.
            Some(Step::Copy { .. }) if observation.at_rest().is_none() => {
                Next::Wait { reason: observation.in_use() }
            }
            Some(_) => Next::Execute { count: plan::batch(steps) },
        })
    }

    fn execute(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        step: &Step,
        step_context: &mut StepContext,
        _: &WritePermit,
    ) -> Result<String, Error> {
        Execution { session, observation, step_context }.execute(step)
    }

    fn pending(
        &self,
        session: &Session<'_>,
        _: &StepContext,
        executed: &[Step],
    ) -> Result<Option<String>, Error> {
        if !executed.iter().any(|step| matches!(step, Step::Hold { .. })) {
            return Ok(None);
        }
        // A pod that was admitted before the hold was enforced is in this list, or has ended.
        let observation = session.observe_claims(Absent::IsAnError)?;
        Ok(observation.at_rest().is_none().then(|| observation.in_use()))
    }

    fn time_limit(&self, session: &Session<'_>) -> Duration {
        Duration::from_secs(session.limit().seconds.into())
    }

    fn status(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        steps: Vec<Step>,
        intent: Intent,
    ) -> Result<Status, Error> {
        let Some(copies) = session.copies_if_any() else {
            let restarted = "what was stopped runs again; the copies stay";
            let is_done = intent.is_write() && steps.is_empty();
            return Ok(if is_done {
                Status::destroyed(restarted)
            } else {
                Status::planned(None, steps)
            });
        };
        if steps.is_empty() {
            if intent.is_write() {
                // A copy that is damaged by now is reported. Nothing is started because of it.
                session.read_back(observation)?;
            }
            return Ok(status::drained(&copies.desired, observation, Reason::Drained));
        }
        // Without a reader's image there is no pod that the API server could judge.
        if let Ok(image) = session.image() {
            authorize::admissible(&session.reader, session.name(), &image, observation)?;
        }
        Ok(status::planned(&copies.desired, observation, steps))
    }

    fn verify(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        _: Vec<Step>,
    ) -> Result<Status, Error> {
        for line in status::uncovered(observation) {
            documents::note(session.name(), line);
        }
        if observation.receipt.is_none() {
            let what = observation.sources.iter().map(observe::LiveSource::name).collect();
            return Err(Error::Unproven { what, why: observation.changes() });
        }
        session.read_back(observation)?;
        Ok(status::drained(&session.copies()?.desired, observation, Reason::Verified))
    }

    fn derive(&self, context: &Context<'_, Drain>) -> Result<Vec<Derived>, Error> {
        let project = self.project(context)?;
        let key = contract::phase_key(project, "data-drain")?;
        let public = contract::ReceiptKey::of(&key, project.name.as_str()).pem();
        Ok(vec![Derived::new("receipt.pub", public.into_bytes().into())])
    }
}
