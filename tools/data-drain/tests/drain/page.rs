//! The page `tests/page/plan.md`: a plan as people see it, against the stand-in of a cluster. The page is
//! copied to a temporary folder, because the address of the stand-in differs from run to run.

use std::fs;

use assert_cmd::cargo::cargo_bin;
use serde_json::json;

use crate::Test;
use crate::lab::{IDENTITY, Lab, ROOT, claim};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/plan.md");

#[test]
fn plan_page_shows_what_the_program_prints() -> Test {
    let lab = Lab::start()?;
    claim(&mut lab.server.world(), "forgotten", json!({"nfs": {}}));
    let folder = tempfile::tempdir()?;
    let input = folder.path().join("plan.in");
    fs::create_dir(&input)?;
    fs::write(input.join("documents.json"), lab.input())?;
    let page = folder.path().join("plan.md");
    fs::copy(PAGE, &page)?;
    let cases = trycmd::TestCases::new();
    cases.register_bin("data-drain", cargo_bin!("data-drain"));
    cases.env("ROOT", ROOT).env("SOPS_AGE_KEY", IDENTITY);
    cases.env("S3", r#"{"accessKeyId": "a", "secretAccessKey": "hunter2"}"#).case(&page);
    // The cases run when they are dropped.
    drop(cases);
    if std::env::var_os("TRYCMD").is_some_and(|value| value == "overwrite") {
        fs::copy(&page, PAGE)?;
    }
    Ok(())
}
