//! In what order: every owned document through a verb, then the whole stream out.

use crate::document::{Kind, StatusOf};
use crate::stream::Stream;
use crate::verb::{Target, Verb};
use crate::{Declared, Error, Exit, Fault, Status};

/// What a program does with one of its documents.
///
/// **Invariant:** `plan` and `undo` are given nothing to write with; only `apply` and `destroy`
/// may make a writer.
pub trait Program {
    /// The documents it owns.
    type Kind: Kind;
    /// What can go wrong.
    type Error: Fault + From<Error>;

    /// The documents to which `own` refers.
    fn refers(own: &Declared<Self::Kind>) -> Vec<Refers>;

    /// What is there, and the steps that [`Self::apply`] would take.
    ///
    /// # Errors
    ///
    /// What is there cannot be told.
    fn plan(&self, job: &Job<'_, Self::Kind>) -> Result<StatusOf<Self::Kind>, Self::Error>;

    /// What is there, and the steps that [`Self::destroy`] would take.
    ///
    /// # Errors
    ///
    /// What is there cannot be told.
    fn undo(&self, job: &Job<'_, Self::Kind>) -> Result<StatusOf<Self::Kind>, Self::Error>;

    /// Takes the steps, and looks again.
    ///
    /// # Errors
    ///
    /// A step could not be taken, or some are left.
    fn apply(&self, job: &Job<'_, Self::Kind>) -> Result<StatusOf<Self::Kind>, Self::Error>;

    /// Proves from evidence that what is declared is what is there.
    ///
    /// # Errors
    ///
    /// It is not, or cannot be proven.
    fn verify(&self, job: &Job<'_, Self::Kind>) -> Result<StatusOf<Self::Kind>, Self::Error>;

    /// Removes what `apply` made, and nothing else.
    ///
    /// # Errors
    ///
    /// A step could not be taken, or some are left.
    fn destroy(&self, job: &Job<'_, Self::Kind>) -> Result<StatusOf<Self::Kind>, Self::Error>;
}

/// One document's reference to another.
#[derive(Clone, Debug)]
pub struct Refers {
    pub(crate) path: String,
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) ready: bool,
}

impl Refers {
    /// What stands at `path` (a JSON pointer) needs the document to be there, and Ready.
    pub fn to_ready(path: impl Into<String>, kind: &'static str, name: impl AsRef<str>) -> Self {
        Self { path: path.into(), kind, name: name.as_ref().to_owned(), ready: true }
    }

    /// What stands at `path` (a JSON pointer) needs the document to be there.
    pub fn to_present(path: impl Into<String>, kind: &'static str, name: impl AsRef<str>) -> Self {
        Self { ready: false, ..Self::to_ready(path, kind, name) }
    }
}

/// One document, and all of the stream that its program may look at.
#[derive(Debug)]
pub struct Job<'a, K> {
    /// The document.
    pub own: &'a Declared<K>,
    /// The stream it came in, with the statuses of what came before it.
    pub stream: &'a Stream,
}

/// Runs one verb of the program called `name`. `program` is made once every document has been
/// read, and may find further mistakes in them: it runs before anything else is looked at.
///
/// # Errors
///
/// [`Error`], when the stream itself cannot be accepted or written. What goes wrong with one
/// document is reported, stands in its status, and counts in the exit status.
pub fn run<P: Program>(
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
        | Verb::Destroy(target) => target,
    };
    begin(name, target);
    let mut stream = Stream::read(&target.documents);
    let own = stream.own::<P::Kind>();
    for document in &own {
        for refers in P::refers(document) {
            stream.refer(document, &refers.path, refers.kind, &refers.name);
        }
    }
    let own = in_order::<P>(&mut stream, own);
    let program = program(&mut stream, &own);
    stream.accept()?;
    if own.is_empty() {
        crate::note("-", format_args!("no {} came in: nothing to do", P::Kind::KIND));
    }
    let backwards = matches!(verb, Verb::Destroy(_) | Verb::Plan { destroy: true, .. });
    let order: Box<dyn Iterator<Item = _>> =
        if backwards { Box::new(own.iter().rev()) } else { Box::new(own.iter()) };
    let mut exit = Exit::Done;
    for document in order {
        let job = Job { own: document, stream: &stream };
        let (status, end) = take(&program, verb, &job)
            .unwrap_or_else(|error| (Status::failed(&error), crate::report(&error)));
        stream.set_status(document, &status);
        exit = exit.max(end);
    }
    stream.write()?;
    Ok(exit)
}

fn begin(name: &'static str, target: &Target) {
    crate::progress::speak_as(name, target.output);
    crate::interrupt::listen();
}

/// Takes one document through `verb`.
fn take<P: Program>(
    program: &P,
    verb: &Verb,
    job: &Job<'_, P::Kind>,
) -> Result<(StatusOf<P::Kind>, Exit), P::Error> {
    let done = |status| (status, Exit::Done);
    match verb {
        Verb::Plan { check, destroy, .. } => {
            let status = if *destroy { program.undo(job) } else { program.plan(job) }?;
            let drift = *check && !status.plan.is_empty();
            Ok((status, if drift { Exit::Drift } else { Exit::Done }))
        }
        Verb::Apply(_) => {
            crate::uninterrupted()?;
            ready::<P>(job)?;
            program.apply(job).map(done)
        }
        Verb::Verify(_) => {
            ready::<P>(job)?;
            program.verify(job).map(done)
        }
        Verb::Destroy(_) => {
            crate::uninterrupted()?;
            job.stream.unneeded(P::Kind::KIND, job.own.name.as_str())?;
            program.destroy(job).map(done)
        }
        Verb::Schema => unreachable!("`run` has answered it"),
    }
}

/// Whether all that the document depends on is Ready.
fn ready<P: Program>(job: &Job<'_, P::Kind>) -> Result<(), Error> {
    let refers = P::refers(job.own);
    refers.iter().filter(|it| it.ready).try_for_each(|it| job.stream.ready(it.kind, &it.name))
}

/// `own`, each after those of its kind to which it refers.
fn in_order<P: Program>(
    stream: &mut Stream,
    mut own: Vec<Declared<P::Kind>>,
) -> Vec<Declared<P::Kind>> {
    let mut ordered: Vec<Declared<P::Kind>> = Vec::new();
    while !own.is_empty() {
        let waits = |it: &Declared<P::Kind>| {
            let refers = P::refers(it).into_iter().filter(|it| it.kind == P::Kind::KIND);
            refers.into_iter().find(|to| own.iter().any(|it| it.name == *to.name.as_str()))
        };
        if let Some(next) = own.iter().position(|it| waits(it).is_none()) {
            ordered.push(own.remove(next));
        } else {
            let cycle = own.remove(0);
            let path = P::refers(&cycle).first().map_or(String::new(), |it| it.path.clone());
            stream.mistake(&cycle, &path, "it refers to itself, by way of others of its kind");
            ordered.push(cycle);
        }
    }
    ordered
}
