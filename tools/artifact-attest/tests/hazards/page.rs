//! The page `tests/page/plan.md`: plans as people see them. The page is copied to a temporary folder,
//! because the address of the registry differs from run to run.

use std::fs;

use assert_cmd::cargo::cargo_bin;

use crate::builds::Bench;
use crate::stub::{KEY, Test};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/plan.md");

#[test]
fn plan_page_shows_what_the_program_prints() -> Test {
    let Bench { sandbox, path, input, .. } = &Bench::new()?;
    sandbox.write("manifests.yaml", sandbox.one())?;
    sandbox.write("image.yaml", input)?;
    let page = sandbox.outside("plan.md");
    fs::copy(PAGE, &page)?;
    // A page runs in the folder that has its name and ends in `.in`.
    fs::rename(sandbox.clone(), sandbox.outside("plan.in"))?;
    let cases = trycmd::TestCases::new();
    cases.register_bin("artifact-attest", cargo_bin!("artifact-attest"));
    let home = sandbox.home().display().to_string();
    cases.env("ARTIFACT_ATTEST_KEY", KEY).env("PATH", path).env("HOME", home).case(&page);
    // The cases run when they are dropped.
    drop(cases);
    if std::env::var_os("TRYCMD").is_some_and(|value| value == "overwrite") {
        fs::copy(&page, PAGE)?;
    }
    Ok(())
}
