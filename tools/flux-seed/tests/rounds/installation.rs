//! The installation of Flux: pinned images, one pod in the network of a node, and adoption.

use serde_json::{Value, json};
use testing::Test;
use testing::run::{status, stderr};

use super::cluster::Cluster;
use super::{documents, run};

/// Returns the documents with these settings of `flux`.
fn with(cluster: &Cluster, flux: &Value) -> Test<Vec<Value>> {
    let mut documents = documents(cluster)?;
    documents[3]["spec"]["flux"] = flux.clone();
    Ok(documents)
}

// hazard: A tag of Flux's images moves, and `apply` rolls out controllers that no person has reviewed.
// class: A name is resolved at every run instead of once.
// members: tags in ghcr.io, tags in a mirror, a registry that does not answer
// now: the digest of the release is applied; no request is sent to the registry of Flux's images
#[test]
fn images_have_the_digests_of_the_release_and_their_registry_is_not_asked() -> Test {
    // The test has no network, so that a request to the registry would fail.
    let digests = [
        ("2.9.4", "sha256:8a8ed0a57b8b86f561d5a4309a69f65e62f0cebe4de8801593c5ff35a3bc3c23"),
        ("2.9.5", "sha256:6f20d232d596a758c923d2861f23511718fc303b8a2e36a1434a7c736b9f4268"),
    ];
    let cluster = Cluster::start()?;
    for (version, digest) in digests {
        let documents = with(&cluster, &json!({"version": version}))?;
        let applied = status(&run("apply", &documents).success())?;
        assert_eq!(applied["conditions"][0]["reason"], "Delivered");
        let image = applied["observed"]["images"]["source-controller"].to_string();
        let expected =
            format!("ghcr.io/fluxcd/source-controller:v{}", version.replace("2.9", "1.9"));
        assert_eq!(image, format!("\"{expected}@{digest}\""));
        run("plan --check", &documents).success();
    }
    Ok(())
}

#[test]
fn change_of_the_network_removes_the_former_controllers_before_the_new_pod_is_created() -> Test {
    let cluster = Cluster::start()?;
    let flux = |network: &str| json!({"version": "2.9.5", "network": network});
    run("apply", &with(&cluster, &flux("pod"))?).success();
    cluster.take_writes();
    run("apply", &with(&cluster, &flux("host"))?).success();
    let writes = cluster.take_writes();
    let position = |write: &str| writes.iter().position(|other| other == write);
    for former in ["kustomize-controller", "source-controller"] {
        let removed = position(&format!("DELETE Deployment flux-system/{former}"));
        assert!(
            removed.is_some() && removed < position("PATCH Deployment flux-system/flux"),
            "{writes:?}"
        );
    }
    assert!(position("DELETE Service flux-system/source-controller").is_some(), "{writes:?}");
    assert!(!writes.iter().any(|write| write.contains("DELETE CustomResource")), "{writes:?}");
    Ok(())
}

#[test]
fn adoption_changes_objects_of_another_program_in_place_and_is_shown_before() -> Test {
    let cluster = Cluster::start()?;
    let existing = |kind: &str, version: &str, namespace: Option<&str>, name: &str| {
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace},
            "spec": {}})
    };
    cluster.create(existing("Namespace", "v1", None, "flux-system"));
    let controller = |name| existing("Deployment", "apps/v1", Some("flux-system"), name);
    cluster.create(controller("source-controller"));
    let uid = |name: &str| cluster.object(name).map(|object| object["metadata"]["uid"].clone());
    let before = uid("Deployment flux-system/source-controller");
    let adopt = |adopt: bool| json!({"version": "2.9.5", "adopt": adopt});
    let refused = run("apply", &with(&cluster, &adopt(false))?).code(100);
    assert!(stderr(&refused).contains("`flux.adopt: true`"));
    let documents = with(&cluster, &adopt(true))?;
    let shown = stderr(&run("plan", &documents).success());
    assert!(
        shown.contains("adopt Deployment flux-system/source-controller, made by kubectl"),
        "{shown}"
    );
    run("apply", &documents).success();
    assert_eq!(uid("Deployment flux-system/source-controller"), before);
    run("plan --check", &documents).success();

    // A controller that is not selected would act on the same objects.
    cluster.create(controller("helm-controller"));
    let refused = run("apply", &documents).code(100);
    let message = status(&refused)?["conditions"][0]["message"].to_string();
    assert!(
        message.contains("helm-controller, made by kubectl, is not in `flux.components`"),
        "{message}"
    );
    Ok(())
}
