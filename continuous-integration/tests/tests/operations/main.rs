//! What CI does with a project, and what `knowledge/` tells people to do, run as it stands there.
//!
//! A test program of its own, with a lab of its own, so that `tasks/test` can run it beside the
//! lifecycle: a machine that is lost takes a minute to be missed.

mod actions;
#[path = "../pages/mod.rs"]
mod pages;
#[path = "../project/mod.rs"]
#[expect(dead_code, reason = "the lifecycle asks more of a project than this")]
mod project;
mod stand_ins;

use std::fs;

use pages::{Block, blocks};
use project::{Project, Test, forward, reasons, say};

/// Pages that leave a project as they found it: everything Ready. Each has a shell of its own.
const PAGES: [&str; 4] = [
    "knowledge/runbooks/bootstrap.md",
    "knowledge/vendors/hetzner.md",
    "knowledge/vendors/gitea.md",
    "knowledge/vendors/s3.md",
];

/// Pages that change the project: documents, keys, machines. It is Ready afterwards.
const CHANGES: [&str; 3] = [
    "knowledge/runbooks/rotation.md",
    "knowledge/runbooks/lost-laptop.md",
    "knowledge/runbooks/lost-machine.md",
];

/// The one takes everything away, the other brings it back.
const END_AND_BEGINNING: [&str; 2] =
    ["knowledge/runbooks/sunset.md", "knowledge/runbooks/disaster.md"];

#[test]
fn workflows_do_what_the_pipe_does_and_every_page_what_it_says() -> Test {
    let project = Project::new("127.97.0.0/16")?;
    let input = project.up()?;
    forward(&project, "apply", &input, 0)?;
    actions::workflows_do_what_the_pipe_does(&project, &input)?;
    forward(&project, "apply", &input, 0)?; // their clone has pushed a change that is not here
    every_page_does_what_it_says(&project)
}

fn every_page_does_what_it_says(project: &Project) -> Test {
    let before = project.writes()?;
    run(project, PAGES[0])?;
    assert_eq!(project.writes()?, before, "a bootstrap that is done has nothing left to write");
    for page in PAGES[1..].iter().chain(&CHANGES).chain(&END_AND_BEGINNING) {
        run(project, page)?;
        let documents = fs::read_to_string(project.root().join(".lab/documents.json"))?;
        for line in reasons(&documents)? {
            assert!(line.contains(" True "), "{page}: {line}");
        }
    }
    Ok(())
}

/// Runs the blocks of a page in order, in one shell: what one sets, the next can use.
fn run(project: &Project, page: &str) -> Test {
    let text = fs::read_to_string(project.root().join(page))?;
    let blocks: Vec<Block> = blocks(&text).into_iter().filter(|it| it.info == "sh").collect();
    assert!(!blocks.is_empty(), "{page} has commands");
    let script = |it: &Block| format!("echo '{page}:{}' >&2\n{}", it.line, it.text);
    let script: Vec<_> = blocks.iter().map(script).collect();
    say(page);
    project.sh(&format!("# {page}\n{}", script.concat()))?;
    Ok(())
}
