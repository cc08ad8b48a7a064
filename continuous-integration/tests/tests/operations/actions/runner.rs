//! A runner with nothing but a runner's commands: neither Nix nor Rust nor the programs.
//!
//! The server of the releases and `gh` are stand-ins: attestations need GitHub and Sigstore's service.
//! `step/install.rs` tests every failure of the installation.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use repository_tests::{link_commands, programs, root, write_script};
use serde_json::Value;
use testing::http::{Response, listen_to_requests};

use super::run::{Run, run};
use super::{Plane, Test};

/// Commands of GitHub's runners that the actions use, and those that `act` starts for a step.
const COMMANDS: [&str; 28] = [
    "act",
    "base64",
    "bash",
    "cat",
    "chmod",
    "cp",
    "curl",
    "dirname",
    "env",
    "git",
    "grep",
    "gzip",
    "head",
    "id",
    "jq",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "sed",
    "sh",
    "sha256sum",
    "sort",
    "stat",
    "tail",
    "tar",
    "tee",
    "tr",
];

const GH: &str = "#!/usr/bin/env bash
[ \"$1\" != --version ] || echo 'gh version 2.76.0 (2026-01-01)'
";

/// Folder with the actions in the archive of a repository.
const ACTIONS: &str = "continuous-integration/actions";

pub(super) struct Runner<'a> {
    plane: &'a Plane<'a>,
    commands: PathBuf,
    /// Copy of this repository that has the actions alone.
    actions: PathBuf,
    releases: SocketAddr,
}

impl<'a> Runner<'a> {
    /// Creates a runner, and a server with a release that has `names`, the programs of this test run.
    pub(super) fn new(plane: &'a Plane<'a>, names: &[&str]) -> Test<Self> {
        let folder = plane.project.root().join("runner");
        let (commands, actions) = (folder.join("commands"), folder.join("tools"));
        fs::create_dir_all(&commands)?;
        fs::create_dir_all(actions.join("continuous-integration"))?;
        let copy = format!("cp -r {} {}", root().join(ACTIONS).display(), actions.display());
        plane.project.sh(&format!("{copy}/continuous-integration"))?;
        link_commands(&commands, &COMMANDS)?;
        write_script(&commands.join("gh"), GH)?;
        let mut archives = BTreeMap::new();
        for name in names {
            let archive = pack(plane, &folder, name)?;
            archives.insert(format!("{name}-x86_64-linux.tar.gz"), archive);
        }
        let releases = listen_to_requests("127.0.0.1:0", move |request, stream| {
            let name = request.path.strip_prefix("/zabronax/holistic/releases/").and_then(|path| {
                let from = ["latest/download/", "download/v1.2.3/"];
                from.iter().find_map(|release| path.strip_prefix(release))
            });
            let archive = name.and_then(|name| archives.get(name));
            let response = archive.map_or_else(
                || Response::new(404, "Not Found"),
                |archive| Response::new(200, archive.clone()),
            );
            response.write(&request.method, stream).map(|()| true)
        })?;
        Ok(Self { plane, commands, actions, releases })
    }

    /// Runs a workflow in `repository`, whose actions are those of this repository at `version`.
    pub(super) fn act(
        &self,
        repository: &Path,
        version: &str,
        (workflow, event, payload): (&str, &str, &Value),
        secrets: &[(&str, String)],
    ) -> Test<Run> {
        let mut act = self.plane.act_command(workflow, event, payload, secrets)?;
        let tools = format!("zabronax/holistic@{version}={}", self.actions.display());
        act.current_dir(repository)
            .env("PATH", &self.commands)
            .args(["--local-repository", &tools]);
        act.args(["--env", &format!("GITHUB_SERVER_URL=http://{}", self.releases)]);
        run(&mut act)
    }
}

/// Returns the archive of a program as in a release.
fn pack(plane: &Plane<'_>, folder: &Path, name: &str) -> Test<Vec<u8>> {
    let program = programs().join(name);
    plane.project.sh(&format!(
        "# {name}: the archive of a release
        cd {} && mkdir -p packed/bin && strip -o packed/bin/{name} {}
        tar --create --directory packed bin/{name} | gzip --fast >{name}.tar.gz",
        folder.display(),
        program.display()
    ))?;
    Ok(fs::read(folder.join(format!("{name}.tar.gz")))?)
}
