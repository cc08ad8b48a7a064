use reasons::Reason;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::*;
use crate::Condition;
use crate::derived::Derived;
use crate::document::Kind;
use crate::plan::Plan;
use crate::program::{Opened, OpenedBy, WritePermit};
use crate::step::tests::Change;
use crate::verb::{NoOptions, Target};

/// A document that may refer to another of its kind, and to a `Cluster`.
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
    type Step = Change;
}

/// A program that records its calls in order.
#[derive(Default)]
struct Diary(Mutex<Vec<String>>);

impl Diary {
    fn note(&self, verb: &str, context: &Context<'_, Service>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(format!("{verb} {}", context.document.name));
    }
}

impl Program for &Diary {
    type Kind = Service;
    type Error = Error;
    type Session<'a>
        = ()
    where
        Self: 'a;
    type Observation = ();
    type StepContext = ();
    const PARALLEL_MAX: usize = 3;

    fn dependencies(document: &Declared<Service>) -> Vec<Dependency> {
        let host = document
            .spec
            .host
            .iter()
            .map(|name| Dependency::to_ready("/spec/host", "Cluster", name));
        let service = document.spec.service.iter();
        let service = service.map(|name| Dependency::to_ready("/spec/service", "Service", name));
        host.chain(service).collect()
    }

    fn open<'a>(
        &'a self,
        context: &Context<'a, Service>,
        intent: Intent,
    ) -> Result<OpenedBy<'a, Self>, Error> {
        let name = "web".to_owned();
        let (verb, status) = match intent {
            Intent::Plan => ("plan", Status::planned(None, vec![Change::Create { name }])),
            Intent::PlanDestroy => {
                ("plan --destroy", Status::planned(None, vec![Change::Remove { name }]))
            }
            Intent::Apply | Intent::Verify => {
                ("apply", Status::new(Condition::ready(true, Reason::AsDeclared, "it runs")))
            }
            Intent::Destroy => ("destroy", Status::destroyed("nothing is left")),
        };
        self.note(verb, context);
        assert!(context.document.name.as_str() != "bug", "hunter2");
        Ok(Opened::Known(status))
    }

    fn observe(&self, (): &(), (): &()) -> Result<(), Error> {
        unreachable!("every status is known")
    }

    fn plan(&self, (): &(), (): &(), _: Intent) -> Plan<Change> {
        unreachable!("every status is known")
    }

    fn execute(
        &self,
        (): &(),
        (): &(),
        _: &Change,
        (): &mut (),
        _: &WritePermit,
    ) -> Result<String, Error> {
        unreachable!("every status is known")
    }

    fn time_limit(&self, (): &()) -> Duration {
        Duration::ZERO
    }

    fn status(
        &self,
        (): &(),
        (): &(),
        _: Vec<Change>,
        _: Intent,
    ) -> Result<StatusOf<Service>, Error> {
        unreachable!("every status is known")
    }

    fn verify(&self, (): &(), (): &(), _: Vec<Change>) -> Result<StatusOf<Service>, Error> {
        unreachable!("every status is known")
    }

    fn derive(&self, context: &Context<'_, Service>) -> Result<Vec<Derived>, Error> {
        self.note("derive", context);
        Ok(vec![Derived::new("key", b"secret".to_vec().into())])
    }
}

/// Returns a document as a line of JSON, with the status that another program wrote.
fn document(kind: &str, name: &str, spec: &str, ready: Option<bool>) -> String {
    let status = ready.map_or(String::new(), |is_ready| {
        let condition = serde_json::json!(Condition::ready(is_ready, Reason::NotConverged, "so"));
        format!(r#","status":{{"conditions":[{condition}]}}"#)
    });
    format!(
        r#"{{"apiVersion":"holistic/v1alpha1","kind":"{kind}","metadata":{{"name":"{name}"}},"spec":{{{spec}}}{status}}}"#
    ) + "\n"
}

/// Returns the calls of the program, the reason of each document, and the exit status.
fn driven(verb: &Verb, text: &str) -> Result<(Vec<String>, Vec<String>, Exit), Error> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("documents.yaml");
    fs::write(&file, text)?;
    let (diary, mut stream) = (Diary::default(), Stream::read(&[file]));
    let (exit, _) = drive("diary", &mut stream, verb, |_, _| &diary)?;
    let reason = |document: &serde_json::Value| {
        document["status"]["conditions"][0]["reason"].as_str().unwrap_or_default().to_owned()
    };
    let reasons = stream.documents().map(reason).collect();
    Ok((diary.0.into_inner().unwrap_or_default(), reasons, exit))
}

fn plan(check: bool, destroy: bool) -> Verb {
    Verb::Plan { target: Target::default(), check, destroy, options: NoOptions {} }
}

#[test]
fn documents_are_applied_after_their_dependencies_and_destroyed_before_them() -> Result<(), Error> {
    let text = document("Service", "web", r#""service":"data""#, None)
        + &document("Service", "data", r#""service":"disk""#, None)
        + &document("Service", "disk", "", None);

    let (asked, reasons, exit) = driven(&Verb::Apply(Target::default()), &text)?;
    assert_eq!(asked, ["apply disk", "apply data", "apply web"]);
    assert_eq!((reasons, exit), (vec!["AsDeclared".to_owned(); 3], Exit::Done));

    let (asked, reasons, exit) = driven(&Verb::Destroy(Target::default()), &text)?;
    assert_eq!(asked, ["destroy web", "destroy data", "destroy disk"]);
    assert_eq!((reasons, exit), (vec!["Destroyed".to_owned(); 3], Exit::Done));
    Ok(())
}

#[test]
fn independent_documents_are_processed_in_parallel() -> Result<(), Error> {
    for (services, together) in [
        (&[("a", None)][..], 1),
        (&[("a", None), ("b", None), ("c", Some("a"))], 2),
        (&[("c", Some("a")), ("b", None), ("a", None)], 2), // the order of `destroy`
        (&[("a", None), ("b", Some("a"))], 1),
        (&[("a", None), ("b", None), ("c", None), ("d", None)], 3), // the limit of the program
    ] {
        let service = |(name, to): &(&str, Option<&str>)| {
            let spec = to.map_or(String::new(), |to| format!(r#""service":"{to}""#));
            document("Service", name, &spec, None)
        };
        let text: String = services.iter().map(service).collect();
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("documents.yaml");
        fs::write(&file, text)?;
        let document = Stream::read(&[file]).documents_of::<Service>();
        assert_eq!(independent::<&Diary>(&document), together, "{services:?}");
    }
    Ok(())
}

#[test]
fn unready_dependency_stops_apply_and_verify_but_not_plan() -> Result<(), Error> {
    let text = document("Cluster", "edge", "", Some(false))
        + &document("Service", "web", r#""host":"edge""#, None)
        + &document("Service", "mail", r#""service":"web""#, None);
    for verb in [
        Verb::Apply(Target::default()),
        Verb::Verify { target: Target::default(), options: NoOptions {} },
    ] {
        let (asked, reasons, exit) = driven(&verb, &text)?;
        assert_eq!(asked, [""; 0], "nothing is touched");
        assert_eq!(reasons, ["NotConverged", "DependencyNotReady", "DependencyNotReady"]);
        assert_eq!(exit, Exit::Temporary);
    }
    let (asked, _, exit) = driven(&plan(false, false), &text)?;
    assert_eq!((asked.len(), exit), (2, Exit::Done));
    Ok(())
}

// hazard: `destroy` removes the controllers of a Delivery whose dependents could not be removed.
// class: A failure of one document does not stop the documents that come after it.
// members: dependents of the same kind in `apply`, `verify` and `destroy`
// now: the documents after it are not processed, and the first failure decides the exit status
#[test]
fn documents_after_a_failed_one_are_not_processed_and_do_not_hide_its_exit_status()
-> Result<(), Error> {
    let text = document("Service", "web", r#""service":"bug""#, None)
        + &document("Service", "bug", r#""service":"disk""#, None)
        + &document("Service", "disk", "", None);
    let (asked, reasons, exit) = driven(&Verb::Apply(Target::default()), &text)?;
    assert_eq!(asked, ["apply disk", "apply bug"]);
    assert_eq!(reasons, ["DependencyNotReady", "Bug", "AsDeclared"]);
    assert_eq!(exit, Exit::Permanent);
    let (asked, reasons, exit) = driven(&Verb::Destroy(Target::default()), &text)?;
    assert_eq!(asked, ["destroy web", "destroy bug"]);
    assert_eq!(reasons, ["Destroyed", "Bug", "DependencyNotReady"]);
    assert_eq!(exit, Exit::Permanent);
    Ok(())
}

// hazard: A panic empties the pipe.
// class: An input causes a panic.
// members: values, statuses, variables, answers
// now: exit 100 for one document; all are written
#[test]
fn panic_fails_one_document_and_is_permanent() -> Result<(), Error> {
    let text = document("Service", "a", "", None)
        + &document("Service", "bug", "", None)
        + &document("Service", "z", "", None);
    let (asked, reasons, exit) = driven(&plan(false, false), &text)?;
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert_eq!(
        (reasons, exit),
        (["Planned", "Bug", "Planned"].map(str::to_owned).into(), Exit::Permanent)
    );
    Ok(())
}

#[test]
fn remaining_steps_are_drift_only_with_check() -> Result<(), Error> {
    let text = document("Service", "web", "", None);
    assert_eq!(driven(&plan(false, false), &text)?.2, Exit::Done);
    assert_eq!(driven(&plan(true, false), &text)?.2, Exit::Drift);
    let (asked, _, exit) = driven(&plan(true, true), &text)?;
    assert_eq!((asked, exit), (vec!["plan --destroy web".to_owned()], Exit::Drift));
    Ok(())
}

#[test]
fn derive_writes_files_that_only_the_user_can_read_and_overwrites_none() -> Result<(), Error> {
    let folder = tempfile::tempdir()?;
    let to = folder.path().to_owned();
    let verb = Verb::Derive { target: Target::default(), to: to.clone() };
    let text = document("Service", "web", "", Some(true));
    let (asked, reasons, exit) = driven(&verb, &text)?;
    assert_eq!((asked, exit), (vec!["derive web".to_owned()], Exit::Done));
    assert_eq!(reasons, ["NotConverged"], "documents are passed on as they came");
    let file = to.join("diary/web/key");
    assert_eq!(fs::read_to_string(&file)?, "secret");
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);

    fs::write(&file, "mine")?;
    let (_, reasons, exit) = driven(&verb, &text)?;
    assert_eq!((reasons, exit), (vec!["WouldOverwrite".to_owned()], Exit::Permanent));
    assert_eq!(fs::read_to_string(&file)?, "mine");
    Ok(())
}

#[test]
fn document_is_not_destroyed_while_another_document_needs_it() -> Result<(), Error> {
    let service = document("Service", "web", "", Some(true));
    for (kind, ready, freed) in [
        ("Delivery", Some(true), false),
        ("Delivery", Some(false), false), // its destroy failed
        ("Delivery", None, false),
        ("Drain", Some(true), true), // proven
        ("Drain", Some(false), false),
    ] {
        let text = service.clone() + &document(kind, "it", r#""service":"web""#, ready);
        let (asked, reasons, exit) = driven(&Verb::Destroy(Target::default()), &text)?;
        assert_eq!(asked.is_empty(), !freed, "{kind} {ready:?}");
        let end = if freed { ("Destroyed", Exit::Done) } else { ("StillNeeded", Exit::Temporary) };
        assert_eq!((reasons[0].as_str(), exit), end);
    }
    let destroyed = document("Delivery", "it", r#""service":"web""#, Some(false));
    let destroyed = destroyed.replace(Reason::NotConverged.as_str(), Reason::Destroyed.as_str());
    let (asked, ..) = driven(&Verb::Destroy(Target::default()), &(service + &destroyed))?;
    assert_eq!(asked, ["destroy web"]);
    Ok(())
}

#[test]
fn reference_cycle_and_dangling_reference_are_errors() {
    let circle = document("Service", "a", r#""service":"b""#, None)
        + &document("Service", "b", r#""service":"a""#, None);
    let dangling = document("Service", "a", r#""host":"edge""#, None);
    for (text, what) in [(circle, "reference cycle"), (dangling, "the input has no Cluster")] {
        let end = driven(&Verb::Apply(Target::default()), &text);
        assert!(
            matches!(&end, Err(Error::Invalid { mistakes, .. }) if mistakes[0].contains(what)),
            "{end:?}"
        );
    }
}
