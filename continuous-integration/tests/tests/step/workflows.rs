//! The workflows of a new project are those of this repository, with the actions of a release.

use std::fs;

use repository_tests::root;

use crate::Test;

/// Workflows that a new project has. The others test and release the programs.
const NAMES: [&str; 3] = ["apply", "drift", "plan"];

/// Step that installs Nix for the programs of this repository, with its input.
const NIX: &str = "      - uses: ./continuous-integration/actions/nix
        with:
          cachix: ${{ vars.CACHIX_CACHE }}
";

/// Returns the text of a workflow for a new project. Its actions download the programs, so that only
/// artifact-attest needs Nix, with which it builds the sources.
fn for_a_new_project(text: &str) -> String {
    let mut written = String::new();
    for line in text.replace(NIX, "").lines() {
        let line = line.replace("            machines/prod", "            machines");
        let own = line.split_once("./continuous-integration/actions/");
        let line = own.map_or(line.clone(), |(before, name)| {
            format!("{before}zabronax/holistic/continuous-integration/actions/{name}@v1")
        });
        written.push_str(&line);
        written.push('\n');
    }
    written.replace(
        "knowledge/github-actions.md",
        "https://github.com/zabronax/holistic/blob/main/knowledge/github-actions.md",
    )
}

#[test]
fn workflows_of_a_new_project_are_those_of_this_repository() -> Test {
    for name in NAMES {
        let own = fs::read_to_string(root().join(format!(".github/workflows/{name}.yaml")))?;
        let path = format!("templates/project/.github/workflows/{name}.yaml");
        let copy = snapbox::Data::read_from(&root().join(path), None);
        snapbox::assert_data_eq!(for_a_new_project(&own), copy.raw());
    }
    Ok(())
}

#[test]
fn only_the_job_that_builds_installs_nix_in_a_new_project() {
    let own = format!(
        "jobs:\n  attest:\n    steps:\n      - uses: cachix/install-nix-action@1 # v1\n  deliver:\n{NIX}      - uses: ./continuous-integration/actions/flux-seed\n"
    );
    let expected = "jobs:\n  attest:\n    steps:\n      - uses: cachix/install-nix-action@1 # v1\n  deliver:\n      - uses: zabronax/holistic/continuous-integration/actions/flux-seed@v1\n";
    assert_eq!(for_a_new_project(&own), expected);
}
