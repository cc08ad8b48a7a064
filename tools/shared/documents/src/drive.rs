//! In what order: every owned document through a verb, then the whole stream out.

use crate::context::{Context, Dependency};
use crate::document::{Kind, StatusOf};
use crate::engine;
use crate::parallel::parallel_map;
use crate::program::{Intent, Program};
use crate::stream::Stream;
use crate::verb::{Output, Verb};
use crate::{Declared, Derived, Diagnostic, Error, Exit, Status, bug, derived};

/// What a program does with one of its documents, verb by verb. A [`Program`](crate::Program) has it from
/// the engine.
///
/// **Invariant:** `plan` and `undo` are given nothing to write with; only `apply` and `destroy`
/// may make a writer.
pub trait Verbs {
    /// The documents it owns.
    type Kind: Kind;
    /// What can go wrong.
    type Error: Diagnostic + From<Error> + Send;

    /// How many documents are taken at once, of those that do not refer to one another. More than
    /// one, where a document is waited for more than it is worked on.
    const PARALLEL_MAX: usize = 1;

    /// The documents to which `document` refers.
    fn dependencies(document: &Declared<Self::Kind>) -> Vec<Dependency>;

    /// What is there, and the steps that [`Self::apply`] would take.
    ///
    /// # Errors
    ///
    /// What is there cannot be told.
    fn plan(&self, context: &Context<'_, Self::Kind>) -> Result<StatusOf<Self::Kind>, Self::Error>;

    /// What is there, and the steps that [`Self::destroy`] would take.
    ///
    /// # Errors
    ///
    /// What is there cannot be told.
    fn plan_destroy(
        &self,
        context: &Context<'_, Self::Kind>,
    ) -> Result<StatusOf<Self::Kind>, Self::Error>;

    /// Takes the steps, and looks again.
    ///
    /// # Errors
    ///
    /// A step could not be taken, or some are left.
    fn apply(&self, context: &Context<'_, Self::Kind>)
    -> Result<StatusOf<Self::Kind>, Self::Error>;

    /// Proves from evidence that what is declared is what is there.
    ///
    /// # Errors
    ///
    /// It is not, or cannot be proven.
    fn verify(
        &self,
        context: &Context<'_, Self::Kind>,
    ) -> Result<StatusOf<Self::Kind>, Self::Error>;

    /// Removes what `apply` made, and nothing else.
    ///
    /// # Errors
    ///
    /// A step could not be taken, or some are left.
    fn destroy(
        &self,
        context: &Context<'_, Self::Kind>,
    ) -> Result<StatusOf<Self::Kind>, Self::Error>;

    /// All that derives from the root for the document: what a person needs who has nothing else.
    ///
    /// # Errors
    ///
    /// The root cannot be had, or something that is not derived is not known.
    fn derive(&self, context: &Context<'_, Self::Kind>) -> Result<Vec<Derived>, Self::Error>;
}

impl<P: Program> Verbs for P {
    type Kind = P::Kind;
    type Error = P::Error;
    const PARALLEL_MAX: usize = P::PARALLEL_MAX;

    fn dependencies(document: &Declared<Self::Kind>) -> Vec<Dependency> {
        <P as Program>::dependencies(document)
    }

    fn plan(&self, context: &Context<'_, Self::Kind>) -> Result<StatusOf<Self::Kind>, Self::Error> {
        engine::run(self, context, Intent::Plan)
    }

    fn plan_destroy(
        &self,
        context: &Context<'_, Self::Kind>,
    ) -> Result<StatusOf<Self::Kind>, Self::Error> {
        engine::run(self, context, Intent::PlanDestroy)
    }

    fn apply(
        &self,
        context: &Context<'_, Self::Kind>,
    ) -> Result<StatusOf<Self::Kind>, Self::Error> {
        engine::run(self, context, Intent::Apply)
    }

    fn verify(
        &self,
        context: &Context<'_, Self::Kind>,
    ) -> Result<StatusOf<Self::Kind>, Self::Error> {
        engine::run(self, context, Intent::Verify)
    }

    fn destroy(
        &self,
        context: &Context<'_, Self::Kind>,
    ) -> Result<StatusOf<Self::Kind>, Self::Error> {
        engine::run(self, context, Intent::Destroy)
    }

    fn derive(&self, context: &Context<'_, Self::Kind>) -> Result<Vec<Derived>, Self::Error> {
        <P as Program>::derive(self, context)
    }
}

/// Lets a program that is no phase (the lab) speak, and be interrupted, as the others.
pub fn start(name: &'static str, output: Output) {
    crate::progress::speak_as(name, output);
    crate::interrupt::listen();
    crate::bug::listen();
}

/// Runs one verb of the program called `name`. `program` is made once every document has been
/// read, and may find further mistakes in them: it runs before anything else is looked at.
///
/// # Errors
///
/// [`Error`], when the stream itself cannot be accepted or written. What goes wrong with one
/// document is reported, stands in its status, and counts in the exit status.
pub fn run<P: Verbs + Sync>(
    name: &'static str,
    verb: &Verb,
    program: impl FnOnce(&mut Stream, &[Declared<P::Kind>]) -> P,
) -> Result<Exit, Error> {
    let target = match verb {
        Verb::Schema => {
            crate::print([&crate::schema::<P::Kind>()])?;
            return Ok(Exit::Done);
        }
        Verb::Plan { target, .. }
        | Verb::Apply(target)
        | Verb::Verify(target)
        | Verb::Destroy(target)
        | Verb::Derive { target, .. } => target,
    };
    start(name, target.output);
    let mut stream = bug::caught(|| Stream::read(&target.documents))?;
    let exit = bug::caught(|| drive(name, &mut stream, verb, program))??;
    stream.write()?;
    Ok(exit)
}

/// Takes every owned document of `stream` through `verb`, each after what it refers to; for
/// `destroy`, before.
fn drive<P: Verbs + Sync>(
    name: &str,
    stream: &mut Stream,
    verb: &Verb,
    program: impl FnOnce(&mut Stream, &[Declared<P::Kind>]) -> P,
) -> Result<Exit, Error> {
    let declared = stream.documents_of::<P::Kind>();
    for document in &declared {
        for refers in P::dependencies(document) {
            stream.require_exists(document, &refers.path, refers.kind, &refers.name);
        }
    }
    let mut declared = in_order::<P>(stream, declared);
    let program = program(stream, &declared);
    stream.accept()?;
    if declared.is_empty() {
        crate::note("-", format_args!("no {} came in: nothing to do", P::Kind::KIND));
    }
    if matches!(verb, Verb::Destroy(_) | Verb::Plan { destroy: true, .. }) {
        declared.reverse();
    }
    let mut exit = Exit::Done;
    let mut left = declared.as_slice();
    while !left.is_empty() {
        let (together, rest) = left.split_at(independent::<P>(left));
        let jobs = together.iter().map(|document| Context { document, stream: &*stream });
        let ends = parallel_map(jobs, |context| end(name, &program, verb, &context));
        for (document, end) in together.iter().zip(ends) {
            if let Some((status, end)) = end {
                stream.set_status(document, &status);
                exit = exit.max(end);
            }
        }
        left = rest;
    }
    Ok(exit)
}

/// How many of the first of `document` can be taken at once: none refers to another of them.
fn independent<P: Verbs>(declared: &[Declared<P::Kind>]) -> usize {
    let refers = |from: &Declared<P::Kind>, to: &Declared<P::Kind>| {
        P::dependencies(from)
            .iter()
            .any(|it| it.kind == P::Kind::KIND && to.name == *it.name.as_str())
    };
    let alone = |next: &Declared<P::Kind>, others: &[Declared<P::Kind>]| {
        others.iter().all(|it| !refers(next, it) && !refers(it, next))
    };
    let most = declared.len().min(P::PARALLEL_MAX);
    (1..most).find(|it| !alone(&declared[*it], &declared[..*it])).unwrap_or(most)
}

/// What becomes of one document; nothing, where `verb` says nothing of it.
fn end<P: Verbs>(
    name: &str,
    program: &P,
    verb: &Verb,
    context: &Context<'_, P::Kind>,
) -> Option<(StatusOf<P::Kind>, Exit)> {
    let end = bug::caught(|| {
        if let Verb::Derive { to, .. } = verb {
            let folder = to.join(name).join(context.document.name.as_str());
            let files = program.derive(context);
            files.and_then(|files| Ok(derived::write(&folder, &files)?)).map(|()| None)
        } else {
            take(program, verb, context).map(Some)
        }
    });
    end.unwrap_or_else(|bug| Err(bug.into())).unwrap_or_else(|error| {
        let document = format!("{}/{}", P::Kind::KIND, context.document.name);
        Some((Status::failed(&error), crate::report::report_on(Some(&document), &error)))
    })
}

/// Takes one document through `verb`.
fn take<P: Verbs>(
    program: &P,
    verb: &Verb,
    context: &Context<'_, P::Kind>,
) -> Result<(StatusOf<P::Kind>, Exit), P::Error> {
    let done = |status| (status, Exit::Done);
    match verb {
        Verb::Plan { check, destroy, .. } => {
            let status =
                if *destroy { program.plan_destroy(context) } else { program.plan(context) }?;
            let drift = *check && status.plan.as_ref().is_none_or(|steps| !steps.is_empty());
            Ok((status, if drift { Exit::Drift } else { Exit::Done }))
        }
        Verb::Apply(_) => {
            crate::check_interrupt()?;
            ready::<P>(context)?;
            program.apply(context).map(done)
        }
        Verb::Verify(_) => {
            ready::<P>(context)?;
            program.verify(context).map(done)
        }
        Verb::Destroy(_) => {
            crate::check_interrupt()?;
            context.stream.unneeded(P::Kind::KIND, context.document.name.as_str())?;
            program.destroy(context).map(done)
        }
        Verb::Derive { .. } | Verb::Schema => unreachable!("it is no matter of a status"),
    }
}

/// Whether all that the document depends on is Ready.
fn ready<P: Verbs>(context: &Context<'_, P::Kind>) -> Result<(), Error> {
    let refers = P::dependencies(context.document);
    refers.iter().filter(|it| it.ready).try_for_each(|it| context.stream.ready(it.kind, &it.name))
}

/// `document`, each after those of its kind to which it refers.
fn in_order<P: Verbs>(
    stream: &mut Stream,
    mut declared: Vec<Declared<P::Kind>>,
) -> Vec<Declared<P::Kind>> {
    let mut ordered: Vec<Declared<P::Kind>> = Vec::new();
    while !declared.is_empty() {
        let waits = |it: &Declared<P::Kind>| {
            let refers = P::dependencies(it).into_iter().filter(|it| it.kind == P::Kind::KIND);
            refers.into_iter().find(|to| declared.iter().any(|it| it.name == *to.name.as_str()))
        };
        if let Some(next) = declared.iter().position(|it| waits(it).is_none()) {
            ordered.push(declared.remove(next));
        } else {
            let cycle = declared.remove(0);
            let path = P::dependencies(&cycle).first().map_or(String::new(), |it| it.path.clone());
            stream.invalid(&cycle, &path, "it refers to itself, by way of others of its kind");
            ordered.push(cycle);
        }
    }
    ordered
}

#[cfg(test)]
mod tests;
