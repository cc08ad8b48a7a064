//! Removal of machines from a living cluster, and the destruction of a cluster, with a real
//! Kubernetes API, scheduler and disruption controller.

use std::fs;

use serde_json::{Value, json};

use super::{changed, kubectl};
use crate::harness::{Harness, until};

/// Machine that the test creates, with a node. No kubelet runs there, so the test itself reports
/// the state of its pods.
const MACHINE: &str = "prod-work-2";

const WORKLOAD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {kubernetes.io/hostname: prod-work-2}
      terminationGracePeriodSeconds: 0
      containers: [{name: web, image: "127.74.0.3:5000/pause:1"}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web-budget}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: web}}
"#;

/// Claim whose data is on the disk of that machine alone.
const CLAIM: &str = r#"
apiVersion: v1
kind: PersistentVolume
metadata: {name: data}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  local: {path: /srv}
  claimRef: {namespace: default, name: data}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [prod-work-2]}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  volumeName: data
  resources: {requests: {storage: 1Gi}}
"#;

fn run(harness: &Harness, line: &str) -> String {
    kubectl(harness.folder.path(), line)
}

fn declare(harness: &Harness, workers: u8, more: &str) {
    let document = format!("{}{more}", changed(3, workers));
    fs::write(harness.path("cluster.yaml"), document).expect("written");
}

fn refusals(cluster: &Value) -> String {
    cluster["status"]["refusals"].to_string()
}

/// Adds a machine, a node, a pod under a budget, and a claim on the machine's disk to the cluster.
fn add_workload(harness: &Harness) {
    let image = harness
        .list("images")
        .into_iter()
        .find(|image| image["labels"]["os"] == "talos" && image["architecture"] == "arm");
    let labels = json!({
        "holistic/project": "holistic", "holistic/cluster": "prod",
        "holistic/role": "worker", "holistic/pool": "work",
    });
    let server = json!({
        "name": MACHINE, "server_type": "cax21", "location": "fsn1", "labels": labels,
        "image": image.expect("an image")["id"], "start_after_create": false,
    });
    let created = harness.call("POST", "/v1/servers", &server);
    assert!(created["error"].is_null(), "{created}");
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": MACHINE, "labels": {"kubernetes.io/hostname": MACHINE}},
    });
    fs::write(harness.path("node.json"), node.to_string()).expect("written");
    fs::write(harness.path("workload.yaml"), WORKLOAD).expect("written");
    run(harness, "create -f node.json");
    let room = json!({"cpu": "1", "memory": "1Gi", "pods": "10"});
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady"});
    status(
        harness,
        &format!("node {MACHINE}"),
        &json!({
            "capacity": room, "allocatable": room, "conditions": [ready],
        }),
    );
    run(harness, "apply -f workload.yaml");
    claim(harness);
    until("the pod is scheduled", || {
        run(harness, "get pods -l app=web -o jsonpath={.items[*].spec.nodeName}") == MACHINE
    });
    let pod = run(harness, "get pods -l app=web -o name");
    let ready = json!({"type": "Ready", "status": "True"});
    status(harness, pod.trim(), &json!({"phase": "Running", "conditions": [ready]}));
    until("the budget counts the pod", || {
        run(harness, "get pdb web-budget -o jsonpath={.status.currentHealthy}") == "1"
    });
}

fn claim(harness: &Harness) {
    fs::write(harness.path("claim.yaml"), CLAIM).expect("written");
    run(harness, "apply -f claim.yaml");
    until("the claim is bound", || {
        run(harness, "get pvc data -o jsonpath={.status.phase}") == "Bound"
    });
}

fn status(harness: &Harness, object: &str, status: &Value) {
    let patch = json!({"status": status});
    run(harness, &format!("patch {object} --subresource=status --type=merge -p {patch}"));
}

pub(super) fn a_machine_is_removed_only_when_its_volumes_and_pods_allow_it(harness: &Harness) {
    add_workload(harness);

    // The gate refuses before anything is changed.
    declare(harness, 1, "  removal: {evictionSeconds: 2}\n");
    let writes = harness.writes();
    let plan = harness.run("plan").code(0).cluster();
    assert!(refusals(&plan).contains("default/data"), "{plan}");
    let end = harness.run("apply").code(111);
    assert!(end.err.contains("default/data"), "{}", end.err);
    assert!(refusals(&end.cluster()).contains("NoReceipt"), "{}", end.out);
    assert_eq!(harness.writes(), writes);
    let unschedulable =
        || run(harness, &format!("get node {MACHINE} -o jsonpath={{.spec.unschedulable}}"));
    assert_eq!(unschedulable(), "");

    // The budget never allows the eviction.
    declare(
        harness,
        1,
        "  removal: {evictionSeconds: 2}\n  dataOnDestroy: {default/data: discard}\n",
    );
    let end = harness.run("apply").code(111);
    assert!(end.err.contains("web-budget") && end.err.contains(MACHINE), "{}", end.err);
    assert_eq!(unschedulable(), "true");
    assert!(harness.names("servers").contains(&MACHINE.to_owned()));
    assert_eq!(
        run(harness, "get pods -l app=web -o jsonpath={.items[*].metadata.deletionTimestamp}"),
        ""
    );

    // A machine that is declared again is uncordoned, because this program cordoned it.
    declare(harness, 2, "");
    let plan = harness.run("plan").code(0).cluster();
    assert!(
        plan["status"]["plan"]
            .to_string()
            .contains(r#"{"action":"uncordon","name":"prod-work-2"}"#)
    );

    // The budget now allows the eviction, and the interrupted removal continues.
    declare(
        harness,
        1,
        "  removal: {evictionSeconds: 60}\n  dataOnDestroy: {default/data: discard}\n",
    );
    run(harness, "delete pdb web-budget");
    harness.run("apply").code(0);
    assert!(!harness.names("servers").contains(&MACHINE.to_owned()));
    assert!(!run(harness, "get nodes -o name").contains(MACHINE));
    run(harness, "delete deployment web");
}

/// Without the load balancer, each control plane is asked at its own address.
// hazard: The load balancer is deleted, and `destroy` then removes every machine without a receipt.
// class: Silence is taken for consent.
// members: a missing control plane, a silent API
// now: refused by name after asking each control plane; nothing touched
pub(super) fn destroy_without_a_load_balancer_still_finds_the_volumes(harness: &Harness) {
    claim(harness);
    let balancer = harness.list("load_balancers")[0]["id"].clone();
    harness.call("DELETE", &format!("/v1/load_balancers/{balancer}"), &Value::Null);
    until("the load balancer is gone", || harness.names("load_balancers").is_empty());
    let servers = harness.names("servers");
    let writes = harness.writes();
    let plan = harness.run("plan --destroy").code(0).cluster();
    assert!(refusals(&plan).contains("default/data"), "{plan}");
    let end = harness.run("destroy").code(111);
    assert!(end.err.contains("default/data"), "{}", end.err);
    assert_eq!((harness.names("servers"), harness.writes()), (servers, writes));
    let document = fs::read_to_string(harness.path("cluster.yaml")).expect("a document");
    let document = format!("{document}  dataOnDestroy: {{default/data: discard}}\n");
    fs::write(harness.path("cluster.yaml"), document).expect("written");
}
