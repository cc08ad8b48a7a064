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

fn run(site: &Harness, line: &str) -> String {
    kubectl(site.folder.path(), line)
}

fn declare(site: &Harness, workers: u8, more: &str) {
    let document = format!("{}{more}", changed(3, workers));
    fs::write(site.path("cluster.yaml"), document).expect("written");
}

fn refusals(cluster: &Value) -> String {
    cluster["status"]["refusals"].to_string()
}

/// Adds a machine, a node, a pod under a budget, and a claim on the machine's disk to the cluster.
fn furnish(site: &Harness) {
    let image = site
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
    let made = site.call("POST", "/v1/servers", &server);
    assert!(made["error"].is_null(), "{made}");
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": MACHINE, "labels": {"kubernetes.io/hostname": MACHINE}},
    });
    fs::write(site.path("node.json"), node.to_string()).expect("written");
    fs::write(site.path("workload.yaml"), WORKLOAD).expect("written");
    run(site, "create -f node.json");
    let room = json!({"cpu": "1", "memory": "1Gi", "pods": "10"});
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady"});
    status(
        site,
        &format!("node {MACHINE}"),
        &json!({
            "capacity": room, "allocatable": room, "conditions": [ready],
        }),
    );
    run(site, "apply -f workload.yaml");
    claim(site);
    until("the pod is scheduled", || {
        run(site, "get pods -l app=web -o jsonpath={.items[*].spec.nodeName}") == MACHINE
    });
    let pod = run(site, "get pods -l app=web -o name");
    let ready = json!({"type": "Ready", "status": "True"});
    status(site, pod.trim(), &json!({"phase": "Running", "conditions": [ready]}));
    until("the budget counts the pod", || {
        run(site, "get pdb web-budget -o jsonpath={.status.currentHealthy}") == "1"
    });
}

fn claim(site: &Harness) {
    fs::write(site.path("claim.yaml"), CLAIM).expect("written");
    run(site, "apply -f claim.yaml");
    until("the claim is bound", || {
        run(site, "get pvc data -o jsonpath={.status.phase}") == "Bound"
    });
}

fn status(site: &Harness, object: &str, status: &Value) {
    let patch = json!({"status": status});
    run(site, &format!("patch {object} --subresource=status --type=merge -p {patch}"));
}

pub(super) fn a_machine_is_removed_only_when_its_volumes_and_pods_allow_it(site: &Harness) {
    furnish(site);

    // The gate refuses before anything is changed.
    declare(site, 1, "  removal: {evictionSeconds: 2}\n");
    let writes = site.writes();
    let plan = site.run("plan").code(0).cluster();
    assert!(refusals(&plan).contains("default/data"), "{plan}");
    let end = site.run("apply").code(111);
    assert!(end.err.contains("default/data"), "{}", end.err);
    assert!(refusals(&end.cluster()).contains("NoReceipt"), "{}", end.out);
    assert_eq!(site.writes(), writes);
    let unschedulable =
        || run(site, &format!("get node {MACHINE} -o jsonpath={{.spec.unschedulable}}"));
    assert_eq!(unschedulable(), "");

    // The budget never allows the eviction.
    declare(site, 1, "  removal: {evictionSeconds: 2}\n  dataOnDestroy: {default/data: discard}\n");
    let end = site.run("apply").code(111);
    assert!(end.err.contains("web-budget") && end.err.contains(MACHINE), "{}", end.err);
    assert_eq!(unschedulable(), "true");
    assert!(site.names("servers").contains(&MACHINE.to_owned()));
    assert_eq!(
        run(site, "get pods -l app=web -o jsonpath={.items[*].metadata.deletionTimestamp}"),
        ""
    );

    // A machine that is declared again is uncordoned, because this program cordoned it.
    declare(site, 2, "");
    let plan = site.run("plan").code(0).cluster();
    assert!(plan["status"]["plan"].to_string().contains(r#"{"uncordon":{"name":"prod-work-2"}}"#));

    // The budget now allows the eviction, and the interrupted removal continues.
    declare(
        site,
        1,
        "  removal: {evictionSeconds: 60}\n  dataOnDestroy: {default/data: discard}\n",
    );
    run(site, "delete pdb web-budget");
    site.run("apply").code(0);
    assert!(!site.names("servers").contains(&MACHINE.to_owned()));
    assert!(!run(site, "get nodes -o name").contains(MACHINE));
    run(site, "delete deployment web");
}

/// Without the load balancer, each control plane is asked at its own address.
// hazard: The load balancer is deleted, and `destroy` then removes every machine without a receipt.
// class: Silence is taken for consent.
// members: a missing control plane, a silent API
// now: refused by name after asking each control plane; nothing touched
pub(super) fn destroy_without_a_load_balancer_still_finds_the_volumes(site: &Harness) {
    claim(site);
    let balancer = site.list("load_balancers")[0]["id"].clone();
    site.call("DELETE", &format!("/v1/load_balancers/{balancer}"), &Value::Null);
    until("the load balancer is gone", || site.names("load_balancers").is_empty());
    let servers = site.names("servers");
    let writes = site.writes();
    let plan = site.run("plan --destroy").code(0).cluster();
    assert!(refusals(&plan).contains("default/data"), "{plan}");
    let end = site.run("destroy").code(111);
    assert!(end.err.contains("default/data"), "{}", end.err);
    assert_eq!((site.names("servers"), site.writes()), (servers, writes));
    let document = fs::read_to_string(site.path("cluster.yaml")).expect("a document");
    let document = format!("{document}  dataOnDestroy: {{default/data: discard}}\n");
    fs::write(site.path("cluster.yaml"), document).expect("written");
}
