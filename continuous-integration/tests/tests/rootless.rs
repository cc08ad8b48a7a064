//! A user without privileges in a clone: the part of the lab that needs no root works, and what needs root says so.
//!
//! The test enters a mount namespace in which the user reaches the clone and the programs, because only root may
//! open the folders above them. The user has no name, as in a container or where a directory knows the names.

#[expect(dead_code, reason = "no test program uses every function of this module")]
mod project;

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use project::{Project, Test, reasons, say, succeeded, unsealed};
use repository_tests::{programs, root};
use serde_json::Value;
use tempfile::TempDir;

const NETWORK: &str = "127.95.0.0/16";

/// Address of the lab's forge.
const FORGE: &str = "http://127.95.0.1:3000";

/// Numeric ids of the user of the clone, and of a neighbour on the same machine.
const USER: u32 = 54_321;
const NEIGHBOUR: u32 = 54_322;

/// Script that root runs with the numeric id of a user and with a command line, which that user runs in the clone.
/// A folder `nix` in the home of the user is the store of a Nix that this user has installed; otherwise the store
/// belongs to root. No program can give privileges back, so that `sudo` would fail as well.
const AS_USER: &str = r#"
mount -t tmpfs -o mode=755 none /mnt
for pair in "clone=$CLONE" "home=$USERS_HOME" "programs=$PROGRAMS" "cache=$CACHE" "cargo=$CRATES" "rustup/toolchains/own=$RUST"; do
  mkdir -p "/mnt/${pair%%=*}"
  mount --bind "${pair#*=}" "/mnt/${pair%%=*}"
done
mkdir -p /nix
if [ -d /mnt/home/nix ]; then mount --bind /mnt/home/nix /nix; else mount -t tmpfs -o mode=755 none /nix; fi
exec setpriv --reuid "$1" --regid "$1" --clear-groups --no-new-privs env --ignore-environment \
  PATH="/mnt/programs:/mnt/rustup/toolchains/own/bin:$PATH" HOME=/mnt/home USER=ada CARGO_HOME=/mnt/cargo \
  RUSTUP_HOME=/mnt/rustup LAB_CACHE=/mnt/cache LAB_NETWORK="$NETWORK" HOLISTIC_PROGRAMS=/mnt/programs \
  bash -euo pipefail -c "cd /mnt/clone; $2"
"#;

/// Document of manifests, which are published without a build.
const MANIFESTS: &str = "---
apiVersion: holistic/v1alpha1
kind: Artifact
metadata: {name: notes}
spec: {project: holistic, manifests: {path: ./notes, repository: notes}}
";

/// A clone of this repository that belongs to a user without privileges.
struct Clone {
    project: Project,
    home: TempDir,
}

impl Clone {
    fn new() -> Test<Self> {
        let clone = Self { project: Project::new(NETWORK)?, home: tempfile::tempdir()? };
        clone.project.sh(
            "mkdir notes && printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\n' >notes/map.yaml
            git add --all && git commit --quiet -m 'Notes'",
        )?;
        fs::write(clone.home.path().join("notes.yaml"), MANIFESTS)?;
        // Neighbours may look into the clone, as into a home of Debian before version 12.
        fs::set_permissions(clone.project.root(), fs::Permissions::from_mode(0o755))?;
        Self::give(clone.project.root())?;
        Self::give(clone.home.path())?;
        Ok(clone)
    }

    /// Makes the user of the clone the owner of `path` and of everything in it.
    fn give(path: &Path) -> Test {
        let owner = format!("{USER}:{USER}");
        let mut chown = Command::new("chown");
        succeeded(chown.args(["-R", &owner]).arg(path).output()?)?;
        Ok(())
    }

    /// Runs a command line as the user with this id.
    fn run_as(&self, user: u32, line: &str) -> Test<Output> {
        let cache = env::var_os("LAB_CACHE").map_or_else(|| root().join(".cache"), PathBuf::from);
        let rust = succeeded(Command::new("rustc").args(["--print", "sysroot"]).output()?)?;
        let home = PathBuf::from(env::var_os("HOME").unwrap_or_default());
        let crates = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
        let mut enter = Command::new("unshare");
        enter.args(["--mount", "--propagation", "private", "sh", "-euc", AS_USER, "sh"]);
        enter.args([&user.to_string(), line]);
        enter.env("CLONE", self.project.root()).env("USERS_HOME", self.home.path());
        enter.env("PROGRAMS", programs()).env("CACHE", cache).env("NETWORK", NETWORK);
        let output = enter.env("RUST", rust.trim()).env("CRATES", crates).output()?;
        say(&format!("{user}: {line}\n{}", String::from_utf8_lossy(&output.stderr)));
        Ok(output)
    }

    /// Runs a command line as the user of the clone. It must succeed.
    fn run(&self, line: &str) -> Test<String> {
        succeeded(self.run_as(USER, line)?)
    }

    /// Runs a command line that must fail with the exit status `code`, and returns its messages.
    fn fails(&self, user: u32, code: i32, line: &str) -> Test<String> {
        let output = self.run_as(user, line)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{line} writes no document");
        Ok(said)
    }

    fn status(&self) -> Test<Value> {
        Ok(serde_json::from_str(&self.run("tasks/lab status")?)?)
    }

    /// Returns the numbers of writes that the services have received.
    fn writes(&self) -> Test<Value> {
        Ok(self.status()?["writes"].take())
    }

    /// Runs a command line twice, and checks that all documents are Ready and that the second run changes nothing.
    fn converges(&self, line: &str) -> Test {
        let before = self.writes()?;
        let first = self.run(line)?;
        let reasons = reasons(&first)?;
        assert!(!reasons.is_empty(), "{first}");
        assert!(reasons.iter().all(|line| line.contains(" True ")), "{reasons:?}");
        let writes = self.writes()?;
        assert_ne!(writes, before, "{line} writes");
        let second = self.run(line)?;
        assert_eq!(unsealed(&second)?, unsealed(&first)?, "{line}: the same documents");
        assert_eq!(self.writes()?, writes, "{line}: the second run writes nothing");
        Ok(())
    }
}

/// Returns the processes of a user, by their names.
fn processes_of(user: u32) -> Test<Vec<String>> {
    let mut names = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let is_owned = process.metadata().is_ok_and(|process| process.uid() == user);
        // A process may have ended since it was listed.
        if let (true, Ok(name)) = (is_owned, fs::read_to_string(process.path().join("comm"))) {
            names.push(name.trim().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

// hazard: A user without root clones the repository, and nothing of the lab starts.
// class: The lab assumes root where it needs no root.
// members: the requirements of a task, the name of the forge's user, Nix for manifests, a store of Nix that belongs to
// root, Debian's own registry on the port of the lab's, a Cluster whose nodes never start, the lab of another user
// now: only a Cluster takes root; what takes root says so before anything is built, and names what works without
#[test]
fn a_user_without_root_fills_the_forge_with_the_commands_that_a_task_names() -> Test {
    let clone = Clone::new()?;
    let said = clone.fails(USER, 1, "tasks/lifecycle")?;
    let first = said.lines().nth(1).unwrap_or_default();
    assert!(first.contains(&format!("root      this is user {USER}")), "{said}");
    let lines = said.lines().map(str::trim).filter(|line| line.starts_with("tasks/"));
    let commands: Vec<_> = lines.map(|line| line.split(" #").next().unwrap_or_default()).collect();
    let readme = fs::read_to_string(root().join("README.md"))?;
    assert!(commands.iter().all(|command| readme.contains(command)), "{commands:?}");
    let [fill, publish, "tasks/lab status", end] = commands[..] else { return Err(said.into()) };

    clone.converges(fill)?;
    let branch = clone.run(&format!("git ls-remote {FORGE}/zabronax/holistic.git main"))?;
    let commit = clone.run("git rev-parse main")?;
    assert_eq!(branch.trim(), format!("{}\trefs/heads/main", commit.trim()));

    let notes = "lab up project /mnt/home/notes.yaml | vcs-bootstrap apply | artifact-attest apply";
    clone.converges(&format!("tasks/shell sh -c '{notes}'"))?;
    let said = clone.fails(USER, 2, publish)?;
    assert!(said.contains(&format!("Nix cannot open its store for user {USER}: ")), "{said}");
    let store = clone.home.path().join("nix");
    fs::create_dir(&store)?;
    Clone::give(&store)?;
    clone.converges(publish)?;

    every_service_runs(&clone)?;
    the_lab_of_a_user_is_not_that_of_another(&clone)?;
    clone.run(&format!("{end} --yes"))?;
    assert!(!clone.project.root().join(".lab").exists());
    assert_eq!(processes_of(USER)?, [""; 0]);
    assert_eq!(clone.run("git status --porcelain")?, "", "the lab leaves no file in the clone");
    Ok(())
}

/// Starts the object store as well, which the lab runs for a Drain.
fn every_service_runs(clone: &Clone) -> Test {
    clone.run("tasks/lab up project deployments/drain.yaml")?;
    let services = clone.status()?["components"].take();
    let services = services.as_array().ok_or("no services")?;
    assert_eq!(services.len(), 4, "{services:?}");
    assert!(services.iter().all(|service| service["healthy"] == true), "{services:?}");
    assert_eq!(processes_of(USER)?, ["docker-registry", "gitea", "lab", "versitygw"]);
    Ok(())
}

fn the_lab_of_a_user_is_not_that_of_another(clone: &Clone) -> Test {
    let cases = [(NEIGHBOUR, "status"), (NEIGHBOUR, "down"), (0, "up project/project.yaml")];
    for (user, command) in cases {
        let said = clone.fails(user, 100, &format!("lab {command}"))?;
        let whose = format!("belongs to user {USER}, and this is user {user}");
        assert!(said.contains(&whose) && said.contains("LAB_DIR"), "{said}");
    }
    Ok(())
}

#[test]
fn a_cluster_without_root_is_rejected_before_anything_starts() -> Test {
    let clone = Clone::new()?;
    let said = clone.fails(USER, 100, "tasks/lab up project machines")?;
    assert!(
        said.contains(&format!(
            "a Cluster takes root, because its machines run containers, and this is user {USER}"
        )),
        "{said}"
    );
    assert!(
        said.contains("need no root, for example `lab up project | vcs-bootstrap apply`"),
        "{said}"
    );
    assert!(!clone.project.root().join(".lab").exists(), "nothing has started");
    Ok(())
}
