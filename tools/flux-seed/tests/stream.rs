//! Properties of a pipe: every document is passed on, a failed program changes nothing, and no secret is
//! quoted.

use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin;
use serde_json::{Value, json};
use testing::Test;
use testing::documents::{
    DIGEST, IDENTITY, ROOT, artifact, cluster, document, project, recipient, stream,
};
use testing::run::{documents, program, stderr};

/// Runs the program without the developer's environment variables.
fn run(line: &str, input: &[Value]) -> Assert {
    let mut program = program(cargo_bin!("flux-seed"));
    program.env("ROOT", ROOT).env("SOPS_AGE_KEY", IDENTITY);
    program.args(line.split(' ')).write_stdin(stream(input)).assert()
}

fn reason(run: &Assert) -> Test<String> {
    Ok(testing::run::reason(&testing::run::status(run)?).to_owned())
}

/// Returns all documents of a delivery to a cluster with this kubeconfig.
fn with(kubeconfig: &Value) -> Test<Vec<Value>> {
    let recipient = recipient(IDENTITY)?;
    let digests = json!({"source-controller": DIGEST, "kustomize-controller": DIGEST});
    let delivery = json!({
        "cluster": "prod", "artifact": "deployments", "flux": {"version": "2.9.5", "digests": digests},
    });
    Ok(vec![
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "foreign"}}),
        project(&recipient, json!({})),
        cluster(&recipient, kubeconfig)?,
        artifact("deployments", "ghcr.io/zabronax/deployments"),
        document("Delivery", "prod", delivery),
    ])
}

fn kubeconfig(user: &Value) -> Value {
    // No process listens on port 1.
    testing::documents::kubeconfig(&json!({"server": "https://127.78.0.254:1"}), user)
}

#[test]
fn every_verb_fails_when_the_cluster_does_not_answer() -> Test {
    let input = with(&kubeconfig(&json!({"token": "hunter2"})))?;
    for verb in ["plan", "apply", "verify", "destroy"] {
        let run = run(verb, &input).code(111);
        assert_eq!(reason(&run)?, "Unreachable", "{verb}");
        let written = documents(&run)?;
        assert_eq!(written[..4], input[..4], "documents of other kinds are unchanged");
        let output = run.get_output();
        let said = [output.stdout.clone(), output.stderr.clone()].concat();
        assert!(!String::from_utf8(said)?.contains("hunter2"), "{verb}");
    }
    Ok(())
}

#[test]
fn apply_rejects_a_kubeconfig_that_runs_programs_or_reads_files() -> Test {
    for user in [
        json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "true"}}),
        json!({"tokenFile": "/etc/hostname"}),
        json!({"client-certificate": "/etc/hostname", "client-key": "/etc/hostname"}),
    ] {
        let run = run("apply", &with(&kubeconfig(&user))?).code(100);
        assert_eq!(reason(&run)?, "KubeconfigInvalid");
    }
    Ok(())
}

#[test]
fn plan_writes_the_same_bytes_when_its_output_is_its_input() -> Test {
    let mut input = with(&kubeconfig(&json!({})))?;
    input[2]["status"] = Value::Null;
    let first = run("plan", &input).success();
    let output = documents(&first)?;
    let second = run("plan", &output).success();
    assert_eq!(documents(&second)?, output, "the same bytes");
    run("plan --check", &output).code(3);
    Ok(())
}

#[test]
fn a_secret_in_the_wrong_place_is_not_quoted() -> Test {
    let mut input = with(&kubeconfig(&json!({})))?;
    input[4]["spec"]["flux"]["digests"]["source-controller"] = "hunter2".into();
    let run = run("apply", &input).code(2);
    let said = stderr(&run);
    assert!(said.contains("spec.flux.digests") && !said.contains("hunter2"), "{said}");
    assert!(run.get_output().stdout.is_empty());
    Ok(())
}

/// Collects the JSON pointer of every value in `value`.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (key, below) in fields {
                pointers(
                    below,
                    &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")),
                    all,
                );
            }
        }
        Value::Array(items) => {
            for (index, below) in items.iter().enumerate() {
                pointers(below, &format!("{at}/{index}"), all);
            }
        }
        _ => {}
    }
}

// hazard: A document or a status that another program wrote makes the program panic, and the pipe is empty.
// class: Input is indexed without a check of its shape.
// members: statuses, conditions, sealed values, references, digests, drains, policies
// now: exit status 0, 2, 3, 100 or 111, and every document that was accepted is written
#[test]
fn no_document_makes_the_program_panic() -> Test {
    let mut input = with(&kubeconfig(&json!({"token": "hunter2"})))?;
    input[4]["spec"]["dataOnDestroy"] = json!({"default/data": "discard"});
    input[4]["status"] = json!({"conditions": [{"type": "Ready"}], "plan": []});
    input.push(json!({"apiVersion": "holistic/v1alpha1", "kind": "Drain", "metadata": {"name": "d"},
        "spec": {"cluster": "prod", "sources": [{"claim": "default/data"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "x", "message": ""}],
            "evidence": [{"type": "receipt", "envelope": {"payload": "x"}}]}}));
    let odd = [
        json!(null),
        json!(-1),
        json!(1e300),
        json!([]),
        json!({}),
        json!([[null]]),
        json!(""),
        json!("é\u{0}\n\"'{}%"),
        json!("../..//@:sha256:"),
        json!("x".repeat(70_000)),
    ];
    let verbs = ["plan", "plan --destroy", "apply", "verify", "destroy"];
    let mut cases = 0;
    for (index, document) in input.iter().enumerate() {
        let mut all = Vec::new();
        pointers(document, "", &mut all);
        for pointer in all {
            let mut changed = input.clone();
            let value = changed[index].pointer_mut(&pointer).ok_or("a value")?;
            *value = odd[cases % odd.len()].clone();
            let run = run(verbs[cases % verbs.len()], &changed);
            let output = run.get_output();
            let code = output.status.code();
            let said = stderr(output);
            let known = [0, 2, 3, 100, 111].map(Some);
            assert!(
                known.contains(&code) && !said.contains("panicked"),
                "{pointer}: {code:?}: {said}"
            );
            if code != Some(2) {
                let given = changed.iter().filter(|document| !document.is_null()).count();
                assert_eq!(documents(&run)?.len(), given, "{pointer}: every document is written");
            }
            cases += 1;
        }
    }
    assert!(cases > 60, "{cases} cases");
    Ok(())
}

#[test]
fn an_error_names_the_document_that_failed() -> Test {
    let run = run("apply", &with(&kubeconfig(&json!({})))?).code(111);
    let said = stderr(&run);
    assert!(said.contains("error: Delivery/prod: the API server does not answer"), "{said}");
    Ok(())
}

#[test]
fn destroy_succeeds_when_the_cluster_is_destroyed() -> Test {
    let mut input = with(&kubeconfig(&json!({})))?;
    input[2]["status"] = json!({"conditions":
        [{"type": "Ready", "status": "False", "reason": "Destroyed", "message": ""}]});
    assert_eq!(reason(&run("destroy", &input).success())?, "Destroyed");
    Ok(())
}

#[test]
fn the_committed_schema_is_the_one_it_prints() -> Test {
    let printed = run("schema", &[]).success();
    let schema: Value = serde_json::from_slice(&printed.get_output().stdout)?;
    let schema = serde_json::to_string_pretty(&schema)? + "\n";
    snapbox::assert_data_eq!(schema, snapbox::file!["../schema.json"].raw());
    Ok(())
}
