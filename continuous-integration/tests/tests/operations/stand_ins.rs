//! Stand-ins for the foreign actions that the workflows use, at the same commits.

use std::fs;
use std::path::Path;

use repository_tests::link_commands;

use crate::project::Test;

/// A repository of actions: its name, and each action's folder and `action.yml`.
type Repository = (&'static str, &'static [(&'static str, &'static str)]);

const REPOSITORIES: [Repository; 7] = [
    ("cachix/install-nix-action", &[("", INSTALLER)]),
    ("cachix/cachix-action", &[("", CACHIX)]),
    ("actions/cache", &[("save", SAVE), ("restore", RESTORE)]),
    ("actions/attest-build-provenance", &[("", ATTEST)]),
    ("actions/upload-artifact", &[("", UPLOAD)]),
    ("actions/download-artifact", &[("", DOWNLOAD)]),
    ("sigstore/cosign-installer", &[("", COSIGN)]),
];

/// Stand-in for the installer of Nix: puts the Nix of this machine in PATH.
const INSTALLER: &str = r#"
name: stand-in
description: Nix is already installed
runs:
  using: composite
  steps:
    - shell: bash
      run: echo FOLDER/nix >>"$GITHUB_PATH"
"#;

/// Stand-in for Cachix's own action: keeps the inputs of its last call.
const CACHIX: &str = r#"
name: stand-in
description: Keeps its inputs in a folder of this machine
inputs: {name: {required: true}, authToken: {default: ""}, skipPush: {default: "false"}}
runs:
  using: composite
  steps:
    - shell: bash
      run: mkdir -p FOLDER && echo "$NAME,$TOKEN,$SKIP" >FOLDER/cachix
      env: {NAME: "${{ inputs.name }}", TOKEN: "${{ inputs.authToken }}", SKIP: "${{ inputs.skipPush }}"}
"#;

/// Commands of Nix that the programs and the workflows use.
const NIX: [&str; 3] = ["nix", "nix-instantiate", "nix-store"];

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

/// Stand-in for `actions/attest-build-provenance`, which needs Sigstore's service: the files must exist.
const ATTEST: &str = r#"
name: stand-in
description: Lists the files
inputs: {subject-path: {required: true}}
runs:
  using: composite
  steps:
    - shell: bash
      run: ls $SUBJECTS
      env: {SUBJECTS: "${{ inputs.subject-path }}"}
"#;

/// Stand-in for `actions/upload-artifact`: keeps files under a name.
const UPLOAD: &str = r#"
name: stand-in
description: Keeps files in a folder of this machine
inputs: {name: {required: true}, path: {required: true}, if-no-files-found: {default: warn}, retention-days: {default: ""}}
runs:
  using: composite
  steps:
    - shell: bash
      run: mkdir -p "FOLDER/$NAME" && cp $FILES "FOLDER/$NAME"
      env: {NAME: "${{ inputs.name }}", FILES: "${{ inputs.path }}"}
"#;

/// Stand-in for `actions/download-artifact`: copies the files of a name, or of every name that matches.
const DOWNLOAD: &str = r#"
name: stand-in
description: Copies files from a folder of this machine
inputs: {name: {default: ""}, pattern: {default: ""}, path: {required: true}, merge-multiple: {default: "false"}}
outputs: {download-path: {value: "${{ steps.download.outputs.download-path }}"}}
runs:
  using: composite
  steps:
    - id: download
      shell: bash
      run: mkdir -p "$TO"; for folder in FOLDER/$NAMES; do cp "$folder"/* "$TO"; done; echo "download-path=$TO" >>"$GITHUB_OUTPUT"
      env: {NAMES: "${{ inputs.name || inputs.pattern }}", TO: "${{ inputs.path }}"}
"#;

/// Stand-in for `sigstore/cosign-installer`: a cosign that signs with a key of this machine, because signatures without
/// a key need Sigstore's service.
const COSIGN: &str = r#"
name: stand-in
description: Puts a cosign in PATH that has a key
runs:
  using: composite
  steps:
    - shell: bash
      run: mkdir -p FOLDER/cosign; cd FOLDER/cosign; [ -e cosign ] || { cosign generate-key-pair; printf "$SCRIPT" "$(command -v cosign)" >new; chmod +x new; mv new cosign; }; pwd >>"$GITHUB_PATH"
      env:
        COSIGN_PASSWORD: ""
        SCRIPT: |
          #!/bin/sh
          export COSIGN_PASSWORD=
          exec %s "$@" --key FOLDER/cosign/cosign.key --use-signing-config=false --tlog-upload=false
"#;

/// Writes the stand-ins below `root`. Returns the arguments that make `act` use them in place of the
/// actions in the workflows.
pub(crate) fn write(root: &Path) -> Test<Vec<String>> {
    let mut arguments = Vec::new();
    let cache = root.join("cache");
    let nix = cache.join("nix");
    if !nix.exists() {
        fs::create_dir_all(&nix)?;
        link_commands(&nix, &NIX)?;
    }
    for (name, actions) in REPOSITORIES {
        let folder = root.join("stand-ins").join(name);
        for (action, text) in actions {
            let text = text.replace("FOLDER", &cache.display().to_string());
            fs::create_dir_all(folder.join(action))?;
            fs::write(folder.join(action).join("action.yml"), text)?;
        }
        let commit = commit(name)?;
        arguments.extend([
            "--local-repository".to_owned(),
            format!("{name}@{commit}={}", folder.display()),
        ]);
    }
    Ok(arguments)
}

/// Returns the name, the token and the input `skipPush` of the last call of Cachix's action.
pub(crate) fn cachix(root: &Path) -> Test<String> {
    Ok(fs::read_to_string(root.join("cache/cachix"))?.trim().to_owned())
}

/// Returns the commit at which the workflows use a repository of actions.
fn commit(name: &str) -> Test<String> {
    let mut text = String::new();
    let files = [
        ".github/workflows/plan.yaml",
        ".github/workflows/release.yaml",
        "continuous-integration/actions/nix/action.yml",
    ];
    for file in files {
        text += &fs::read_to_string(repository_tests::root().join(file))?;
    }
    let line = text.lines().find(|line| line.contains(name)).ok_or("the action is not used")?;
    let commit = line.split_once('@').and_then(|(_, rest)| rest.split(' ').next());
    Ok(commit.ok_or("the action is not pinned")?.to_owned())
}
