//! Stand-ins for the foreign actions that the workflows use, at the same commits.

use std::fs;
use std::path::Path;

use crate::project::Test;

/// A repository of actions: its name, and each action's folder and `action.yml`.
type Repository = (&'static str, &'static [(&'static str, &'static str)]);

const REPOSITORIES: [Repository; 2] = [
    ("cachix/install-nix-action", &[("", INSTALLER)]),
    ("actions/cache", &[("save", SAVE), ("restore", RESTORE)]),
];

/// Stand-in for the installer of Nix, which this machine already has.
const INSTALLER: &str = "
name: stand-in
description: Nix is already installed
runs:
  using: composite
  steps:
    - shell: bash
      run: nix --version
";

/// Stand-in for `actions/cache/save`: keeps one file. Like the original, it never replaces a file that
/// has the same key.
const SAVE: &str = r#"
name: stand-in
description: Keeps a file in a folder of this machine
inputs: {path: {required: true}, key: {required: true}}
runs:
  using: composite
  steps:
    - shell: bash
      run: mkdir -p FOLDER && cp --no-clobber "$CACHED" "FOLDER/$KEY"
      env: {CACHED: "${{ inputs.path }}", KEY: "${{ inputs.key }}"}
"#;

/// Stand-in for `actions/cache/restore`: copies the newest file whose key begins with `restore-keys`,
/// if there is one.
const RESTORE: &str = r#"
name: stand-in
description: Copies a file from a folder of this machine
inputs: {path: {required: true}, key: {required: true}, restore-keys: {default: ""}}
runs:
  using: composite
  steps:
    - shell: bash
      run: newest=$(ls -t FOLDER/"$PREFIX"* 2>/dev/null | head -n 1); [ -z "$newest" ] || cp "$newest" "$CACHED"
      env: {CACHED: "${{ inputs.path }}", PREFIX: "${{ inputs.restore-keys }}"}
"#;

/// Writes the stand-ins below `root`. Returns the arguments that make `act` use them in place of the
/// actions in the workflows of `clone`.
pub(crate) fn write(root: &Path, clone: &Path) -> Test<Vec<String>> {
    let mut arguments = Vec::new();
    let cache = root.join("cache").display().to_string();
    for (name, actions) in REPOSITORIES {
        let folder = root.join("stand-ins").join(name);
        for (action, text) in actions {
            fs::create_dir_all(folder.join(action))?;
            fs::write(folder.join(action).join("action.yml"), text.replace("FOLDER", &cache))?;
        }
        let commit = commit(clone, name)?;
        arguments.extend([
            "--local-repository".to_owned(),
            format!("{name}@{commit}={}", folder.display()),
        ]);
    }
    Ok(arguments)
}

/// Returns the commit at which the workflow of pull requests uses a repository of actions.
fn commit(clone: &Path, name: &str) -> Test<String> {
    let text = fs::read_to_string(clone.join(".github/workflows/plan.yaml"))?;
    let line = text.lines().find(|line| line.contains(name)).ok_or("the action is not used")?;
    let commit = line.split_once('@').and_then(|(_, rest)| rest.split(' ').next());
    Ok(commit.ok_or("the action is not pinned")?.to_owned())
}
