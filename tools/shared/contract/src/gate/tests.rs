use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::hold::Hold;
use crate::receipt::Stopped;

const CLUSTER: &str = "uid-of-kube-system";

/// Lists of a cluster's API, by path.
type Lists = BTreeMap<&'static str, Value>;
/// Function that changes a cluster.
type Change = fn(&mut Lists);

fn hold_object(name: &str) -> HoldObject {
    HoldObject { name: name.to_owned(), uid: format!("uid-{name}"), generation: 1 }
}

fn hold() -> Hold {
    Hold { policy: hold_object("data-drain-prod"), binding: hold_object("data-drain-prod") }
}

fn entry(claim: &str) -> ClaimSource {
    let workload = claim.split('/').next_back().unwrap_or_default();
    ClaimSource {
        claim: claim.to_owned(),
        uid: format!("uid-of-{claim}"),
        volume: format!("pv-{workload}"),
        stopped: Some(Stopped {
            workload: format!("deployment/{workload}"),
            uid: format!("uid-of-{workload}"),
            generation: 4,
        }),
        hold: Some(hold()),
    }
}

fn receipt(entries: Vec<ClaimSource>) -> VerifiedReceipt {
    VerifiedReceipt::for_tests(CLUSTER, entries)
}

/// Reads the facts of a cluster that answers `lists`; an absent path is an empty list.
fn live(lists: &BTreeMap<&str, Value>) -> Facts {
    Facts::ask(|path| {
        let items = lists.get(path).and_then(Value::as_array);
        Ok(items.cloned().unwrap_or_default())
    })
}

/// Returns a cluster in which the claim `default/data` was drained and is still held.
fn drained() -> BTreeMap<&'static str, Value> {
    let admission = |object: &HoldObject| json!([{"metadata": {"name": object.name, "uid": object.uid, "generation": object.generation}}]);
    BTreeMap::from([
        ("/api/v1/namespaces", json!([{"metadata": {"name": "kube-system", "uid": CLUSTER}}])),
        (
            "/api/v1/persistentvolumeclaims",
            json!([{
                "metadata": {"namespace": "default", "name": "data", "uid": "uid-of-default/data"},
                "spec": {"volumeName": "pv-data"},
            }]),
        ),
        ("/api/v1/persistentvolumes", json!([volume("pv-data", "default", "data")])),
        (
            "/apis/apps/v1/deployments",
            json!([{"metadata": {"namespace": "default", "name": "data", "uid": "uid-of-data", "generation": 4}}]),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
            admission(&hold().policy),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
            admission(&hold().binding),
        ),
    ])
}

fn volume(name: &str, namespace: &str, claim: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"claimRef": {"namespace": namespace, "name": claim, "uid": format!("uid-of-{namespace}/{claim}")}},
        "status": {"phase": "Bound"},
    })
}

fn everything() -> Loss {
    Loss { cluster: true, ..Loss::default() }
}

fn discard(claim: &str) -> DataOnDestroy {
    serde_json::from_value(json!({claim: "discard"})).expect("a policy")
}

/// Returns the refused claims with their reasons.
fn reasons(verdict: &Verdict) -> Vec<(String, String)> {
    let entry = |refusal: documents::Refusal| (refusal.object, refusal.reason.to_string());
    verdict.refusals().into_iter().map(entry).collect()
}

fn judged(lists: &BTreeMap<&str, Value>, receipts: &[VerifiedReceipt]) -> Vec<(String, String)> {
    reasons(&judge(&everything(), &DataOnDestroy::default(), receipts, &live(lists)))
}

#[test]
fn a_drained_and_held_claim_may_be_deleted_and_the_verdict_names_its_receipt() {
    let receipts = [receipt(vec![entry("default/data")])];
    let verdict = judge(&everything(), &DataOnDestroy::default(), &receipts, &live(&drained()));
    assert!(verdict.allows(), "{verdict:?}");
    assert_eq!(verdict.receipt_of("default/data"), Some("sha256:test"));
}

// hazard: The load balancer of a cluster is gone, so its volumes cannot be listed, and every
// machine is removed.
// class: A missing answer is read as absence.
// members: a control plane that is missing, an API that times out, an API that answers an empty
// list, each single list that fails
// now: `FactsUnknown`: the cluster does not report its volumes, with the error of the request; nothing
// is deleted, and no field of the document overrides this
#[test]
fn a_cluster_that_does_not_answer_closes_the_gate_for_every_document() {
    let paths: Vec<_> = {
        let mut paths = Vec::new();
        let _ = Facts::ask(|path| {
            paths.push(path.to_owned());
            Ok(drained().get(path).and_then(Value::as_array).cloned().unwrap_or_default())
        });
        paths
    };
    assert!(paths.len() >= 9, "{paths:?}");
    for silent in paths {
        let facts = Facts::ask(|path| {
            if path == silent {
                return Err("connection refused".to_owned());
            }
            Ok(drained().get(path).and_then(Value::as_array).cloned().unwrap_or_default())
        });
        let receipts = [receipt(vec![entry("default/data")])];
        let verdict = judge(&everything(), &discard("default/data"), &receipts, &facts);
        assert!(!verdict.allows(), "{silent}");
    }
    let nothing = Facts::ask(|_| Ok(Vec::new()));
    let verdict = judge(&everything(), &DataOnDestroy::default(), &[], &nothing);
    assert!(!verdict.allows(), "an API server that lists nothing has not answered");
}

#[test]
fn a_cluster_whose_etcd_never_started_holds_no_data() {
    assert!(judge(&everything(), &DataOnDestroy::default(), &[], &Facts::NeverBegan).allows());
}

// hazard: A volume changes after its receipt was signed, and the receipt still lets it be
// destroyed.
// class: Evidence is trusted after the facts have changed.
// members: workload started or created again, any pod that mounts the claim, a hold that was
// removed, edited or put back, a claim or volume of the same name, a cluster of the same name
// now: one refusal for the claim: `WorkloadChanged`, `InUse`, `HoldBroken`, `OtherClaim`,
// `OtherVolume` or `OtherCluster`, with the command that signs a new receipt
#[test]
fn every_change_after_the_receipt_closes_the_gate() {
    let changes: [(&str, Change); 9] = [
        ("WorkloadChanged", |lists| {
            lists.get_mut("/apis/apps/v1/deployments").expect("a list")[0]["metadata"]["generation"] =
                5.into();
        }),
        ("WorkloadChanged", |lists| {
            lists.get_mut("/apis/apps/v1/deployments").expect("a list")[0]["metadata"]["uid"] =
                "other".into();
        }),
        ("InUse", |lists| {
            lists.insert("/api/v1/pods", json!([pod("debug", "data", false)]));
        }),
        ("HoldBroken", |lists| {
            lists.remove("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies");
        }),
        ("HoldBroken", |lists| {
            let path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
            lists.get_mut(path).expect("a list")[0]["metadata"]["uid"] = "put back".into();
        }),
        ("HoldBroken", |lists| {
            let path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
            lists.get_mut(path).expect("a list")[0]["metadata"]["generation"] = 2.into();
        }),
        ("OtherClaim", |lists| {
            let claim = &mut lists.get_mut("/api/v1/persistentvolumeclaims").expect("a list")[0];
            claim["metadata"]["uid"] = "made again".into();
            let volume = &mut lists.get_mut("/api/v1/persistentvolumes").expect("a list")[0];
            volume["spec"]["claimRef"]["uid"] = "made again".into();
        }),
        ("OtherVolume", |lists| {
            lists.get_mut("/api/v1/persistentvolumes").expect("a list")[0]["metadata"]["name"] =
                "swapped".into();
            lists.get_mut("/api/v1/persistentvolumeclaims").expect("a list")[0]["spec"]["volumeName"] =
                "swapped".into();
        }),
        ("OtherCluster", |lists| {
            lists.get_mut("/api/v1/namespaces").expect("a list")[0]["metadata"]["uid"] =
                "rebuilt".into();
        }),
    ];
    for (reason, change) in changes {
        let mut lists = drained();
        change(&mut lists);
        let refused = judged(&lists, &[receipt(vec![entry("default/data")])]);
        assert_eq!(refused, [("default/data".to_owned(), reason.to_owned())]);
    }
}

fn pod(name: &str, claim: &str, read_only: bool) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}}]},
        "status": {"phase": "Pending"},
    })
}

#[test]
fn only_a_pod_that_may_write_closes_the_gate() {
    let mut ended = pod("job", "data", false);
    ended["status"]["phase"] = "Succeeded".into();
    for harmless in [pod("reader", "data", true), pod("other", "cache", false), ended] {
        let mut lists = drained();
        lists.insert("/api/v1/pods", json!([harmless]));
        assert_eq!(judged(&lists, &[receipt(vec![entry("default/data")])]), []);
    }
}

// hazard: A volume that no inventory of Flux lists is destroyed without a receipt.
// class: One inventory is assumed to be complete.
// members: released volumes, volumes without a claim, claims created by hand, by a StatefulSet or
// by a nested Kustomization
// now: one refusal for each claim (`NoReceipt`) and for each volume without a claim (`Unclaimed`)
#[test]
fn volumes_that_no_inventory_lists_need_a_receipt() {
    let mut lists = drained();
    let volumes =
        lists.get_mut("/api/v1/persistentvolumes").and_then(Value::as_array_mut).expect("a list");
    volumes.push(volume("pv-gone", "shop", "released")); // a released volume, whose claim was deleted
    volumes.push(json!({"metadata": {"name": "spare"}, "spec": {"hostPath": {"path": "/srv"}}}));
    let refused = judged(&lists, &[receipt(vec![entry("default/data")])]);
    let expected = [("shop/released", "NoReceipt"), ("volume/spare", "Unclaimed")];
    assert_eq!(refused, expected.map(|(claim, reason)| (claim.to_owned(), reason.to_owned())));

    let policy =
        serde_json::from_value(json!({"shop/released": "discard", "volume/spare": "discard"}));
    let receipts = [receipt(vec![entry("default/data")])];
    let verdict = judge(&everything(), &policy.expect("a policy"), &receipts, &live(&lists));
    assert!(verdict.allows(), "each volume is discarded by name");
}

// hazard: One word in a document (`claims: discarded`) discards every volume of the cluster.
// class: An override covers more than its author meant.
// members: wildcards, names with the same beginning
// now: `dataOnDestroy` names each claim; a wildcard is a validation error
#[test]
fn discarding_a_claim_does_not_discard_claims_with_similar_names() {
    let mut lists = drained();
    let volumes =
        lists.get_mut("/api/v1/persistentvolumes").and_then(Value::as_array_mut).expect("a list");
    volumes.push(volume("pv-b", "default", "data-b"));
    let verdict = judge(&everything(), &discard("default/data"), &[], &live(&lists));
    assert_eq!(reasons(&verdict), [("default/data-b".to_owned(), "NoReceipt".to_owned())]);
    assert!(serde_json::from_value::<DataOnDestroy>(json!({"*": "discard"})).is_err());
    assert!(serde_json::from_value::<DataOnDestroy>(json!({"default/*": "discard"})).is_err());
}

#[test]
fn the_loss_decides_which_claims_need_a_receipt() {
    let mut lists = drained();
    lists.get_mut("/api/v1/persistentvolumeclaims").expect("a list")[0]["metadata"]["ownerReferences"] =
        json!([{"uid": "set"}]);
    lists.insert(
        "/apis/apps/v1/statefulsets",
        json!([{"metadata": {"namespace": "default", "name": "db", "uid": "set", "ownerReferences": [{"uid": "cr"}]}}]),
    );
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let losses = [
        (Loss { namespaces: set(&["default"]), ..Loss::default() }, true),
        (Loss { namespaces: set(&["shop"]), ..Loss::default() }, false),
        (Loss { claims: set(&["default/data"]), ..Loss::default() }, true),
        (Loss { claims: set(&["default/other"]), ..Loss::default() }, false),
        (Loss { owners: set(&["set"]), ..Loss::default() }, true),
        (Loss { owners: set(&["cr"]), ..Loss::default() }, true),
        (Loss { owners: set(&["another"]), ..Loss::default() }, false),
        (Loss { nodes: set(&["prod-work-1"]), ..Loss::default() }, false),
        (Loss::default(), false),
    ];
    for (loss, needs_receipt) in losses {
        let verdict = judge(&loss, &DataOnDestroy::default(), &[], &live(&lists));
        assert_eq!(!verdict.allows(), needs_receipt, "{loss:?}");
    }
}

// hazard: A pool is renamed or scaled down, and the volumes on its machines are deleted without a
// receipt.
// class: The removal of a part is not checked, only the removal of the whole.
// members: hostPath, `local` and topology-bound CSI volumes, affinity that cannot be read
// now: the claims on those machines are refused by name before the first machine is touched
#[test]
fn removing_a_machine_needs_receipts_for_volumes_on_that_machine_only() {
    let affinity = |key: &str, operator: &str, values: &[&str]| json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}});
    let cases = [
        (json!({"hostPath": {"path": "/srv"}}), true),
        (json!({"csi": {}}), false),
        (
            json!({"local": {}, "nodeAffinity": affinity("kubernetes.io/hostname", "In", &["a"])}),
            true,
        ),
        (
            json!({"local": {}, "nodeAffinity": affinity("kubernetes.io/hostname", "In", &["b"])}),
            false,
        ),
        (
            json!({"csi": {}, "nodeAffinity": affinity("topology.topolvm.io/node", "In", &["a"])}),
            true,
        ),
        (
            json!({"csi": {}, "nodeAffinity": affinity("kubernetes.io/hostname", "NotIn", &["b"])}),
            true,
        ),
        (
            json!({"csi": {}, "nodeAffinity": affinity("csi.hetzner.cloud/location", "In", &["fsn1"])}),
            false,
        ),
        (
            json!({"hostPath": {}, "nodeAffinity": affinity("topology.kubernetes.io/zone", "In", &["fsn1"])}),
            true,
        ),
    ];
    for (spec, needs_receipt) in cases {
        let mut lists = drained();
        let mut object = volume("pv-data", "default", "data");
        for (key, value) in spec.as_object().expect("a map") {
            object["spec"][key] = value.clone();
        }
        lists.insert("/api/v1/persistentvolumes", json!([object]));
        let loss = Loss { nodes: BTreeSet::from(["a".to_owned()]), ..Loss::default() };
        let verdict = judge(&loss, &DataOnDestroy::default(), &[], &live(&lists));
        assert_eq!(!verdict.allows(), needs_receipt, "{spec}");
    }
}

proptest! {
    /// A claim may be deleted only if a receipt covers its current state or the document discards its name.
    #[test]
    fn no_claim_is_deleted_without_a_receipt_or_a_discard_by_name(
        claims in proptest::collection::vec((0..4_u8, 0..3_u8, any::<bool>(), any::<bool>()), 0..8),
        discarded in 0..4_u8,
    ) {
        let mut live = LiveCluster { uid: CLUSTER.to_owned(), ..LiveCluster::default() };
        live.policies.push(hold_object("data-drain-prod"));
        live.bindings.push(hold_object("data-drain-prod"));
        let mut entries = Vec::new();
        for (index, (namespace, name, is_receipted, is_used)) in claims.iter().enumerate() {
            let (namespace, name) = (format!("ns{namespace}"), format!("claim{name}"));
            let key = format!("{namespace}/{name}");
            if live.claims.iter().any(|claim| claim.key() == key) {
                continue;
            }
            let (uid, volume) = (format!("uid-{index}"), format!("pv-{index}"));
            if *is_receipted {
                let (claim, uid, volume) = (key.clone(), uid.clone(), volume.clone());
                entries.push(ClaimSource { claim, uid, volume, stopped: None, hold: Some(hold()) });
            }
            if *is_used {
                live.mounts.push(LiveMount { claim: key.clone(), pod: "ns/pod".to_owned() });
            }
            let reference = (namespace.clone(), name.clone(), uid.clone());
            live.volumes.push(LiveVolume { name: volume.clone(), claim: Some(reference), nodes: NodeScope::Network });
            live.claims.push(LiveClaim { namespace, name, uid, volume, owners: Vec::new() });
        }
        let policy = discard(&format!("ns{discarded}/claim0"));
        let expected: Vec<_> = live.claims.iter().filter(|claim| {
            let key = claim.key();
            let receipted = entries.iter().any(|entry| entry.uid == claim.uid);
            let used = live.mounts.iter().any(|mount| mount.claim == key);
            !policy.discards(&key) && (!receipted || used)
        }).map(LiveClaim::key).collect();
        let facts = Facts::Live(Box::new(live));
        let verdict = judge(&everything(), &policy, &[receipt(entries)], &facts);
        let mut refused: Vec<_> = verdict.refusals().into_iter().map(|refusal| refusal.object).collect();
        refused.sort();
        let mut expected = expected;
        expected.sort();
        prop_assert_eq!(refused, expected);
    }
}
