//! Loss of the majority of the control planes, with real etcd.

use std::time::{Duration, Instant};

use emulator_talos::Node;

use super::{Machines, condition, power};
use crate::harness::{Harness, support, until};

const CONTROL: &str =
    "name: control, role: controlplane, count: 3, type: cax11, locations: [fsn1, nbg1, hel1]";

/// Longest time until a lost quorum is reported.
const REPORTED_MAX: Duration = Duration::from_secs(30);

#[test]
fn a_lost_quorum_is_reported_within_thirty_seconds_and_nothing_is_changed() {
    let machines = Machines::with(Node::ControlPlaneOnly("only etcd matters here".to_owned()));
    let harness = Harness::open(machines.fleet.clone(), &support::cluster("prod", &[CONTROL], ""));
    // Without kubelets the cluster never becomes healthy, so the run is interrupted.
    let apply = harness.start("apply");
    until("three members that vote", || {
        let end = harness.run("plan");
        end.status.code() == Some(0)
            && end.cluster()["status"]["plan"] == serde_json::json!([])
            && condition(&end, "Etcd") == "True"
    });
    apply.interrupt().code(111);
    let lost = ["prod-control-2", "prod-control-3"];
    for name in lost {
        power(&harness, name, false);
    }
    // Machines that are off may come back with their data, so this is no conflict yet.
    let end = harness.run("plan");
    assert!(!end.err.contains("has lost its quorum"), "{}", end.err);
    for name in lost {
        machines.fleet.empty_disk(name).expect("emptied");
        power(&harness, name, true);
    }
    let (began, writes) = (Instant::now(), harness.writes());
    let end = loop {
        let end = harness.run("apply");
        if end.err.contains("has lost its quorum") {
            break end;
        }
        assert!(began.elapsed() < REPORTED_MAX, "{}", end.err);
    };
    assert!(began.elapsed() < REPORTED_MAX, "{:?}", began.elapsed());
    let end = end.code(100);
    assert!(end.err.contains("talosctl bootstrap --recover-from"), "{}", end.err);
    assert_eq!(harness.writes(), writes, "nothing was changed");
}
