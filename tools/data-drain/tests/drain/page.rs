//! The page `tests/page/plan.md`: a plan as people see it, against the stand-in of a cluster.

use std::fs;

use assert_cmd::cargo::cargo_bin;
use serde_json::json;
use testing::documents::{IDENTITY, ROOT};
use testing::page::Page;

use crate::Test;
use crate::lab::{Lab, claim};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/plan.md");

#[test]
fn plan_page_shows_what_the_program_prints() -> Test {
    let lab = Lab::start()?;
    claim(&mut lab.server.world(), "forgotten", json!({"nfs": {}}));
    let folder = tempfile::tempdir()?;
    let page = Page::copy(PAGE, folder.path())?;
    fs::write(page.input().join("documents.json"), lab.input())?;
    let store = r#"{"accessKeyId": "a", "secretAccessKey": "hunter2"}"#;
    let variables = [("ROOT", ROOT), ("SOPS_AGE_KEY", IDENTITY), ("S3", store)];
    page.run("data-drain", cargo_bin!("data-drain"), &variables)
}
