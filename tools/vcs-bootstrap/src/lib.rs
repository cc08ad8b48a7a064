//! Creates, configures and fills the repository that a `Repository` document declares.
//!
//! ```text
//! document, project ── session ──┐
//!                                ├── plan ──► execute ──► observe again ──► document with status
//! forge, Git ───────── observe ──┘
//! ```
//!
//! **Invariant:** [`plan`] is a pure function of values.
//! **Invariant:** a status is computed from an observation, never from the steps that were executed.
//! **Invariant:** a list that the token may not read is reported as unknown. The program neither compares
//! the list nor removes anything of it.
//! **Invariant:** the program removes only what a signed ownership record in the forge
//! proves to be its own.

mod absence;
mod cli;
mod clients;
mod desired;
mod error;
mod execute;
mod handover;
pub mod model;
pub mod observe;
mod ownership;
pub mod plan;
mod refused;
mod session;
pub mod spec;
mod status;
pub mod step;
mod sunset;
mod validate;

pub use cli::Cli;
pub use error::Error;

use std::time::Duration;

use contract::{Projects, Roots};
use documents::{
    Conflict, Context, Declared, Dependency, Derived, Exit, Intent, Opened, OpenedBy, Program,
    Rendering, Stream, Verb, WritePermit,
};
use opentofu::Collector;

use clients::connection::Services;
use desired::Source;
use execute::{Execution, StepContext};
use observe::{Evidence, Facts, Observation};
use session::{Session, check_push};
use spec::Repository;
use status::Status;
use step::Step;

impl documents::Kind for Repository {
    const KIND: &'static str = "Repository";
    type Observed = Facts;
    type Evidence = Evidence;
    type Step = Step;
}

/// Runs the command of the command line.
///
/// # Errors
///
/// [`documents::Error`], which carries its own help and exit status.
pub fn run(cli: &Cli) -> Result<Exit, documents::Error> {
    let options = match &cli.verb {
        Verb::Plan { options, .. } => Some(options),
        _ => None,
    };
    let handover = Collector::new(options);
    documents::run::<Cli, _>("vcs-bootstrap", &cli.verb, |stream, declared| {
        VcsBootstrap::read(stream, declared, handover)
    })
}

/// The program and the projects of its documents.
struct VcsBootstrap {
    projects: Projects,
    /// Roots of the projects, each read once.
    roots: Roots,
    /// Forges of the projects, each with its token.
    services: Services,
    /// Resources for `OpenTofu`.
    handover: Collector,
}

impl VcsBootstrap {
    fn read(stream: &mut Stream, declared: &[Declared<Repository>], handover: Collector) -> Self {
        let projects = Projects::read(stream);
        validate::validate(stream, &projects, declared);
        if handover.is_asked() {
            handover::validate(stream, &projects, declared);
        }
        Self { projects, roots: Roots::default(), services: Services::default(), handover }
    }

    /// Adds the resources of a planned document to the configuration of `OpenTofu`, if there is one.
    fn hand_over(&self, session: &Session<'_>, observation: &Observation) -> Result<(), Error> {
        if self.handover.is_asked() {
            self.handover.add(session.document(), handover::resources(session, observation)?);
        }
        Ok(())
    }
}

impl Program for VcsBootstrap {
    type Kind = Repository;
    type Error = Error;
    type Session<'a> = Session<'a>;
    type Observation = Observation;
    type StepContext = StepContext;

    /// A run waits for the forge most of the time. GitHub permits 100 requests at once, of which a document
    /// sends 7 at most (four rules, secrets, deploy keys and git's), and limits requests that write by time
    /// (<https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits>),
    /// for which all documents share one pause.
    const PARALLEL_MAX: usize = 8;

    fn dependencies(document: &Declared<Repository>) -> Vec<Dependency> {
        vec![Dependency::to_present("/spec/project", "Project", &document.spec.project)]
    }

    fn open<'a>(
        &'a self,
        context: &Context<'a, Repository>,
        intent: Intent,
    ) -> Result<OpenedBy<'a, Self>, Error> {
        Session::open(&self.projects, (&self.roots, &self.services), context, intent)
            .map(Opened::Session)
    }

    fn observe(&self, session: &Session<'_>, _: &StepContext) -> Result<Observation, Error> {
        session.observe()
    }

    fn plan(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        intent: Intent,
    ) -> documents::Plan<Step> {
        let plan = session.plan(observation, intent);
        let conflict =
            |refusal: model::Refusal| Conflict { message: refusal.what, help: refusal.help };
        let conflicts = plan.refused.into_iter().map(conflict).collect();
        documents::Plan { steps: plan.steps, conflicts }
    }

    fn plans_despite_conflicts(&self, plan: &documents::Plan<Step>, intent: Intent) -> bool {
        intent == Intent::Plan && !plan.steps.is_empty()
    }

    fn conflict(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        intent: Intent,
        _: Vec<Conflict>,
    ) -> Error {
        Error::Blocked(session.plan(observation, intent).refused)
    }

    fn authorize(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        steps: &[Step],
        step_context: &mut StepContext,
        _: &WritePermit,
    ) -> Result<(), Error> {
        check_push(observation, steps)?;
        step_context.covered_refs = session.check_deletion(observation, steps)?;
        Ok(())
    }

    fn execute(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        step: &Step,
        step_context: &mut StepContext,
        permit: &WritePermit,
    ) -> Result<String, Error> {
        Execution { session, observation, step_context, permit }.execute(step)
    }

    fn time_limit(&self, _: &Session<'_>) -> Duration {
        // A forge answers when a change is done, so a run waits only for a forge that does not answer.
        Duration::from_secs(60)
    }

    fn status(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        steps: Vec<Step>,
        intent: Intent,
    ) -> Result<Status, Error> {
        if steps.is_empty() {
            let is_removal = intent.is_removal();
            let settled = || status::converged(session, observation);
            self.hand_over(session, observation)?;
            return Ok(if is_removal { status::removed(observation) } else { settled() });
        }
        if intent.is_removal() {
            let refusal = session.check_deletion(observation, &steps).err();
            return Ok(status::removal_planned(session, observation, steps, refusal.as_ref()));
        }
        check_push(observation, &steps)?;
        self.hand_over(session, observation)?;
        Ok(status::planned(session, observation, steps, session.plan(observation, intent).refused))
    }

    fn verify(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        steps: Vec<Step>,
    ) -> Result<Status, Error> {
        let mut differences: Vec<_> = steps.iter().map(ToString::to_string).collect();
        differences.extend(
            observation.actual.as_ref().and_then(|actual| session.branch_difference(actual)),
        );
        if differences.is_empty() {
            Ok(status::verified(session, observation))
        } else {
            Err(Error::Unproven(differences))
        }
    }

    fn rendering(&self, _: &Stream, declared: &[Declared<Repository>]) -> Option<Rendering> {
        let names: Vec<_> = declared.iter().map(|document| document.name.as_str()).collect();
        self.handover.rendering(&handover::provider(&self.projects, declared), &names)
    }

    fn derive(&self, context: &Context<'_, Repository>) -> Result<Vec<Derived>, Error> {
        let document = context.document;
        let project = self.projects.get(&document.spec.project)?;
        desired::derived(&Source { document, project, roots: &self.roots })
    }
}
