//! Checks of the text of the workflows and actions of a project.

use std::fs;

use crate::project::{Project, Test};

pub(super) fn workflows_are_well_formed(project: &Project) -> Test {
    assert_eq!(project.sh("actionlint -no-color -shellcheck= -pyflakes=")?, "", "actionlint");
    for persona in ["regular", "pedantic", "auditor"] {
        project.sh(&format!("zizmor --offline --quiet --no-progress --persona={persona} ."))?;
    }
    zizmor_reads_workflows_and_actions(project)?;
    every_action_is_pinned_and_no_expression_is_in_a_script(project)
}

/// Files that zizmor does not find have no findings, either.
fn zizmor_reads_workflows_and_actions(project: &Project) -> Test {
    let files =
        [".github/workflows/apply.yaml", "continuous-integration/actions/flux-seed/action.yml"];
    for path in files.map(|file| project.root().join(file)) {
        let Ok(text) = fs::read_to_string(&path) else { continue }; // a new project has no actions
        let (before, after) = text.split_once(" # v").ok_or("no pinned action")?;
        let (action, _) = before.rsplit_once('@').ok_or("no commit")?;
        fs::write(&path, format!("{action}@v1 # v{after}"))?;
        let ended = project.ended("zizmor --offline --quiet --no-progress .")?;
        fs::write(&path, text)?;
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(said.contains("error[unpinned-uses]"), "{}: {said}", path.display());
        assert!(!ended.status.success(), "{}", path.display());
    }
    Ok(())
}

fn every_action_is_pinned_and_no_expression_is_in_a_script(project: &Project) -> Test {
    let files =
        project.sh("git ls-files .github continuous-integration/actions | grep -E 'ya?ml$'")?;
    for file in files.lines() {
        for line in fs::read_to_string(project.root().join(file))?.lines() {
            let line = line.trim().trim_start_matches("- ");
            let Some((key, value)) = line.split_once(": ") else { continue };
            let pin = value.split_once('@').unwrap_or_default().1;
            let (commit, version) = pin.split_once(" # v").unwrap_or_default();
            let is_pinned = commit.len() == 40
                && commit.chars().all(|digit| digit.is_ascii_hexdigit())
                && !version.is_empty();
            // The template cannot contain the commit of the tools, because the template is part of that commit.
            let is_ours = value.starts_with("./")
                || (value.starts_with("zabronax/holistic/") && value.ends_with("@v1"));
            match key {
                "uses" => assert!(is_ours || is_pinned, "{file}: {line}"),
                "run" => assert!(!value.contains("${{") && value != "|", "{file}: {line}"),
                _ => {}
            }
        }
    }
    Ok(())
}
