//! What a person has who uses Nix and nothing else: no network, no cargo, and a repository.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::project::{Project, Test, say, succeeded};

/// In place of cargo: whoever calls it has not taken what the flake gives.
const CARGO: &str = "#!/bin/sh\necho \"cargo $*\" >>\"$0.called\"\nexit 1\n";

/// A machine with Nix's settings and the stand-in for nixpkgs.
pub(crate) struct Machine {
    folder: TempDir,
    /// This repository, as the tools come from it.
    pub(crate) tools: Project,
}

impl Machine {
    /// The lab itself makes settings and stand-in, as for everybody without a network.
    pub(crate) fn new() -> Test<Self> {
        let tools = Project::new("127.98.0.0/16")?;
        let folder = tempfile::Builder::new().prefix("holistic-nix-").tempdir()?;
        let bin = folder.path().join("bin");
        fs::create_dir(&bin)?;
        fs::write(bin.join("cargo"), CARGO)?;
        fs::set_permissions(bin.join("cargo"), fs::Permissions::from_mode(0o755))?;
        let machine = Self { folder, tools };
        let here = machine.folder.path().join("lab");
        let script = format!(
            "export LAB_DIR={}
            cargo fetch --quiet --locked # the tools' own; those of the sources the lab fetches
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

    /// A folder that is nobody's yet.
    pub(crate) fn folder(&self, name: &str) -> Test<PathBuf> {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// What cargo was asked for, which is nothing.
    pub(crate) fn cargo_calls(&self) -> String {
        fs::read_to_string(self.folder.path().join("bin/cargo.called")).unwrap_or_default()
    }

    /// `script`, to be run in `folder`. `$NIXPKGS` is what every flake is told to take.
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

    /// Runs `script` in `folder`, to a good end; what it wrote to standard output.
    pub(crate) fn sh(&self, folder: &Path, script: &str) -> Test<String> {
        timed(&mut self.command(folder, script)?, script)
    }

    /// As [`Self::sh`] in this repository, for what prints JSON.
    pub(crate) fn json(&self, script: &str) -> Test<Value> {
        Ok(serde_json::from_str(&self.sh(self.tools.root(), script)?)?)
    }
}

/// Runs it to a good end, and says how long that took.
fn timed(command: &mut Command, script: &str) -> Test<String> {
    let began = Instant::now();
    let output = command.output()?;
    let line = script.lines().next().unwrap_or_default();
    say(&format!("{:6.1} s  {line}", began.elapsed().as_secs_f64()));
    succeeded(output)
}

/// A repository from a template, whose lab ends with it.
pub(crate) struct Home<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) folder: PathBuf,
    /// What Nix has made of the tools.
    pub(crate) tools: PathBuf,
}

impl Home<'_> {
    /// Runs `script` in it, to a good end; what it wrote to standard output.
    pub(crate) fn sh(&self, script: &str) -> Test<String> {
        let mut command = self.machine.command(&self.folder, script)?;
        timed(command.env("HOLISTIC", &self.tools), script)
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        let _ = self.sh("tasks/lab down --wipe");
    }
}
