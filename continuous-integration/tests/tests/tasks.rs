//! The tasks before they build or destroy: the list of missing requirements, and the question. Stand-ins on
//! PATH replace the programs that a task calls, so that nothing is built or destroyed.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use repository_tests::{root, write_script};
use tempfile::TempDir;

type Test<T = ()> = Result<T, Box<dyn Error>>;

/// A machine with a project and only those programs on PATH that a test names.
struct Machine(TempDir);

impl Machine {
    fn new() -> Test<Self> {
        let machine = Self(tempfile::tempdir()?);
        for folder in ["bin", "project/.lab", "cache", "home"] {
            fs::create_dir_all(machine.path(folder))?;
        }
        // Programs that every Debian system has.
        for program in [
            "bash", "env", "dirname", "sed", "cut", "sort", "head", "tail", "tr", "cat", "mkdir",
            "mv", "rm", "grep", "touch", "du",
        ] {
            machine.borrow(program)?;
        }
        Ok(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Links a program of this machine into the PATH of the test.
    fn borrow(&self, program: &str) -> Test {
        let folders = ["/usr/bin", "/bin"].iter().map(|folder| PathBuf::from(folder).join(program));
        let found = folders.into_iter().find(|path| path.exists()).ok_or(program)?;
        Ok(symlink(found, self.path("bin").join(program))?)
    }

    /// Adds a stand-in: a shell script in place of `program`.
    fn stand_in(&self, program: &str, script: &str) -> Test {
        let script = format!("#!{}\n{script}\n", self.path("bin/bash").display());
        Ok(write_script(&self.path("bin").join(program), &script)?)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.path("home"))
            .env("CNI_PATH", self.path("bin"))
            .env("MEMINFO", self.path("meminfo"))
            .env("LAB_CACHE", self.path("cache"))
            .env("CARGO_TARGET_DIR", self.path("target"))
            .env("HOLISTIC_PROJECT", self.path("project"))
            .stdin(Stdio::null());
        command
    }

    fn task(&self, name: &str, arguments: &[&str]) -> Command {
        let mut task = self.command(&root().join("tasks").join(name).display().to_string());
        task.args(arguments);
        task
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

// hazard: A missing requirement is reported after minutes of building, and the next one after that.
// class: An error that was known at the beginning is reported at the end.
// members: root, git, cargo, Go, disk, memory, packages
// now: one list before the first build
#[test]
fn every_missing_requirement_is_listed_at_once_with_its_figures() -> Test {
    let machine = Machine::new()?;
    machine.stand_in("id", "echo 65534")?;
    machine.stand_in("du", "echo 0")?;
    machine
        .stand_in("cargo", "[ \"$1\" = --version ] && echo cargo 1.63.0 || touch $HOME/built")?;
    machine.stand_in("go", "[ \"$1\" = version ] && echo go version go1.19.8 linux/amd64")?;
    machine.stand_in("df", "case $1 in --output=target) printf 'Mounted on\\n/data\\n' ;; *) printf 'Avail\\n  2048\\n' ;; esac")?;
    fs::write(machine.path("meminfo"), "MemTotal: 9 kB\nMemAvailable: 1536000 kB\n")?;
    for task in ["lifecycle", "test"] {
        let output = machine.task(task, &[]).output()?;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let name = format!("7 of the requirements of tasks/{task}, and nothing was built");
        let works = match task {
            "test" => "without root, `tasks/test quick` runs every check that needs no component",
            _ => "tasks/shell sh -c 'lab up project | vcs-bootstrap apply'",
        };
        let (target, disk) =
            if task == "test" { ("target 14000", "36000") } else { ("target 3300", "16500") };
        for line in [
            name.as_str(),
            "root      this is user 65534",
            works,
            "git       is not installed",
            "cargo     1.63.0 is installed, and Rust 1.89 or newer is needed",
            "go        1.19.8 is installed, and Go 1.26.2 or newer builds ",
            &format!(
                "disk      /data has 2048 MiB free, and the build takes about {disk} MiB ({target}, .cache "
            ),
            "memory    1500 MiB are available, and about 4096 MiB are needed",
            "packages  not installed: docker-registry git jq ",
            "`systemctl disable --now docker-registry`, because Debian's own registry uses port 5000",
        ] {
            assert!(said.contains(line), "{task} lacks `{line}`:\n{said}");
        }
        assert_eq!(said.matches("help: ").count(), 7, "{said}");
        assert!(!machine.path("home/built").exists(), "{task} has called cargo");
    }
    Ok(())
}

#[test]
fn a_requirement_that_is_met_is_not_in_the_list_and_newer_versions_are_accepted() -> Test {
    let machine = Machine::new()?;
    machine.stand_in("id", "echo 0")?;
    machine.stand_in("git", "exit 0")?;
    machine.stand_in("apt-get", "exit 1")?;
    machine.stand_in(
        "cargo",
        "[ \"$1\" = --version ] && echo 'cargo 1.100.0 (abc 2027-01-01)' || touch $HOME/built",
    )?;
    machine.stand_in("df", "case $1 in --output=target) printf 'Mounted on\\n/\\n' ;; *) printf 'Avail\\n900000\\n' ;; esac")?;
    fs::write(machine.path("meminfo"), "MemTotal: 9 kB\nMemAvailable: 4194304 kB\n")?;
    let output = machine.task("lifecycle", &[]).output()?;
    let said = stderr(&output);
    assert!(said.contains("lacks 1 of the requirements"), "{said}");
    assert!(
        said.contains("go        is not installed, and Go 1.26.2 or newer builds etcd kubernetes"),
        "{said}"
    );

    // The services of a lab that runs already have taken their memory.
    fs::write(machine.path("meminfo"), "MemAvailable: 1024 kB\n")?;
    let said = stderr(&machine.task("lifecycle", &[]).output()?);
    assert!(said.contains("memory    1 MiB are available"), "{said}");
    fs::write(machine.path("project/.lab/made-by-lab"), "")?;

    // Components that are built need no Go, and the check passes on to cargo.
    for component in ["etcd", "kubernetes", "gitea", "flux", "crane", "object-store"] {
        fs::create_dir_all(machine.path("cache/components").join(component).join("key"))?;
    }
    let said = stderr(&machine.task("lifecycle", &[]).output()?);
    assert!(!said.contains("requirements of"), "{said}");
    assert!(machine.path("home/built").exists(), "{said}");
    Ok(())
}

// hazard: A task refuses a machine on which it has always run, because an estimate is larger than what is free.
// class: An estimate is treated as a certainty.
// members: disk, memory; caches that exist
// now: what exists is subtracted; below the estimate a warning, below half of it a refusal
#[test]
fn an_estimate_warns_and_what_caches_hold_is_not_needed_again() -> Test {
    let machine = Machine::new()?;
    for (program, script) in [
        ("id", "echo 0"),
        ("git", "exit 0"),
        ("apt-get", "exit 0"),
        (
            "cargo",
            "[ \"$1\" = --version ] && echo 'cargo 1.100.0' || { touch $HOME/built; exit 1; }",
        ),
        ("go", "[ \"$1\" = version ] && echo go version go1.99 linux/amd64"),
        ("du", "printf '3000\\t%s\\n' $3"),
    ] {
        machine.stand_in(program, script)?;
    }
    // `lifecycle` takes 16500 MiB. The cache folder exists, and the stand-in for `du` says that it holds 3000 MiB.
    for (free_mib, available_mib, name, lines) in [
        (16_500, 4_096, None, vec![]),
        (15_300, 4_096, None, vec![]),
        (15_299, 4_096, Some("warning"), vec!["disk      /data has 15299 MiB free"]),
        (
            7_650,
            2_048,
            Some("warning"),
            vec!["disk      /data has 7650 MiB free", "memory    2048"],
        ),
        (7_649, 4_096, Some("error"), vec!["disk      /data has 7649 MiB free"]),
        (16_500, 2_047, Some("error"), vec!["memory    2047 MiB"]),
    ] {
        machine.stand_in("df", &format!("case $1 in --output=target) printf 'Mounted on\\n/data\\n' ;; *) printf 'Avail\\n{free_mib}\\n' ;; esac"))?;
        fs::write(machine.path("meminfo"), format!("MemAvailable: {} kB\n", available_mib * 1024))?;
        let _ = fs::remove_file(machine.path("home/built"));
        let said = stderr(&machine.task("lifecycle", &[]).output()?);
        for level in ["warning", "error"] {
            let listed = said.contains(&format!("{level}: this machine "));
            assert_eq!(listed, name == Some(level), "{free_mib} {available_mib}:\n{said}");
        }
        assert!(
            lines.iter().all(|line| said.contains(line)),
            "{free_mib} {available_mib}:\n{said}"
        );
        assert_eq!(machine.path("home/built").exists(), name != Some("error"), "{said}");
        assert!(!said.contains(".cache 1200") && !said.contains(".cache -"), "{said}");
    }
    Ok(())
}

#[test]
fn the_check_knows_every_package_that_the_lab_installs() -> Test {
    let source = fs::read_to_string(root().join("tools/lab/src/install.rs"))?;
    let mut installed = Vec::new();
    for call in source.split("    tool(").skip(1) {
        let words: Vec<_> = call.split('"').skip(1).step_by(2).take(2).collect();
        installed.push(words.join("="));
    }
    assert!(installed.len() > 10, "{installed:?}");
    let task = fs::read_to_string(root().join("tasks/requirements.sh"))?;
    let line = task.lines().find_map(|line| line.strip_prefix("lab_packages=\""));
    let line = line.ok_or("no packages")?.trim_end_matches('"');
    assert_eq!(line.split(' ').collect::<Vec<_>>(), installed);
    // `tasks/test` installs further packages. Those that a shell always has as a command are no package.
    let test = fs::read_to_string(root().join("tasks/test"))?;
    let needs = test.lines().filter_map(|line| line.strip_prefix("need "));
    let needs = needs.flat_map(|line| line.split(" #").next().unwrap_or_default().split(' '));
    let needs: BTreeSet<_> =
        needs.filter(|pair| !installed.iter().any(|known| known == pair)).collect();
    let line = task.lines().find_map(|line| line.strip_prefix("test_packages=\""));
    let line = line.ok_or("no packages of the tests")?.trim_end_matches('"');
    assert_eq!(line.split(' ').collect::<BTreeSet<_>>(), needs);
    Ok(())
}

#[test]
fn a_task_names_a_build_only_when_there_is_something_to_build() -> Test {
    let machine = Machine::new()?;
    for (program, script) in
        [("git", "exit 0"), ("lab", "exit 0"), ("cargo", "mkdir -p $CARGO_TARGET_DIR/debug")]
    {
        machine.stand_in(program, script)?;
    }
    machine.borrow("find")?;
    let said = || Ok::<_, Box<dyn Error>>(stderr(&machine.task("lab", &["status"]).output()?));
    let message = "building the programs with cargo";
    assert_eq!(said()?, format!("{message}; the first build takes minutes\n"));
    assert_eq!(said()?, "");
    // Every source is newer than a build of 1970.
    let old = fs::File::options().write(true).open(machine.path("target/debug/built"))?;
    old.set_modified(std::time::UNIX_EPOCH)?;
    assert_eq!(said()?, format!("{message}\n"));
    assert_eq!(said()?, "");
    Ok(())
}

#[test]
fn a_task_builds_incrementally_only_where_a_developer_has() -> Test {
    let machine = Machine::new()?;
    for (program, script) in [
        ("git", "exit 0"),
        ("lab", "exit 0"),
        ("cargo", "mkdir -p $CARGO_TARGET_DIR/debug/incremental; echo ${CARGO_INCREMENTAL-1} >&2"),
    ] {
        machine.stand_in(program, script)?;
    }
    machine.borrow("find")?;
    let said = || Ok::<_, Box<dyn Error>>(stderr(&machine.task("lab", &["status"]).output()?));
    assert!(said()?.ends_with("\n0\n"));
    // `cargo build` makes this folder with every build, and files in it only when it builds incrementally.
    fs::create_dir(machine.path("target/debug/incremental/lab-1"))?;
    fs::remove_file(machine.path("target/debug/built"))?;
    assert!(said()?.ends_with("\n1\n"));
    Ok(())
}

/// A machine whose programs only write their command line to `$HOME/called`.
fn sunset() -> Test<Machine> {
    let machine = Machine::new()?;
    for program in
        ["git", "flock", "lab", "data-drain", "flux-seed", "talos-provision", "vcs-bootstrap"]
    {
        machine.stand_in(program, &format!("echo {program} >>$HOME/called; [ -t 0 ] || cat"))?;
    }
    machine.borrow("jq")?;
    let documents = r#"{"kind":"Project","metadata":{"name":"a"}}
{"kind":"Repository","metadata":{"name":"home"},"spec":{"onDestroy":"delete"}}
{"kind":"Cluster","metadata":{"name":"prod"}}
"#;
    fs::write(machine.path("project/.lab/documents.json"), documents)?;
    Ok(machine)
}

// hazard: One word in a history of a shell destroys a cluster and its machines.
// class: Destruction without a question.
// members: `tasks/sunset`, `tasks/lab down --wipe`
// now: a list and a question; `--yes` for scripts
#[test]
fn sunset_destroys_nothing_without_an_answer() -> Test {
    let machine = sunset()?;
    for (arguments, reason) in [
        (&[][..], "the destruction is not confirmed, so nothing was changed"),
        (&["--force"], "unknown arguments: --force"),
        (&["--yes", "prod"], "unknown arguments: --yes prod"),
    ] {
        let mut task = machine.task("sunset", arguments);
        let output = task.env("HOLISTIC_PROGRAMS", machine.path("bin")).output()?;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(reason), "{said}");
        assert!(!machine.path("home/called").exists(), "{arguments:?}: {said}");
    }
    let mut task = machine.task("sunset", &["--yes"]);
    task.env("HOLISTIC_PROGRAMS", machine.path("bin")).output()?;
    let called = fs::read_to_string(machine.path("home/called"))?;
    let expected = ["flock", "lab", "data-drain", "flux-seed", "talos-provision", "vcs-bootstrap"];
    assert_eq!(called.lines().collect::<Vec<_>>(), expected);
    Ok(())
}

#[test]
fn sunset_lists_the_resources_and_asks_on_a_terminal() -> Test {
    for (answer, is_run) in [("n\n", false), ("\n", false), ("y\n", true)] {
        let machine = sunset()?;
        // `script` of util-linux gives the task a terminal.
        let mut script = machine.command("/usr/bin/script");
        let task = root().join("tasks/sunset").display().to_string();
        script.args(["--quiet", "--return", "--command", &task, "/dev/null"]);
        script.env("SHELL", machine.path("bin/bash")).env("HOLISTIC_PROGRAMS", machine.path("bin"));
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        std::io::Write::write_all(&mut child.stdin.take().ok_or("no input")?, answer.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let list = "  Cluster/prod: the machines and their disks\r\n  Repository/home: delete\r\n";
        assert!(said.contains(list), "in the order of the destruction: {said}");
        assert!(said.contains("Continue? [y/N]"), "{said}");
        assert_eq!(machine.path("home/called").exists(), is_run, "{answer:?}: {said}");
    }
    Ok(())
}
