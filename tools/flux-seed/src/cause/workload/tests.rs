//! Workloads and claims with the objects around them, and the causes that follow from both.

use serde_json::json;

use super::*;
use crate::cause::Recovery;
use crate::kstatus;

fn object(kind: &str, status: &Value) -> (Identity, Value) {
    let api_version = match kind {
        "Job" => "batch/v1",
        "PersistentVolumeClaim" => "v1",
        _ => "apps/v1",
    };
    let object = json!({"apiVersion": api_version, "kind": kind,
        "metadata": {"name": "web", "namespace": "default", "uid": "owner"}, "status": status});
    (Identity::of(&object), object)
}

fn owned(name: &str, owner: &str, more: &Value) -> Value {
    let mut object = json!({"metadata": {"name": name, "uid": name,
        "ownerReferences": [{"uid": owner}]}});
    for (key, value) in more.as_object().into_iter().flatten() {
        object[key] = value.clone();
    }
    object
}

fn set(name: &str, revision: &str) -> Value {
    let mut set = owned(name, "owner", &json!({}));
    set["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = revision.into();
    set
}

fn crashing(name: &str, owner: &str) -> Value {
    owned(
        name,
        owner,
        &json!({"status": {"phase": "Running", "containerStatuses": [{
        "name": "web", "ready": false, "restartCount": 1,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "no database"}}}]}}),
    )
}

fn cause((id, object): &(Identity, Value), around: &Surroundings) -> Cause {
    let now = "2026-11-30T12:00:00Z".parse().expect("a time");
    workload(id, object, &kstatus::read(object, now), around)
}

#[test]
fn deployment_is_explained_by_a_pod_of_its_newest_revision() {
    let deployment = object("Deployment", &json!({}));
    let around = Surroundings {
        replica_sets: vec![set("old", "9"), set("new", "10")],
        pods: vec![crashing("old-1", "old"), crashing("new-1", "new"), crashing("other", "else")],
        ..Surroundings::default()
    };
    let found = cause(&deployment, &around);
    assert_eq!(found.failure, Failure::ContainerCrashes);
    assert_eq!(found.pod.map(|pod| pod.name).as_deref(), Some("new-1"));
    let alone = cause(&deployment, &Surroundings::default());
    assert_eq!((alone.failure, alone.reason.as_str()), (Failure::InProgress, "LessReplicas"));
}

#[test]
fn rollout_that_is_too_slow_names_the_pod_and_cannot_recover() {
    let conditions = json!({"conditions": [{"type": "Progressing", "status": "False",
        "reason": "ProgressDeadlineExceeded", "message": "ReplicaSet \"new\" has timed out progressing."}]});
    let deployment = object("Deployment", &conditions);
    let around = Surroundings {
        replica_sets: vec![set("new", "1")],
        pods: vec![crashing("new-1", "new")],
        ..Surroundings::default()
    };
    let found = cause(&deployment, &around);
    assert_eq!((found.failure, found.recovery), (Failure::ContainerCrashes, Recovery::Never));
    assert!(found.is_overdue && found.message.contains("no database; ProgressDeadlineExceeded"));
    let alone = cause(&deployment, &Surroundings::default());
    assert_eq!((alone.failure, alone.recovery), (Failure::RolloutTooSlow, Recovery::Never));
}

#[test]
fn failed_job_is_named_with_its_reason_and_the_last_words_of_its_pod() {
    let conditions = json!({"conditions": [{"type": "Failed", "status": "True",
        "reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}]});
    let mut pod = crashing("web-1", "owner");
    pod["status"]["phase"] = "Failed".into();
    let around = Surroundings { pods: vec![pod], ..Surroundings::default() };
    let found = cause(&object("Job", &conditions), &around);
    assert_eq!((found.failure, found.recovery), (Failure::JobAborted, Recovery::Never));
    assert_eq!(found.reason, "BackoffLimitExceeded");
    assert!(found.message.ends_with("; CrashLoopBackOff: no database"), "{}", found.message);
    assert_eq!(found.pod.and_then(|pod| pod.exit_code), Some(1));
}

#[test]
fn pods_that_cannot_be_created_are_told_by_the_admission_plugin() {
    for (message, failure) in [
        (
            "pods \"web-1\" is forbidden: exceeded quota: full, requested: pods=1",
            Failure::QuotaUsedUp,
        ),
        (
            "pods \"web-1\" is forbidden: violates PodSecurity \"baseline:latest\"",
            Failure::PodDenied,
        ),
        ("error looking up service account default/a: not found", Failure::PodNotCreated),
    ] {
        let conditions = json!({"conditions": [{"type": "ReplicaFailure", "status": "True",
            "reason": "FailedCreate", "message": message}]});
        let found = cause(&object("Deployment", &conditions), &Surroundings::default());
        assert_eq!((found.failure, found.message.as_str()), (failure, message));
        // A StatefulSet has no such condition.
        let event = json!({"involvedObject": {"uid": "owner"}, "reason": "FailedCreate",
            "message": message});
        let around = Surroundings { events: vec![event], ..Surroundings::default() };
        assert_eq!(cause(&object("StatefulSet", &json!({})), &around).failure, failure);
    }
}

#[test]
fn pod_that_waits_for_a_claim_names_the_claim_and_its_event() {
    let claim_object = json!({"metadata": {"name": "data", "uid": "claim"}, "spec": {},
        "status": {"phase": "Pending"}});
    let event = json!({"involvedObject": {"uid": "claim"}, "type": "Normal", "reason": "FailedBinding",
        "message": "no persistent volumes available for this claim and no storage class is set"});
    let pod = owned(
        "web-0",
        "owner",
        &json!({
            "spec": {"volumes": [{"persistentVolumeClaim": {"claimName": "data"}}]},
            "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
                "reason": "Unschedulable", "message": "pod has unbound immediate PersistentVolumeClaims"}]},
        }),
    );
    let mut around = Surroundings {
        pods: vec![pod],
        claims: vec![claim_object],
        events: vec![event],
        ..Surroundings::default()
    };
    let set = object("StatefulSet", &json!({}));
    let found = cause(&set, &around);
    assert_eq!(found.failure, Failure::ClaimUnbound);
    let expected = "; claim data: FailedBinding: no persistent volumes available";
    assert!(found.message.contains(expected), "{}", found.message);
    around.claims[0]["status"]["phase"] = "Bound".into();
    assert_eq!(cause(&set, &around).failure, Failure::PodUnschedulable);
}

#[test]
fn object_of_any_other_kind_is_told_by_ready_before_reconciling() {
    let conditions = json!({"conditions": [
        {"type": "Reconciling", "status": "True", "reason": "ProgressingWithRetry", "message": "again"},
        {"type": "Ready", "status": "False", "reason": "InstallFailed", "message": "timed out"}]});
    let (id, object) = object("HelmRelease", &conditions);
    let now = "2026-11-30T12:00:00Z".parse().expect("a time");
    let found = other(&id, &object, &kstatus::read(&object, now));
    assert_eq!((found.failure, found.reason.as_str()), (Failure::ObjectNotReady, "InstallFailed"));
}
