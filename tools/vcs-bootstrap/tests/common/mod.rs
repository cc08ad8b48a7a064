//! Shared parts of the tests that need a forge: a folder with a Git repository, the program, and
//! its documents.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) type Test = Result<(), Box<dyn Error>>;

/// Root key of the tests: 32 bytes in hexadecimal.
pub(crate) const ROOT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// An age recipient, required by the Project and unused in these tests.
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

/// A folder with a Git repository and documents.
pub(crate) struct Sandbox {
    pub(crate) folder: TempDir,
    token: String,
}

#[allow(dead_code, reason = "not every test that has this module needs all of it")]
impl Sandbox {
    /// Creates a sandbox. `forge` is the value of `endpoints.forge`, with the token in
    /// `FORGE_TOKEN`.
    pub(crate) fn new(forge: &str, token: &str) -> Result<Self, Box<dyn Error>> {
        let sandbox = Self { folder: tempfile::tempdir()?, token: token.to_owned() };
        let project = format!(
            "---\napiVersion: holistic/v1alpha1\nkind: Project\nmetadata: {{name: lab}}\nspec:\n  \
             root: {{env: ROOT}}\n  recipients: [{{name: admin, age: {RECIPIENT}}}]\n  \
             endpoints: {{forge: {forge}}}\n"
        );
        fs::write(sandbox.path().join("project.yaml"), project)?;
        sandbox.git(&["init", "--quiet", "--initial-branch=main"])?;
        sandbox.commit("first")?;
        Ok(sandbox)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the `Repository` document.
    pub(crate) fn declare(&self, name: &str, spec: &str) -> Test {
        let text = format!(
            "---\napiVersion: holistic/v1alpha1\nkind: Repository\nmetadata: {{name: {name}}}\n\
             spec: {{project: lab, {spec}}}\n"
        );
        Ok(fs::write(self.path().join("repository.yaml"), text)?)
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
        let settings = [
            "user.name=t",
            "user.email=t@example.org",
            "commit.gpgSign=false",
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
        ];
        let output = Command::new("git")
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .args(arguments)
            .current_dir(self.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    pub(crate) fn commit(&self, message: &str) -> Result<String, Box<dyn Error>> {
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message])?;
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs the program with the project's root.
    pub(crate) fn run(&self, verb: &str) -> Assert {
        self.run_with(verb, &[("ROOT", ROOT)])
    }

    pub(crate) fn run_with(&self, verb: &str, environment: &[(&str, &str)]) -> Assert {
        self.command(verb).envs(environment.iter().copied()).assert()
    }

    /// Returns the command of the program, without the developer's environment.
    pub(crate) fn command(&self, verb: &str) -> assert_cmd::Command {
        let mut program = assert_cmd::Command::new(cargo_bin!("vcs-bootstrap"));
        program.current_dir(self.path()).env_clear();
        program.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        program.env("FORGE_TOKEN", &self.token);
        program.args(verb.split(' ')).args(["project.yaml", "repository.yaml"]);
        program
    }
}

/// Returns the status of the written repository.
#[allow(dead_code, reason = "not every test that has this module needs all of it")]
pub(crate) fn status(run: &Assert) -> Result<Value, Box<dyn Error>> {
    let stdout = &run.get_output().stdout;
    let last = stdout.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty());
    let document: Value = serde_json::from_slice(last.ok_or("no document was written")?)?;
    Ok(document["status"].clone())
}

/// Returns status and reason of the Ready condition.
#[allow(dead_code, reason = "not every test that has this module needs all of it")]
pub(crate) fn ready(status: &Value) -> (&str, &str) {
    let ready = &status["conditions"][0];
    (ready["status"].as_str().unwrap_or_default(), ready["reason"].as_str().unwrap_or_default())
}

/// Returns the actions of a plan, in order.
#[allow(dead_code, reason = "not every test that has this module looks at steps")]
pub(crate) fn steps(status: &Value) -> Vec<String> {
    let steps = status["plan"].as_array().into_iter().flatten();
    steps.filter_map(|step| step["action"].as_str().map(str::to_owned)).collect()
}
