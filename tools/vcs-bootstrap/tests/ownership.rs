//! The ownership record as an attacker or an accident leaves it. At GitHub, everybody with write access to a
//! repository can overwrite its Actions variables. Uses the mock of GitHub.

mod common;
#[path = "common/mock.rs"]
mod mock;

use common::{ROOT, Test, ready, status, steps};
use mock::Setup;
use serde_json::json;

const RECORD: &str = "HOLISTIC_RECEIPT";

/// A document whose `destroy` deletes everything if the repository is this program's own.
const DELETE: &str = "owner: owner, history: {push: fastForward}, \
    rules: [{name: main, branches: [main]}], variables: {OURS: x}, \
    secrets: {phaseKeys: [artifact-attest]}, deployKeys: [flux-seed], \
    onDestroy: delete, dataOnDestroy: discard";

fn record(setup: &Setup) -> String {
    setup.state(|state| state.variables.get(RECORD).cloned()).unwrap_or_default()
}

fn overwrite(setup: &Setup, text: &str) {
    setup.state(|state| state.variables.insert(RECORD.to_owned(), text.to_owned()));
}

/// Returns a valid record of the same repository by another project, whose root is another one.
fn record_of_another_project() -> Test<String> {
    let setup = Setup::new(DELETE)?;
    let root = ROOT.replace("00", "ff");
    setup.sandbox.run_with("apply", &[("ROOT", &root)]).success();
    Ok(record(&setup))
}

// hazard: A person with write access overwrites the ownership record, and `destroy` deletes the repository or
// `apply` removes what others made.
// class: Evidence is believed without a check of who gave it.
// members: a forged, cut, copied, unsigned and empty record, one of another project, one with another version
// now: `OwnershipDisputed`, exit 100 for every verb, with the way out; nothing is written
#[test]
fn foreign_or_invalid_record_is_refused_with_the_way_out_and_permits_no_deletion() -> Test {
    let setup = Setup::new(DELETE)?;
    setup.run("apply").success();
    let valid = record(&setup);
    let (head, json) = valid.split_once(" {").ok_or("a record")?;
    let upper = head.to_uppercase().replacen('V', "v", 1);
    let mac = head.split_once(' ').ok_or("a MAC")?.1;
    for (what, text) in [
        ("words", "hunter2".to_owned()),
        ("nothing", String::new()),
        ("spaces", "   ".to_owned()),
        ("a version alone", "v1 ".to_owned()),
        ("another version", valid.replacen("v1", "v2", 1)),
        ("a cut record", valid[..valid.len() - 1].to_owned()),
        ("a longer record", format!("{valid} }}")),
        ("other contents", valid.replacen("\"made\":true", "\"made\":false", 1)),
        ("more rules", valid.replacen("\"rules\":[", "\"rules\":[\"theirs\",", 1)),
        ("no signature", format!("v1  {{{json}")),
        ("a short signature", format!("v1 {} {{{json}", &mac[..32])),
        ("capitals", format!("{upper} {{{json}")),
        ("JSON alone", format!("{{{json}")),
        ("an array", format!("{head} []")),
        ("another project's record", record_of_another_project()?),
    ] {
        assert_ne!(text, valid, "{what}");
        overwrite(&setup, &text);
        for verb in ["plan", "apply", "verify", "destroy", "plan --destroy"] {
            let said = setup.assert_refused(verb, "OwnershipDisputed")?;
            assert!(said.contains(RECORD), "{what}: {said}");
            assert!(said.contains("overwritten the variable, delete it"), "{what}: {said}");
            assert!(!said.contains("hunter2"), "{what}: {said}");
        }
        assert!(setup.state(|state| state.repository.is_some()), "{what}");
    }
    // The right record repairs everything, also with the line break of a text field.
    overwrite(&setup, &format!("{valid}\n"));
    setup.run("plan --check").success();
    setup.assert_described();
    Ok(())
}

#[test]
fn repository_whose_record_was_deleted_counts_as_created_by_others() -> Test {
    let setup = Setup::new(DELETE)?;
    setup.run("apply").success();
    setup.state(|state| state.variables.remove(RECORD)); // as the help says
    setup.writes();
    setup.run("destroy").success();
    assert_eq!(setup.writes(), [""; 0], "nothing proves that anything is this program's own");

    let plan = status(&setup.run("plan").success())?;
    assert_eq!(steps(&plan), ["record", "writeSecret", "record"]);
    let applied = status(&setup.run("apply").success())?;
    assert_eq!(ready(&applied), ("True", "AsDeclared"));
    assert_eq!(applied["observed"]["made"], false);
    setup.run("plan --check").success();
    setup.run("destroy").success();
    let left = setup.state(|state| state.repository.clone()).ok_or("a repository")?;
    assert_eq!(left["archived"], json!(false));
    // A derived key and a written secret are the program's own; a rule and a variable are as the help says.
    let counts = setup.state(|state| {
        (state.keys.len(), state.secrets.len(), state.rulesets.len(), state.variables.len())
    });
    assert_eq!(counts, (0, 0, 1, 1));
    setup.assert_described();
    Ok(())
}

#[test]
fn record_that_the_token_may_not_read_is_no_missing_record() -> Test {
    let setup = Setup::new(DELETE)?;
    setup.run("apply").success();
    setup.state(|state| state.hides_variables = true);
    for verb in ["plan", "apply", "verify", "destroy", "plan --destroy"] {
        let said = setup.assert_refused(verb, "Forbidden")?;
        assert!(said.contains("/actions/variables may not be read"), "{said}");
    }
    Ok(())
}
