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
//! **Invariant:** only this module grants a [`WritePermit`], so code that plans cannot make a writer.

use std::time::Duration;

use crate::conflict::Conflict;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::document::{Kind, StatusOf};
use crate::plan::{Plan, Shown};
use crate::program::{Intent, Next, Opened, Program, StepOf, WritePermit};
use crate::status::Status;
use crate::wait::Wait;
use crate::{Error, progress};

/// Most rounds of one run. The largest plan in the tests, a cluster of 9 machines that are changed one
/// at a time, takes 30.
const ROUNDS_MAX: usize = 200;

/// Most executions of one step in a run. The second covers a lost response, the third a change by
/// another person at the same moment. A step that is still planned then does not take effect.
const EXECUTIONS_MAX: usize = 3;

/// Longest time that `plan` and `verify` wait for a difference that passes without a step: a controller
/// that reconciles at its interval (measured: Flux needs one or two seconds on a busy machine), or a
/// service that its machine restarts (Talos waits 5 s before it starts a service again, and the service
/// needs time to become healthy).
const PASSING_MAX: Duration = Duration::from_secs(30);

/// Runs one verb on one document.
pub(crate) fn run<P: Program>(
    program: &P,
    context: &Context<'_, P::Kind>,
    intent: Intent,
) -> Result<StatusOf<P::Kind>, P::Error> {
    let session = match program.open(context, intent)? {
        Opened::Session(session) => session,
        Opened::Known(status) => {
            let steps = status.plan.as_deref().unwrap_or_default();
            let unknown = unknown(&status);
            if !intent.is_write() && (!steps.is_empty() || unknown.is_some()) {
                let document = &format!("{}/{}", P::Kind::KIND, context.document.name);
                Shown { document, steps, conflicts: &[], unknown, footer: None }.write();
            }
            return Ok(status);
        }
    };
    let run = Run { program, name: context.document.name.to_string(), session, intent };
    if intent.is_write() { run.converge() } else { run.report() }
}

/// Returns why the steps of a status are unknown.
fn unknown<O, E, S>(status: &Status<O, E, S>) -> Option<&str> {
    let ready = status.conditions.first().filter(|_| status.plan.is_none());
    ready.map(|ready| ready.message.as_str())
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
        let look = || program.observe(session, &P::StepContext::default());
        // As in a run that writes, only the first observation ends the run when it fails.
        let mut first = Some(look()?);
        let (observation, plan) = loop {
            let observation = match first.take() {
                Some(observation) => observation,
                None => patiently(&mut wait, look)?,
            };
            let plan = program.plan(session, &observation, self.intent);
            if program.is_passing(session, &observation, &plan.steps) && !wait.is_over() {
                let reason = "a difference that should pass without a step";
                wait.pause_until(reason, |most| program.pause(session, most))?;
                continue;
            }
            if self.intent != Intent::Verify {
                break (observation, plan);
            }
            self.check(&observation, plan.conflicts)?;
            match program.verify(session, &observation, plan.steps) {
                // For example a workload that is being rolled out disproves nothing.
                Err(error) if error.is_transient() && !wait.is_over() => {
                    let reason = error.to_string();
                    wait.pause_until(&reason, |most| program.pause(session, most))?;
                }
                result => return result,
            }
        };
        if plan.steps.is_empty() && plan.conflicts.is_empty() {
            let status = program.status(session, &observation, Vec::new(), self.intent)?;
            self.show(&observation, &plan, unknown(&status));
            return Ok(status);
        }
        self.show(&observation, &plan, None);
        if !program.plans_despite_conflicts(&plan, self.intent) {
            self.check(&observation, plan.conflicts)?;
        }
        program.status(session, &observation, plan.steps, self.intent)
    }

    /// Executes steps until none is left.
    fn converge(&self) -> Result<StatusOf<P::Kind>, P::Error> {
        let Self { program, session, .. } = self;
        let permit = WritePermit::grant();
        let mut step_context = P::StepContext::default();
        let mut executions = Executions::default();
        let mut wait = Wait::new(&self.name, P::POLL, program.time_limit(session));
        // A service that cannot be reached at all ends the run at once: a wrong address must not cost
        // the whole time limit.
        let mut observation = program.observe(session, &step_context)?;
        let (mut rounds, mut is_shown) = (0, false);
        loop {
            let plan = program.plan(session, &observation, self.intent);
            if !is_shown {
                self.show(&observation, &plan, None);
                is_shown = true;
            }
            self.check(&observation, plan.conflicts)?;
            match program.next(session, &observation, &plan.steps)? {
                Next::Finish if plan.steps.is_empty() => {
                    return program.status(session, &observation, plan.steps, self.intent);
                }
                Next::Finish => return Err(stuck(plan.steps.iter()).into()),
                Next::Wait { reason } => self.pause(&mut wait, &reason)?,
                Next::Execute { count } => {
                    let batch = &plan.steps[..count.min(plan.steps.len())];
                    if rounds == ROUNDS_MAX || batch.is_empty() {
                        return Err(stuck(plan.steps.iter()).into());
                    }
                    executions.count(batch)?;
                    program.authorize(
                        session,
                        &observation,
                        &plan.steps,
                        &mut step_context,
                        &permit,
                    )?;
                    rounds += 1;
                    self.execute(&observation, batch, &mut step_context, &permit).or_else(
                        |error| {
                            // The response was lost, so the step may have taken effect.
                            let is_last = executions.any_is_last(batch);
                            if error.is_ambiguous() && !is_last {
                                self.tell(&error);
                                Ok(())
                            } else {
                                Err(error)
                            }
                        },
                    )?;
                    wait.restart();
                    while let Some(reason) =
                        patiently(&mut wait, || program.pending(session, &step_context, batch))?
                    {
                        self.pause(&mut wait, &reason)?;
                    }
                }
            }
            observation = patiently(&mut wait, || program.observe(session, &step_context))?;
        }
    }

    /// Executes the steps of one round.
    fn execute(
        &self,
        observation: &P::Observation,
        batch: &[StepOf<P>],
        step_context: &mut P::StepContext,
        permit: &WritePermit,
    ) -> Result<(), P::Error> {
        let Self { program, session, .. } = self;
        for step in batch {
            crate::check_interrupt()?;
            let running = progress::step(&self.name, step);
            running.done(program.execute(session, observation, step, step_context, permit)?);
        }
        program.finish(session, observation, step_context, permit)
    }

    /// Pauses until the next observation. At the end of the wait, the program names the cause.
    fn pause(&self, wait: &mut Wait<'_>, reason: &str) -> Result<(), P::Error> {
        let Self { program, session, .. } = self;
        let end = wait.pause_until(reason, |most| program.pause(session, most));
        end.map_err(|error| match error {
            Error::NotConverged { seconds, reason } => program.timed_out(session, seconds, reason),
            error => error.into(),
        })
    }

    fn tell(&self, error: &P::Error) {
        let text = format_args!("{error}: observing again, because it may have worked");
        crate::note(&self.name, text);
    }

    fn show(&self, observation: &P::Observation, plan: &Plan<StepOf<P>>, unknown: Option<&str>) {
        let document = &format!("{}/{}", P::Kind::KIND, self.name);
        let Plan { steps, conflicts } = plan;
        let footer = self.program.footer(observation, steps);
        Shown { document, steps, conflicts, unknown, footer: footer.as_deref() }.write();
    }

    fn check(
        &self,
        observation: &P::Observation,
        conflicts: Vec<Conflict>,
    ) -> Result<(), P::Error> {
        if conflicts.is_empty() {
            return Ok(());
        }
        Err(self.program.conflict(&self.session, observation, self.intent, conflicts))
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

/// The steps of a run, and how often each was executed.
struct Executions<S>(Vec<(S, usize)>);

impl<S> Default for Executions<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<S: crate::step::Step> Executions<S> {
    /// Counts one more execution of each step, and fails before one is executed too often.
    fn count(&mut self, batch: &[S]) -> Result<(), Error> {
        for step in batch {
            match self.0.iter_mut().find(|(earlier, _)| earlier == step) {
                Some((_, EXECUTIONS_MAX)) => return Err(stuck([step].into_iter())),
                Some((_, count)) => *count += 1,
                None => self.0.push((step.clone(), 1)),
            }
        }
        Ok(())
    }

    /// Whether a step of the batch may not be executed once more.
    fn any_is_last(&self, batch: &[S]) -> bool {
        self.0.iter().any(|(step, count)| *count == EXECUTIONS_MAX && batch.contains(step))
    }
}

fn stuck<'a, S: crate::step::Step + 'a>(steps: impl Iterator<Item = &'a S>) -> Error {
    Error::NoProgress { steps: steps.map(ToString::to_string).collect() }
}

#[cfg(test)]
mod tests;
