//! Secrets in 1Password: a stand-in for its command `op` on PATH answers as `op read` does.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use repository_tests::{programs, write_script};
use serde_json::{Value, json};
use tempfile::TempDir;
use testing::Test;
use testing::documents::{STRANGER, document, stream};
use testing::run::{feed, path};

/// A root of 32 bytes in hexadecimal digits.
const ROOT: &str = "6f7020726561642070726f746563747320746869732068657861646563696d21";

/// Prints the root for one reference, and only with the token of a service account.
const OP: &str = r#"#!/bin/sh
if [ "$#" != 2 ] || [ "$1" != read ]; then echo "[ERROR] unknown command" >&2; exit 6; fi
if [ "$OP_SERVICE_ACCOUNT_TOKEN" != ops_token ]; then
  echo "[ERROR] no account found for filter" >&2
  exit 1
fi
case "$2" in
  op://infrastructure/holistic/root) echo "$STORED" ;;
  *) echo hunter2; echo "[ERROR] \"$2\" isn't an item" >&2; exit 1 ;;
esac
"#;

/// Derives the keys of a Repository from a Project with this root, to `to`.
fn derive(root: &Value, to: &Path, token: &str) -> Test<Output> {
    let folder = TempDir::new()?;
    let op = folder.path().join("op");
    write_script(&op, OP)?;
    let forge = json!({"gitea": {"url": "https://git.example.org", "token": {"env": "TOKEN"}}});
    let documents = [
        document(
            "Project",
            "shop",
            json!({
                "root": root,
                "recipients": [{"name": "founder", "age": STRANGER}],
                "endpoints": {"forge": forge},
            }),
        ),
        document(
            "Repository",
            "app",
            json!({"project": "shop", "owner": "shop", "deployKeys": ["flux-seed"]}),
        ),
    ];
    let mut command = Command::new(programs().join("vcs-bootstrap"));
    command.args(["derive", "--verbose", "--to"]).arg(to).current_dir(folder.path());
    let mut folders = folder.path().as_os_str().to_owned();
    folders.push(":");
    folders.push(path());
    command.env_clear().env("PATH", folders);
    command.env("STORED", ROOT).env("ROOT", ROOT).env("OP_SERVICE_ACCOUNT_TOKEN", token);
    Ok(feed(&mut command, stream(&documents).as_bytes())?)
}

fn key(to: &Path) -> Test<String> {
    Ok(fs::read_to_string(to.join("vcs-bootstrap/app/deploy-keys.pub"))?)
}

#[test]
fn a_root_that_op_reads_derives_the_same_keys_as_one_in_the_environment() -> Test {
    let to = TempDir::new()?;
    let (one, other) = (to.path().join("one"), to.path().join("other"));
    let reference = json!({"command": ["op", "read", "op://infrastructure/holistic/root"]});
    for (root, folder) in [(reference, &one), (json!({"env": "ROOT"}), &other)] {
        let output = derive(&root, folder, "ops_token")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(!said.contains(ROOT), "{said}");
    }
    assert_eq!(key(&one)?, key(&other)?);
    Ok(())
}

#[test]
fn a_failure_of_op_is_reported_without_any_output_of_it() -> Test {
    let to = TempDir::new()?;
    for (token, item, cause) in
        [("", "holistic", "no account found"), ("ops_token", "other", "isn't an item")]
    {
        let reference = format!("op://infrastructure/{item}/root");
        let root = json!({"command": ["op", "read", reference]});
        let output = derive(&root, &to.path().join(item), token)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(100 | 111)), "{:?}: {said}", output.status);
        assert!(said.contains("`op`") && said.contains(cause), "{said}");
        assert!(
            !said.contains("hunter2"),
            "the output of a failed command may be a secret: {said}"
        );
        assert!(!to.path().join(item).join("vcs-bootstrap").exists());
    }
    Ok(())
}
