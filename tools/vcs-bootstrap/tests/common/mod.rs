//! Shared parts of the tests that need a forge: a folder with a Git repository, the program, and
//! its documents.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::TempDir;
pub(crate) use testing::Test;
use testing::documents::STRANGER;
use testing::git::Repository;
use testing::run::{path, program};
#[allow(unused_imports, reason = "not every test that has this module needs all of it")]
pub(crate) use testing::run::{status, stderr};

/// Root key of the tests: 32 bytes in hexadecimal.
pub(crate) const ROOT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A folder with a Git repository and documents.
pub(crate) struct Sandbox {
    _folder: TempDir,
    repository: Repository,
    token: String,
    /// Folders of the programs that the program can call.
    pub(crate) programs: OsString,
}

#[allow(dead_code, reason = "not every test that has this module needs all of it")]
impl Sandbox {
    /// Creates a sandbox. `forge` is the value of `endpoints.forge`, with the token in
    /// `FORGE_TOKEN`.
    pub(crate) fn new(forge: &str, token: &str) -> Test<Self> {
        let folder = tempfile::tempdir()?;
        let repository = Repository::init(folder.path().to_owned())?;
        let (token, programs) = (token.to_owned(), path());
        let sandbox = Self { _folder: folder, repository, token, programs };
        let project = format!(
            "---\napiVersion: holistic/v1alpha1\nkind: Project\nmetadata: {{name: lab}}\nspec:\n  \
             root: {{env: ROOT}}\n  recipients: [{{name: admin, age: {STRANGER}}}]\n  \
             endpoints: {{forge: {forge}}}\n"
        );
        fs::write(sandbox.path().join("project.yaml"), project)?;
        sandbox.commit("first")?;
        Ok(sandbox)
    }

    pub(crate) fn path(&self) -> &Path {
        self.repository.path()
    }

    /// Writes the `Repository` document.
    pub(crate) fn declare(&self, name: &str, spec: &str) -> Test {
        let text = format!(
            "---\napiVersion: holistic/v1alpha1\nkind: Repository\nmetadata: {{name: {name}}}\n\
             spec: {{project: lab, {spec}}}\n"
        );
        Ok(fs::write(self.path().join("repository.yaml"), text)?)
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> Test<String> {
        self.repository.git(arguments)
    }

    pub(crate) fn commit(&self, message: &str) -> Test<String> {
        self.repository.commit(message)
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
        let mut program = program(cargo_bin!("vcs-bootstrap"));
        program
            .current_dir(self.path())
            .env("PATH", &self.programs)
            .env("FORGE_TOKEN", &self.token);
        program.args(verb.split(' ')).args(["project.yaml", "repository.yaml"]);
        program
    }
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
