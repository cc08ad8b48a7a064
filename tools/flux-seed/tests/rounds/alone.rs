//! A Delivery without documents of other programs, and proofs of the cluster's credentials.

use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin;
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use testing::Test;
use testing::documents::{
    DIGEST, IDENTITY, ROOT, document, kubeconfig, project, recipient, stream,
};
use testing::http::{Response, listen_to_requests};
use testing::run::{program, status, stderr};

use crate::cluster::Cluster;

const KEY: &str = "-----BEGIN PUBLIC KEY-----\na key\n-----END PUBLIC KEY-----\n";

fn run(line: &str, cluster: &Cluster, input: &[Value]) -> Assert {
    let kubeconfig = kubeconfig(&json!({"server": cluster.address}), &json!({"token": "hunter2"}));
    let mut program = program(cargo_bin!("flux-seed"));
    program.env("ROOT", ROOT).env("SOPS_AGE_KEY", IDENTITY).env("PROD", kubeconfig.to_string());
    program.args(line.split(' ')).write_stdin(stream(input)).assert()
}

/// Returns a Project with this registry, and a Delivery of an artifact there.
fn documents(registry: &str) -> Test<Vec<Value>> {
    let digests = json!({"source-controller": DIGEST, "kustomize-controller": DIGEST});
    let delivery = json!({
        "kubeconfig": {"env": "PROD"}, "project": "holistic", "timeoutSeconds": 5,
        "flux": {"version": "2.9.5", "digests": digests},
        "source": {
            "repository": format!("{registry}/me/apps"), "digest": DIGEST,
            "publicKeys": [KEY, KEY.replace("a key", "the key before")],
        },
    });
    let endpoints = json!({"registry": {"url": format!("http://{registry}/me")}});
    Ok(vec![project(&recipient(IDENTITY)?, endpoints), document("Delivery", "alone", delivery)])
}

#[test]
fn delivery_with_a_kubeconfig_and_a_source_needs_no_document_of_another_program() -> Test {
    let cluster = Cluster::start()?;
    let input = documents(&cluster.registry)?;
    run("plan --check", &cluster, &input).code(3);
    let applied = run("apply", &cluster, &input).success();
    let status = status(&applied)?;
    assert_eq!(status["conditions"][0]["reason"], "Delivered");
    let message = status["conditions"][0]["message"].to_string();
    assert!(message.contains("to the cluster of `kubeconfig`"), "{message}");
    let said = String::from_utf8(applied.get_output().stdout.clone())? + &stderr(&applied);
    assert!(!said.contains("hunter2"), "{said}");
    let keys = cluster.object("Secret flux-system/alone-cosign").ok_or("created")?["data"].take();
    let names: Vec<_> = keys.as_object().into_iter().flatten().map(|(name, _)| name).collect();
    assert_eq!(names, ["cosign-2.pub", "cosign.pub"], "one of the keys must verify the signature");
    let source = cluster.object("OCIRepository flux-system/alone").ok_or("created")?;
    assert_eq!(source["spec"]["url"], format!("oci://{}/me/apps", cluster.registry));
    run("plan --check", &cluster, &input).success();
    run("verify", &cluster, &input).success();
    run("destroy", &cluster, &input).success();
    assert_eq!(cluster.objects(), ["Namespace kube-system"]);
    Ok(())
}

#[test]
fn source_at_another_registry_gets_no_credentials_of_the_project() -> Test {
    let cluster = Cluster::start()?;
    let mut input = documents(&cluster.registry)?;
    input[0]["spec"]["endpoints"]["registry"]["token"] = json!({"env": "ROOT"});
    // Port 1 has no listener, so that the other registry is unreadable for now.
    let (ours, other) = (format!("{}/me", cluster.registry), "127.0.0.1:1/other".to_owned());
    for (registry, has_credentials) in [(ours, true), (other, false)] {
        let repository = format!("{registry}/apps");
        input[1]["spec"]["source"]["repository"] = repository.into();
        run("apply", &cluster, &input).success();
        let secret = cluster.object("Secret flux-system/alone-registry");
        assert_eq!(secret.is_some(), has_credentials, "{registry}");
        let source = cluster.object("OCIRepository flux-system/alone").ok_or("created")?;
        assert_eq!(source["spec"]["secretRef"].is_object(), has_credentials, "{registry}");
    }
    Ok(())
}

// hazard: Credentials that cannot pull are delivered, and every pod waits in `ImagePullBackOff`.
// class: A credential is first tried by a component whose failure this program sees late.
// members: a missing or expired `reader`, a token for another package, an artifact that was deleted
// now: `apply` ends before its first write, with the registry's answer
#[test]
fn apply_writes_nothing_when_the_registry_denies_the_artifact_to_the_cluster() -> Test {
    for (code, reason) in [(401, "UNAUTHORIZED"), (403, "DENIED"), (404, "MANIFEST_UNKNOWN")] {
        let body = json!({"errors": [{"code": reason, "message": "no"}]}).to_string();
        let registry = listen_to_requests("127.0.0.1:0", move |request, stream| {
            Response::new(code, body.clone()).write(&request.method, stream).map(|()| true)
        })?;
        let cluster = Cluster::start()?;
        let refused = run("apply", &cluster, &documents(&registry.to_string())?).code(100);
        let condition = status(&refused)?["conditions"][0].take();
        assert_eq!(condition["reason"], "ArtifactUnreadable", "{code}");
        assert_eq!(cluster.take_writes(), [""; 0], "{code}");
    }
    Ok(())
}

// hazard: Flux cannot pull any more, an hour after the job that installed it.
// class: A credential with a short life is stored where it must work for months.
// members: `GITHUB_TOKEN`, tokens of GitHub Apps, of Google, Amazon and Azure; for Flux's source, its
// controllers and the pods
// now: exit 100 before any request
#[test]
fn token_that_expires_after_an_hour_is_not_written_to_the_cluster() -> Test {
    let cluster = Cluster::start()?;
    let mut input = documents("127.0.0.1:1")?;
    let token = tempfile::NamedTempFile::new()?;
    std::fs::write(&token, "ghs_0123456789abcdef")?;
    let token = json!({"file": token.path()});
    for field in ["registry", "flux"] {
        let endpoint = json!({"url": "http://127.0.0.1:1/me", "token": token});
        input[0]["spec"]["endpoints"] = json!({field: endpoint});
        let refused = run("apply", &cluster, &input).code(100);
        let condition = status(&refused)?["conditions"][0].take();
        assert_eq!(condition["reason"], "SecretUnavailable");
        assert_eq!(cluster.take_writes(), [""; 0]);
    }
    Ok(())
}

/// Returns an artifact with one file, as its manifest and its layer.
fn packed(name: &str, text: &str) -> Test<(Vec<u8>, Vec<u8>)> {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    let mut layer = tar::Builder::new(Vec::new());
    layer.append_data(&mut header, name, text.as_bytes())?;
    let layer = layer.into_inner()?;
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "layers": [{"mediaType": "application/vnd.cncf.flux.content.v1.tar",
            "digest": digest(&layer), "size": layer.len()}]});
    Ok((manifest.to_string().into_bytes(), layer))
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(bytes)))
}

// hazard: Flux prunes its own Namespace when a later artifact no longer holds it.
// class: A tool delivers what it runs in.
// members: the Namespace, the definitions and the controllers of the installation
// now: `apply` rejects the artifact before its first write
#[test]
fn artifact_that_holds_objects_of_the_installation_is_rejected_before_any_write() -> Test {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flux-system"}});
    let (manifest, layer) = packed("namespace.yaml", &namespace.to_string())?;
    let named = digest(&manifest);
    let registry = listen_to_requests("127.0.0.1:0", move |request, stream| {
        let is_manifest = request.target.contains("/manifests/");
        let body = if is_manifest { &manifest } else { &layer };
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let response = Response::new(200, body.clone()).with("Content-Type", kind);
        response.write(&request.method, stream).map(|()| true)
    })?;
    let cluster = Cluster::start()?;
    let mut input = documents(&registry.to_string())?;
    input[1]["spec"]["source"]["digest"] = named.into();
    let refused = run("apply", &cluster, &input).code(100);
    let condition = status(&refused)?["conditions"][0].take();
    assert_eq!(condition["reason"], "DeliversItself");
    let message = condition["message"].as_str().unwrap_or_default();
    assert!(message.contains("Namespace flux-system"), "{message}");
    assert_eq!(cluster.take_writes(), [""; 0]);
    Ok(())
}
