//! The one loop that changes the world: observe, plan, print, execute, observe again.
//!
//! ```text
//! open ──► observe ──► plan ──► print ──► authorize ──► execute ──► finish ──► pending? ─┐
//!             ▲                                                                          │
//!             └──────────────── until the plan is empty ─────────────────────────────────┘
//! ```
//!
//! **Invariant:** `apply` and `destroy` execute only steps that [`Program::plan`] returned, in that
//! order, because no other code calls [`Program::execute`].
//! **Invariant:** only this module makes a [`WritePermit`], so code that plans cannot make a writer.

use std::time::Duration;

use crate::conflict::Conflict;
use crate::context::{Context, Dependency};
use crate::diagnostic::Diagnostic;
use crate::document::{Kind, StatusOf};
use crate::plan::{self, Plan};
use crate::wait::Wait;
use crate::{Declared, Derived, Error, progress};

/// Most rounds of one run. The largest plan in the tests, a cluster of 9 machines that are changed one
/// at a time, takes 30.
const ROUNDS_MAX: usize = 200;

/// Most executions of one step in a run. The second covers a lost response, the third a change by
/// another person at the same moment. A step that is still planned then does not take effect.
const EXECUTIONS_MAX: usize = 3;

/// Longest time that `plan` and `verify` wait for a difference that passes without a step, for example a
/// controller that reconciles at its interval. Measured: Flux needs one or two seconds on a busy machine.
const PASSING_MAX: Duration = Duration::from_secs(10);

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
        /// What is not as it has to be yet, for example `etcd on prod-control-1 is a learner`.
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
        steps: &Self::StepContext,
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
        steps: &mut Self::StepContext,
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
        _steps: &mut Self::StepContext,
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
        _steps: &Self::StepContext,
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

    /// Returns the longest time that a run waits after its last step.
    fn time_limit(&self, session: &Self::Session<'_>) -> Duration;

    /// Returns the error for conflicts that a plan has.
    fn conflict(&self, conflicts: Vec<Conflict>) -> Self::Error {
        Error::Conflicts { conflicts }.into()
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

    /// Proves from evidence that the declared state is the observed one. `steps` are those left.
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

/// Runs one verb on one document.
pub(crate) fn run<P: Program>(
    program: &P,
    context: &Context<'_, P::Kind>,
    intent: Intent,
) -> Result<StatusOf<P::Kind>, P::Error> {
    let session = match program.open(context, intent)? {
        Opened::Session(session) => session,
        Opened::Known(status) => return Ok(status),
    };
    let run = Run { program, name: context.document.name.to_string(), session, intent };
    if intent.is_write() { run.converge() } else { run.report() }
}

/// One verb on one document.
struct Run<'a, P: Program + 'a> {
    program: &'a P,
    /// `metadata.name` of the document.
    name: String,
    session: P::Session<'a>,
    intent: Intent,
}

impl<P: Program> Run<'_, P> {
    /// Observes and plans, and executes nothing.
    fn report(&self) -> Result<StatusOf<P::Kind>, P::Error> {
        let Self { program, session, .. } = self;
        let mut wait = Wait::new(&self.name, P::POLL, PASSING_MAX);
        let (observation, plan) = loop {
            let observation = program.observe(session, &P::StepContext::default())?;
            let plan = program.plan(session, &observation, self.intent);
            let is_passing = program.is_passing(session, &observation, &plan.steps);
            if !is_passing || wait.is_over() {
                break (observation, plan);
            }
            wait.pause("a difference that should pass without a step")?;
        };
        if self.intent == Intent::Verify {
            self.check(plan.conflicts)?;
            return program.verify(session, &observation, plan.steps);
        }
        self.show(&observation, &plan);
        self.check(plan.conflicts)?;
        program.status(session, &observation, plan.steps, self.intent)
    }

    /// Executes steps until none is left.
    fn converge(&self) -> Result<StatusOf<P::Kind>, P::Error> {
        let Self { program, session, .. } = self;
        let permit = WritePermit(());
        let mut steps = P::StepContext::default();
        let mut executed: Vec<(StepOf<P>, usize)> = Vec::new();
        let mut wait = Wait::new(&self.name, P::POLL, program.time_limit(session));
        // A service that cannot be reached at all ends the run at once: a wrong address must not cost
        // the whole time limit.
        let mut observation = program.observe(session, &steps)?;
        let mut rounds = 0;
        loop {
            let plan = program.plan(session, &observation, self.intent);
            if rounds == 0 {
                self.show(&observation, &plan);
            }
            self.check(plan.conflicts)?;
            match program.next(session, &observation, &plan.steps)? {
                Next::Finish if plan.steps.is_empty() => {
                    return program.status(session, &observation, plan.steps, self.intent);
                }
                Next::Finish => return Err(stuck(plan.steps.iter()).into()),
                Next::Wait { reason } => wait.pause(&reason)?,
                Next::Execute { count } => {
                    let batch = &plan.steps[..count.min(plan.steps.len())];
                    if rounds == ROUNDS_MAX || batch.is_empty() {
                        return Err(stuck(plan.steps.iter()).into());
                    }
                    count_executions(&mut executed, batch)?;
                    program.authorize(session, &observation, &plan.steps, &permit)?;
                    rounds += 1;
                    self.execute(&observation, batch, &mut steps, &permit)?;
                    wait.restart();
                    while let Some(reason) =
                        patiently(&mut wait, || program.pending(session, &steps, batch))?
                    {
                        wait.pause(&reason)?;
                    }
                }
            }
            observation = patiently(&mut wait, || program.observe(session, &steps))?;
        }
    }

    /// Executes the steps of one round.
    fn execute(
        &self,
        observation: &P::Observation,
        batch: &[StepOf<P>],
        steps: &mut P::StepContext,
        permit: &WritePermit,
    ) -> Result<(), P::Error> {
        let Self { program, session, .. } = self;
        for step in batch {
            crate::check_interrupt()?;
            let running = progress::step(&self.name, step);
            match program.execute(session, observation, step, steps, permit) {
                Ok(detail) => running.done(detail),
                Err(error) => {
                    drop(running);
                    return self.look_again(error);
                }
            }
        }
        program.finish(session, observation, steps, permit).or_else(|error| self.look_again(error))
    }

    /// Lets the run go on after an error that leaves open whether a step took effect.
    fn look_again(&self, error: P::Error) -> Result<(), P::Error> {
        if !error.is_ambiguous() {
            return Err(error);
        }
        crate::note(
            &self.name,
            format_args!("{error}: observing again, because it may have worked"),
        );
        Ok(())
    }

    fn show(&self, observation: &P::Observation, plan: &Plan<StepOf<P>>) {
        let document = format!("{}/{}", P::Kind::KIND, self.name);
        let footer = self.program.footer(observation, &plan.steps);
        plan::show(&document, &plan.steps, &plan.conflicts, footer.as_deref());
    }

    fn check(&self, conflicts: Vec<Conflict>) -> Result<(), P::Error> {
        if conflicts.is_empty() { Ok(()) } else { Err(self.program.conflict(conflicts)) }
    }
}

/// Retries `look` while its error is transient and the wait has time left.
fn patiently<T, E: Diagnostic + From<Error>>(
    wait: &mut Wait<'_>,
    look: impl Fn() -> Result<T, E>,
) -> Result<T, E> {
    loop {
        match look() {
            Err(error) if error.is_transient() && !wait.is_over() => {
                wait.pause(&crate::report::with_causes(&error))?;
            }
            result => return result,
        }
    }
}

/// Counts the executions of each step, and fails before one is executed too often.
fn count_executions<S: crate::step::Step>(
    executed: &mut Vec<(S, usize)>,
    batch: &[S],
) -> Result<(), Error> {
    for step in batch {
        match executed.iter_mut().find(|(earlier, _)| earlier == step) {
            Some((_, count)) if *count == EXECUTIONS_MAX => return Err(stuck([step].into_iter())),
            Some((_, count)) => *count += 1,
            None => executed.push((step.clone(), 1)),
        }
    }
    Ok(())
}

fn stuck<'a, S: crate::step::Step + 'a>(steps: impl Iterator<Item = &'a S>) -> Error {
    Error::NoProgress { steps: steps.map(ToString::to_string).collect() }
}

#[cfg(test)]
mod tests;
