//! The page `tests/page/plan.md`: plans as people see them.

use std::fs;

use assert_cmd::cargo::cargo_bin;
use testing::page::Page;

use crate::builds::Bench;
use crate::stub::{KEY, Test};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/plan.md");

#[test]
fn plan_page_shows_what_the_program_prints() -> Test {
    let Bench { sandbox, path, input, .. } = &Bench::new()?;
    sandbox.write("manifests.yaml", sandbox.one())?;
    sandbox.write("image.yaml", input)?;
    let page = Page::copy(PAGE, &sandbox.outside(""))?;
    // The commands run in the clone.
    fs::remove_dir(page.input())?;
    fs::rename(sandbox.clone(), page.input())?;
    let home = sandbox.home().display().to_string();
    let variables = [("ARTIFACT_ATTEST_KEY", KEY), ("PATH", path), ("HOME", &home)];
    page.run("artifact-attest", cargo_bin!("artifact-attest"), &variables)
}
