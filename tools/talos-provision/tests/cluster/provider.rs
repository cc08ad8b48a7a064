//! Nodes that a cloud controller manager initialises, and the manifests that deliver it.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::{Machines, binaries, condition, kubectl, open_kubeconfig, unsealed};
use crate::harness::{Harness, support, until};

const POOLS: [&str; 2] = [
    "name: control, role: controlplane, count: 1, type: cax11, locations: [fsn1]",
    "name: work, role: worker, count: 1, type: cax21, locations: [fsn1]",
];
const TAINT: &str = "node.cloudprovider.kubernetes.io/uninitialized";

fn manifests(folder: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deployments/manifests");
    PathBuf::from(root).join(folder).display().to_string()
}

fn read(harness: &Harness, line: &str) -> Value {
    let text = kubectl(harness.folder.path(), &format!("get {line} -o json"));
    serde_json::from_str(&text).expect("JSON")
}

/// Runs kubectl and returns its standard error, whether it succeeds or not.
fn failure(harness: &Harness, line: &str) -> Option<String> {
    let mut command = Command::new(binaries().join("kubectl"));
    command.env_clear().env("HOME", harness.folder.path()).args(["--kubeconfig", "kubeconfig"]);
    let run = command.args(line.split(' ')).current_dir(harness.folder.path()).output();
    let run = run.expect("kubectl runs");
    (!run.status.success()).then(|| String::from_utf8_lossy(&run.stderr).into_owned())
}

fn items(list: &Value) -> &Vec<Value> {
    list["items"].as_array().expect("items")
}

/// Returns the nodes of the pods with this label, or `None` for a pod that is not scheduled.
fn scheduled(harness: &Harness, namespace: &str, label: &str) -> Vec<Option<String>> {
    let pods = read(harness, &format!("pods -n {namespace} -l {label}"));
    let node = |pod: &Value| pod["spec"]["nodeName"].as_str().map(str::to_owned);
    let mut nodes: Vec<_> = items(&pods).iter().map(node).collect();
    nodes.sort();
    nodes
}

// hazard: The controller that removes the taint of new nodes waits for a node without this taint.
// class: A component that starts the others depends on one of them.
// members: the cloud controller manager, the CSI driver on each node, Flux's controllers
// now: the real scheduler places each of them on nodes with the taint, and places Traefik only without it
#[test]
fn uninitialised_nodes_are_ready_and_run_the_pods_that_initialise_them() {
    let machines = Machines::open();
    let document = support::cluster("prod", &POOLS, "  externalCloudProvider: true\n");
    let harness = Harness::open(machines.fleet.clone(), &document);
    let end = harness.run("apply").code(0);
    assert_eq!(condition(&end, "Nodes"), "True", "the taint does not make a node unready");
    let writes = harness.writes();
    let again = harness.run("apply").code(0);
    assert_eq!((unsealed(&again), harness.writes()), (unsealed(&end), writes));
    open_kubeconfig(&harness, &end, "kubeconfig");

    nodes_have_the_taint_and_the_address_of_the_private_network(&harness);
    the_api_server_accepts_every_manifest(&harness);
    the_scheduler_places_the_controllers_of_the_cloud_first(&harness);
}

fn nodes_have_the_taint_and_the_address_of_the_private_network(harness: &Harness) {
    let servers = harness.list("servers");
    for node in items(&read(harness, "nodes")) {
        let name = node["metadata"]["name"].as_str().expect("a name");
        let taints = node["spec"]["taints"].as_array().expect("taints");
        let expected = json!({"key": TAINT, "value": "true", "effect": "NoSchedule"});
        assert!(taints.contains(&expected), "{name}: {taints:?}");
        let server = servers.iter().find(|server| server["name"] == name).expect("a server");
        let private = &server["private_net"][0]["ip"];
        // A controller of the cloud refuses a node whose kubelet announces an address that the cloud does not
        // know (`getNodeModifiersFromCloudProvider` in k8s.io/cloud-provider v0.36.3).
        let announced = &node["metadata"]["annotations"]["alpha.kubernetes.io/provided-node-ip"];
        assert_eq!(announced, private, "{name}");
        let addresses = node["status"]["addresses"].as_array().expect("addresses");
        let internal = json!({"type": "InternalIP", "address": private});
        assert!(addresses.contains(&internal), "{name}: {addresses:?}");
    }
}

/// Compares every field of the manifests with the schemas of the real API server.
fn the_api_server_accepts_every_manifest(harness: &Harness) {
    // An object in a new Namespace is valid only when the Namespace exists.
    kubectl(harness.folder.path(), "create namespace ingress");
    for folder in ["cloud", "ingress"] {
        let dry = format!(
            "apply --server-side --force-conflicts --validate=strict --dry-run=server -k {}",
            manifests(folder)
        );
        let accepted = kubectl(harness.folder.path(), &dry);
        assert!(accepted.lines().count() > 5, "{accepted}");
        assert!(accepted.lines().all(|line| line.contains("serverside-applied")), "{accepted}");
    }
    // A field that does not exist is refused, so that the comparison can fail.
    let wrong = harness.path("wrong.yaml");
    let text = std::fs::read_to_string(format!("{}/storage-class.yaml", manifests("cloud")));
    let text = text.expect("a manifest").replace("reclaimPolicy:", "reclaimPolicies:");
    std::fs::write(wrong, text).expect("written");
    let refused = "apply --server-side --validate=strict --dry-run=server -f wrong.yaml";
    let why = failure(harness, refused).expect("refused");
    assert!(why.contains("reclaimPolicies"), "{why}");
}

fn the_scheduler_places_the_controllers_of_the_cloud_first(harness: &Harness) {
    let folder = harness.folder.path();
    for name in ["cloud", "ingress"] {
        let apply = format!("apply --server-side --force-conflicts -k {}", manifests(name));
        kubectl(folder, &apply);
    }
    let manager = "app.kubernetes.io/name=hcloud-cloud-controller-manager";
    let (driver, control, work) =
        ("app.kubernetes.io/component=node", "prod-control-1", "prod-work-1");
    until("the cloud controller manager on the control plane", || {
        scheduled(harness, "kube-system", manager) == [Some(control.to_owned())]
    });
    until("the CSI driver on both nodes", || {
        scheduled(harness, "kube-system", driver) == [control, work].map(|name| Some(name.into()))
    });
    let traefik = "app.kubernetes.io/name=traefik";
    until("two pods of Traefik", || scheduled(harness, "ingress", traefik).len() == 2);
    assert_eq!(scheduled(harness, "ingress", traefik), [None, None]);
    kubectl(folder, &format!("taint nodes --all {TAINT}-"));
    until("Traefik on the worker", || {
        scheduled(harness, "ingress", traefik) == [Some(work.to_owned()), Some(work.to_owned())]
    });
}
