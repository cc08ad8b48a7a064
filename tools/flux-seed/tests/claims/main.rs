//! Ways to lose a claim, tried on a real API server with real Flux. The program must refuse each, name the
//! claim in `status.refusals`, and leave every claim in the cluster.

#[path = "../lab/mod.rs"]
mod lab;
mod scene;

use std::collections::BTreeMap;
use std::fs;

use contract::{Receipt, Stopped};
use lab::{Lab, Test, status, until};
use scene::{
    AT_RISK, Artifact, Scene, artifact, borrowed, change, claim, object, set, source, texts,
};
use serde_json::{Value, json};

// hazard: `destroy` or an `apply` whose artifact prunes a claim deletes data that was not copied.
// class: One inventory is treated as complete.
// members: claims of a StatefulSet by `whenDeleted` and `whenScaled`, claims made by hand, owned by
// a delivered object, of a custom resource, of a nested or suspended Kustomization, of a Helm
// release, of a Namespace, on a delivered, released or shared volume; lost inventories;
// artifacts that drop, rename, move or scale, or that cannot be read; receipts that do not fit
// now: `NotDrained`, 111: `status.refusals` names each claim, why it would go and what to do; nothing was changed
#[test]
fn every_way_to_lose_a_claim_is_refused_by_name_and_no_claim_is_lost() -> Test {
    let mut scene = Scene::start()?;
    what_a_nested_kustomization_runs_is_not_proven_unasked(&scene)?;
    ways_of_destroy(&mut scene)?;
    ways_of_apply(&mut scene)?;
    ways_of_receipts(&mut scene)?;
    assert!(scene.ways >= 25, "{} ways", scene.ways);
    what_is_being_removed_is_not_delivered(&scene)?;
    a_second_run_knows_what_the_first_one_knew(&scene)
}

fn what_a_nested_kustomization_runs_is_not_proven_unasked(scene: &Scene) -> Test {
    let lab = &scene.lab;
    until("the nested workload", || lab.get("deployment web")["status"]["readyReplicas"] == 1)?;
    let run = lab.flux_seed("verify", &scene.documents).code(100);
    let message = status(&run)?["conditions"][0]["message"].to_string();
    assert!(message.contains("container web of Pod default/web-"), "{message}");
    assert!(message.contains("names web:1"), "{message}");
    Ok(())
}

fn suspend(lab: &Lab, to: bool) -> Test<String> {
    let patch = json!({"spec": {"suspend": to}});
    lab.kubectl(&format!("-n flux-system patch kustomization prod --type=merge -p {patch}"))
}

fn ways_of_destroy(scene: &mut Scene) -> Test {
    let documents = scene.documents.clone();
    let (_, from) = scene.lab.asked(0)?;
    scene.refused("destroy", "destroy", &documents, &AT_RISK)?;
    let (asked, _) = scene.lab.asked(from)?;
    assert!(
        asked.iter().all(|entry| entry["verb"] == "get" || entry["verb"] == "list"),
        "only reads"
    );
    let planned = scene.lab.flux_seed("plan --destroy", &documents).success();
    let planned = status(&planned)?;
    assert_eq!(planned["refusals"].as_array().map(Vec::len), Some(AT_RISK.len()), "{planned}");

    suspend(&scene.lab, true)?;
    scene.refused("destroy of a suspended delivery", "destroy", &documents, &AT_RISK)?;
    assert_eq!(scene.lab.get("-n flux-system kustomization prod")["spec"]["suspend"], true);

    // Without the inventory, the labels and managed fields of the objects show their Kustomization.
    scene.lab.kubectl("-n flux-system patch kustomization prod --subresource=status --type=json -p [{\"op\":\"remove\",\"path\":\"/status/inventory\"}]")?;
    scene.refused("destroy without an inventory", "destroy", &documents, &AT_RISK)?;

    scene.lab.kubectl("annotate pvc direct kustomize.toolkit.fluxcd.io/prune=disabled")?;
    let without: Vec<_> = AT_RISK.into_iter().filter(|claim| *claim != "default/direct").collect();
    scene.refused("destroy with a claim that stays", "destroy", &documents, &without)?;
    scene.lab.kubectl("annotate pvc direct kustomize.toolkit.fluxcd.io/prune-")?;
    scene.refused("destroy with a claim that stays no longer", "destroy", &documents, &AT_RISK)?;

    // An API whose server does not answer may hold the owner of a claim.
    scene.lab.by_hand(&object("apiregistration.k8s.io/v1", "APIService", "", "v1.silent.example.org", json!({"spec": {
        "group": "silent.example.org", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
        "insecureSkipTLSVerify": true, "service": {"name": "none", "namespace": "default"}}})))?;
    let mut partly = documents.clone();
    change(&mut partly, "/spec/dataOnDestroy", &json!({"default/direct": "discard"}));
    scene.refused("destroy beside an API that is silent", "destroy", &partly, &without)?;
    scene.lab.kubectl("delete apiservice v1.silent.example.org")?;
    suspend(&scene.lab, false)?;
    until("an inventory", || {
        scene.lab.get("-n flux-system kustomization prod")["status"]["inventory"].is_object()
    })
}

#[expect(clippy::too_many_lines, reason = "one table of artifacts")]
fn ways_of_apply(scene: &mut Scene) -> Test {
    let drop = |name: &'static str| move |files: &mut Artifact| drop(files.remove(name));
    let ways: Vec<(&str, Vec<Value>, Vec<&str>)> = vec![
        ("drops the claim", scene.with(drop("root/direct.yaml"))?, vec!["default/direct"]),
        (
            "renames the claim",
            scene.with(|files| {
                files.insert(
                    "root/direct.yaml".to_owned(),
                    claim("default", "renamed", "direct", json!({})),
                );
            })?,
            vec!["default/direct"],
        ),
        (
            "moves the claim",
            scene.with(|files| {
                files.insert(
                    "root/direct.yaml".to_owned(),
                    claim("team", "direct", "direct", json!({})),
                );
            })?,
            vec!["default/direct"],
        ),
        ("drops the Namespace", scene.with(drop("root/team.yaml"))?, vec!["team/by-hand"]),
        (
            "drops the StatefulSet",
            scene.with(drop("root/set.yaml"))?,
            vec!["default/data-db-0", "default/data-db-1"],
        ),
        (
            "scales down",
            scene.with(|files| {
                files.insert("root/set.yaml".to_owned(), set(1));
            })?,
            vec!["default/data-db-1"],
        ),
        (
            "scales to nothing",
            scene.with(|files| {
                files.insert("root/set.yaml".to_owned(), set(0));
            })?,
            vec!["default/data-db-0", "default/data-db-1"],
        ),
        (
            "drops the owner",
            scene.with(drop("root/owner.yaml"))?,
            vec!["default/chained", "default/owned"],
        ),
        (
            "drops the nested Kustomization",
            scene.with(drop("root/nested.yaml"))?,
            vec!["default/nested"],
        ),
        (
            "drops the nested claim",
            scene.with(|files| {
                files.insert(
                    "nested/claim.yaml".to_owned(),
                    object("v1", "ConfigMap", "default", "other", json!({})),
                );
            })?,
            vec!["default/nested"],
        ),
        (
            "drops the definition",
            scene.with(drop("root/definition.yaml"))?,
            vec!["default/of-database"],
        ),
        ("drops the release", scene.with(drop("root/chart.yaml"))?, vec!["default/of-chart"]),
        (
            "changes the release",
            scene.with(|files| {
                files.entry("root/chart.yaml".to_owned()).or_default()["spec"]["values"] = 2.into();
            })?,
            vec!["default/of-chart"],
        ),
        (
            "drops the volume",
            scene.with(drop("root/disk.yaml"))?,
            vec!["default/on-delivered", "default/twin"],
        ),
        ("drops the released volume", scene.with(drop("root/released.yaml"))?, vec!["default/old"]),
        (
            "cannot be determined",
            scene.with(|files| {
                files.insert(
                    "root/kustomization.yaml".to_owned(),
                    json!({"namePrefix": "x-", "resources": ["direct.yaml"]}),
                );
            })?,
            AT_RISK.to_vec(),
        ),
    ];
    for (what, documents, claims) in ways {
        scene.refused(what, "apply", &documents, &claims)?;
    }
    let mut moved = scene.documents.clone();
    change(&mut moved, "/spec/path", &json!("./paused"));
    scene.refused("builds another folder", "apply", &moved, &AT_RISK)?;
    let mut away = scene.documents.clone();
    for document in away.iter_mut().filter(|document| document["metadata"]["name"] == "deployments")
    {
        let digest = format!("sha256:{}", "0".repeat(64));
        let reference = document["status"]["observed"]["reference"].as_str().unwrap_or_default();
        let repository = reference.split('@').next().unwrap_or_default();
        document["status"]["observed"]["reference"] = format!("{repository}@{digest}").into();
        document["status"]["observed"]["digest"] = digest.into();
    }
    scene.refused("cannot be read", "apply", &away, &AT_RISK)?;
    Ok(())
}

// hazard: A `destroy` directly after its drain is denied its first deletion and stops halfway.
// class: A write takes effect later than its response, and the next step relies on it.
// members: the receipt in the hold's policy, for `destroy` and for what Flux prunes
// now: flux-seed retries a dry run for at most 30 s before the first deletion
fn ways_of_receipts(scene: &mut Scene) -> Test {
    hold(scene)?;
    until("the hold", || scene.lab.kubectl("delete pvc direct --dry-run=server").is_err())?;

    let mut files = artifact();
    files.remove("root/direct.yaml");
    let next = scene.lab.publish(&borrowed(&texts(&files)), "cosign")?;
    let documents = scene.naming(&next);
    let with = |drain: Value| [documents.clone(), vec![drain]].concat();
    let last = |run: Vec<Value>| -> Vec<Value> {
        // `status` reads the last document, which must be the Delivery.
        let mut run = run;
        let at = run.iter().position(|document| document["kind"] == "Delivery").unwrap_or_default();
        let delivery = run.remove(at);
        run.push(delivery);
        run
    };
    let pod = object(
        "v1",
        "Pod",
        "default",
        "writer",
        json!({"spec": {
        "containers": [{"name": "w", "image": "w"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "direct"}}]}}),
    );
    for (reason, edit) in [
        (
            "OtherCluster",
            (|receipt| "another".clone_into(&mut receipt.cluster.uid)) as fn(&mut Receipt),
        ),
        ("OtherClaim", |receipt| "another".clone_into(&mut source(receipt).uid)),
        ("OtherVolume", |receipt| "another".clone_into(&mut source(receipt).volume)),
        ("NotHeld", |receipt| source(receipt).hold = None),
        ("HoldBroken", |receipt| {
            if let Some(hold) = &mut source(receipt).hold {
                hold.policy.generation += 1;
            }
        }),
        ("WorkloadChanged", |receipt| {
            let (workload, uid) = ("statefulset/db".to_owned(), "an earlier one".to_owned());
            source(receipt).stopped = Some(Stopped { workload, uid, generation: 1 });
        }),
        ("InUse", |_| {}),
    ] {
        if reason == "InUse" {
            scene.lab.by_hand(&pod)?;
        }
        let documents = last(with(scene.drain(edit)?));
        let found = scene.refused(reason, "apply", &documents, &["default/direct"])?;
        assert_eq!(found["default/direct"], reason);
    }
    scene.lab.kubectl("delete pod writer --grace-period=0 --force")?;

    // With the right receipt, flux-seed and the hold permit the deletion of this claim alone.
    let drain = scene.drain(|_| {})?;
    let digest = digest_of(&drain)?;
    scene.claims.remove("default/direct");
    let before = fs::read_to_string(scene.lab.path("audit.log"))?.len();
    // The API server enforces a changed policy with a delay, which is longer on a busy server.
    std::thread::scope(|scope| -> Test {
        let lab = &scene.lab;
        let later = scope.spawn(move || {
            std::thread::sleep(std::time::Duration::from_secs(3));
            lab.replace(&deletion_policy(&digest)).map_err(|error| error.to_string())
        });
        lab.flux_seed("apply", &last(with(drain))).success();
        Ok(later.join().map_err(|_| "a panic")??)
    })?;
    until("the claim that was copied", || scene.lab.get("pvc direct").is_null())?;
    let log = fs::read_to_string(scene.lab.path("audit.log"))?;
    let denied = |entry: &Value| {
        entry["verb"] == "delete"
            && entry["objectRef"]["name"] == "direct"
            && entry["responseStatus"]["code"] == 403
            && !entry["requestURI"].as_str().unwrap_or_default().contains("dryRun")
    };
    let entries = log.get(before..).unwrap_or_default().lines();
    let denied = entries.filter_map(|line| serde_json::from_str(line).ok()).find(denied);
    assert_eq!(denied, None, "no deletion is denied");
    let is_deletion = |entry: &Value| {
        entry["verb"] == "delete"
            && entry["objectRef"]["name"] == "direct"
            && entry["responseStatus"]["code"] == 200
            && !entry["requestURI"].as_str().unwrap_or_default().contains("dryRun")
    };
    let entries = log.get(before..).unwrap_or_default().lines();
    let mut entries = entries.filter_map(|line| serde_json::from_str(line).ok());
    assert!(entries.any(|entry: Value| is_deletion(&entry)), "a dry run has deleted the claim");
    scene.none_is_lost("a receipt for another claim");
    scene.documents = documents;
    Ok(())
}

/// Creates the hold of the claim `default/direct` as data-drain does.
fn hold(scene: &Scene) -> Test {
    let api = "admissionregistration.k8s.io/v1";
    let policy = json!({"spec": {
        "matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
        "validations": [{"expression": "true"}]}});
    scene.lab.by_hand(&object(api, "ValidatingAdmissionPolicy", "", "hold", policy))?;
    scene.lab.by_hand(&deletion_policy(""))?;
    for name in ["hold", "hold-deletion"] {
        let binding = json!({"spec": {"policyName": name, "validationActions": ["Deny"]}});
        scene.lab.by_hand(&object(api, "ValidatingAdmissionPolicyBinding", "", name, binding))?;
    }
    Ok(())
}

/// Returns the policy that denies the deletion of the claim without this receipt.
fn deletion_policy(receipt: &str) -> Value {
    let annotation = "data-drain.holistic/receipt";
    let covered = format!(
        "'{receipt}' != '' && has(oldObject.metadata.annotations) && '{annotation}' in oldObject.metadata.annotations \
         && oldObject.metadata.annotations['{annotation}'] == '{receipt}'"
    );
    object(
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicy",
        "",
        "hold-deletion",
        json!({"spec": {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"],
            "resources": ["persistentvolumeclaims"]}]},
        "matchConditions": [{"name": "held", "expression": "oldObject.metadata.name == 'direct'"}],
        "validations": [{"expression": covered, "message": "held", "reason": "Forbidden"}]}}),
    )
}

/// Returns the digest of the signed payload, which is the name of the receipt.
fn digest_of(drain: &Value) -> Test<String> {
    use sha2::Digest as _;
    let payload = &drain["status"]["evidence"][0]["envelope"]["payload"];
    let payload = data_encoding::BASE64.decode(payload.as_str().unwrap_or_default().as_bytes())?;
    Ok(format!("sha256:{}", data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(payload))))
}

fn what_is_being_removed_is_not_delivered(scene: &Scene) -> Test {
    let lab = &scene.lab;
    let held = json!({"metadata": {"finalizers": ["example.org/held"]}});
    lab.by_hand(&object("v1", "ConfigMap", "empty", "held", held))?;
    lab.kubectl("delete namespace empty --wait=false")?;
    // `plan` is enough here, because `apply` ends with the same observation after minutes of waiting.
    let run = lab.flux_seed("plan --check", &scene.documents).code(3);
    let steps = status(&run)?["plan"].to_string();
    assert!(steps.contains("Namespace empty: Terminating"), "{steps}");
    lab.kubectl(
        "-n empty patch configmap held --type=merge -p {\"metadata\":{\"finalizers\":null}}",
    )?;
    until("the namespace", || lab.get("ns empty").is_null())?;
    Ok(())
}

// hazard: After a time-out, a second `destroy` reports that nothing is left, although a load balancer is.
// class: The state of a run is kept in an object that the run itself deletes.
// members: objects with a finalizer, claims of a deleted StatefulSet, a run that is killed at any
// moment, a suspended delivery that is resumed in order to be removed
// now: 111 in every run, with the object and its finalizer, until the object is deleted; Flux stays suspended
fn a_second_run_knows_what_the_first_one_knew(scene: &Scene) -> Test {
    let lab = &scene.lab;
    let discards: BTreeMap<_, _> = AT_RISK.into_iter().map(|claim| (claim, "discard")).collect();
    let mut documents = scene.documents.clone();
    change(&mut documents, "/spec/dataOnDestroy", &json!(discards));
    change(&mut documents, "/spec/timeoutSeconds", &json!(4));
    lab.kubectl(
        "-n flux-system patch kustomization prod --type=merge -p {\"spec\":{\"suspend\":true}}",
    )?;
    lab.kubectl("scale statefulset db --replicas=0")?;
    // A claim that was created by hand on a delivered volume keeps that volume.
    lab.kubectl("delete pvc on-delivered")?;
    let before = fs::read_to_string(lab.path("audit.log"))?.len();
    let held = |run: usize| -> Test {
        let run_ended = lab.flux_seed("destroy", &documents).code(111);
        let message = status(&run_ended)?["conditions"][0]["message"].to_string();
        assert!(
            message.contains("Service default/lb") && message.contains("load-balancer-cleanup"),
            "{run}: {message}"
        );
        assert_ne!(lab.get("-n flux-system deployment flux"), Value::Null);
        Ok(())
    };
    held(1)?;
    // The deletion of the Kustomization deletes the inventory, too. The record still exists.
    lab.kubectl("-n flux-system delete kustomization prod")?;
    held(2)?;
    for milliseconds in [300, 700, 1200] {
        lab.cut_short("destroy", &documents, milliseconds)?;
    }
    held(3)?;
    lab.kubectl("patch service lb --type=merge -p {\"metadata\":{\"finalizers\":null}}")?;
    change(&mut documents, "/spec/timeoutSeconds", &json!(60));
    for milliseconds in [300, 800, 1500, 3000] {
        lab.cut_short("destroy", &documents, milliseconds)?;
    }
    let run = lab.flux_seed("destroy", &documents).success();
    let ended = status(&run)?;
    assert_eq!(ended["conditions"][0]["reason"], "Destroyed");
    assert_eq!(ended["conditions"][0]["message"], "nothing is left of it");
    assert_eq!(testing::run::documents(&run)?.len(), documents.len());
    for removed in [
        "ns team",
        "statefulset db",
        "pvc data-db-0",
        "pvc nested",
        "pv disk",
        "crd databases.example.org",
        "ns flux-system",
    ] {
        assert_eq!(lab.get(removed), Value::Null, "{removed}");
    }
    let records = lab.get("configmap -n kube-system -l flux-seed.holistic/record=true");
    assert_eq!(records["items"], json!([]), "the record is deleted last");

    // Flux has applied nothing meanwhile, because `destroy` never resumes a suspended delivery.
    let log = fs::read_to_string(lab.path("audit.log"))?;
    let entries = log.get(before..).unwrap_or_default().lines();
    for entry in entries.filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let agent = entry["userAgent"].as_str().unwrap_or_default();
        let kind = entry["objectRef"]["resource"].as_str().unwrap_or_default();
        let writes =
            ["create", "update", "patch"].contains(&entry["verb"].as_str().unwrap_or_default());
        let workload = ["statefulsets", "deployments", "services"].contains(&kind);
        assert!(!(agent.contains("kustomize-controller") && writes && workload), "{entry}");
    }
    Ok(())
}
