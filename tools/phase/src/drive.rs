//! In what order: every owned document through a verb, then the whole stream out.

use crate::document::{Kind, StatusOf};
use crate::stream::Stream;
use crate::together::at_once;
use crate::verb::{Output, Verb};
use crate::{Declared, Derived, Error, Exit, Fault, Status, derived};

/// What a program does with one of its documents.
///
/// **Invariant:** `plan` and `undo` are given nothing to write with; only `apply` and `destroy`
/// may make a writer.
pub trait Program {
    /// The documents it owns.
    type Kind: Kind;
    /// What can go wrong.
    type Error: Fault + From<Error> + Send;

    /// How many documents are taken at once, of those that do not refer to one another. More than
    /// one, where a document is waited for more than it is worked on.
    const AT_ONCE: usize = 1;

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

    /// All that derives from the root for the document: what a person needs who has nothing else.
    ///
    /// # Errors
    ///
    /// The root cannot be had, or something that is not derived is not known.
    fn derive(&self, job: &Job<'_, Self::Kind>) -> Result<Vec<Derived>, Self::Error>;
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

/// Lets a program that is no phase (the lab) speak, and be interrupted, as the others.
pub fn start(name: &'static str, output: Output) {
    crate::progress::speak_as(name, output);
    crate::interrupt::listen();
}

/// Runs one verb of the program called `name`. `program` is made once every document has been
/// read, and may find further mistakes in them: it runs before anything else is looked at.
///
/// # Errors
///
/// [`Error`], when the stream itself cannot be accepted or written. What goes wrong with one
/// document is reported, stands in its status, and counts in the exit status.
pub fn run<P: Program + Sync>(
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
    let mut stream = Stream::read(&target.documents);
    let exit = drive(name, &mut stream, verb, program)?;
    stream.write()?;
    Ok(exit)
}

/// Takes every owned document of `stream` through `verb`, each after what it refers to; for
/// `destroy`, before.
fn drive<P: Program + Sync>(
    name: &str,
    stream: &mut Stream,
    verb: &Verb,
    program: impl FnOnce(&mut Stream, &[Declared<P::Kind>]) -> P,
) -> Result<Exit, Error> {
    let own = stream.own::<P::Kind>();
    for document in &own {
        for refers in P::refers(document) {
            stream.refer(document, &refers.path, refers.kind, &refers.name);
        }
    }
    let mut own = in_order::<P>(stream, own);
    let program = program(stream, &own);
    stream.accept()?;
    if own.is_empty() {
        crate::note("-", format_args!("no {} came in: nothing to do", P::Kind::KIND));
    }
    if matches!(verb, Verb::Destroy(_) | Verb::Plan { destroy: true, .. }) {
        own.reverse();
    }
    let mut exit = Exit::Done;
    let mut left = own.as_slice();
    while !left.is_empty() {
        let (together, rest) = left.split_at(independent::<P>(left));
        let jobs = together.iter().map(|own| Job { own, stream: &*stream });
        let ends = at_once(jobs, |job| end(name, &program, verb, &job));
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

/// How many of the first of `own` can be taken at once: none refers to another of them.
fn independent<P: Program>(own: &[Declared<P::Kind>]) -> usize {
    let refers = |from: &Declared<P::Kind>, to: &Declared<P::Kind>| {
        P::refers(from).iter().any(|it| it.kind == P::Kind::KIND && to.name == *it.name.as_str())
    };
    let alone = |next: &Declared<P::Kind>, others: &[Declared<P::Kind>]| {
        others.iter().all(|it| !refers(next, it) && !refers(it, next))
    };
    let most = own.len().min(P::AT_ONCE);
    (1..most).find(|it| !alone(&own[*it], &own[..*it])).unwrap_or(most)
}

/// What becomes of one document; nothing, where `verb` says nothing of it.
fn end<P: Program>(
    name: &str,
    program: &P,
    verb: &Verb,
    job: &Job<'_, P::Kind>,
) -> Option<(StatusOf<P::Kind>, Exit)> {
    let end = if let Verb::Derive { to, .. } = verb {
        let folder = to.join(name).join(job.own.name.as_str());
        let files = program.derive(job);
        files.and_then(|it| Ok(derived::write(&folder, &it)?)).map(|()| None)
    } else {
        take(program, verb, job).map(Some)
    };
    end.unwrap_or_else(|error| Some((Status::failed(&error), crate::report(&error))))
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
        Verb::Derive { .. } | Verb::Schema => unreachable!("it is no matter of a status"),
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::{Mutex, PoisonError};

    use schemars::JsonSchema;
    use serde::Deserialize;

    use super::*;
    use crate::Condition;
    use crate::verb::Target;

    /// A document that may refer to another of its kind, and to a `Host`.
    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Service {
        host: Option<String>,
        service: Option<String>,
    }

    impl Kind for Service {
        const KIND: &'static str = "Service";
        type Observed = ();
        type Evidence = ();
        type Step = &'static str;
    }

    /// Writes down in which order it was asked to do what.
    #[derive(Default)]
    struct Diary(Mutex<Vec<String>>);

    impl Diary {
        fn note(&self, verb: &str, job: &Job<'_, Service>) {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(format!("{verb} {}", job.own.name));
        }
    }

    impl Program for &Diary {
        type Kind = Service;
        type Error = Error;
        const AT_ONCE: usize = 3;

        fn refers(own: &Declared<Service>) -> Vec<Refers> {
            let host = own.spec.host.iter().map(|it| Refers::to_ready("/spec/host", "Host", it));
            let service = own.spec.service.iter();
            let service = service.map(|it| Refers::to_ready("/spec/service", "Service", it));
            host.chain(service).collect()
        }

        fn plan(&self, job: &Job<'_, Service>) -> Result<StatusOf<Service>, Error> {
            self.note("plan", job);
            Ok(Status::planned(None, vec!["create"]))
        }

        fn undo(&self, job: &Job<'_, Service>) -> Result<StatusOf<Service>, Error> {
            self.note("undo", job);
            Ok(Status::planned(None, vec!["remove"]))
        }

        fn apply(&self, job: &Job<'_, Service>) -> Result<StatusOf<Service>, Error> {
            self.note("apply", job);
            Ok(Status::new(Condition::ready(true, "Applied", "it runs")))
        }

        fn verify(&self, job: &Job<'_, Service>) -> Result<StatusOf<Service>, Error> {
            self.apply(job)
        }

        fn destroy(&self, job: &Job<'_, Service>) -> Result<StatusOf<Service>, Error> {
            self.note("destroy", job);
            Ok(Status::destroyed("nothing is left"))
        }

        fn derive(&self, job: &Job<'_, Service>) -> Result<Vec<Derived>, Error> {
            self.note("derive", job);
            Ok(vec![Derived::new("key", b"secret".to_vec().into())])
        }
    }

    /// A document as a line of JSON, with the status that another program has given it.
    fn document(kind: &str, name: &str, spec: &str, ready: Option<bool>) -> String {
        let status = ready.map_or(String::new(), |it| {
            let condition = serde_json::json!(Condition::ready(it, "Said", "so"));
            format!(r#","status":{{"conditions":[{condition}]}}"#)
        });
        format!(
            r#"{{"apiVersion":"holistic/v1alpha1","kind":"{kind}","metadata":{{"name":"{name}"}},"spec":{{{spec}}}{status}}}"#
        ) + "\n"
    }

    /// What the program was asked to do, the reason of each document, and how it ended.
    fn driven(verb: &Verb, text: &str) -> Result<(Vec<String>, Vec<String>, Exit), Error> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("documents.yaml");
        fs::write(&file, text)?;
        let (diary, mut stream) = (Diary::default(), Stream::read(&[file]));
        let exit = drive("diary", &mut stream, verb, |_, _| &diary)?;
        let reason = |it: &serde_json::Value| {
            it["status"]["conditions"][0]["reason"].as_str().unwrap_or_default().to_owned()
        };
        let reasons = stream.documents().map(reason).collect();
        Ok((diary.0.into_inner().unwrap_or_default(), reasons, exit))
    }

    fn plan(check: bool, destroy: bool) -> Verb {
        Verb::Plan { target: Target::default(), check, destroy }
    }

    #[test]
    fn a_document_comes_after_those_it_refers_to_and_goes_before_them() -> Result<(), Error> {
        let text = document("Service", "web", r#""service":"data""#, None)
            + &document("Service", "data", r#""service":"disk""#, None)
            + &document("Service", "disk", "", None);

        let (asked, reasons, exit) = driven(&Verb::Apply(Target::default()), &text)?;
        assert_eq!(asked, ["apply disk", "apply data", "apply web"]);
        assert_eq!((reasons, exit), (vec!["Applied".to_owned(); 3], Exit::Done));

        let (asked, reasons, exit) = driven(&Verb::Destroy(Target::default()), &text)?;
        assert_eq!(asked, ["destroy web", "destroy data", "destroy disk"]);
        assert_eq!((reasons, exit), (vec!["Destroyed".to_owned(); 3], Exit::Done));
        Ok(())
    }

    #[test]
    fn documents_are_taken_at_once_that_do_not_refer_to_one_another() -> Result<(), Error> {
        for (services, together) in [
            (&[("a", None)][..], 1),
            (&[("a", None), ("b", None), ("c", Some("a"))], 2),
            (&[("c", Some("a")), ("b", None), ("a", None)], 2), // as `destroy` has it
            (&[("a", None), ("b", Some("a"))], 1),
            (&[("a", None), ("b", None), ("c", None), ("d", None)], 3), // what the program bears
        ] {
            let service = |(name, to): &(&str, Option<&str>)| {
                let spec = to.map_or(String::new(), |it| format!(r#""service":"{it}""#));
                document("Service", name, &spec, None)
            };
            let text: String = services.iter().map(service).collect();
            let folder = tempfile::tempdir()?;
            let file = folder.path().join("documents.yaml");
            fs::write(&file, text)?;
            let own = Stream::read(&[file]).own::<Service>();
            assert_eq!(independent::<&Diary>(&own), together, "{services:?}");
        }
        Ok(())
    }

    #[test]
    fn what_is_not_ready_stops_apply_and_verify_but_not_plan() -> Result<(), Error> {
        let text = document("Host", "edge", "", Some(false))
            + &document("Service", "web", r#""host":"edge""#, None)
            + &document("Service", "mail", r#""service":"web""#, None);
        for verb in [Verb::Apply(Target::default()), Verb::Verify(Target::default())] {
            let (asked, reasons, exit) = driven(&verb, &text)?;
            assert_eq!(asked, [""; 0], "nothing is touched");
            assert_eq!(reasons, ["Said", "DependencyNotReady", "DependencyNotReady"]);
            assert_eq!(exit, Exit::Temporary);
        }
        let (asked, _, exit) = driven(&plan(false, false), &text)?;
        assert_eq!((asked.len(), exit), (2, Exit::Done));
        Ok(())
    }

    #[test]
    fn steps_that_are_left_are_drift_only_to_a_check() -> Result<(), Error> {
        let text = document("Service", "web", "", None);
        assert_eq!(driven(&plan(false, false), &text)?.2, Exit::Done);
        assert_eq!(driven(&plan(true, false), &text)?.2, Exit::Drift);
        let (asked, _, exit) = driven(&plan(true, true), &text)?;
        assert_eq!((asked, exit), (vec!["undo web".to_owned()], Exit::Drift));
        Ok(())
    }

    #[test]
    fn what_derives_goes_to_files_of_its_owner_and_never_over_others() -> Result<(), Error> {
        let folder = tempfile::tempdir()?;
        let to = folder.path().to_owned();
        let verb = Verb::Derive { target: Target::default(), to: to.clone() };
        let text = document("Service", "web", "", Some(true));
        let (asked, reasons, exit) = driven(&verb, &text)?;
        assert_eq!((asked, exit), (vec!["derive web".to_owned()], Exit::Done));
        assert_eq!(reasons, ["Said"], "documents are passed on as they came");
        let file = to.join("diary/web/key");
        assert_eq!(fs::read_to_string(&file)?, "secret");
        assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);

        fs::write(&file, "mine")?;
        let (_, reasons, exit) = driven(&verb, &text)?;
        assert_eq!((reasons, exit), (vec!["OutputFailed".to_owned()], Exit::Permanent));
        assert_eq!(fs::read_to_string(&file)?, "mine");
        Ok(())
    }

    #[test]
    fn nothing_is_destroyed_that_another_document_still_needs() -> Result<(), Error> {
        let service = document("Service", "web", "", Some(true));
        for (kind, ready, freed) in [
            ("Delivery", Some(true), false),
            ("Delivery", Some(false), false), // its own destroy has failed
            ("Delivery", None, false),
            ("Drain", Some(true), true), // proven
            ("Drain", Some(false), false),
        ] {
            let text = service.clone() + &document(kind, "it", r#""service":"web""#, ready);
            let (asked, reasons, exit) = driven(&Verb::Destroy(Target::default()), &text)?;
            assert_eq!(asked.is_empty(), !freed, "{kind} {ready:?}");
            let end =
                if freed { ("Destroyed", Exit::Done) } else { ("StillNeeded", Exit::Temporary) };
            assert_eq!((reasons[0].as_str(), exit), end);
        }
        let destroyed = document("Delivery", "it", r#""service":"web""#, Some(false));
        let destroyed = destroyed.replace("Said", Condition::DESTROYED);
        let (asked, ..) = driven(&Verb::Destroy(Target::default()), &(service + &destroyed))?;
        assert_eq!(asked, ["destroy web"]);
        Ok(())
    }

    #[test]
    fn a_circle_and_a_dangling_reference_are_mistakes() {
        let circle = document("Service", "a", r#""service":"b""#, None)
            + &document("Service", "b", r#""service":"a""#, None);
        let dangling = document("Service", "a", r#""host":"edge""#, None);
        for (text, what) in [(circle, "refers to itself"), (dangling, "no Host came in")] {
            let end = driven(&Verb::Apply(Target::default()), &text);
            assert!(
                matches!(&end, Err(Error::Mistakes { mistakes, .. }) if mistakes[0].contains(what)),
                "{end:?}"
            );
        }
    }
}
