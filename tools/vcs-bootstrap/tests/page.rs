//! The page `tests/page/plan.md`: a plan as people see it, against the stand-in for GitHub.

#[path = "common/apps.rs"]
mod apps;
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
use testing::page::Page;

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
    let page = Page::copy(PAGE, folder.path())?;
    for file in ["project.yaml", "repository.yaml"] {
        fs::copy(sandbox.path().join(file), page.input().join(file))?;
    }
    let variables = [("ROOT", ROOT), ("FORGE_TOKEN", TOKEN)];
    page.run("vcs-bootstrap", cargo_bin!("vcs-bootstrap"), &variables)
}
