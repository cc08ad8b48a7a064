//! Runs the CI workflows of a project, and every command of the pages in `knowledge/`.
//!
//! This is a separate test program with a lab of its own, so that `tasks/test` can run it in parallel
//! with the lifecycle: Kubernetes takes a minute to notice a lost machine.

mod actions;
#[path = "../pages/mod.rs"]
mod pages;
#[path = "../project/mod.rs"]
#[expect(dead_code, reason = "no test program uses every function of this module")]
mod project;
mod stand_ins;

use std::fs;

use pages::{Block, blocks};
use project::{Project, Test, forward, reasons, say};
use repository_tests::programs;

/// Pages that change nothing: every document is Ready before and after. Each page has its own shell.
const PAGES: [&str; 4] = [
    "knowledge/runbooks/bootstrap.md",
    "knowledge/vendors/hetzner.md",
    "knowledge/vendors/gitea.md",
    "knowledge/vendors/s3.md",
];

/// Pages that change documents, keys or machines. Every document is Ready afterwards.
const CHANGES: [&str; 3] = [
    "knowledge/runbooks/rotation.md",
    "knowledge/runbooks/lost-laptop.md",
    "knowledge/runbooks/lost-machine.md",
];

/// The first page destroys every resource, and the second restores them from the only receipt of the
/// store. The third signs another receipt.
const END_AND_BEGINNING: [&str; 3] =
    ["knowledge/runbooks/sunset.md", "knowledge/runbooks/disaster.md", "README.md"];

/// The page that creates every resource at the beginning, and removes it at the end.
const TUTORIAL: &str = "knowledge/tutorial/from-nothing-and-back.md";

/// Heading of the tutorial at which the way back begins.
const WAY_BACK: &str = "## 8. Back to nothing";

#[test]
fn workflows_give_the_result_of_the_pipe_and_every_page_runs() -> Test {
    let project = Project::new("127.97.0.0/16")?;
    let input = project.up()?;
    fs::write(project.root().join(".lab/lab.json"), &input)?;
    let tutorial = fs::read_to_string(project.root().join(TUTORIAL))?;
    let heading = tutorial.lines().position(|line| line == WAY_BACK).ok_or("no way back")?;
    let (forth, back) = blocks(&tutorial).into_iter().partition(|block| block.line <= heading);
    // In place of the folders that the page names.
    let documents = "documents=(.lab/lab.json)\n";
    run_blocks(&project, TUTORIAL, documents, forth)?;
    actions::workflows_give_the_result_of_the_pipe(&project, &input)?;
    forward(&project, "apply", &input, 0)?; // the workflows' clone has pushed a change that this folder lacks
    every_page_runs(&project)?;
    run_blocks(&project, TUTORIAL, documents, back)
}

#[test]
fn workflows_of_a_new_project_need_nix_only_to_build() -> Test {
    let project = Project::of_template("127.96.0.0/16")?;
    actions::template::workflows_of_a_new_project_apply_plan_and_compare(&project)
}

fn every_page_runs(project: &Project) -> Test {
    let before = project.writes()?;
    run(project, PAGES[0])?;
    assert_eq!(project.writes()?, before, "a second bootstrap writes nothing");
    for page in PAGES[1..].iter().chain(&CHANGES).chain(&END_AND_BEGINNING) {
        run(project, page)?;
        let documents = fs::read_to_string(project.root().join(".lab/documents.json"))?;
        for line in reasons(&documents)? {
            assert!(line.contains(" True "), "{page}: {line}");
        }
    }
    Ok(())
}

fn run(project: &Project, page: &str) -> Test {
    let text = fs::read_to_string(project.root().join(page))?;
    run_blocks(project, page, "", blocks(&text))
}

/// Runs `before` and then those of the page's `blocks` that hold commands in one shell, so that a
/// block can use an earlier variable.
fn run_blocks(project: &Project, page: &str, before: &str, mut blocks: Vec<Block>) -> Test {
    blocks.retain(|block| block.info == "sh");
    assert!(!blocks.is_empty(), "{page} has commands");
    let script = |block: &Block| format!("echo '{page}:{}' >&2\n{}", block.line, block.text);
    let script: Vec<_> = blocks.iter().map(script).collect();
    say(page);
    // Tasks use the programs that this test uses, and build none.
    let programs = format!("export HOLISTIC_PROGRAMS={}\n", programs().display());
    project.sh(&format!("# {page}\n{programs}{before}{}", script.concat()))?;
    Ok(())
}
