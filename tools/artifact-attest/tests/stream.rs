//! Tests of the pipe: output is input, and foreign documents stay unchanged.

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::TempDir;
use testing::Test;
use testing::documents::ROOT;
use testing::git::Repository;
use testing::run::{documents, path, program, stderr};

/// A Project whose registry does not exist: an unused address of this machine.
const PROJECT: &str = "---
apiVersion: holistic/v1alpha1
kind: Project
metadata: {name: test}
spec:
  root: {env: ROOT}
  recipients: [{name: a, age: age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p}]
  endpoints: {registry: {url: 'http://127.75.0.99:9/test'}}
";

const FIRST: &str = "---
apiVersion: holistic/v1alpha1
kind: Artifact
metadata: {name: first}
spec: {project: test, source: https://example.org/test, sourceCheck: skip, manifests: {path: ./manifests, repository: first}}
";

const SECOND: &str = "---
apiVersion: holistic/v1alpha1
kind: Artifact
metadata: {name: second}
spec: {project: test, source: https://example.org/test, sourceCheck: skip, manifests: {path: ./pod, repository: second, images: [first]}}
";

/// A folder with one Git commit.
struct Sandbox(TempDir);

impl Sandbox {
    fn new() -> Test<Self> {
        let sandbox = Self(tempfile::tempdir()?);
        let repository = Repository::init(sandbox.0.path().to_owned())?;
        repository.write("manifests/a.yaml", "---\nkind: ConfigMap\n")?;
        repository.write("pod/a.yaml", "---\nspec: {containers: [{image: first}]}\n")?;
        repository.commit_all("a")?;
        Ok(sandbox)
    }

    /// Returns the program, without the developer's environment.
    fn command(&self, line: &str) -> Command {
        let mut program = program(cargo_bin!("artifact-attest"));
        program.env("PATH", path()).current_dir(&self.0).args(line.split(' '));
        program
    }

    fn run(&self, line: &str, input: impl Into<Vec<u8>>) -> Assert {
        self.command(line).env("ROOT", ROOT).write_stdin(input).assert()
    }
}

fn ready(document: &Value) -> [&Value; 2] {
    let condition = &document["status"]["conditions"][0];
    [&condition["status"], &condition["reason"]]
}

#[test]
fn an_unreachable_registry_is_temporary_and_dependents_are_not_tried() -> Test {
    let run = Sandbox::new()?.run("apply", [PROJECT, SECOND, FIRST].concat()).code(111);
    let documents = documents(&run)?;
    assert_eq!(ready(&documents[2]), ["False", "Unreachable"]);
    assert_eq!(ready(&documents[1]), ["False", "DependencyNotReady"]);
    Ok(())
}

#[test]
fn documents_of_other_kinds_pass_unchanged_and_in_order() -> Test {
    let foreign =
        "{\"apiVersion\":\"v1\",\"kind\":\"Artifact\",\"spec\":{\"z\":1,\"a\":[{},[]]}}\n";
    let run = Sandbox::new()?.run("plan", [foreign, PROJECT, foreign].concat()).success();
    let stdout = String::from_utf8(run.get_output().stdout.clone())?;
    let lines: Vec<_> = stdout.split_inclusive('\n').collect();
    assert_eq!([lines[0], lines[2]], [foreign, foreign]);
    Ok(())
}

#[test]
fn an_empty_input_is_an_error() -> Test {
    let sandbox = Sandbox::new()?;
    sandbox.run("apply", "").code(2).stdout("");
    sandbox.run("apply", FIRST).code(2).stdout(""); // the stream lacks its Project
    Ok(())
}

#[test]
fn a_misplaced_secret_is_not_quoted() -> Test {
    let sandbox = Sandbox::new()?;
    let token = PROJECT.replace("9/test'", "9/test', token: hunter2");
    let user = PROJECT.replace("127.75.0.99:9", "a:hunter2@127.75.0.99:9");
    for project in [token, user, PROJECT.replace("{env: ROOT}", "hunter2")] {
        let run = sandbox.run("apply", [&project, FIRST].concat()).code(2);
        let said = stderr(&run);
        assert!(!said.contains("hunter2"), "{said}");
    }
    Ok(())
}

#[test]
fn an_invalid_key_is_not_quoted() -> Test {
    let sandbox = Sandbox::new()?;
    let run = sandbox
        .command("apply")
        .env("ARTIFACT_ATTEST_KEY", "hunter2")
        .write_stdin([PROJECT, FIRST].concat())
        .assert()
        .code(100);
    let all = [run.get_output().stdout.clone(), run.get_output().stderr.clone()].concat();
    assert!(!String::from_utf8(all)?.contains("hunter2"));
    Ok(())
}

#[test]
fn the_committed_schema_equals_the_printed_one() -> Test {
    let schema = Sandbox::new()?.run("schema", "").success();
    let schema: Value = serde_json::from_slice(&schema.get_output().stdout)?;
    let schema = serde_json::to_string_pretty(&schema)? + "\n";
    snapbox::assert_data_eq!(schema, snapbox::file!["../schema.json"].raw());
    Ok(())
}
