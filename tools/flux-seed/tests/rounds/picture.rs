//! The picture of the evidence of a delivery: the page about it, and the places where it is written.

use assert_cmd::cargo::cargo_bin;
use serde_json::{Value, json};
use testing::Test;
use testing::documents::{DIGEST, IDENTITY, ROOT, artifact, stream};
use testing::page::Page;
use testing::run::{documents as written, reason, status};

use crate::cluster::Cluster;
use crate::{documents, run};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/picture.md");

/// Delivers a Deployment of three pods, and returns the documents with what `artifact-attest` states.
fn delivered(cluster: &Cluster) -> Test<Vec<Value>> {
    let mut documents = documents(cluster)?;
    run("apply -q", &documents).success();
    let digest = DIGEST.replace('1', "2");
    let repository = format!("{}/zabronax/greeter", cluster.registry);
    let image = format!("{repository}@{digest}");
    let containers = json!([{"name": "greeter", "image": image}]);
    cluster.edit("Deployment default/greeter", |live| {
        live["spec"] = json!({"template": {"spec": {"containers": containers}}});
    });
    cluster.edit("ReplicaSet default/greeter-1", |live| {
        live["metadata"]["ownerReferences"][0]["controller"] = true.into();
    });
    let set = cluster.object("ReplicaSet default/greeter-1").ok_or("created")?;
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
        "uid": set["metadata"]["uid"]});
    for name in ["greeter-1-a", "greeter-1-b", "greeter-1-c"] {
        cluster.create(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "ownerReferences": [owner]},
            "spec": {"containers": containers},
            "status": {"containerStatuses": [{"name": "greeter", "imageID": image}]}}));
    }
    let mut greeter = artifact("greeter", &repository);
    greeter["status"]["observed"] =
        json!({"reference": image, "digest": digest, "publicKey": "a key"});
    documents.insert(3, greeter);
    for document in &mut documents[2..4] {
        document["spec"]["source"] = "https://github.com/zabronax/holistic".into();
        document["status"]["evidence"] = json!([
            {"type": "source", "gitCommit": "f36cf9b5e1d08a7c2b4f6a9d3e5c7b1a0f8d6e4c"},
            {"type": "provenance", "sha256": "9b1c7d".repeat(10)},
            {"type": "signature", "keyId": "3f2a91c0d4e5".repeat(5)},
        ]);
    }
    Ok(documents)
}

/// Runs the page. Three pods share a row; a pod with another image has its own, and its link is broken.
#[test]
fn commands_of_the_page_about_pictures_run() -> Test {
    let cluster = Cluster::start()?;
    let documents = delivered(&cluster)?;
    let folder = tempfile::tempdir()?;
    let page = Page::copy(PAGE, folder.path())?;
    std::fs::write(page.input().join("delivered.json"), stream(&documents))?;
    page.run("flux-seed", cargo_bin!("flux-seed"), &[("ROOT", ROOT), ("SOPS_AGE_KEY", IDENTITY)])
}

#[test]
fn picture_changes_neither_the_exit_status_nor_the_documents_beside_a_file() -> Test {
    let cluster = Cluster::start()?;
    let documents = delivered(&cluster)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("evidence.svg");
    let line = format!("verify -q --output svg={}", file.display());
    for (code, word) in [(0, "Verified"), (100, "VerificationFailed")] {
        let plain = run("verify -q", &documents).code(code);
        let beside = run(&line, &documents).code(code);
        assert_eq!(written(&beside)?, written(&plain)?);
        assert_eq!(reason(&status(&beside)?), word);
        let alone = run("verify -q --output svg", &documents).code(code);
        assert_eq!(
            String::from_utf8(alone.get_output().stdout.clone())?,
            std::fs::read_to_string(&file)?
        );
        cluster.edit("Pod default/greeter-1-b", |live| {
            let image = &mut live["status"]["containerStatuses"][0]["imageID"];
            *image = format!("docker.io/library/other@sha256:{}", "7".repeat(64)).into();
        });
    }
    let nowhere = format!("verify -q --output svg={}/none/a.svg", folder.path().display());
    let failed = run(&nowhere, &documents).code(100);
    assert_eq!(written(&failed)?.len(), documents.len(), "the documents are written");
    for line in ["verify --output png", "verify --output json=a", "plan --output svg"] {
        run(line, &documents).code(2).stdout("");
    }
    Ok(())
}

#[test]
fn picture_of_a_cluster_that_does_not_answer_proves_nothing() -> Test {
    let cluster = Cluster::start()?;
    let mut documents = delivered(&cluster)?;
    documents[1]["status"]["conditions"][0]["status"] = "False".into();
    let failed = run("verify -q --output mermaid", &documents).code(111);
    let text = String::from_utf8(failed.get_output().stdout.clone())?;
    assert!(text.contains("DependencyNotReady") && text.contains("stated by Artifact/deployments"));
    assert!(!text.contains(":::proven") && !text.contains(":::broken"), "{text}");
    Ok(())
}
