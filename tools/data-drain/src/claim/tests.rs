use serde_json::json;

use super::*;
use crate::spec::{Claim, Freeze, Workload};

/// Objects of one claim of a Deployment whose pod runs on `node-a`.
struct Case {
    source: Source,
    claim: Value,
    volume: Value,
    workload: Value,
    pods: Vec<Value>,
    attachments: Vec<Value>,
}

impl Case {
    fn new(volume: &Value) -> Self {
        let claim = Claim::try_from("default/data".to_owned()).expect("a claim");
        let workload = Workload::try_from("deployment/app".to_owned()).expect("a workload");
        let source = Source {
            claim: Some(claim),
            freeze: Some(Freeze { scale_to_zero: workload }),
            node: None,
            allow_empty: false,
            forge: None,
        };
        let mut spec = volume.clone();
        spec["claimRef"] = json!({"uid": "claim-uid"});
        Self {
            source,
            claim: json!({
                "metadata": {"name": "data", "namespace": "default", "uid": "claim-uid"},
                "spec": {"volumeName": "pv", "accessModes": ["ReadWriteOnce"]},
                "status": {"phase": "Bound"},
            }),
            volume: json!({"metadata": {"name": "pv"}, "spec": spec}),
            workload: json!({
                "kind": "Deployment", "metadata": {"name": "app", "uid": "app-uid"},
                "spec": {"selector": {"matchLabels": {"app": "app"}}},
            }),
            pods: vec![pod("app-1", Some("node-a"))],
            attachments: Vec::new(),
        }
    }

    fn judge(&self) -> Verdict {
        let nodes = ["node-a", "node-b"].map(str::to_owned);
        judge(&Facts {
            drain: "prod",
            source: &self.source,
            claim: &self.claim,
            volume: Some(&self.volume),
            workload: Some(&self.workload),
            pods: &self.pods,
            attachments: &self.attachments,
            nodes: &nodes,
        })
    }

    fn place(&self) -> Option<Place> {
        self.judge().place
    }

    fn refusal(&self) -> String {
        self.judge().refused.join("; ")
    }
}

fn pod(name: &str, node: Option<&str>) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "default", "labels": {"app": "app"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "app-7", "controller": true}],
        },
        "spec": {"nodeName": node, "volumes": [{"persistentVolumeClaim": {"claimName": "data"}}]},
        "status": {"phase": "Running"},
    })
}

fn host_path() -> Value {
    json!({"hostPath": {"path": "/var/mnt/data"}})
}

#[expect(clippy::unnecessary_wraps, reason = "what a case expects")]
fn on(node: &str) -> Option<Place> {
    Some(Place::Node(node.to_owned()))
}

#[test]
fn the_reader_runs_on_the_node_of_the_claims_pod() {
    for volume in [host_path(), json!({"csi": {}}), json!({"nfs": {}})] {
        let mut case = Case::new(&volume);
        // Pods of other claims are on other nodes.
        let mut other = pod("other", Some("node-b"));
        other["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = "other".into();
        case.pods.insert(0, other);
        assert_eq!(case.place(), on("node-a"), "{volume}");
    }
}

#[test]
fn without_a_pod_the_reader_runs_on_the_remembered_node_or_by_the_volumes_affinity() {
    let affinity = json!({"local": {"path": "/x"}, "nodeAffinity": {"required": {}}});
    for (volume, remembered, attached, expected) in [
        (host_path(), Some("node-b"), None, on("node-b")),
        (host_path(), None, None, None),
        (host_path(), Some("node-gone"), None, None),
        (affinity.clone(), None, None, Some(Place::Scheduled)),
        (affinity, Some("node-a"), None, on("node-a")),
        (json!({"csi": {}}), None, Some("node-b"), on("node-b")),
        (json!({"csi": {}}), None, Some("node-gone"), Some(Place::Scheduled)),
        (json!({"csi": {}}), Some("node-gone"), None, Some(Place::Scheduled)),
        (json!({"nfs": {}}), None, None, Some(Place::Scheduled)),
    ] {
        let mut case = Case::new(&volume);
        case.pods.clear();
        if let Some(node) = remembered {
            case.claim["metadata"]["annotations"] = json!({NODE: node});
        }
        let attachment = |node: &str| {
            json!({"spec": {"source": {"persistentVolumeName": "pv"}, "nodeName": node},
                "status": {"attached": true}})
        };
        case.attachments = attached.map(attachment).into_iter().collect();
        assert_eq!(case.place(), expected, "{volume} {remembered:?} {attached:?}");
    }
}

#[test]
fn the_document_must_name_the_node_when_no_object_shows_it() {
    let mut case = Case::new(&host_path());
    case.source.node = Some("node-b".to_owned());
    assert!(case.refusal().contains("its pod runs on node-a"), "{}", case.refusal());
    case.pods.clear();
    assert_eq!(case.place(), on("node-b"));
    case.source.node = Some("node-gone".to_owned());
    assert!(case.refusal().contains("no node has that name"));
}

#[test]
fn a_node_local_volume_is_refused_when_pods_use_it_on_several_nodes() {
    let mut case = Case::new(&host_path());
    case.pods.push(pod("app-2", Some("node-b")));
    assert!(case.refusal().contains("node-a, node-b"), "{}", case.refusal());
    let mut shared = Case::new(&json!({"nfs": {}}));
    shared.pods.push(pod("app-2", Some("node-b")));
    assert_eq!(shared.place(), on("node-a"));
}

#[test]
fn a_pending_pod_does_not_choose_the_node_and_is_reported() {
    let mut case = Case::new(&host_path());
    case.pods = vec![pod("app-1", None)];
    assert_eq!(case.place(), None);
    let mut case = Case::new(&json!({"csi": {}}));
    case.pods = vec![pod("app-1", None)];
    assert_eq!(case.place(), Some(Place::Scheduled));
    assert!(case.judge().notes[0].contains("pending"));
}

#[test]
fn a_claim_is_refused_when_the_drain_does_not_stop_one_of_its_pods() {
    for (kind, uid) in
        [("Job", "x"), ("DaemonSet", "x"), ("StatefulSet", "another"), ("ReplicaSet", "x")]
    {
        let mut case = Case::new(&host_path());
        let mut foreign = pod("foreign", Some("node-a"));
        foreign["metadata"]["labels"] = json!({"app": "another"});
        foreign["metadata"]["ownerReferences"] =
            json!([{"kind": kind, "name": "it", "uid": uid, "controller": true}]);
        case.pods.push(foreign);
        assert!(case.refusal().contains(&format!("default/foreign ({kind}/it)")), "{kind}");
    }
    // An ended pod does not use the claim, and a pod with only the label is not a reader.
    let mut case = Case::new(&host_path());
    case.pods.push(pod("ended", Some("node-b")));
    case.pods[1]["status"]["phase"] = "Succeeded".into();
    assert_eq!(case.place(), on("node-a"));
    case.pods[1]["status"]["phase"] = "Running".into();
    case.pods[1]["metadata"]["labels"] = json!({DRAIN: "prod"});
    assert_ne!(case.refusal(), "");
    case.pods[1]["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] = true.into();
    assert_eq!(case.place(), on("node-a"), "a reader is no user");
}

// hazard: Stopping a StatefulSet deletes the claim that is to be copied.
// class: An obstacle to the drain is found too late.
// members: Block volumes, lost, terminating and unbound claims, owners, foreign pods
// now: `NotDrainable`, exit 100, before anything is stopped
#[test]
fn a_claim_is_refused_when_stopping_deletes_it_or_it_is_a_block_device() {
    type Change = fn(&mut Case);
    let changes: [(&str, Change); 7] = [
        ("Block", |case| case.claim["spec"]["volumeMode"] = "Block".into()),
        ("phase is Pending", |case| case.claim["status"]["phase"] = "Pending".into()),
        ("phase is Lost", |case| case.claim["status"]["phase"] = "Lost".into()),
        ("being deleted", |case| {
            case.claim["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }),
        ("belongs to Pod/app-1", |case| {
            case.claim["metadata"]["ownerReferences"] = json!([{"kind": "Pod", "name": "app-1"}]);
        }),
        ("whenScaled", |case| {
            case.workload["spec"]["persistentVolumeClaimRetentionPolicy"] =
                json!({"whenScaled": "Delete"});
        }),
        ("another claim", |case| case.volume["spec"]["claimRef"]["uid"] = "another".into()),
    ];
    for (why, change) in changes {
        let mut case = Case::new(&json!({"csi": {}}));
        assert_eq!(case.refusal(), "");
        change(&mut case);
        assert!(case.refusal().contains(why), "{why}: {}", case.refusal());
        assert_eq!(case.place(), None, "{why}");
    }
    // `apply` scales the StatefulSet down and does not delete it.
    let mut case = Case::new(&json!({"csi": {}}));
    case.claim["metadata"]["ownerReferences"] = json!([{"kind": "StatefulSet", "name": "db"}]);
    assert_eq!((case.refusal().as_str(), case.judge().notes.len()), ("", 1));
}

#[test]
fn selects_follows_the_rules_of_kubernetes() {
    let pod = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
    let rule = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    for (selector, expected) in [
        (json!({"matchLabels": {"a": "1"}}), true),
        (json!({"matchLabels": {"a": "2"}}), false),
        (rule("a", "In", &["0", "1"]), true),
        (rule("a", "In", &["0"]), false),
        (rule("c", "In", &[""]), false),
        (rule("c", "NotIn", &["1"]), true),
        (rule("a", "NotIn", &["1"]), false),
        (rule("a", "Exists", &[]), true),
        (rule("c", "Exists", &[]), false),
        (rule("c", "DoesNotExist", &[]), true),
        (rule("a", "Unknown", &[]), false),
    ] {
        assert_eq!(selects(&selector, &pod), expected, "{selector}");
    }
}
