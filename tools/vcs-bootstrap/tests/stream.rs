//! Tests of the pipe, and of histories that cannot be pushed. They need no forge.

mod common;

use std::fs;

use common::{Sandbox, Test, ready, status, stderr};
use serde_json::Value;

/// A forge at an unused address of this machine.
const NOWHERE: &str = "{gitea: {url: \"http://127.76.0.2:9\", token: {env: FORGE_TOKEN}}}";

const SPEC: &str = "owner: owner, history: {push: onCreate}";

fn sandbox() -> Test<Sandbox> {
    let sandbox = Sandbox::new(NOWHERE, "hunter2")?;
    sandbox.declare("greeter", SPEC)?;
    Ok(sandbox)
}

#[test]
fn a_failed_program_still_writes_its_documents() -> Test {
    let failed = sandbox()?.run("apply").code(111);
    assert_eq!(ready(&status(&failed)?), ("False", "Unreachable"));
    let said = stderr(&failed);
    assert!(said.contains("error: Repository/greeter: "), "an error names its document: {said}");
    let lines =
        failed.get_output().stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    assert_eq!(lines.count(), 2);
    Ok(())
}

#[test]
fn a_folder_without_git_and_a_branch_without_commits_have_their_own_help() -> Test {
    let says = |sandbox: &Sandbox, what: &str, help: &str| {
        let run = sandbox.run("plan").code(100);
        let said = stderr(&run);
        assert!(said.contains(what) && said.contains(help), "{said}");
    };
    let sandbox = || -> Test<Sandbox> {
        let sandbox = sandbox()?;
        sandbox.declare("greeter", &SPEC.replace("onCreate", "fastForward"))?;
        Ok(sandbox)
    };
    let none = sandbox()?;
    fs::remove_dir_all(none.path().join(".git"))?;
    says(&none, "the current directory is not in a Git repository", "git init");

    let empty = sandbox()?;
    fs::remove_dir_all(empty.path().join(".git"))?;
    empty.git(&["init", "--quiet", "--initial-branch=main"])?;
    says(&empty, "no commit on main yet", "create a first commit");

    let detached = sandbox()?;
    detached.git(&["checkout", "--quiet", "--detach"])?;
    detached.git(&["branch", "-D", "main"])?;
    says(&detached, "there is no local branch main; HEAD is detached", "git branch main");

    let shallow = sandbox()?;
    shallow.commit("second")?;
    let head = shallow.git(&["rev-parse", "HEAD"])?;
    fs::write(shallow.path().join(".git/shallow"), head + "\n")?;
    says(&shallow, "this is a shallow clone", "fetch-depth: 0");
    Ok(())
}

#[test]
fn a_misplaced_secret_is_not_quoted() -> Test {
    for spec in [
        "owner: {token: hunter2}",
        "owner: owner, token: hunter2",
        "owner: owner, secrets: {phaseKeys: [hunter2]}",
        "owner: owner, secrets: {KEY: hunter2}",
        "owner: 'hunter2!'",
    ] {
        let sandbox = sandbox()?;
        sandbox.declare("greeter", spec)?;
        let run = sandbox.run("apply").code(2);
        let said = stderr(&run);
        assert!(said.contains("repository.yaml:5:") && !said.contains("hunter2"), "{said}");
        assert!(run.get_output().stdout.is_empty());
    }
    Ok(())
}

#[test]
fn more_approvals_than_a_forge_supports_are_an_error() -> Test {
    for (approvals, code) in [(10, 111), (11, 2)] {
        let sandbox = sandbox()?;
        let rule = format!(
            "{{name: main, branches: [main], require: {{pullRequest: {{approvals: {approvals}}}}}}}"
        );
        sandbox.declare("greeter", &format!("{SPEC}, rules: [{rule}]"))?;
        let said = stderr(&sandbox.run("plan").code(code));
        assert!(code != 2 || said.contains("repository.yaml:5:") && said.contains("approvals: "));
    }
    Ok(())
}

#[test]
fn values_and_names_that_no_forge_accepts_are_errors_with_their_position() -> Test {
    for (more, path) in [
        ("secrets: {GITHUB_TOKEN: {env: X}}", "spec.secrets"),
        ("secrets: {lower: {env: X}}", "spec.secrets"),
        ("secrets: {1ST: {env: X}}", "spec.secrets"),
        (
            "secrets: {phaseKeys: [flux-seed], FLUX_SEED_KEY: {env: X}}",
            "spec.secrets.FLUX_SEED_KEY",
        ),
        ("variables: {GITEA_X: y}", "spec.variables"),
        ("variables: {X: ''}", "spec.variables.X"),
        ("variables: {HOLISTIC_RECEIPT: forged}", "spec.variables.HOLISTIC_RECEIPT"),
        ("name: a/b", "spec.name"),
        ("previously: [a/b/c]", "spec.previously.0"),
        ("previously: [Greeter]", "spec.previously.0"),
        ("rules: [{name: '', branches: [main]}]", "spec.rules.0.name"),
        ("defaultBranch: a..b", "spec.defaultBranch"),
    ] {
        let sandbox = sandbox()?;
        sandbox.declare("greeter", &format!("owner: owner, {more}"))?;
        let said = stderr(&sandbox.run("plan").code(2));
        assert!(said.contains("repository.yaml:5:") && said.contains(path), "{more}: {said}");
    }
    Ok(())
}

#[test]
fn two_documents_of_one_repository_are_an_error() -> Test {
    let sandbox = sandbox()?;
    let document = |name: &str, more: &str| {
        format!(
            "---\napiVersion: holistic/v1alpha1\nkind: Repository\nmetadata: {{name: {name}}}\n\
             spec: {{project: lab, owner: owner{more}}}\n"
        )
    };
    let text = document("site", "") + &document("other", ", name: Site");
    fs::write(sandbox.path().join("repository.yaml"), text)?;
    let said = stderr(&sandbox.run("plan").code(2));
    assert!(said.contains("the document site declares the same repository"), "{said}");
    Ok(())
}

#[test]
fn the_projects_own_documents_are_valid_except_for_their_published_secrets() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let mut program = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("vcs-bootstrap"));
    program.current_dir(root).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let run = program.args(["plan", "project"]).assert().code(2);
    let said = stderr(&run);
    let mistakes: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(!mistakes.is_empty(), "{said}");
    let published = "is published with these programs";
    assert!(mistakes.iter().all(|line| line.contains(published)), "{said}");
}

#[test]
fn the_committed_schema_equals_the_printed_one() -> Test {
    let schema = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin!("vcs-bootstrap"))
        .arg("schema")
        .assert()
        .success();
    let schema: Value = serde_json::from_slice(&schema.get_output().stdout)?;
    let schema = serde_json::to_string_pretty(&schema)? + "\n";
    snapbox::assert_data_eq!(schema, snapbox::file!["../schema.json"].raw());
    Ok(())
}
