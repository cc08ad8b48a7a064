//! The page `tests/page/plan.md`: a plan as people see it, against the stand-in for GitHub.

mod common;
#[path = "common/mock.rs"]
mod mock;

use std::fs;

use assert_cmd::cargo::cargo_bin;
use common::{ROOT, Test};
use mock::Setup;
use mock::http::TOKEN;
use testing::page::Page;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/plan.md");

#[test]
fn plan_page_shows_what_the_program_prints() -> Test {
    let setup = Setup::new(
        "owner: owner, description: One of ours, visibility: private, \
         topics: {items: [nix, gitops]}, features: {wiki: false}, \
         rules: [{name: main, branches: [main], require: {pullRequest: {approvals: 1}}}], \
         secrets: {phaseKeys: [artifact-attest]}, deployKeys: [flux-seed]",
    )?;
    let folder = tempfile::tempdir()?;
    let page = Page::copy(PAGE, folder.path())?;
    for file in ["project.yaml", "repository.yaml"] {
        fs::copy(setup.sandbox.path().join(file), page.input().join(file))?;
    }
    let variables = [("ROOT", ROOT), ("FORGE_TOKEN", TOKEN)];
    page.run("vcs-bootstrap", cargo_bin!("vcs-bootstrap"), &variables)
}
