//! The order of operations: every owned document goes through a verb, then the stream is written.

use clap::{Args, CommandFactory};

use crate::context::{Context, Dependency};
use crate::document::{Kind, StatusOf};
use crate::engine;
use crate::parallel::parallel_map;
use crate::program::{Intent, Program};
use crate::rendering::Rendering;
use crate::stream::Stream;
use crate::verb::{Output, Verb};
use crate::{Declared, Error, Exit, Status, bug, derived};

/// Prepares standard error, signals and panics. [`run`] calls this; a program without documents (the
/// lab) calls it itself.
pub fn start(name: &'static str, output: Output) {
    crate::progress::speak_as(name, output);
    crate::interrupt::listen();
    crate::bug::listen();
}

/// Runs one verb of the program `name`, whose command line is `C`. `program` constructs the program after every document has been
/// read, and may report more validation errors; no remote service has been contacted by then. The
/// program itself handles the options of its own command line.
///
/// # Errors
///
/// [`Error`], when the stream cannot be accepted or written. An error of one document is reported,
/// written to the status of the document, and counts in the exit status.
pub fn run<C: CommandFactory, P: Program>(
    name: &'static str,
    verb: &Verb<impl Args, impl Args>,
    program: impl FnOnce(&mut Stream, &[Declared<P::Kind>]) -> P,
) -> Result<Exit, Error> {
    let verb = &verb.shared();
    let target = match verb {
        Verb::Schema => {
            crate::print([&crate::schema::<P::Kind>()])?;
            return Ok(Exit::Done);
        }
        Verb::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut C::command(), name, &mut script);
            crate::write::print_text(&script)?;
            return Ok(Exit::Done);
        }
        Verb::Plan { target, .. }
        | Verb::Apply(target)
        | Verb::Verify { target, .. }
        | Verb::Destroy(target)
        | Verb::Derive { target, .. } => target,
    };
    start(name, target.output);
    let mut stream = bug::caught(|| Stream::read(&target.documents))?;
    let (exit, rendering) = bug::caught(|| drive(name, &mut stream, verb, program))??;
    match rendering {
        Some(Rendering { text, file: None }) => crate::write::print_text(text.as_bytes())?,
        Some(Rendering { text, file: Some(file) }) => {
            // The documents are written first, because the next program needs them and not the picture.
            stream.write()?;
            std::fs::write(&file, text)
                .map_err(|source| Error::NotWritten { path: file, source })?;
        }
        None => stream.write()?,
    }
    Ok(exit)
}

/// Runs `verb` on every owned document of `stream`, each after its dependencies; for `destroy`, before
/// them. Returns also the program's rendering of the result.
fn drive<P: Program>(
    name: &str,
    stream: &mut Stream,
    verb: &Verb,
    program: impl FnOnce(&mut Stream, &[Declared<P::Kind>]) -> P,
) -> Result<(Exit, Option<Rendering>), Error> {
    let declared = stream.documents_of::<P::Kind>();
    for document in &declared {
        for dependency in P::dependencies(document) {
            let Dependency { path, kind, name, .. } = dependency;
            stream.require_exists(document, &path, kind, &name);
        }
    }
    let mut declared = in_order::<P>(stream, declared);
    let program = program(stream, &declared);
    stream.accept()?;
    if declared.is_empty() {
        crate::note("-", format_args!("the input has no {}: nothing to do", P::Kind::KIND));
    }
    if matches!(verb, Verb::Destroy(_) | Verb::Plan { destroy: true, .. }) {
        declared.reverse();
    }
    let mut exit = Exit::Done;
    let mut left = declared.as_slice();
    let mut failed: Vec<&Declared<P::Kind>> = Vec::new();
    while !left.is_empty() {
        let (batch, rest) = left.split_at(independent::<P>(left));
        let contexts = batch.iter().map(|document| Context { document, stream: &*stream });
        let results = parallel_map(contexts, |context| {
            let blocker =
                failed.iter().find(|other| is_blocked_by::<P>(verb, context.document, other));
            result(name, &program, verb, (&context, blocker.copied()))
        });
        for (document, result) in batch.iter().zip(results) {
            if let Some(Outcome { status, exit: document_exit, is_complete }) = result {
                stream.set_status(document, &status);
                exit = exit.max(document_exit);
                if !is_complete {
                    failed.push(document);
                }
            }
        }
        left = rest;
    }
    Ok((exit, program.rendering(stream, &declared)))
}

/// New status of one document.
struct Outcome<K: Kind> {
    status: StatusOf<K>,
    exit: Exit,
    /// Whether the verb succeeded, so that documents that come after this one may be processed.
    is_complete: bool,
}

/// Whether `document` must not be processed after `failed`: `apply` and `verify` need a dependency, and
/// `destroy` must keep it until its dependents are removed.
fn is_blocked_by<P: Program>(
    verb: &Verb,
    document: &Declared<P::Kind>,
    failed: &Declared<P::Kind>,
) -> bool {
    match verb {
        Verb::Apply(_) | Verb::Verify { .. } => refers::<P>(document, failed),
        Verb::Destroy(_) => refers::<P>(failed, document),
        Verb::Plan { .. } | Verb::Derive { .. } | Verb::Schema | Verb::Completion { .. } => false,
    }
}

/// Whether `from` depends on `to`.
fn refers<P: Program>(from: &Declared<P::Kind>, to: &Declared<P::Kind>) -> bool {
    P::dependencies(from)
        .iter()
        .any(|dependency| dependency.kind == P::Kind::KIND && to.name == *dependency.name.as_str())
}

/// Returns how many of the first `declared` documents can be processed in parallel, because none of
/// them refers to another one.
fn independent<P: Program>(declared: &[Declared<P::Kind>]) -> usize {
    let alone = |next: &Declared<P::Kind>, others: &[Declared<P::Kind>]| {
        others.iter().all(|other| !refers::<P>(next, other) && !refers::<P>(other, next))
    };
    let most = declared.len().min(P::PARALLEL_MAX);
    (1..most).find(|index| !alone(&declared[*index], &declared[..*index])).unwrap_or(most)
}

/// Processes one document. `blocker` is a document that failed in this run and must come first. Returns
/// `None` when `verb` leaves the status unchanged.
fn result<P: Program>(
    name: &str,
    program: &P,
    verb: &Verb,
    (context, blocker): (&Context<'_, P::Kind>, Option<&Declared<P::Kind>>),
) -> Option<Outcome<P::Kind>> {
    let result = bug::caught(|| {
        if let Some(blocker) = blocker {
            let document = format!("{}/{}", P::Kind::KIND, blocker.name);
            Err(Error::FailedBefore { document }.into())
        } else if let Verb::Derive { to, .. } = verb {
            let folder = to.join(name).join(context.document.name.as_str());
            let files = program.derive(context);
            files.and_then(|files| Ok(derived::write(&folder, &files)?)).map(|()| None)
        } else {
            run_verb(program, verb, context).map(Some)
        }
    });
    let result = result.unwrap_or_else(|bug| Err(bug.into())).transpose()?;
    Some(match result {
        Ok((status, exit)) => Outcome { status, exit, is_complete: true },
        Err(error) => {
            let document = format!("{}/{}", P::Kind::KIND, context.document.name);
            let exit = crate::report::report_on(Some(&document), &error);
            let status = Status::failed(&error);
            let status = Status { observed: P::facts_of(error), ..status };
            Outcome { status, exit, is_complete: false }
        }
    })
}

/// Runs `verb` on one document.
fn run_verb<P: Program>(
    program: &P,
    verb: &Verb,
    context: &Context<'_, P::Kind>,
) -> Result<(StatusOf<P::Kind>, Exit), P::Error> {
    let done = |status| (status, Exit::Done);
    match verb {
        Verb::Plan { check, destroy, .. } => {
            let intent = if *destroy { Intent::PlanDestroy } else { Intent::Plan };
            let status = engine::run(program, context, intent)?;
            let drift = *check && status.plan.as_ref().is_none_or(|steps| !steps.is_empty());
            Ok((status, if drift { Exit::Drift } else { Exit::Done }))
        }
        Verb::Apply(_) => {
            crate::check_interrupt()?;
            ready::<P>(context)?;
            engine::run(program, context, Intent::Apply).map(done)
        }
        Verb::Verify { .. } => {
            ready::<P>(context)?;
            engine::run(program, context, Intent::Verify).map(done)
        }
        Verb::Destroy(_) => {
            crate::check_interrupt()?;
            context.stream.unneeded(P::Kind::KIND, context.document.name.as_str())?;
            engine::run(program, context, Intent::Destroy).map(done)
        }
        Verb::Derive { .. } | Verb::Schema | Verb::Completion { .. } => {
            unreachable!("these verbs write no status")
        }
    }
}

/// Checks that every dependency of the document is Ready.
fn ready<P: Program>(context: &Context<'_, P::Kind>) -> Result<(), Error> {
    let dependencies = P::dependencies(context.document);
    let mut required = dependencies.iter().filter(|dependency| dependency.ready);
    required.try_for_each(|required| context.stream.ready(required.kind, &required.name))
}

/// Sorts the documents so that each one comes after the documents of its kind to which it refers.
fn in_order<P: Program>(
    stream: &mut Stream,
    mut declared: Vec<Declared<P::Kind>>,
) -> Vec<Declared<P::Kind>> {
    let mut ordered: Vec<Declared<P::Kind>> = Vec::new();
    while !declared.is_empty() {
        let waits = |document: &Declared<P::Kind>| {
            P::dependencies(document).iter().any(|dependency| {
                let name = dependency.name.as_str();
                dependency.kind == P::Kind::KIND && declared.iter().any(|other| other.name == *name)
            })
        };
        if let Some(next) = declared.iter().position(|document| !waits(document)) {
            ordered.push(declared.remove(next));
        } else {
            let cycle = declared.remove(0);
            let dependencies = P::dependencies(&cycle);
            let path = dependencies.first().map_or("", |dependency| &dependency.path);
            let message = "reference cycle: the documents refer to one another";
            stream.invalid(&cycle, path, message);
            ordered.push(cycle);
        }
    }
    ordered
}

#[cfg(test)]
mod tests;
