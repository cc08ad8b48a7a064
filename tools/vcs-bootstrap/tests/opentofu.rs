//! `plan --output tofu` against the stand-in for GitHub, and the page `tests/page/tofu.md`. The schemas of the
//! provider are those of `tools/shared/testing/schemas`.

mod common;
#[path = "common/mock.rs"]
mod mock;

use std::fs;

use assert_cmd::cargo::cargo_bin;
use common::{ROOT, Test, status, stderr};
use mock::Setup;
use mock::http::TOKEN;
use serde_json::{Value, json};
use testing::page::Page;
use testing::tofu::Schema;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/tofu.md");

const FULL: &str = "owner: owner, description: One of ours, visibility: private, \
    topics: {items: [nix, gitops]}, features: {wiki: false}, \
    rules: [{name: main, branches: [main], require: {pullRequest: {approvals: 1}, \
    signedCommits: true, linearHistory: true, statusChecks: [test]}, bypass: administrators}], \
    secrets: {phaseKeys: [artifact-attest]}, variables: {REGISTRY: ghcr.io}, deployKeys: [flux-seed]";

fn configuration(output: &[u8]) -> Test<Value> {
    let configuration = serde_json::from_slice(output)?;
    assert_eq!(Schema::read("github")?.differences(&configuration), [""; 0]);
    Ok(configuration)
}

#[test]
fn configuration_imports_exactly_what_the_program_has_created() -> Test {
    let setup = Setup::new(FULL)?;
    setup.run("apply").success();
    setup.state(|state| {
        state.variables.insert("THEIRS".to_owned(), "theirs".to_owned());
        state
            .secrets
            .insert("THEIRS".to_owned(), (String::new(), "2026-01-01T00:00:00Z".to_owned()));
    });
    setup.writes();
    let output = setup.run("plan --output tofu").success().get_output().stdout.clone();
    assert_eq!(setup.writes(), [""; 0]);
    let text = String::from_utf8(output.clone())?;
    assert!(!text.contains("THEIRS") && !text.contains("HOLISTIC_RECEIPT"), "{text}");
    let secret = setup.state(|state| state.secret("ARTIFACT_ATTEST_KEY")).ok_or("a secret")?;
    for secret in [secret.as_str(), TOKEN, ROOT] {
        assert!(!text.contains(secret), "a secret is in the configuration");
    }
    let key = setup.state(|state| state.keys.keys().next().copied()).ok_or("a deploy key")?;
    let imports = configuration(&output)?["import"].clone();
    let ids: Vec<_> = imports.as_array().into_iter().flatten().map(|one| &one["id"]).collect();
    let key = format!("greeter:{key}");
    assert_eq!(
        json!(ids),
        json!(["greeter", "greeter:40", "greeter:ARTIFACT_ATTEST_KEY", "greeter:REGISTRY", key])
    );
    setup.assert_described();
    Ok(())
}

#[test]
fn object_that_others_have_created_is_named_and_left_out() -> Test {
    let setup = Setup::new(FULL)?;
    setup.run("apply").success();
    let more = FULL.replace("variables: {", "variables: {THEIRS: ours, NEW: new, ");
    setup.declare(&more)?;
    setup.state(|state| state.variables.insert("THEIRS".to_owned(), "theirs".to_owned()));
    let planned = setup.run("plan --output tofu").success();
    let said = stderr(&planned);
    assert!(said.contains("lacks what others have created: variable THEIRS"), "{said}");
    let configuration = configuration(&planned.get_output().stdout)?;
    let variables = &configuration["resource"]["github_actions_variable"];
    let names: Vec<_> = variables.as_object().into_iter().flatten().map(|(name, _)| name).collect();
    assert_eq!(names, ["greeter-NEW", "greeter-REGISTRY"]);
    Ok(())
}

#[test]
fn nothing_is_written_unless_every_document_could_be_planned() -> Test {
    let setup = Setup::new(FULL)?;
    setup.state(|state| state.tokens = Vec::new());
    let failed = setup.run("plan --output tofu").failure();
    assert_eq!(failed.get_output().stdout, b"");
    assert!(stderr(&failed).contains("no configuration of OpenTofu is written"));
    let beside = setup.run("plan --output tofu=main.tf.json").failure();
    assert!(status(&beside)?["conditions"].is_array(), "the documents are written");
    assert!(!setup.sandbox.path().join("main.tf.json").exists());
    Ok(())
}

#[test]
fn tofu_page_shows_what_the_program_prints() -> Test {
    let setup = Setup::new(FULL)?;
    setup.run("apply").success();
    setup.declare(&FULL.replace("variables: {", "variables: {CHANNEL: stable, "))?;
    let folder = tempfile::tempdir()?;
    let page = Page::copy(PAGE, folder.path())?;
    let input = page.input();
    for file in ["project.yaml", "repository.yaml"] {
        fs::copy(setup.sandbox.path().join(file), input.join(file))?;
    }
    let document = |file: &str, kind: &str, from: &str, to: &str| -> Test {
        let text = fs::read_to_string(input.join(kind))?;
        assert!(text.contains(from), "{text}");
        Ok(fs::write(input.join(file), text.replace(from, to))?)
    };
    document("other.yaml", "repository.yaml", "owner: owner", "owner: other, name: greeter-2")?;
    document("other.yaml", "other.yaml", "name: greeter}", "name: other}")?;
    document("gitea.yaml", "project.yaml", "github", "gitea")?;
    let variables = [("ROOT", ROOT), ("FORGE_TOKEN", TOKEN)];
    page.run("vcs-bootstrap", cargo_bin!("vcs-bootstrap"), &variables)
}
