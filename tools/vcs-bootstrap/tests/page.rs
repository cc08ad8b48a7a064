//! The page `tests/page/plan.md`: a plan as people see it, against the stand-in for GitHub. The page is
//! copied to a temporary folder, because the address of the stand-in differs from run to run.

mod common;
#[path = "common/github.rs"]
mod github;
#[path = "common/http.rs"]
mod http;
#[path = "common/openapi.rs"]
mod openapi;

use std::fs;

use assert_cmd::cargo::cargo_bin;
use common::{ROOT, Sandbox, Test};
use github::GitHub;
use http::TOKEN;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/plan.md");

#[test]
fn plan_page_shows_what_the_program_prints() -> Test {
    let github = GitHub::start()?;
    let sandbox = Sandbox::new(&github.endpoint(), TOKEN)?;
    sandbox.declare(
        "greeter",
        "owner: owner, description: One of ours, visibility: private, \
         topics: {items: [nix, gitops]}, features: {wiki: false}, \
         rules: [{name: main, branches: [main], require: {pullRequest: {approvals: 1}}}], \
         secrets: {phaseKeys: [artifact-attest]}, deployKeys: [flux-seed]",
    )?;
    let folder = tempfile::tempdir()?;
    let input = folder.path().join("plan.in");
    fs::create_dir(&input)?;
    for file in ["project.yaml", "repository.yaml"] {
        fs::copy(sandbox.path().join(file), input.join(file))?;
    }
    let page = folder.path().join("plan.md");
    fs::copy(PAGE, &page)?;
    let cases = trycmd::TestCases::new();
    cases.register_bin("vcs-bootstrap", cargo_bin!("vcs-bootstrap"));
    cases.env("ROOT", ROOT).env("FORGE_TOKEN", TOKEN).case(&page);
    // The cases run when they are dropped.
    drop(cases);
    if std::env::var_os("TRYCMD").is_some_and(|value| value == "overwrite") {
        fs::copy(&page, PAGE)?;
    }
    Ok(())
}
