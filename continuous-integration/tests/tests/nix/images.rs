//! The programs as images: artifact-attest builds and publishes them, and Podman runs the ones that need git and nix.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use testing::run::container_runtime;

use crate::home::Machine;
use crate::project::{Test, document};
use crate::{PROGRAMS, all_ready};

/// A program that a builder of Nix can run without any other file: it installs itself, or says hello.
const TINY: &str = r#"#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

int main(void) {
  const char *out = getenv("out");
  if (!out) return puts("hello") < 0;
  char folder[4096], file[4096];
  snprintf(folder, sizeof folder, "%s/bin", out);
  snprintf(file, sizeof file, "%s/tiny", folder);
  mkdir(out, 0755);
  mkdir(folder, 0755);
  int from = open("/proc/self/exe", O_RDONLY), to = open(file, O_CREAT | O_WRONLY, 0755);
  return sendfile(to, from, 0, 1 << 30) <= 0;
}
"#;

const FLAKE: &str = r#"{
  outputs = { self }: {
    packages.x86_64-linux.default = derivation { name = "tiny-1.0"; system = "x86_64-linux"; builder = ./tiny; };
  };
}
"#;

const ARTIFACT: &str = "---
apiVersion: holistic/v1alpha1
kind: Artifact
metadata: {name: tiny}
spec:
  project: holistic
  sourceCheck: skip
  source: https://git.example.org/example/tiny
  build: {flake: ./tiny}
  image: {repository: tiny, entrypoint: [/bin/tiny]}
";

/// artifact-attest builds every program, including itself, twice, as it builds any source.
pub(crate) fn programs_are_published_and_run_as_images(machine: &Machine) -> Test {
    let root = machine.tools.root();
    let plan = "export SOPS_AGE_KEY_FILE=project/test-identity.txt
        { nix run $NIXPKGS .#lab -- up project; cat tools/images/x86_64-linux.yaml; } \
        | nix run $NIXPKGS .#artifact-attest -- plan";
    let planned = machine.sh(root, plan)?;
    for program in PROGRAMS {
        let plan =
            document(&planned, "Artifact", &format!("{program}-amd64"))?["status"]["plan"].take();
        assert!(plan[0].to_string().contains(program), "{program}: {plan}");
    }
    fs::write(root.join(".lab/images.json"), planned)?;
    let apply = r#"export SOPS_AGE_KEY_FILE=project/test-identity.txt
        jq -c 'select(.kind != "Artifact" or (.metadata.name | test("^(artifact-attest|vcs-bootstrap)-")))
          | if .kind == "Artifact" then .spec.sourceCheck = "skip" else . end' .lab/images.json \
        | nix run $NIXPKGS .#artifact-attest -- apply"#;
    let applied = machine.sh(root, apply)?;
    all_ready(&applied)?;
    let image = |name: &str| -> Test<String> {
        let observed = document(&applied, "Artifact", name)?["status"]["observed"].take();
        assert_eq!(observed["reproducible"], true);
        Ok(observed["reference"].as_str().ok_or("no reference")?.to_owned())
    };
    let podman = Podman { machine, storage: tempfile::tempdir_in("/tmp")? };
    a_container_reads_a_repository_of_another_user(&podman, &image("vcs-bootstrap-amd64")?)?;
    a_container_builds_and_publishes(&podman, &image("artifact-attest-amd64")?)?;
    machine.sh(root, "nix run $NIXPKGS .#lab -- down --wipe --yes")?;
    Ok(())
}

/// Podman with a storage of its own.
struct Podman<'a> {
    machine: &'a Machine,
    /// Folder directly below `/tmp`, because Podman accepts no path of more than 50 characters.
    storage: TempDir,
}

impl Podman<'_> {
    /// Returns the command that runs `image` in `folder`. The copy of this repository has the same path in the container,
    /// and secrets are read with the published identity.
    fn run(&self, folder: &Path, options: &str, image: &str) -> String {
        let (runtime, cgroups) = container_runtime();
        let (root, folder) = (self.machine.tools.root().display(), folder.display());
        let storage = self.storage.path().display();
        format!(
            "podman --root {storage}/root --runroot {storage}/run --storage-driver vfs \
            --cgroup-manager cgroupfs --runtime {runtime} run --rm --interactive --network host {cgroups} \
            --tls-verify=false --volume {root}:{root} --workdir {folder} \
            --env SOPS_AGE_KEY_FILE={root}/project/test-identity.txt {options} {image}"
        )
    }
}

/// The repository belongs to root, and the process of the image does not.
fn a_container_reads_a_repository_of_another_user(podman: &Podman<'_>, image: &str) -> Test {
    let root = podman.machine.tools.root();
    let container = podman.run(root, "", image);
    let plan = format!(
        "chmod -R go+rX .lab/secrets
        jq -c 'select(.kind != \"Artifact\")' .lab/images.json | {container} plan"
    );
    let planned = podman.machine.sh(root, &plan)?;
    let plan = document(&planned, "Repository", "holistic")?["status"]["plan"].take();
    assert!(plan.to_string().contains("push"), "{plan}");
    Ok(())
}

/// Nix builds in its sandbox, which needs `--privileged`, and without that the program says so.
fn a_container_builds_and_publishes(podman: &Podman<'_>, image: &str) -> Test {
    let machine = podman.machine;
    let folder = machine.tools.root().join(".lab/container");
    fs::create_dir_all(folder.join("tiny"))?;
    fs::write(folder.join("tiny.c"), TINY)?;
    fs::write(folder.join("tiny/flake.nix"), FLAKE)?;
    fs::write(folder.join("artifact.yaml"), ARTIFACT)?;
    let make = "cc -static -o tiny/tiny tiny.c
        jq -c 'select(.kind == \"Project\")' ../images.json >project.json
        mkdir project
        cp ../../project/secrets.yaml project
        git init --quiet --initial-branch=main
        git config user.name tester
        git config user.email tester@example.org
        git add --all
        git commit --quiet --message 'A program'
        chown -R 1000:1000 .";
    machine.sh(&folder, make)?;
    fs::write(folder.join("nix.conf"), "substituters =\n")?; // no network
    let apply = |options: &str| {
        let options = format!("--env NIX_CONF_DIR={} {options}", folder.display());
        podman.run(&folder, &options, image) + " apply project.json artifact.yaml"
    };
    let refused = machine.sh(&folder, &format!("{} 2>&1 || echo status $?", apply("")))?;
    assert!(refused.contains("--privileged") && refused.contains("status 100"), "{refused}");
    let applied = machine.sh(&folder, &apply("--privileged"))?;
    all_ready(&applied)?;
    let observed = document(&applied, "Artifact", "tiny")?["status"]["observed"].take();
    assert_eq!(observed["reproducible"], true);
    let reference = observed["reference"].as_str().ok_or("no reference")?;
    assert_eq!(machine.sh(&folder, &podman.run(&folder, "", reference))?, "hello\n");
    Ok(())
}
