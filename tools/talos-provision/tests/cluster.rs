//! Life of a cluster with real etcd, Kubernetes and kubelets on machines that speak Talos's API.
//!
//! Needs root, containerd, crun, and `LAB_BIN`, which names the folder with the components.

mod harness;
#[path = "cluster/provider.rs"]
mod provider;
#[path = "cluster/quorum.rs"]
mod quorum;
#[path = "cluster/registries.rs"]
mod registries;
#[path = "cluster/removal.rs"]
mod removal;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use emulator_talos::{Fleet, FleetSettings, Node};
use harness::{End, Harness, support, until};
use serde_json::Value;

fn document(controls: u8, workers: u8) -> String {
    let pools = [
        format!(
            "name: control, role: controlplane, count: {controls}, type: cax11, locations: [fsn1, nbg1, hel1]"
        ),
        format!("name: work, role: worker, count: {workers}, type: cax21, locations: [fsn1]"),
    ];
    support::cluster("prod", &[&pools[0], &pools[1]], "")
}

fn binaries() -> PathBuf {
    let folder = std::env::var_os("LAB_BIN");
    PathBuf::from(
        folder.expect("LAB_BIN names the folder with etcd, kube-apiserver, … and kubectl"),
    )
}

/// Fleet of machines, which is shut down when the test ends.
struct Machines {
    fleet: Arc<Fleet>,
    _disks: tempfile::TempDir,
}

impl Machines {
    fn open() -> Self {
        Self::with(Node::Real)
    }

    fn with(node: Node) -> Self {
        let disks = tempfile::tempdir().expect("a folder");
        let settings = FleetSettings {
            directory: disks.path().join("machines"),
            binaries: binaries(),
            plain_registries: Vec::new(),
            pause_image: "127.74.0.3:5000/pause:1".to_owned(), // of `registries`
            cni: "/usr/lib/cni".into(),
            kubeprism: SocketAddr::from((Ipv4Addr::new(127, 74, 0, 10), 7445)),
            node,
        };
        Self { fleet: Fleet::new(settings).expect("a fleet"), _disks: disks }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        self.fleet.shutdown();
    }
}

fn condition(end: &End, about: &str) -> Value {
    let cluster = end.cluster();
    let conditions = cluster["status"]["conditions"].as_array().expect("conditions").clone();
    conditions.into_iter().find(|condition| condition["type"] == about).expect("the condition")["status"].clone()
}

/// Returns the written document without its sealed part, which differs from run to run.
fn unsealed(end: &End) -> Value {
    let mut cluster = end.cluster();
    cluster["status"]["sealed"] = Value::Null;
    cluster
}

fn kubectl(folder: &Path, line: &str) -> String {
    let mut command = Command::new(binaries().join("kubectl"));
    command.env_clear().env("HOME", folder).args(["--kubeconfig", "kubeconfig"]);
    let run = command.args(line.split(' ')).current_dir(folder).output().expect("kubectl runs");
    assert!(run.status.success(), "kubectl {line}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8_lossy(&run.stdout).into_owned()
}

/// Opens a sealed kubeconfig with the recipient's identity.
fn open_kubeconfig(harness: &Harness, end: &End, name: &str) {
    let sealed = end.cluster()["status"]["sealed"][name].as_str().expect("sealed").to_owned();
    fs::write(harness.path("sealed"), sealed).expect("written");
    fs::write(harness.path("identity"), support::IDENTITY).expect("written");
    let line = ["-d", "-i", "identity", "-o", "kubeconfig", "sealed"];
    let opened = Command::new("age").args(line).current_dir(harness.folder.path()).status();
    assert!(opened.expect("age runs").success());
}

/// One cluster serves all parts, because starting a cluster takes most of the time. Each part
/// continues where the previous one ended.
#[test]
fn one_cluster_starts_changes_loses_machines_shrinks_and_is_destroyed() {
    let machines = Machines::open();
    let harness = Harness::open(machines.fleet.clone(), &document(3, 1));
    let end = apply_interrupted_again_and_again(&harness);
    a_reader_can_read_everything_but_secrets(&harness, &end);
    open_kubeconfig(&harness, &end, "kubeconfig");
    the_machines_are_one_cluster(&harness, &end);
    a_second_apply_changes_nothing(&harness, &end);
    a_changed_document_changes_running_machines(&harness);
    a_secret_in_a_rejected_patch_is_not_shown(&harness);
    a_lost_control_plane_is_created_again(&harness, &machines.fleet);
    a_lost_disk_beside_slow_members_starts_no_second_etcd(&harness, &machines.fleet);
    removal::a_machine_is_removed_only_when_its_volumes_and_pods_allow_it(&harness);
    undeclared_machines_are_removed(&harness);
    verify_waits_for_a_service_that_its_machine_restarts(&harness);
    a_lost_last_disk_starts_no_new_cluster_until_the_incarnation_is_raised(
        &harness,
        &machines.fleet,
    );
    registries::a_pod_starts_once_the_credentials_of_its_registry_are_declared(&harness);
    removal::destroy_without_a_load_balancer_still_finds_the_volumes(&harness);
    harness.run("destroy").code(0);
    assert!(harness.names("servers").is_empty());
}

/// Interrupts `apply` a little later each time, until it succeeds.
fn apply_interrupted_again_and_again(harness: &Harness) -> End {
    let mut interrupted = 0;
    for tenths in 1..200 {
        let run = harness.start("apply");
        std::thread::sleep(Duration::from_millis(100 * tenths));
        let end = run.interrupt();
        match end.status.code() {
            Some(0) => {
                assert!(interrupted > 3, "done after {interrupted} interruptions: {}", end.err);
                return end;
            }
            Some(111) => interrupted += 1,
            _ => panic!("{}: {}", end.status, end.err),
        }
    }
    panic!("`apply` never succeeded");
}

/// Asks the real API server for the reader's permissions.
fn a_reader_can_read_everything_but_secrets(harness: &Harness, end: &End) {
    open_kubeconfig(harness, end, "readerKubeconfig");
    let allowed = |line: &str| {
        let mut command = Command::new(binaries().join("kubectl"));
        command.env_clear().env("HOME", harness.folder.path()).args(["--kubeconfig", "kubeconfig"]);
        command.args(["auth", "can-i"]).args(line.split(' '));
        command.current_dir(harness.folder.path()).output().expect("kubectl runs").status.success()
    };
    assert!(allowed("list pods --all-namespaces"));
    for forbidden in [
        "get secrets --all-namespaces",
        "create pods",
        "delete persistentvolumeclaims",
        "escalate clusterroles",
    ] {
        assert!(!allowed(forbidden), "{forbidden}");
    }
}

const NODES: &str =
    "node/prod-control-1\nnode/prod-control-2\nnode/prod-control-3\nnode/prod-work-1\n";

fn the_machines_are_one_cluster(harness: &Harness, end: &End) {
    let names = ["prod-control-1", "prod-control-2", "prod-control-3", "prod-work-1"];
    assert_eq!(harness.names("servers"), names);
    let members = end.cluster()["status"]["conditions"].clone();
    assert!(members.to_string().contains("3 members, which are the control planes"), "{members}");
    for about in ["Ready", "Machines", "Configured", "Etcd", "Api", "Nodes"] {
        assert_eq!(condition(end, about), "True", "{about}");
    }
    assert_eq!(kubectl(harness.folder.path(), "get nodes -o name"), NODES);
}

fn a_second_apply_changes_nothing(harness: &Harness, end: &End) {
    let (writes, calls) = (harness.writes(), harness.calls());
    let again = harness.run("apply").code(0);
    assert_eq!(harness.calls() - calls, 8, "seven lists and the prices: {}", again.err);
    assert_eq!(unsealed(&again), unsealed(end));
    assert_eq!(harness.writes(), writes);
    assert_eq!(unsealed(&harness.run("plan --check").code(0)), unsealed(end));
    assert_eq!(unsealed(&harness.run("verify").code(0)), unsealed(end));
}

/// Returns the document of a cluster with these machines, a patch and an open ICMP.
fn changed(controls: u8, workers: u8) -> String {
    document(controls, workers)
        .replace("{talos: [anywhere]}", "{talos: [anywhere], icmp: [anywhere]}")
        + "  patches: [patch.yaml]\n"
}

/// Returns a document with one machine of each role, and certificates that end a year earlier.
fn later() -> String {
    changed(1, 1).replace("{notBefore: 2026-11-01}", "{notBefore: 2026-11-01, years: 9}")
}

/// Changed machines are configured one after the other.
fn a_changed_document_changes_running_machines(harness: &Harness) {
    let patch = "machine: {sysctls: {net.core.somaxconn: '65535'}, nodeLabels: {shelf: a}}";
    fs::write(harness.path("patch.yaml"), patch).expect("written");
    fs::write(harness.path("cluster.yaml"), changed(3, 1)).expect("written");
    let end = harness.run("verify").code(100);
    assert!(end.err.contains("`change firewall prod: rules: none → icmp from "), "{}", end.err);
    harness.run("apply").code(0);
    harness.run("verify").code(0);
    assert_eq!(harness.list("firewalls")[0]["rules"].as_array().map(Vec::len), Some(2));
    assert_eq!(kubectl(harness.folder.path(), "get nodes -l shelf=a -o name"), NODES);
}

/// An unknown field may hold a secret, so its value is in no message. The test of `redact` holds the same for
/// what a machine quotes.
fn a_secret_in_a_rejected_patch_is_not_shown(harness: &Harness) {
    let key = "kFOnOzYyOEGHIJq5oXQyKxQ2rYQm7nH0m3VY2Tn9wXE=";
    let patch = format!(
        "apiVersion: v1alpha1\nkind: WireguardConfig\nname: wg0\npeers: [{{publicKey: a, presharedKy: {key}}}]\n"
    );
    fs::write(harness.path("secret.yaml"), patch).expect("written");
    let document = changed(3, 1).replace("[patch.yaml]", "[patch.yaml, secret.yaml]");
    fs::write(harness.path("cluster.yaml"), document).expect("written");
    let end = harness.run("apply").code(2);
    assert!(end.err.contains("/peers/0/presharedKy is not a field"), "{}", end.err);
    for shown in [&end.out, &end.err] {
        assert!(!shown.contains("kFOnOz"), "{shown}");
    }
    fs::write(harness.path("cluster.yaml"), changed(3, 1)).expect("written");
}

/// Time for which the new member of etcd is a learner.
const LEARNING: Duration = Duration::from_secs(6);

fn a_lost_control_plane_is_created_again(harness: &Harness, fleet: &Arc<Fleet>) {
    kubectl(harness.folder.path(), "create configmap kept --from-literal=a=b");
    let node =
        || kubectl(harness.folder.path(), "get node prod-control-2 -o jsonpath={.metadata.uid}");
    let before = node();

    let lost =
        harness.list("servers").into_iter().find(|server| server["name"] == "prod-control-2");
    let id = lost.expect("the machine")["id"].clone();
    harness.call("DELETE", &format!("/v1/servers/{id}"), &Value::Null);
    until("the machine is gone", || harness.names("servers").len() == 3);
    let plan = harness.run("plan").code(0).cluster();
    let steps = plan["status"]["plan"].as_array().expect("steps");
    let kinds: Vec<_> =
        steps.iter().map(|step| step["action"].as_str().expect("an action")).collect();
    assert_eq!(kinds, ["removeMember", "forgetNode", "createServer", "configure"]);
    // A learner has no vote, so `apply` must not end before the member is promoted.
    fleet.slow_promotion(LEARNING);
    let began = Instant::now();
    let end = harness.run("apply").code(0);
    assert!(began.elapsed() > LEARNING, "{}", end.err);
    assert_eq!(condition(&end, "Etcd"), "True", "{}", end.err);
    fleet.slow_promotion(Duration::ZERO);
    assert_ne!(node(), before, "what the lost one was last is not what the new one is");
    harness.run("verify").code(0);
    kubectl(harness.folder.path(), "get configmap kept");
}

fn undeclared_machines_are_removed(harness: &Harness) {
    fs::write(harness.path("cluster.yaml"), changed(1, 1)).expect("written");
    harness.run("apply").code(0);
    assert_eq!(harness.names("servers"), ["prod-control-1", "prod-work-1"]);
    harness.run("verify").code(0);
    // The dates of authorities may move, because their keys stay.
    fs::write(harness.path("cluster.yaml"), later()).expect("written");
    harness.run("apply").code(0);
    harness.run("verify").code(0);
    let left = "node/prod-control-1\nnode/prod-work-1\n";
    assert_eq!(kubectl(harness.folder.path(), "get nodes -o name"), left);
    kubectl(harness.folder.path(), "get configmap kept");
}

fn verify_waits_for_a_service_that_its_machine_restarts(harness: &Harness) {
    let kubelets = Command::new("pkill").args(["-KILL", "--exact", "kubelet"]).status();
    assert!(kubelets.expect("pkill runs").success(), "a kubelet was running");
    harness.run("verify").code(0);
}

fn power(harness: &Harness, name: &str, on: bool) {
    let servers = harness.list("servers");
    let server = servers.iter().find(|server| server["name"] == name).expect("the machine");
    let verb = if on { "poweron" } else { "poweroff" };
    let path = format!("/v1/servers/{}/actions/{verb}", server["id"]);
    harness.call("POST", &path, &Value::Null);
    let status = if on { "running" } else { "off" };
    until("the power to change", || {
        let servers = harness.list("servers");
        servers.iter().any(|server| server["name"] == name && server["status"] == status)
    });
}

fn planned(harness: &Harness) -> String {
    let end = harness.run("plan");
    end.cluster()["status"]["plan"].to_string()
}

fn record(harness: &Harness) -> Value {
    harness.list("networks")[0]["labels"]["holistic/etcd"].clone()
}

// hazard: A control plane with an emptied disk is bootstrapped while slow members with data still
// start.
// class: Absence is taken for proof.
// members: every order of boots of three control planes
// now: `apply` waits for the members, and the emptied machine rejoins them
/// Two members are still in `Waiting` and `Preparing`, which every boot goes through, while the third
/// control plane has lost its disk.
fn a_lost_disk_beside_slow_members_starts_no_second_etcd(harness: &Harness, fleet: &Arc<Fleet>) {
    let controls = ["prod-control-1", "prod-control-2", "prod-control-3"];
    assert_eq!(record(harness), "begun-1");
    for name in controls {
        power(harness, name, false);
    }
    fleet.empty_disk(controls[0]).expect("emptied");
    for name in &controls[1..] {
        fleet.slow_etcd(name, Duration::from_secs(12));
    }
    for name in controls {
        power(harness, name, true);
    }
    until("the machine to wait for its configuration", || {
        let plan = planned(harness);
        assert!(!plan.contains("bootstrap"), "{plan}");
        plan.contains("configure")
    });
    let end = harness.run("apply").code(0);
    assert!(!end.err.contains("bootstrap"), "{}", end.err);
    harness.run("verify").code(0);
    kubectl(harness.folder.path(), "get configmap kept");
    for name in &controls[1..] {
        fleet.slow_etcd(name, Duration::ZERO);
    }
}

fn a_lost_last_disk_starts_no_new_cluster_until_the_incarnation_is_raised(
    harness: &Harness,
    fleet: &Arc<Fleet>,
) {
    let uid = || {
        let line = "get namespace kube-system -o jsonpath={.metadata.uid}";
        kubectl(harness.folder.path(), line)
    };
    let before = uid();
    power(harness, "prod-control-1", false);
    fleet.empty_disk("prod-control-1").expect("emptied");
    power(harness, "prod-control-1", true);
    until("the machine to be found empty", || {
        let end = harness.run("apply");
        end.status.code() == Some(100) && end.err.contains("was started before")
    });
    let end = harness.run("plan").code(100);
    assert!(end.err.contains("raise `spec.incarnation` by one"), "{}", end.err);
    assert_eq!(record(harness), "begun-1");
    fs::write(harness.path("cluster.yaml"), later() + "  incarnation: 2\n").expect("written");
    // A kubelet registers its node only when it starts.
    power(harness, "prod-work-1", false);
    power(harness, "prod-work-1", true);
    let end = harness.run("apply").code(0);
    assert!(end.err.contains("bootstrap etcd on prod-control-1"), "{}", end.err);
    assert_eq!(record(harness), "begun-2");
    assert_ne!(uid(), before, "it is another cluster, as the document says");
    harness.run("verify").code(0);
}
