//! The environment of a user who has Nix and a repository, but neither a network nor cargo.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use repository_tests::write_script;
use serde_json::Value;
use tempfile::TempDir;

use crate::project::{Project, Test, say, succeeded};

/// Script in place of cargo that records its calls. A call means that a task did not use the programs
/// of the flake.
const CARGO: &str = "#!/bin/sh\necho \"cargo $*\" >>\"$0.called\"\nexit 1\n";

/// A machine with Nix's settings and the stand-in for nixpkgs.
pub(crate) struct Machine {
    folder: TempDir,
    /// Copy of this repository, from which the tools come.
    pub(crate) tools: Project,
}

impl Machine {
    /// Creates a machine. The lab writes Nix's settings and the stand-in for nixpkgs.
    pub(crate) fn new() -> Test<Self> {
        let tools = Project::new("127.98.0.0/16")?;
        let folder = tempfile::Builder::new().prefix("holistic-nix-").tempdir()?;
        let bin = folder.path().join("bin");
        fs::create_dir(&bin)?;
        write_script(&bin.join("cargo"), CARGO)?;
        let machine = Self { folder, tools };
        let here = machine.folder.path().join("lab");
        let script = format!(
            "export LAB_DIR={}
            cargo fetch --quiet --locked # crates of the tools; the lab fetches the crates of the sources
            lab up project sources >/dev/null
            lab down --quiet",
            here.display()
        );
        machine.tools.sh(&script)?;
        Ok(machine)
    }

    pub(crate) fn nixpkgs(&self) -> String {
        format!("path:{}/lab/nixpkgs", self.folder.path().display())
    }

    /// Creates a folder called `name` and returns its path.
    pub(crate) fn folder(&self, name: &str) -> Test<PathBuf> {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Returns the recorded calls of cargo, which must be empty.
    pub(crate) fn cargo_calls(&self) -> String {
        fs::read_to_string(self.folder.path().join("bin/cargo.called")).unwrap_or_default()
    }

    /// Returns a command that runs `script` in `folder`. `$NIXPKGS` overrides the input `nixpkgs` of a
    /// flake.
    fn command(&self, folder: &Path, script: &str) -> Test<Command> {
        let path = env::var("PATH")?;
        let mut command = self.tools.command("bash", &["-euo", "pipefail", "-c", script]);
        command
            .current_dir(folder)
            .env("PATH", format!("{}/bin:{path}", self.folder.path().display()))
            .env("NIX_CONF_DIR", self.folder.path().join("lab/nix"))
            .env("NIXPKGS", format!("--override-input nixpkgs {}", self.nixpkgs()))
            .env("TOOLS", format!("path:{}", self.tools.root().display()))
            .env_remove("LAB_BIN")
            .env_remove("LAB_DIR")
            .env_remove("SOPS_AGE_KEY_FILE");
        Ok(command)
    }

    /// Runs `script` in `folder`, which must succeed, and returns its standard output.
    pub(crate) fn sh(&self, folder: &Path, script: &str) -> Test<String> {
        timed(&mut self.command(folder, script)?, script)
    }

    /// Runs `script` in the copy of this repository and parses its output as JSON.
    pub(crate) fn json(&self, script: &str) -> Test<Value> {
        Ok(serde_json::from_str(&self.sh(self.tools.root(), script)?)?)
    }
}

/// Runs `command`, which must succeed, and reports its duration.
fn timed(command: &mut Command, script: &str) -> Test<String> {
    let began = Instant::now();
    let output = command.output()?;
    let line = script.lines().next().unwrap_or_default();
    say(&format!("{:6.1} s  {line}", began.elapsed().as_secs_f64()));
    succeeded(output)
}

/// A repository from a template. Dropping the value ends the repository's lab.
pub(crate) struct Home<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) folder: PathBuf,
    /// Nix's output of the tools.
    pub(crate) tools: PathBuf,
}

impl Home<'_> {
    /// Runs `script` in the repository, which must succeed, and returns its standard output.
    pub(crate) fn sh(&self, script: &str) -> Test<String> {
        let mut command = self.machine.command(&self.folder, script)?;
        timed(command.env("HOLISTIC", &self.tools), script)
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        let _ = self.sh("tasks/lab down --wipe --yes");
    }
}
