use serde_json::json;

use super::*;

fn digest(letter: char) -> String {
    format!("sha256:{letter}")
}

fn workload(image: &str, setter: &str) -> Origin {
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "w", "namespace": "n", "managedFields": [{
            "manager": setter, "operation": "Apply", "fieldsV1": {"f:spec": {"f:template": {"f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {"f:image": {}}}}}}}}]},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}},
    });
    Origin { object, by: Deliverer::Installation, unattested: None }
}

fn pod(container: &str, image: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": [{"name": container}]},
        "status": {"containerStatuses": [{"name": container, "imageID": image}]}})
}

fn prove(pod: &Value, origin: &Origin) -> Proof {
    let mut proof = Proof::default();
    containers(pod, origin, &BTreeSet::from([digest('a'), digest('b')]), &mut proof);
    proof
}

// hazard: A pod runs an image that is attested for another container, and `verify` says Verified.
// class: A value is looked up in a set although exactly one value is right.
// members: images by tag, injected and ephemeral containers, images set by hand, nested Kustomizations of other sources, charts
// now: 100 `VerificationFailed`: the container, its image, and the image that its manifest names; pinned images of third parties are listed in `thirdParty`
#[test]
fn each_container_is_compared_with_the_digest_that_its_own_manifest_names() {
    let flux = "kustomize-controller";
    // Image in the manifest, running image, and the counts of proven, third-party and wrong containers.
    for (manifest, runs, proven, third, wrong) in [
        ("r/x@sha256:a", "r/x@sha256:a", 1, 0, 0),
        // Another attested digest is wrong.
        ("r/x@sha256:a", "r/x@sha256:b", 0, 0, 1),
        ("r/x:1@sha256:a", "r/x@sha256:a", 1, 0, 0),
        // A pinned image of a third party is accepted.
        ("r/y@sha256:f", "r/y@sha256:f", 1, 1, 0),
        ("r/y@sha256:f", "r/y@sha256:e", 0, 0, 1),
        // Without a pin, only an attested image is proven.
        ("r/x:1", "r/x@sha256:a", 1, 0, 0),
        ("r/y:1", "r/y@sha256:f", 0, 0, 1),
        ("r/x@sha256:a", "sha256:a", 0, 0, 1),
    ] {
        let proof = prove(&pod("c", runs), &workload(manifest, flux));
        let found = (proof.containers, proof.third_party.len(), proof.wrong.len());
        assert_eq!(found, (proven, third, wrong), "{manifest} {runs}: {proof:?}");
        assert_eq!(proof.pending, [] as [&str; 0]);
    }
}

#[test]
fn a_pinned_image_is_wrong_when_another_manager_has_set_it() {
    let proof = prove(&pod("c", "r/y@sha256:f"), &workload("r/y@sha256:f", "kubectl-set"));
    assert!(proof.wrong[0].contains("kubectl-set"), "{proof:?}");
}

#[test]
fn a_container_without_a_manifest_is_wrong_unless_its_image_is_attested() {
    let origin = workload("r/x@sha256:a", "kustomize-controller");
    assert_eq!(prove(&pod("injected", "r/y@sha256:f"), &origin).wrong.len(), 1);
    assert_eq!(prove(&pod("injected", "r/x@sha256:b"), &origin).containers, 1);
    let mut debug = pod("c", "r/x@sha256:a");
    debug["spec"]["ephemeralContainers"] = json!([{"name": "debug"}]);
    debug["status"]["ephemeralContainerStatuses"] =
        json!([{"name": "debug", "imageID": "busybox@sha256:f"}]);
    assert_eq!(prove(&debug, &origin).wrong.len(), 1);
}

#[test]
fn a_manifest_from_another_source_proves_nothing_but_attested_images() {
    let mut origin = workload("r/y@sha256:f", "kustomize-controller");
    origin.unattested = Some("GitRepository x is not attested".to_owned());
    assert!(prove(&pod("c", "r/y@sha256:f"), &origin).wrong[0].contains("GitRepository x"));
    let mut origin = workload("r/x@sha256:a", "kustomize-controller");
    origin.unattested = Some("GitRepository x is not attested".to_owned());
    assert_eq!(prove(&pod("c", "r/x@sha256:a"), &origin).containers, 1);
}

#[test]
fn a_container_is_pending_until_the_kubelet_reports_its_image() {
    let origin = workload("r/x@sha256:a", "kustomize-controller");
    assert_eq!(prove(&pod("c", ""), &origin).pending.len(), 1, "not pulled yet");
    let mut silent = pod("c", "");
    silent["status"] = json!({});
    assert_eq!(prove(&silent, &origin).pending.len(), 1, "not started yet");
    let mut going = pod("c", "r/x@sha256:f");
    going["metadata"]["deletionTimestamp"] = "2026-11-28T00:00:00Z".into();
    let proof = prove(&going, &origin);
    assert_eq!((proof.wrong.len(), proof.pending.len()), (0, 1));
}

/// Returns a pod that runs every container of the workload's manifest, as the kubelet reports it.
fn running(workload: &Value) -> Value {
    let template = template(workload);
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
        "spec": template, "status": {},
    });
    for (list, statuses) in
        [("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")]
    {
        let declared = template[list].as_array().into_iter().flatten();
        let status = |container: &Value| {
            let image = text(container, "image").split_once('@').expect("a digest");
            let repository = image.0.rsplit_once(':').expect("a tag").0;
            json!({"name": container["name"], "imageID": format!("{repository}@{}", image.1)})
        };
        pod["status"][statuses] = declared.map(status).collect();
    }
    pod
}

#[test]
fn every_container_of_the_storage_driver_is_listed_as_a_third_party_image() {
    let manifest = include_str!("../../../../deployments/manifests/cloud/storage-driver.yaml");
    let objects: Vec<Value> = serde_saphyr::from_multiple(manifest).expect("YAML");
    let mut listed = BTreeMap::new();
    for mut object in objects.into_iter().filter(|object| object["spec"]["template"].is_object()) {
        object["spec"]["template"]["spec"]["initContainers"] =
            json!([{"name": "init", "image": "r/init:1@sha256:f"}]);
        let kind = text(&object, "kind").to_owned();
        let by = Deliverer::Installation;
        let proof = prove(&running(&object), &Origin { object, by, unattested: None });
        assert_eq!((proof.wrong.len(), proof.pending.len()), (0, 0), "{proof:?}");
        assert_eq!(proof.third_party.len(), proof.containers, "{proof:?}");
        listed.insert(kind, proof.containers);
    }
    let expected = [("DaemonSet", 4), ("Deployment", 6)];
    assert_eq!(listed, expected.map(|(kind, count)| (kind.to_owned(), count)).into());
}
