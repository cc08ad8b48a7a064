//! The trait that every program implements, so that the engine can run it.

use std::time::Duration;

use crate::conflict::Conflict;
use crate::context::{Context, Dependency};
use crate::diagnostic::Diagnostic;
use crate::document::{Kind, StatusOf};
use crate::plan::Plan;
use crate::rendering::Rendering;
use crate::stream::Stream;
use crate::{Declared, Derived, Error};

/// Permission to change the world. Every writer takes one.
///
/// Only the engine makes permits, and lends them to [`Program::authorize`], [`Program::execute`] and
/// [`Program::finish`]. Code that plans has none:
///
/// ```compile_fail,E0423
/// let permit = documents::WritePermit(());
/// ```
///
/// ```compile_fail,E0277
/// fn keep(permit: &documents::WritePermit) -> documents::WritePermit where documents::WritePermit: Copy {
///     *permit
/// }
/// fn plan(permit: &documents::WritePermit) { keep(permit); }
/// ```
#[derive(Debug)]
pub struct WritePermit(());

impl WritePermit {
    /// Grants a run the right to write. Only the engine calls this.
    pub(crate) fn grant() -> Self {
        Self(())
    }
}

/// The verb that a session is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Show the steps of `apply`.
    Plan,
    /// Execute the steps.
    Apply,
    /// Prove the declared state from evidence.
    Verify,
    /// Show the steps of `destroy`.
    PlanDestroy,
    /// Execute the steps of `destroy`.
    Destroy,
}

impl Intent {
    /// Whether the goal is that nothing of the document is left.
    #[must_use]
    pub fn is_removal(self) -> bool {
        matches!(self, Self::PlanDestroy | Self::Destroy)
    }

    /// Whether steps are executed.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(self, Self::Apply | Self::Destroy)
    }
}

/// The result of [`Program::open`].
#[derive(Debug)]
pub enum Opened<S, T> {
    /// A session, which has to observe.
    Session(S),
    /// A status that is known without an observation, for example because the cluster is gone.
    Known(T),
}

/// The next action of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Execute the first `count` steps of the plan, then observe again.
    Execute {
        /// Number of steps, at least 1.
        count: usize,
    },
    /// Wait and observe again, because of `reason`.
    Wait {
        /// Unmet condition, for example `etcd on prod-control-1 is a learner`.
        reason: String,
    },
    /// The declared state is reached.
    Finish,
}

/// A program: what it does with one of its documents.
///
/// Functions without a `permit` cannot write.
pub trait Program: Sync {
    /// The spec of the documents that the program owns.
    type Kind: Kind<Step: crate::step::Step>;
    /// The errors of the program.
    type Error: Diagnostic + From<Error> + Send;
    /// A document with its references resolved, and the readers of its remote services.
    type Session<'a>
    where
        Self: 'a;
    /// The result of one observation.
    type Observation;
    /// Values that a step hands to later steps and observations of the same run, for example the result
    /// of a build. No plan shows them.
    type StepContext: Default;

    /// Most documents that are worked on in parallel. More than one helps where a document waits for
    /// a remote service most of the time.
    const PARALLEL_MAX: usize = 1;
    /// Pause between two observations of a wait.
    const POLL: Duration = Duration::from_millis(250);

    /// Returns the documents to which `document` refers.
    fn dependencies(document: &Declared<Self::Kind>) -> Vec<Dependency>;

    /// Resolves the references of a document and connects its readers.
    ///
    /// # Errors
    ///
    /// A reference cannot be resolved, or a service refuses the credentials.
    fn open<'a>(
        &'a self,
        context: &Context<'a, Self::Kind>,
        intent: Intent,
    ) -> Result<OpenedBy<'a, Self>, Self::Error>;

    /// Observes the world.
    ///
    /// # Errors
    ///
    /// The state cannot be determined. Errors that are transient
    /// ([`Diagnostic::is_transient`]) are retried during a run, after the first observation.
    fn observe(
        &self,
        session: &Self::Session<'_>,
        step_context: &Self::StepContext,
    ) -> Result<Self::Observation, Self::Error>;

    /// Returns the steps from an observation to the declared state, or, for a removal, to its absence.
    fn plan(
        &self,
        session: &Self::Session<'_>,
        observation: &Self::Observation,
        intent: Intent,
    ) -> Plan<StepOf<Self>>;

    /// Returns one more line below the plan for people, for example the cost before and after.
    fn footer(&self, _observation: &Self::Observation, _steps: &[StepOf<Self>]) -> Option<String> {
        None
    }

    /// Checks before each round that `steps`, all that is planned, may be executed: the data gate, for
    /// example.
    ///
    /// # Errors
    ///
    /// A step may not be executed. Nothing of the round is.
    fn authorize(
        &self,
        _session: &Self::Session<'_>,
        _observation: &Self::Observation,
        _steps: &[StepOf<Self>],
        _step_context: &mut Self::StepContext,
        _permit: &WritePermit,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Decides how many steps are executed before the next observation, or what to wait for.
    ///
    /// # Errors
    ///
    /// Waiting cannot help.
    fn next(
        &self,
        _session: &Self::Session<'_>,
        _observation: &Self::Observation,
        steps: &[StepOf<Self>],
    ) -> Result<Next, Self::Error> {
        Ok(if steps.is_empty() { Next::Finish } else { Next::Execute { count: steps.len() } })
    }

    /// Executes one step, and returns a detail for people, for example an address; or `""`.
    ///
    /// # Errors
    ///
    /// The step failed. When the error is ambiguous ([`Diagnostic::is_ambiguous`]), the engine observes
    /// again, because the step may have taken effect.
    fn execute(
        &self,
        session: &Self::Session<'_>,
        observation: &Self::Observation,
        step: &StepOf<Self>,
        step_context: &mut Self::StepContext,
        permit: &WritePermit,
    ) -> Result<String, Self::Error>;

    /// Completes what the steps of a round started, for example servers that boot in parallel.
    ///
    /// # Errors
    ///
    /// A started operation failed.
    fn finish(
        &self,
        _session: &Self::Session<'_>,
        _observation: &Self::Observation,
        _step_context: &mut Self::StepContext,
        _permit: &WritePermit,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Returns what `executed` steps have yet to bring about before an observation is worth its
    /// requests; `None` when nothing is pending.
    ///
    /// # Errors
    ///
    /// Waiting cannot help.
    fn pending(
        &self,
        _session: &Self::Session<'_>,
        _step_context: &Self::StepContext,
        _executed: &[StepOf<Self>],
    ) -> Result<Option<String>, Self::Error> {
        Ok(None)
    }

    /// Whether the difference between the observation and the declared state passes within seconds
    /// without a step.
    fn is_passing(
        &self,
        _session: &Self::Session<'_>,
        _observation: &Self::Observation,
        _steps: &[StepOf<Self>],
    ) -> bool {
        false
    }

    /// Pauses between two observations of a wait, at most for `most`. Returns whether the next observation
    /// is due; the engine calls this again until then, or until the time limit. A program whose service
    /// reports changes returns as soon as there is one.
    fn pause(&self, _session: &Self::Session<'_>, most: Duration) -> bool {
        std::thread::sleep(Self::POLL.min(most));
        true
    }

    /// Returns the longest time that a run waits after its last step.
    fn time_limit(&self, session: &Self::Session<'_>) -> Duration;

    /// Whether `plan` shows its steps and succeeds although some of the state is in conflict or unknown,
    /// for example because the token of a reader may not see a list.
    fn plans_despite_conflicts(&self, _plan: &Plan<StepOf<Self>>, _intent: Intent) -> bool {
        false
    }

    /// Returns the error for the conflicts of a plan that was made from `observation`.
    fn conflict(
        &self,
        _session: &Self::Session<'_>,
        _observation: &Self::Observation,
        _intent: Intent,
        conflicts: Vec<Conflict>,
    ) -> Self::Error {
        Error::Conflicts { conflicts }.into()
    }

    /// Returns the error for a wait that has reached its time limit after `seconds`. `reason` is the last
    /// unmet condition.
    fn timed_out(&self, _session: &Self::Session<'_>, seconds: u64, reason: String) -> Self::Error {
        Error::NotConverged { seconds, reason }.into()
    }

    /// Returns the facts that the program observed before `error`, for the status of the failed document.
    fn facts_of(_error: Self::Error) -> Option<<Self::Kind as Kind>::Observed> {
        None
    }

    /// Returns the status of a document for which `steps` are left.
    ///
    /// # Errors
    ///
    /// A fact of the status cannot be determined.
    fn status(
        &self,
        session: &Self::Session<'_>,
        observation: &Self::Observation,
        steps: Vec<StepOf<Self>>,
        intent: Intent,
    ) -> Result<StatusOf<Self::Kind>, Self::Error>;

    /// Proves from evidence that the declared state is the observed one. `steps` are those left. The engine
    /// repeats the proof for some seconds while its error is transient.
    ///
    /// # Errors
    ///
    /// The proof failed.
    fn verify(
        &self,
        session: &Self::Session<'_>,
        observation: &Self::Observation,
        steps: Vec<StepOf<Self>>,
    ) -> Result<StatusOf<Self::Kind>, Self::Error>;

    /// Returns another form of the result of the whole run, if the command line asks for one. `stream` has
    /// the new statuses of the `declared` documents.
    fn rendering(&self, _stream: &Stream, _declared: &[Declared<Self::Kind>]) -> Option<Rendering> {
        None
    }

    /// Returns everything that derives from the root for the document.
    ///
    /// # Errors
    ///
    /// The root cannot be resolved, or an underived value is unknown.
    fn derive(&self, context: &Context<'_, Self::Kind>) -> Result<Vec<Derived>, Self::Error>;
}

/// The result of [`Program::open`] for a program.
pub type OpenedBy<'a, P> = Opened<<P as Program>::Session<'a>, StatusOf<<P as Program>::Kind>>;

/// A step of a program's plan.
pub type StepOf<P> = <<P as Program>::Kind as Kind>::Step;
