//! A copy of this repository in a temporary folder, with a lab of its own.

mod oracle;
mod schema;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::Instant;

use repository_tests::{OWNERS, programs, root};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) type Test<T = ()> = Result<T, Box<dyn Error>>;

/// Folders with the documents of this repository, in the order of the pipe.
pub(crate) const DOCUMENTS: &str = "project sources machines/prod deployments";

/// Programs of the pipe forward, in their order.
pub(crate) const PROGRAMS: [&str; 4] =
    ["vcs-bootstrap", "artifact-attest", "talos-provision", "flux-seed"];

/// A project and its lab. Dropping the project ends the lab.
pub(crate) struct Project {
    folder: TempDir,
    network: &'static str,
    /// Folder of the programs' caches: those of this machine, as in a second run by a user, or empty.
    caches: PathBuf,
    /// Documents that the programs have written, one per line.
    written: RefCell<BTreeSet<String>>,
}

impl Project {
    /// Copies the working tree of this repository, including uncommitted files, into a new repository.
    pub(crate) fn new(network: &'static str) -> Test<Self> {
        Self::copy_of(&root(), network)
    }

    /// Like [`Self::new`], from the template of a project.
    pub(crate) fn of_template(network: &'static str) -> Test<Self> {
        Self::copy_of(&root().join("templates/project"), network)
    }

    fn copy_of(here: &Path, network: &'static str) -> Test<Self> {
        let folder = tempfile::Builder::new().prefix("holistic-").tempdir()?;
        let (caches, written) = (cache().join("tests"), RefCell::default());
        let project = Self { folder, network, caches, written };
        let copy = r#"
            cd "$HERE"
            git ls-files -z --cached --others --exclude-standard \
              | while IFS= read -r -d "" file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done \
              | tar --null --files-from=- -cf - | tar -C "$TO" -xf -
            cd "$TO"
            git init --quiet --initial-branch=main
            git config user.name tester
            git config user.email tester@example.org
            git add --all
            GIT_AUTHOR_DATE="2026-11-01T00:00:00Z" GIT_COMMITTER_DATE="2026-11-01T00:00:00Z" git commit --quiet -m "As it stands"
        "#;
        let mut copy = project.command("bash", &["-euc", copy]);
        let copied = copy.env("HERE", here).env("TO", project.root()).output()?;
        succeeded(copied)?;
        Ok(project)
    }

    /// Like [`Self::new`], with empty caches, so that every artifact is built twice.
    pub(crate) fn of_a_newcomer(network: &'static str) -> Test<Self> {
        let mut project = Self::new(network)?;
        project.caches = project.root().join(".cache");
        Ok(project)
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Returns a command in this project without the developer's environment.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let cache = cache();
        let binaries = env::var_os("LAB_BIN").map_or_else(|| cache.join("bin"), Into::into);
        let mut path = vec![programs(), binaries.clone()];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.root())
            .env_clear()
            .env("PATH", env::join_paths(path).unwrap_or_default())
            .env("HOME", env::var_os("HOME").unwrap_or_else(|| "/root".into()))
            .env("TMPDIR", env::temp_dir())
            .env("XDG_CACHE_HOME", &self.caches)
            .env("LAB_CACHE", &cache)
            .env("LAB_BIN", &binaries)
            .env("LAB_COMPONENTS", root().join("continuous-integration/components"))
            .env("LAB_DIR", self.root().join(".lab"))
            .env("LAB_NETWORK", self.network)
            .env("NIX_CONF_DIR", self.root().join(".lab/nix"))
            .env("SOPS_AGE_KEY_FILE", self.root().join("project/test-identity.txt"));
        command
    }

    /// Runs `script`, which must succeed, and returns its standard output.
    pub(crate) fn sh(&self, script: &str) -> Test<String> {
        succeeded(self.ended(script)?)
    }

    /// Runs `script` to its end, with success or not.
    pub(crate) fn ended(&self, script: &str) -> Test<Output> {
        let began = Instant::now();
        let output = self.command("bash", &["-euo", "pipefail", "-c", script]).output()?;
        say(&format!(
            "{:6.1} s  {}",
            began.elapsed().as_secs_f64(),
            script.lines().next().unwrap_or_default()
        ));
        Ok(output)
    }

    /// Returns a shell command that runs a task of this checkout on this project. The task builds
    /// nothing, because cargo would replace the files of running programs.
    pub(crate) fn task(&self, name: &str) -> String {
        format!(
            "HOLISTIC_PROGRAMS={} HOLISTIC_PROJECT={} {}",
            programs().display(),
            self.root().display(),
            root().join("tasks").join(name).display()
        )
    }

    /// Starts the lab and returns the documents with the lab's endpoints.
    pub(crate) fn up(&self) -> Test<String> {
        self.sh(&format!("lab up --overrides lab {DOCUMENTS}"))
    }

    /// Pipes `input` through `program verb`. Returns the documents that the program wrote and its exit
    /// status. Shows the program's log only if it has failed, so that the cause stands in a short log.
    pub(crate) fn pipe(&self, program: &str, verb: &str, input: &str) -> Test<(String, i32)> {
        let began = Instant::now();
        let mut run = self.start(program, verb, input)?;
        let log = run.steps().collect::<Result<Vec<_>, _>>()?;
        let (output, status) = run.end()?;
        if status != 0 {
            say(&log.join("\n"));
        }
        self.check(&output)?;
        say(&format!("{:6.1} s  {program} {verb}: {status}", began.elapsed().as_secs_f64()));
        Ok((output, status))
    }

    /// Like [`Self::pipe`], but kills the program with SIGKILL after each new step and runs it again,
    /// until the program ends by itself. Also returns the number of kills.
    pub(crate) fn pipe_killed_at_every_step(
        &self,
        program: &str,
        verb: &str,
        input: &str,
    ) -> Test<(String, i32, usize)> {
        let mut taken = BTreeSet::new();
        loop {
            let mut run = self.start(program, verb, input)?;
            let mut new = None;
            for line in run.steps() {
                let line = line?;
                if taken.insert(step(&line)) && line.contains(r#""done":true"#) {
                    new = Some(line);
                    break;
                }
            }
            let Some(new) = new else {
                let (output, status) = run.end()?;
                self.check(&output)?;
                let killed = taken.iter().filter(|line| line.contains(r#""done":true"#)).count();
                return Ok((output, status, killed));
            };
            say(&format!("killed after {new}"));
            run.child.kill()?;
            run.child.wait()?;
            if taken.len() > 200 {
                return Err(format!("{program} has taken more than 200 different steps").into());
            }
        }
    }

    fn start(&self, program: &str, verb: &str, input: &str) -> Test<Run> {
        let output = tempfile::tempfile()?;
        let mut child = self
            .command(program, &verb.split(' ').collect::<Vec<_>>())
            .args(["--log-format", "json"])
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().ok_or("no standard input")?.write_all(input.as_bytes())?;
        let stderr = BufReader::new(child.stderr.take().ok_or("no standard error")?);
        Ok(Run { child, stderr, output })
    }

    fn check(&self, output: &str) -> Test {
        schema::every_document_is_valid(output)?;
        self.written.borrow_mut().extend(output.lines().map(str::to_owned));
        Ok(())
    }

    /// Validates all documents that the programs have written with a validator that others wrote.
    pub(crate) fn another_validator_accepts_every_document(&self) -> Test {
        let written = self.written.borrow();
        let documents: Vec<Value> =
            written.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
        let kinds: BTreeSet<_> =
            documents.iter().filter_map(|document| document["kind"].as_str()).collect();
        assert_eq!(kinds, OWNERS.map(|(kind, _)| kind).into());
        let violations = oracle::violations(&documents)?;
        assert!(violations.is_empty(), "{}", violations.join("\n"));
        Ok(())
    }

    /// Returns the number of writes to the forge, the registry, the cloud, the store and the cluster.
    pub(crate) fn writes(&self) -> Test<Value> {
        let status: Value = serde_json::from_str(&self.sh("lab status")?)?;
        Ok(status["writes"].clone())
    }
}

/// Pipes `input` through every program of the pipe forward. Each must end with the exit status `end`.
pub(crate) fn forward(project: &Project, verb: &str, input: &str, end: i32) -> Test<String> {
    let mut stream = input.to_owned();
    for program in PROGRAMS {
        let status;
        (stream, status) = project.pipe(program, verb, &stream)?;
        assert_eq!(status, end, "{program} {verb}: {:?}", reasons(&stream)?);
    }
    Ok(stream)
}

/// Returns a line of shell that lets `kubectl` use the kubeconfig from the Cluster's status, which
/// this function decrypts.
pub(crate) fn kubeconfig(project: &Project, output: &str) -> Test<String> {
    let cluster = document(output, "Cluster", "prod")?;
    let sealed = cluster["status"]["sealed"]["kubeconfig"].as_str().ok_or("no kubeconfig")?;
    fs::write(project.root().join("kubeconfig.age"), sealed)?;
    let file = project.root().join("kubeconfig");
    project
        .sh("umask 077; age --decrypt -i project/test-identity.txt kubeconfig.age > kubeconfig")?;
    Ok(format!("export KUBECONFIG={}\n", file.display()))
}

/// A running program and its output.
struct Run {
    child: Child,
    stderr: BufReader<ChildStderr>,
    output: File,
}

impl Run {
    /// Returns the lines of standard error as the program writes them.
    fn steps(&mut self) -> impl Iterator<Item = std::io::Result<String>> {
        self.stderr.by_ref().lines()
    }

    fn end(mut self) -> Test<(String, i32)> {
        let status = self.child.wait()?.code().unwrap_or(-1);
        let mut output = String::new();
        self.output.rewind()?;
        self.output.read_to_string(&mut output)?;
        Ok((output, status))
    }
}

/// Returns the step in a `line` of the log, without its duration.
fn step(line: &str) -> String {
    let Ok(mut step) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
    if let Some(step) = step.as_object_mut() {
        step.remove("seconds");
    }
    step.to_string()
}

impl Drop for Project {
    fn drop(&mut self) {
        if env::var_os("KEEP_LAB").is_some() {
            let kept = self.folder.path().display();
            say(&format!("KEEP_LAB is set, so the lab stays in {kept}"));
            self.folder.disable_cleanup(true);
            return;
        }
        let _ = self.command("lab", &["down", "--wipe", "--yes"]).output();
    }
}

/// Returns the documents in `text`, one per line.
pub(crate) fn documents(text: &str) -> Test<Vec<Value>> {
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// Returns the document of `kind` called `name`.
pub(crate) fn document(text: &str, kind: &str, name: &str) -> Test<Value> {
    let all = documents(text)?;
    let is_wanted =
        |document: &Value| document["kind"] == kind && document["metadata"]["name"] == name;
    let found = all.into_iter().find(is_wanted);
    found.ok_or_else(|| format!("no {kind}/{name}").into())
}

/// Returns the documents in `text` without `status.sealed`, because age encrypts the same value to
/// different bytes in each run.
pub(crate) fn unsealed(text: &str) -> Test<Vec<Value>> {
    let mut documents = documents(text)?;
    for document in &mut documents {
        if let Some(status) = document["status"].as_object_mut() {
            status.remove("sealed");
        }
    }
    Ok(documents)
}

/// Returns `Kind name status reason` for every document with a condition Ready.
pub(crate) fn reasons(text: &str) -> Test<Vec<String>> {
    let reason = |document: &Value| {
        let conditions = document["status"]["conditions"].as_array()?;
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
        let name = &document["metadata"]["name"];
        let words = [&document["kind"], name, &ready["status"], &ready["reason"]];
        Some(words.map(|word| word.as_str().unwrap_or_default()).join(" "))
    };
    Ok(documents(text)?.iter().filter_map(reason).collect())
}

pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn cache() -> PathBuf {
    env::var_os("LAB_CACHE").map_or_else(|| root().join(".cache"), Into::into)
}

pub(crate) fn succeeded(output: Output) -> Test<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?)
    } else {
        Err(format!("{}\n{stderr}{}", output.status, String::from_utf8_lossy(&output.stdout))
            .into())
    }
}
