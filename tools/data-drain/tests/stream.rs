//! Properties of a pipe: every document is passed on, a failed program changes nothing, and no secret is
//! quoted.

use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin;
use serde_json::{Value, json};
use testing::Test;
use testing::documents::{IDENTITY, ROOT, artifact, cluster, document, project, recipient, stream};
use testing::run::{documents, program, stderr};

/// Phase key of data-drain, derived from [`ROOT`] as derivation.md of `secrets` describes.
const PHASE_KEY: &str = "Ag/WqrTSznUws7HxGVsFvFttX4PD21eQyrhHYFAt2mU=";
const DERIVED: &str = "AGE-SECRET-KEY-1MVG33CDTFEMARJAR7QMMPSZNE270JTSR0TF3CG0Q9JVKPVMP9Z4Q2EK03W";

/// Runs the program with nothing of the developer's environment.
fn run(line: &str, input: &[Value]) -> Assert {
    run_with(&[("ROOT", ROOT), ("SOPS_AGE_KEY", IDENTITY)], line, input)
}

fn run_with(secrets: &[(&str, &str)], line: &str, input: &[Value]) -> Assert {
    let mut program = program(cargo_bin!("data-drain"));
    program.envs(secrets.iter().copied());
    program.env("S3", r#"{"accessKeyId": "a", "secretAccessKey": "hunter2"}"#);
    program.args(line.split(' ')).write_stdin(stream(input)).assert()
}

fn reason(run: &Assert) -> Test<String> {
    Ok(testing::run::reason(&testing::run::status(run)?).to_owned())
}

/// All documents of a drain, from a cluster that has this kubeconfig.
fn with(kubeconfig: &Value) -> Test<Vec<Value>> {
    sealed_for(IDENTITY, kubeconfig)
}

fn sealed_for(identity: &str, kubeconfig: &Value) -> Test<Vec<Value>> {
    let recipient = recipient(identity)?;
    // No process listens on port 1.
    let store = json!({"s3": {
        "url": "http://127.78.0.254:1", "region": "here", "bucket": "drain", "credentials": {"env": "S3"},
    }});
    let drain = json!({
        "cluster": "prod", "recipients": ["founder"],
        "sources": [{"claim": "default/data", "freeze": {"scaleToZero": "deployment/data"}}],
    });
    Ok(vec![
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "foreign"}}),
        project(&recipient, json!({"store": store})),
        cluster(&recipient, kubeconfig)?,
        artifact("volume-reader", "ghcr.io/zabronax/volume-reader"),
        document("Drain", "prod", drain),
    ])
}

fn kubeconfig(user: &Value) -> Value {
    testing::documents::kubeconfig(&json!({"server": "https://127.78.0.254:1"}), user)
}

#[test]
fn every_verb_fails_when_the_cluster_does_not_answer() -> Test {
    let input = with(&kubeconfig(&json!({"token": "hunter2"})))?;
    for verb in ["plan", "apply", "verify", "destroy"] {
        let run = run(verb, &input).code(111);
        assert_eq!(reason(&run)?, "Unreachable", "{verb}");
        let written = documents(&run)?;
        assert_eq!(written[..4], input[..4], "what is not ours comes out as it went in");
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

// hazard: The proxy of a company's network receives the requests to a private control plane.
// class: A setting of the environment leaks into the program.
// members: HTTPS_PROXY that is no URL, both spellings
// now: the environment's proxy is not read; the error is about the cluster
#[test]
fn proxy_of_the_environment_is_not_read_for_the_cluster() -> Test {
    let input = with(&kubeconfig(&json!({"token": "hunter2"})))?;
    for proxy in ["http://127.0.0.1:1", "no URL"] {
        let environment = [
            ("ROOT", ROOT),
            ("SOPS_AGE_KEY", IDENTITY),
            ("HTTPS_PROXY", proxy),
            ("https_proxy", proxy),
        ];
        let run = run_with(&environment, "apply", &input).code(111);
        assert_eq!(reason(&run)?, "Unreachable", "{proxy}");
        let said = String::from_utf8(run.get_output().stderr.clone())?;
        assert!(said.contains("the API server does not answer"), "{proxy}: {said}");
    }
    Ok(())
}

#[test]
fn the_phase_key_opens_values_that_were_sealed_for_the_phase() -> Test {
    let kubeconfig = kubeconfig(&json!({"token": "hunter2"}));
    let only_its_key = [("DATA_DRAIN_KEY", PHASE_KEY)];
    let opened = run_with(&only_its_key, "apply", &sealed_for(DERIVED, &kubeconfig)?).code(111);
    assert_eq!(reason(&opened)?, "Unreachable", "it knows where the cluster would be");
    let refused = run_with(&only_its_key, "apply", &with(&kubeconfig)?).code(100);
    assert_eq!(reason(&refused)?, "DecryptionFailed");
    let derived = recipient(DERIVED)?;
    let said = stderr(&refused);
    assert!(said.contains(&derived), "whom to add to the project's recipients: {said}");
    Ok(())
}

#[test]
fn copies_are_never_encrypted_for_a_recipient_that_only_reads() -> Test {
    let mut input = with(&kubeconfig(&json!({})))?;
    let project = &mut input[1]["spec"];
    let mut reader = project["recipients"][0].clone();
    reader["name"] = json!("reader");
    reader["access"] = json!("reader");
    project["recipients"].as_array_mut().ok_or("a list")?.push(reader);
    input[4]["spec"]["recipients"] = json!(["founder", "reader"]);
    let refused = run("plan", &input).code(2);
    let said = stderr(&refused);
    assert!(said.contains("spec.recipients.1: this recipient has the access `reader`"), "{said}");
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
