//! Patches that a node would refuse: `plan` finds each before a server is ordered. `published` compares the same patches
//! with Talos's own validator.

mod cases;
mod support;

use std::fs;

use assert_cmd::cargo::cargo_bin;
use cases::{Case, all, judged};
use support::{CONTROL, WORK};
use talos_provision::spec::Role;
use testing::Test;
use testing::run::{program, stderr as said};

/// Address at which no server listens: a run that asks the cloud ends with another status.
const NOWHERE: &str = "http://127.74.0.2:1/v1";

#[test]
fn every_case_has_the_verdict_of_its_table() {
    let cases = all();
    let wrong = cases.iter().filter_map(|case| {
        let verdict = judged(case.role, &case.patch);
        let Case { name, refused, .. } = case;
        (*refused != verdict.is_err()).then(|| format!("{name}: {:?}", verdict.err()))
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

// hazard: A node refuses a patch after its server was created and paid for.
// class: A mistake in a document is found after something was changed.
// members: 100 patches: fields, kinds, types, names, addresses, roles, versions, conflicts, deletions
// now: `plan` and `apply` end with exit status 2, and name file, line and column
#[test]
fn plan_ends_with_the_place_of_every_mistake_before_any_request() -> Test {
    let refused: Vec<_> = all().into_iter().filter(|case| case.refused).collect();
    assert!(refused.len() >= 100, "{} cases", refused.len());
    let mut wrong = Vec::new();
    for Case { name, role, patch, .. } in &refused {
        let folder = tempfile::tempdir()?;
        support::write(folder.path(), NOWHERE);
        fs::write(folder.path().join("patch.yaml"), patch)?;
        let with = |pool: &str, patched: Role| {
            if patched == *role {
                format!("{pool}, patches: [patch.yaml]")
            } else {
                pool.to_owned()
            }
        };
        let pools = [with(CONTROL, Role::Controlplane), with(WORK, Role::Worker)];
        let pools = pools.each_ref().map(String::as_str);
        let project = fs::read_to_string(folder.path().join("project.yaml"))?;
        let input = project + &support::cluster("prod", &pools, "");
        let mut program = program(cargo_bin!("talos-provision"));
        let run = program.current_dir(folder.path()).arg("plan").write_stdin(input).assert();
        let (output, said) = (run.get_output().clone(), said(&run));
        let place = said.split("patch.yaml:").nth(1).unwrap_or_default();
        let mut place = place.split(':').map(str::parse::<usize>);
        let placed = matches!((place.next(), place.next()), (Some(Ok(1..)), Some(Ok(1..))));
        let nothing = said.contains("nothing was touched") && output.stdout.is_empty();
        if output.status.code() != Some(2) || !placed || !nothing {
            wrong.push(format!("{name}: {}\n{said}", output.status));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), refused.len(), wrong.join("\n"));
    Ok(())
}
