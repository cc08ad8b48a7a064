//! `lab build` with a fake `go` that each test scripts: the contents of the cache, the messages, and
//! the files that a failed build leaves.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin;
use tempfile::TempDir;
use testing::Test;
use testing::run::stderr;

/// Writes the program to the folder after `-o`, as `go build` does.
const WELL: &str = r#"
while [ "$1" != -o ]; do shift; done
echo example.org/compiled >&2
echo program >"$2/versitygw""#;

/// A repository with one component, and a PATH with little more than a `go`.
struct Repository(TempDir);

impl Repository {
    fn new(go: &str) -> Test<Self> {
        let repository = Self(tempfile::tempdir()?);
        let module = repository.module();
        fs::create_dir_all(&module)?;
        fs::write(module.join("go.mod"), "module x\n\ngo 1.26.0\n")?;
        fs::write(module.join("go.sum"), "")?;
        fs::create_dir(repository.0.path().join("bin"))?;
        for program in ["sh", "sleep"] {
            let found = ["/bin", "/usr/bin"].iter().map(|folder| Path::new(folder).join(program));
            let found = found.into_iter().find(|path| path.exists()).ok_or("a shell")?;
            symlink(found, repository.0.path().join("bin").join(program))?;
        }
        repository.set_go(go)?;
        Ok(repository)
    }

    fn module(&self) -> PathBuf {
        self.0.path().join("continuous-integration/components/object-store")
    }

    fn set_go(&self, script: &str) -> Test {
        let go = self.0.path().join("bin/go");
        fs::write(&go, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&go, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn build(&self) -> Assert {
        let mut lab = Command::new(cargo_bin!("lab"));
        lab.env_clear().env("PATH", self.0.path().join("bin")).current_dir(self.0.path());
        lab.args(["build", "object-store"]).assert()
    }

    fn program(&self) -> PathBuf {
        self.0.path().join(".cache/bin/versitygw")
    }

    /// Returns the names of the entries in the component's cache.
    fn built(&self) -> Vec<String> {
        let folder = self.0.path().join(".cache/components/object-store");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

#[test]
fn a_component_is_built_once_and_again_when_its_go_sum_changes() -> Test {
    let repository = Repository::new(WELL)?;
    let said = stderr(&repository.build().success().stdout(""));
    assert!(said.contains("object-store building component 1 of 1"), "{said}");
    assert!(said.contains("object-store build") && said.contains("1 packages compiled"), "{said}");
    assert_eq!(fs::read_to_string(repository.program())?, "program\n");
    assert_eq!(stderr(&repository.build().success()), "", "no build and no message");

    fs::write(repository.module().join("go.sum"), "x v1 h1:y\n")?;
    repository.build().success();
    assert_eq!(repository.built().len(), 2, "the first build stays in the cache");
    Ok(())
}

#[test]
fn each_build_reports_its_place_among_those_that_are_missing() -> Test {
    let repository = Repository::new(
        r#"while [ "$1" != -o ]; do shift; done; for program in versitygw act actionlint server; do echo x >"$2/$program"; done"#,
    )?;
    for component in ["etcd", "actions"] {
        let module = repository.module().with_file_name(component);
        fs::create_dir_all(&module)?;
        fs::write(module.join("go.mod"), "module x\n\ngo 1.26.0\n")?;
        fs::write(module.join("go.sum"), "")?;
    }
    repository.build().success();
    let mut lab = Command::new(cargo_bin!("lab"));
    lab.env_clear().env("PATH", repository.0.path().join("bin")).current_dir(repository.0.path());
    let said = stderr(&lab.args(["build", "object-store", "actions", "etcd"]).assert());
    assert!(said.contains("building component 1 of 2"), "{said}");
    assert!(said.contains("building component 2 of 2"), "{said}");
    assert!(!said.contains("object-store"), "it is built already: {said}");
    Ok(())
}

/// Nix gives the lab what its binary cache has. A component is in the form of the cache, so a program has the name that
/// it has after a build.
#[test]
fn a_component_that_is_given_is_not_built() -> Test {
    let repository = Repository::new("exit 1")?;
    let given = repository.0.path().join("given/object-store");
    fs::create_dir_all(&given)?;
    let build = || {
        let mut lab = Command::new(cargo_bin!("lab"));
        lab.env_clear().env("PATH", repository.0.path().join("bin"));
        lab.env("LAB_BUILT", "given").current_dir(repository.0.path());
        lab.args(["build", "object-store"]).assert()
    };
    build().failure(); // `go` runs, because a program is missing
    fs::write(given.join("versitygw"), "given\n")?;
    assert_eq!(stderr(&build().success()), "", "no build and no message");
    assert_eq!(fs::read_to_string(repository.program())?, "given\n");

    // Without it, the lab builds the component again.
    repository.set_go(WELL)?;
    repository.build().success();
    assert_eq!(fs::read_to_string(repository.program())?, "program\n");
    Ok(())
}

#[test]
fn links_stay_valid_when_the_cache_is_moved() -> Test {
    let repository = Repository::new(WELL)?;
    repository.build().success();
    let moved = repository.0.path().join("moved");
    fs::rename(repository.0.path().join(".cache"), &moved)?;
    assert_eq!(fs::read_to_string(moved.join("bin/versitygw"))?, "program\n");
    Ok(())
}

#[test]
fn a_failed_build_reports_the_error_of_go_and_leaves_only_the_log() -> Test {
    let repository = Repository::new("echo 'x.go:1: undefined: y' >&2; exit 1")?;
    let said = stderr(&repository.build().code(100));
    assert!(said.contains("object-store does not build: x.go:1: undefined: y"), "{said}");
    let log = repository.0.path().join(".cache/logs/object-store.log");
    assert!(said.contains(&log.display().to_string()), "{said}");
    assert!(fs::read_to_string(log)?.contains("undefined: y"));
    assert_eq!(repository.built(), Vec::<String>::new());

    repository.set_go(WELL)?;
    repository.build().success();
    Ok(())
}

#[test]
fn an_old_or_missing_go_is_reported_with_the_version_to_install() -> Test {
    let old =
        "echo 'go: go.mod requires go >= 1.26.0 (running go 1.19; GOTOOLCHAIN=local)' >&2; exit 1";
    let repository = Repository::new(old)?;
    let said = stderr(&repository.build().code(100));
    assert!(said.contains("requires go >= 1.26.0 (running go 1.19"), "{said}");
    assert!(said.contains("help: install that version"), "{said}");

    fs::remove_file(repository.0.path().join("bin/go"))?;
    let said = stderr(&repository.build().code(100));
    assert!(said.contains("there is no `go`"), "{said}");
    assert!(said.contains("help: install Go 1.26.0 or newer"), "{said}");
    Ok(())
}

#[test]
fn a_full_disk_is_reported_as_such_and_not_as_a_compile_error() -> Test {
    let go = "echo 'write $WORK/b001/x.a: no space left on device' >&2; echo 'exit 1' >&2; exit 1";
    let said = stderr(&Repository::new(go)?.build().code(100));
    assert!(said.contains("no space is left on the disk"), "{said}");
    assert!(said.contains("LAB_CACHE"), "{said}");
    Ok(())
}

/// A build is complete or absent, in whatever way `lab` ends.
#[test]
fn a_build_that_is_interrupted_or_killed_leaves_no_partial_component() -> Test {
    for (signal, code) in [("-TERM", Some(111)), ("-KILL", None)] {
        let repository = Repository::new(
            r#"while [ "$1" != -o ]; do shift; done; echo half >"$2/versitygw"; exec sleep 3"#,
        )?;
        let mut lab = process::Command::new(cargo_bin!("lab"));
        lab.env_clear().env("PATH", repository.0.path().join("bin"));
        lab.current_dir(repository.0.path()).args(["build", "object-store"]);
        let mut lab = lab.stderr(Stdio::null()).spawn()?;
        let half = || repository.built().iter().any(|name| name.starts_with(".unfinished"));
        let end = Instant::now() + Duration::from_secs(10);
        while !half() && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        Command::new("kill").args([signal, &lab.id().to_string()]).assert().success();
        assert_eq!(lab.wait()?.code(), code);
        assert!(!repository.program().exists(), "{signal}");

        repository.set_go(WELL)?;
        repository.build().success();
        assert_eq!(fs::read_to_string(repository.program())?, "program\n");
        assert_eq!(repository.built().len(), 1, "{signal}: only the complete build");
    }
    Ok(())
}
