//! The derivation of Flux's controllers (`continuous-integration/components/flux/default.nix`). The stand-in for nixpkgs has no
//! `buildGoModule`, so the tests run the phases of the derivation with this machine's Go and modules.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::home::Machine;
use super::project::{Test, succeeded};

/// Phases of nixpkgs' `buildGoModule` around those of the derivation. The build prints what it would run (`-n`).
const PHASES: &str = r#"
set -euo pipefail
runHook() { :; }
GOPROXY=file://$(go env GOMODCACHE)/cache/download
export GOPROXY GOFLAGS=-modcacherw GOPATH=$folder/go GOSUMDB=off GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=0 NIX_BUILD_CORES=1
export GOMODCACHE=$GOPATH/pkg/mod
cd "$src/$modRoot"
out=$folder/modules
eval "$modBuildPhase"
eval "$modInstallPhase"
export GOFLAGS='-trimpath -n' GOPROXY=file://$out
eval "$buildPhase" 2>&1
"#;

/// A wrong hash would fail on the machine of each user, because every `nix run` of the lifecycle builds the derivation.
pub(crate) fn modules_have_the_declared_hash(machine: &Machine) -> Test {
    let names = "vendorHash modRoot modBuildPhase modInstallPhase buildPhase";
    let expression = format!(
        "let pkgs = import (builtins.getFlake \"{}\").outPath {{ }};
        in import ./continuous-integration/components/flux {{
          pkgs = pkgs // {{ buildGoModule = given: {{ inherit (given) {names}; src = \"${{given.src}}\"; }}; }};
        }}",
        machine.nixpkgs()
    );
    let definition = machine.json(&format!("nix eval --impure --json --expr '{expression}'"))?;
    let definition = definition.as_object().ok_or("no attributes")?;

    // On a disk, because the modules take more than a gigabyte.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("flux");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let mut bash = Command::new("bash");
    bash.args(["-c", PHASES]).env("folder", &folder);
    for (name, value) in definition {
        bash.env(name, value.as_str().ok_or("no text")?);
    }
    let commands = succeeded(bash.output()?)?;
    for program in ["source-controller", "kustomize-controller"] {
        let installed = format!("{}/go/bin/{program}", folder.display());
        assert!(commands.contains(&installed), "{program} is not installed: {commands}");
    }
    let hash = format!("nix hash path {}/modules", folder.display());
    let hash = machine.sh(machine.tools.root(), &hash)?;
    assert_eq!(hash.trim(), definition["vendorHash"], "`vendorHash` of the derivation");
    Ok(fs::remove_dir_all(folder)?)
}
