//! Properties of a pipe: every document is passed on, a failed program changes nothing, and no secret is
//! quoted.

use std::error::Error;

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin;
use secrets::AgeRecipient;
use serde_json::{Value, json};

type Test<T = ()> = Result<T, Box<dyn Error>>;

const ROOT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Age identity for these tests only.
const IDENTITY: &str = "AGE-SECRET-KEY-10E4NQXKZ3UQPPM5UXQNVJMUM9T2GAVNXFGFK3C4KVLEF7XEV70CS83TZ4T";
const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// Runs the program without the developer's environment variables.
fn run(line: &str, input: &[Value]) -> Assert {
    let input: Vec<_> = input.iter().map(ToString::to_string).collect();
    let mut program = Command::new(cargo_bin!("flux-seed"));
    program.env_clear().env("ROOT", ROOT).env("SOPS_AGE_KEY", IDENTITY);
    program.args(line.split(' ')).write_stdin(input.join("\n")).assert()
}

fn documents(run: &Assert) -> Test<Vec<Value>> {
    let lines = run.get_output().stdout.split_inclusive(|&byte| byte == b'\n');
    Ok(lines.map(serde_json::from_slice).collect::<Result<_, _>>()?)
}

fn reason(run: &Assert) -> Test<String> {
    let delivery = documents(run)?.pop().ok_or("a document")?;
    Ok(delivery["status"]["conditions"][0]["reason"].as_str().unwrap_or_default().to_owned())
}

fn recipient() -> Test<String> {
    let identity: age::x25519::Identity = IDENTITY.parse()?;
    Ok(identity.to_public().to_string())
}

/// Returns all documents of a delivery to a cluster with this kubeconfig.
fn with(kubeconfig: &Value) -> Test<Vec<Value>> {
    let recipient = recipient()?;
    let sealed = secrets::seal_to(
        [&AgeRecipient::try_from(recipient.clone())?],
        kubeconfig.to_string().as_bytes(),
    )?;
    let document = |kind: &str, name: &str, spec: Value, status: Value| {
        let mut document = json!({"apiVersion": "holistic/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        if status.is_object() {
            document["status"] = status;
            document["status"]["conditions"] =
                json!([{"type": "Ready", "status": "True", "reason": "Made", "message": ""}]);
        }
        document
    };
    let digests = json!({"source-controller": DIGEST, "kustomize-controller": DIGEST});
    Ok(vec![
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "foreign"}}),
        document(
            "Project",
            "holistic",
            json!({
                "root": {"env": "ROOT"}, "recipients": [{"name": "founder", "age": recipient}],
            }),
            Value::Null,
        ),
        document(
            "Cluster",
            "prod",
            json!({"project": "holistic"}),
            json!({"sealed": {"kubeconfig": sealed}}),
        ),
        document(
            "Artifact",
            "deployments",
            json!({"project": "holistic"}),
            json!({"observed": {
                "reference": format!("ghcr.io/zabronax/deployments@{DIGEST}"), "digest": DIGEST, "publicKey": "a key",
            }}),
        ),
        document(
            "Delivery",
            "prod",
            json!({
                "cluster": "prod", "artifact": "deployments", "flux": {"version": "2.9.5", "digests": digests},
            }),
            Value::Null,
        ),
    ])
}

fn kubeconfig(user: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        // No process listens on port 1.
        "clusters": [{"name": "lab", "cluster": {"server": "https://127.78.0.254:1"}}],
        "users": [{"name": "me", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
    })
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
    let said = String::from_utf8(run.get_output().stderr.clone())?;
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
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
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
    let said = String::from_utf8(run.get_output().stderr.clone())?;
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
