//! Properties that a pipe relies on: documents pass through, and nothing else is changed.

mod support;

use std::fs;

use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use support::CONTROL;
use testing::Test;
use testing::documents::ROOT;
use testing::run::{documents, program, stderr as said};

/// Address at which no server listens.
const NOWHERE: &str = "http://127.74.0.2:1/v1";

const OTHER: &str = r#"{"apiVersion":"holistic/v1alpha1","kind":"Delivery","metadata":{"name":"prod"},"spec":{"cluster":"prod"},"status":{"conditions":[]}}"#;

fn cluster(spec: &str) -> String {
    support::cluster("prod", &[CONTROL], spec)
}

/// Runs `verb` on `input`, with an empty environment.
fn run(verb: &str, input: String) -> Test<Assert> {
    let folder = tempfile::tempdir()?;
    support::write(folder.path(), NOWHERE);
    let mut program = program(cargo_bin!("talos-provision"));
    Ok(program.current_dir(folder.path()).args(verb.split(' ')).write_stdin(input).assert())
}

#[test]
fn every_document_passes_unchanged_when_there_is_no_cluster() -> Test {
    let run = run("apply", format!("{OTHER}\n"))?.success();
    assert_eq!(String::from_utf8(run.get_output().stdout.clone())?, format!("{OTHER}\n"));
    Ok(())
}

#[test]
fn an_input_without_documents_is_an_error() -> Test {
    run("apply", String::new())?.code(2);
    Ok(())
}

#[test]
fn a_cluster_without_its_project_is_an_error() -> Test {
    let run = run("plan", cluster(""))?.code(2);
    assert!(said(&run).contains("the input has no Project"), "{}", said(&run));
    assert!(run.get_output().stdout.is_empty());
    Ok(())
}

// hazard: A token with a line break is sent again for three minutes, and the cloud is reported as unreachable.
// class: A request that cannot be built counts as an outage.
// members: a space, a line break, characters beyond ASCII, an empty token
// now: the run ends before the first request, and the help names the reference of the token
#[test]
fn a_token_that_no_header_can_hold_ends_the_run_at_once() -> Test {
    for token in ["s3cr t", "s3cr\nt", "s3cr\u{e6}"] {
        let folder = tempfile::tempdir()?;
        support::write(folder.path(), NOWHERE);
        fs::write(folder.path().join("token"), token)?;
        let mut program = program(cargo_bin!("talos-provision"));
        let input = support::project(NOWHERE) + &cluster("");
        let run = program.current_dir(folder.path()).arg("plan").write_stdin(input).assert();
        let run = run.code(100);
        assert!(said(&run).contains("the token of the cloud cannot be sent"), "{}", said(&run));
        assert!(said(&run).contains("spec.endpoints.cloud"), "{}", said(&run));
        assert!(!said(&run).contains(token), "the token is not quoted");
    }
    Ok(())
}

#[test]
fn destroy_keeps_a_cluster_that_another_document_needs() -> Test {
    let input = support::project(NOWHERE) + &cluster("") + "---\n" + OTHER + "\n";
    let run = run("destroy", input)?.code(111);
    let documents = documents(&run)?;
    assert_eq!(documents[1]["status"]["conditions"][0]["reason"], "StillNeeded");
    assert_eq!(documents[2].to_string(), OTHER);
    Ok(())
}

#[test]
fn a_secret_in_the_wrong_place_is_not_quoted() -> Test {
    for spec in ["  token: hunter2\n", "  endpoint: hunter2\n", "  firewall: {talos: [hunter2]}\n"]
    {
        let run = run("apply", support::project(NOWHERE) + &cluster(spec))?.code(2);
        assert!(said(&run).contains("<stdin>:"), "{}", said(&run));
        assert!(!said(&run).contains("hunter2"), "{}", said(&run));
    }
    let run = run("apply", support::project("hunter2") + &cluster(""))?.code(2);
    assert!(!said(&run).contains("hunter2"), "{}", said(&run));
    Ok(())
}

#[test]
fn the_documents_of_this_repository_are_valid_except_for_their_published_secrets() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let mut program = program(cargo_bin!("talos-provision"));
    let run = program.current_dir(root).args(["plan", "project", "machines/prod"]).assert().code(2);
    let said = said(&run);
    let mistakes: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(!mistakes.is_empty(), "{said}");
    let published = "is published with these programs";
    assert!(mistakes.iter().all(|line| line.contains(published)), "{said}");
}

#[test]
fn the_committed_schema_equals_the_printed_schema() -> Test {
    let printed = run("schema", String::new())?.success();
    let schema: Value = serde_json::from_slice(&printed.get_output().stdout)?;
    let schema = serde_json::to_string_pretty(&schema)? + "\n";
    snapbox::assert_data_eq!(schema, snapbox::file!["../schema.json"].raw());
    Ok(())
}

#[test]
fn a_key_in_the_environment_replaces_the_root() -> Test {
    // The root does not exist. With the phase's own key, the run gets as far as the cloud.
    let folder = tempfile::tempdir()?;
    support::write(folder.path(), NOWHERE);
    fs::remove_file(folder.path().join("root"))?;
    fs::write(folder.path().join("cluster.yaml"), cluster(""))?;
    fs::remove_file(folder.path().join("token"))?;
    let lacks = |key: &[(&str, &str)]| {
        let mut program = program(cargo_bin!("talos-provision"));
        program.current_dir(folder.path()).envs(key.iter().copied());
        said(&program.args(["plan", "project.yaml", "cluster.yaml"]).assert().code(100))
    };
    let without = lacks(&[]);
    assert!(without.contains("cannot read root"), "{without}");
    let with = lacks(&[("TALOS_PROVISION_KEY", ROOT)]);
    assert!(with.contains("cannot read token"), "{with}");
    Ok(())
}
