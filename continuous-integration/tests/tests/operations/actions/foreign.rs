//! An action in a workflow of another repository, on a runner with nothing but a runner's commands.
//!
//! The server of the releases and `gh` are stand-ins: attestations need GitHub and Sigstore's service.
//! `step/install.rs` tests every failure of the installation.

use std::fs;
use std::process::Command;

use repository_tests::{link_commands, programs, write_script};
use serde_json::{Value, json};
use testing::http::{Response, listen_to_requests};

use super::run::run;
use super::{Plane, Test};

/// Commands of GitHub's runners that the action uses, and those that `act` starts for a step.
const COMMANDS: [&str; 26] = [
    "act", "base64", "bash", "cat", "chmod", "cp", "curl", "dirname", "env", "git", "grep", "gzip",
    "head", "id", "jq", "ls", "mkdir", "mktemp", "mv", "sed", "sh", "sort", "tail", "tar", "tee",
    "tr",
];

const GH: &str = "#!/usr/bin/env bash
[ \"$1\" != --version ] || echo 'gh version 2.76.0 (2026-01-01)'
";

const WORKFLOW: &str = "on: push
jobs:
  plan:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v6
      - id: forge
        uses: zabronax/holistic/continuous-integration/actions/vcs-bootstrap@v1.2.3
        with:
          documents: project
          flags: -v
        env:
          SOPS_AGE_KEY: ${{ secrets.SOPS_AGE_KEY }}
";

pub(super) fn an_action_works_in_a_repository_without_nix_and_rust(plane: &Plane<'_>) -> Test {
    let root = plane.project.root();
    let (repository, commands) = (root.join("foreign"), root.join("commands"));
    plane.project.sh("mkdir foreign commands && cp -r clone/project foreign && cd foreign && sed -i 's/push: fastForward, branch: main/push: never/' project/repository.yaml && git init --quiet --initial-branch=main && git add --all && git -c user.name=tester -c user.email=tester@example.org commit --quiet --message 'Documents alone'")?;
    link_commands(&commands, &COMMANDS)?;
    write_script(&commands.join("gh"), GH)?;

    // The archive of a release, from the program that this test run uses.
    let script = "mkdir -p packed/bin && strip -o packed/bin/vcs-bootstrap $PROGRAM && tar --create --gzip --file archive.tar.gz --directory packed bin";
    let program = programs().join("vcs-bootstrap");
    plane.project.sh(&format!("PROGRAM={}\n{script}", program.display()))?;
    let archive = fs::read(root.join("archive.tar.gz"))?;
    let releases = listen_to_requests("127.0.0.1:0", move |request, stream| {
        let path = "/zabronax/holistic/releases/download/v1.2.3/vcs-bootstrap-x86_64-linux.tar.gz";
        let response = if request.path == path {
            Response::new(200, archive.clone())
        } else {
            Response::new(404, "Not Found")
        };
        response.write(&request.method, stream).map(|()| true)
    })?;

    let file = root.join("foreign.yaml");
    fs::write(&file, WORKFLOW)?;
    let identity = plane.project.sh("grep AGE-SECRET-KEY project/test-identity.txt")?;
    let secrets = [("SOPS_AGE_KEY", identity), ("GITHUB_TOKEN", plane.token.clone())];
    let workflow = file.display().to_string();
    let mut act: Command = plane.act_command(&workflow, "push", &json!({}), &secrets)?;
    let tools = format!("zabronax/holistic@v1.2.3={}", plane.clone.display());
    act.current_dir(&repository).env("PATH", &commands).args(["--local-repository", &tools]);
    act.args(["--env", &format!("GITHUB_SERVER_URL=http://{releases}")]);
    let act = run(&mut act)?;
    act.ended("plan", "success")?;
    let observed: Value =
        serde_json::from_str(act.output("plan", "observed").ok_or("nothing observed")?)?;
    let url = observed["Repository/holistic"]["url"].as_str();
    assert_eq!(url, act.output("plan", "url"), "the typed output has the fact");
    assert!(url.is_some_and(|url| url.ends_with("zabronax/holistic")), "{observed}");
    Ok(())
}
