//! A user without privileges pulls a published image with Podman, and runs it.
//!
//! The test makes that user: files over those of `/etc` in a mount namespace of its own.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Result, Sandbox, Server, Test, reference};
use testing::run::{container_runtime, path};

/// A program that needs no other file, because an image has only what its build needs.
const PROGRAM: &str = "echo 'int main(void) { return printf(\\\"uid %d\\\\n\\\", getuid()) < 0; }' | cc -static -w -x c - -o $out/bin/tiny";

/// Script that root runs with `$1`, a folder, and `$2`, the command line of the user. The user owns the
/// folder's `home`, which is reached through `/mnt`, because only root may open the folders above it.
const AS_USER: &str = r#"
cd "$1"
printf 'root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/mnt/home:/bin/sh\n' >passwd
echo user:100000:65536 >subids
mkdir -p home/run
chown -R 1000:1000 home
chmod 755 .
for file in subuid subgid; do [ -e /etc/$file ] || : >/etc/$file; mount --bind subids /etc/$file; done
mount --bind passwd /etc/passwd
mount --bind . /mnt
exec setpriv --reuid 1000 --regid 1000 --clear-groups env --ignore-environment \
  PATH="$PATH" HOME=/mnt/home XDG_RUNTIME_DIR=/mnt/home/run sh -euc "cd; $2"
"#;

/// Runs `line` as a user without privileges, and returns its output.
fn as_user(folder: &Path, line: &str) -> Result<(bool, String)> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-euc", AS_USER, "sh"]);
    let output = unshare.arg(folder).arg(line).env("PATH", path()).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// Returns the command line that pulls and runs the image of `document`.
fn podman(document: &Value) -> Result<String> {
    let (runtime, options) = container_runtime();
    let image = reference(document)?;
    Ok(format!(
        "podman --storage-driver vfs --runtime {runtime} pull --quiet --tls-verify=false {image}
         podman --storage-driver vfs --runtime {runtime} run --rm --network none {options} {image}"
    ))
}

#[test]
fn a_user_without_privileges_pulls_and_runs_an_image_by_its_digest() -> Test {
    let folder = tempfile::tempdir()?;
    let server = Server::docker("127.75.0.140:5000", folder.path(), true)?;
    let sandbox = Sandbox::new(&server.1)?;
    let flake = fs::read_to_string(sandbox.inside("sources/tiny/flake.nix"))?;
    let copied = "cp ${./run} $out/bin/tiny";
    assert!(flake.contains(copied), "{flake}");
    sandbox.write("sources/tiny/flake.nix", &flake.replace(copied, PROGRAM))?;
    sandbox.commit("a program that needs no shell")?;
    let applied = sandbox.expect(0, "apply", &sandbox.documents("tiny"))?;

    let user = tempfile::tempdir()?;
    let (is_done, said) = as_user(user.path(), &podman(&applied[1])?)?;
    assert!(is_done && said.lines().any(|line| line == "uid 65532"), "{said}");
    Ok(())
}
