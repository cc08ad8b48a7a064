//! Tables of the kstatus rules: an object's status, and the state and reason that follow from it.

use serde_json::{Value, json};

use super::{State, read};
use State::{Current, Failed, InProgress, Terminating};

const NOW: &str = "2026-11-22T12:00:20Z";

/// Checks every row, as an object of this kind.
fn table(api_version: &str, kind: &str, rows: &[(Value, State, &str)]) {
    for (given, state, reason) in rows {
        let mut object = given.clone();
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        let reading = read(&object, NOW.parse().expect("a time"));
        assert_eq!((reading.state, reading.reason.as_str()), (*state, *reason), "{kind} {given}");
    }
}

fn conditions(rows: &[(&str, &str, &str)]) -> Value {
    rows.iter()
        .map(|(about, is, why)| json!({"type": about, "status": is, "reason": why}))
        .collect()
}

#[test]
fn any_kind_is_read_by_its_generation_and_its_conditions() {
    let status = |rows: &[(&str, &str, &str)]| json!({"status": {"conditions": conditions(rows)}});
    table(
        "example.org/v1",
        "Thing",
        &[
            (json!({}), Current, "Current"),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                Terminating,
                "Terminating",
            ),
            (
                json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 1}}),
                InProgress,
                "LatestGenerationNotObserved",
            ),
            (
                json!({"metadata": {"generation": 1}, "status": {"observedGeneration": -1}}),
                InProgress,
                "LatestGenerationNotObserved",
            ),
            (
                json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 2}}),
                Current,
                "Current",
            ),
            (json!({"metadata": {"generation": 2}}), Current, "Current"),
            (status(&[("Ready", "True", "Ok")]), Current, "Current"),
            (status(&[("Ready", "False", "Failing")]), InProgress, "Failing"),
            (status(&[("Ready", "Unknown", "Progressing")]), InProgress, "Progressing"),
            (
                status(&[("Ready", "True", "Ok"), ("Reconciling", "True", "Again")]),
                InProgress,
                "Again",
            ),
            (
                status(&[("Stalled", "True", "Wrong"), ("Reconciling", "True", "Again")]),
                Failed,
                "Wrong",
            ),
            (
                status(&[("Reconciling", "True", "Again"), ("Stalled", "True", "Wrong")]),
                InProgress,
                "Again",
            ),
            (status(&[("Stalled", "False", "Fine")]), Current, "Current"),
        ],
    );
}

#[test]
fn a_deployment_is_current_when_every_replica_is_new_and_available() {
    let done = [("Progressing", "True", "NewReplicaSetAvailable"), ("Available", "True", "")];
    let with =
        |spec: i64, [all, updated, available, ready]: [i64; 4], rows: &[(&str, &str, &str)]| {
            json!({"spec": {"replicas": spec, "progressDeadlineSeconds": 600}, "status": {
            "replicas": all, "updatedReplicas": updated, "availableReplicas": available,
            "readyReplicas": ready, "conditions": conditions(rows)}})
        };
    table(
        "apps/v1",
        "Deployment",
        &[
            (with(2, [2, 2, 2, 2], &done), Current, "Current"),
            (with(2, [1, 1, 1, 1], &done), InProgress, "LessReplicas"),
            (with(2, [2, 1, 1, 2], &done), InProgress, "LessUpdated"),
            (with(2, [3, 2, 2, 2], &done), InProgress, "ExtraPods"),
            (with(2, [2, 2, 1, 2], &done), InProgress, "LessAvailable"),
            (with(2, [2, 2, 2, 1], &done), InProgress, "LessReady"),
            (
                with(2, [2, 2, 2, 2], &[("Progressing", "True", "ReplicaSetUpdated")]),
                InProgress,
                "ReplicaSetNotAvailable",
            ),
            (with(2, [2, 2, 2, 2], &done[..1]), InProgress, "DeploymentNotAvailable"),
            (
                with(2, [2, 2, 2, 2], &[("Progressing", "False", "ProgressDeadlineExceeded")]),
                Failed,
                "ProgressDeadlineExceeded",
            ),
            (with(0, [0, 0, 0, 0], &done), Current, "Current"),
            (json!({}), InProgress, "LessReplicas"),
            (
                json!({"spec": {"replicas": 0}, "status": {"conditions": conditions(&done[1..])}}),
                Current,
                "Current",
            ),
        ],
    );
}

#[test]
fn a_stateful_set_is_current_when_its_revisions_agree() {
    let with = |[all, ready, current, updated]: [i64; 4], spec: Value, update: &str| {
        json!({"spec": spec, "status": {"replicas": all, "readyReplicas": ready,
            "currentReplicas": current, "updatedReplicas": updated,
            "currentRevision": "a", "updateRevision": update}})
    };
    let two = || json!({"replicas": 2});
    let part = || json!({"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 2}}});
    table(
        "apps/v1",
        "StatefulSet",
        &[
            (json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}), Current, "Current"),
            (with([1, 1, 1, 1], two(), "a"), InProgress, "LessReplicas"),
            (with([2, 1, 2, 2], two(), "a"), InProgress, "LessReady"),
            (with([3, 2, 2, 2], two(), "a"), InProgress, "ExtraPods"),
            (with([3, 3, 2, 0], part(), "b"), InProgress, "PartitionRollout"),
            (with([3, 3, 2, 1], part(), "b"), Current, "Current"),
            (with([2, 2, 1, 1], two(), "a"), InProgress, "LessCurrent"),
            (with([2, 2, 2, 2], two(), "b"), InProgress, "RevisionMismatch"),
            (with([2, 2, 2, 2], two(), "a"), Current, "Current"),
        ],
    );
}

#[test]
fn a_daemon_set_is_current_on_every_node() {
    let with = |[current, updated, available, ready]: [i64; 4]| {
        json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1,
            "desiredNumberScheduled": 2, "currentNumberScheduled": current,
            "updatedNumberScheduled": updated, "numberAvailable": available, "numberReady": ready}})
    };
    table(
        "apps/v1",
        "DaemonSet",
        &[
            (json!({}), InProgress, "NoGeneration"),
            (json!({"metadata": {"generation": 1}}), InProgress, "NoObservedGeneration"),
            (
                json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1}}),
                InProgress,
                "NoDesiredNumber",
            ),
            (with([1, 2, 2, 2]), InProgress, "LessCurrent"),
            (with([2, 1, 2, 2]), InProgress, "LessUpdated"),
            (with([2, 2, 1, 2]), InProgress, "LessAvailable"),
            (with([2, 2, 2, 1]), InProgress, "LessReady"),
            (with([2, 2, 2, 2]), Current, "Current"),
        ],
    );
}

#[test]
fn a_replica_set_is_current_when_its_pods_are_ready() {
    let with = |[labelled, available, ready, all]: [i64; 4]| {
        json!({"spec": {"replicas": 2}, "status": {"fullyLabeledReplicas": labelled,
            "availableReplicas": available, "readyReplicas": ready, "replicas": all}})
    };
    table(
        "apps/v1",
        "ReplicaSet",
        &[
            (
                json!({"status": {"conditions": conditions(&[("ReplicaFailure", "True", "")])}}),
                InProgress,
                "ReplicaFailure",
            ),
            (with([1, 2, 2, 2]), InProgress, "LessLabelled"),
            (with([2, 1, 2, 2]), InProgress, "LessAvailable"),
            (with([2, 2, 1, 2]), InProgress, "LessReady"),
            (with([2, 2, 2, 3]), InProgress, "ExtraPods"),
            (with([2, 2, 2, 2]), Current, "Current"),
        ],
    );
}

#[test]
fn a_pod_is_current_when_it_is_ready_or_done() {
    let phase = |name: &str| json!({"status": {"phase": name}});
    let running = |ready: &str, waiting: &str| {
        json!({"status": {"phase": "Running", "conditions": conditions(&[("Ready", ready, "")]),
            "containerStatuses": [{"name": "a", "state": {"waiting": {"reason": waiting}}}]}})
    };
    let pending = |created: &str| {
        json!({"metadata": {"creationTimestamp": created}, "status": {"phase": "Pending",
            "conditions": conditions(&[("PodScheduled", "False", "Unschedulable")])}})
    };
    table(
        "v1",
        "Pod",
        &[
            (json!({}), InProgress, "PodNotObserved"),
            (phase("Succeeded"), Current, "Current"),
            (phase("Failed"), Current, "Current"),
            (phase("Pending"), InProgress, "PodPending"),
            (phase("Lost"), Failed, "UnknownPhase"),
            (running("True", ""), Current, "Current"),
            (running("False", "CrashLoopBackOff"), Failed, "ContainerCrashLooping"),
            (running("False", "ContainerCreating"), InProgress, "PodRunningNotReady"),
            (pending("2026-11-22T12:00:10Z"), InProgress, "PodNotScheduled"),
            (pending("2026-11-22T12:00:00Z"), Failed, "PodUnschedulable"),
        ],
    );
}

#[test]
fn a_definition_is_current_when_the_server_serves_it() {
    let with = |rows: &[(&str, &str, &str)]| json!({"status": {"conditions": conditions(rows)}});
    table(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        &[
            (json!({}), InProgress, "Installing"),
            (with(&[("NamesAccepted", "False", "Taken")]), Failed, "Taken"),
            (
                with(&[("NamesAccepted", "True", ""), ("Established", "False", "Installing")]),
                InProgress,
                "Installing",
            ),
            (
                with(&[("NamesAccepted", "True", ""), ("Established", "False", "Broken")]),
                Failed,
                "Broken",
            ),
            (
                with(&[("NamesAccepted", "True", ""), ("Established", "True", "")]),
                Current,
                "Current",
            ),
        ],
    );
}

#[test]
fn claims_services_and_jobs_have_rules_of_their_own() {
    table(
        "v1",
        "PersistentVolumeClaim",
        &[
            (json!({"status": {"phase": "Pending"}}), InProgress, "NotBound"),
            (json!({"status": {"phase": "Bound"}}), Current, "Current"),
        ],
    );
    table(
        "v1",
        "Service",
        &[
            (json!({"spec": {"type": "LoadBalancer"}}), InProgress, "NoIPAssigned"),
            (
                json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9"}}),
                Current,
                "Current",
            ),
            (json!({"spec": {"type": "ClusterIP"}}), Current, "Current"),
        ],
    );
    let status = |rows: &[(&str, &str, &str)]| json!({"status": {"startTime": NOW, "conditions": conditions(rows)}});
    table(
        "batch/v1",
        "Job",
        &[
            (json!({"spec": {"suspend": true}}), Current, "Current"),
            (json!({}), InProgress, "JobNotStarted"),
            (status(&[]), InProgress, "JobInProgress"),
            (status(&[("Complete", "True", "")]), Current, "Current"),
            (status(&[("Failed", "True", "BackoffLimitExceeded")]), Failed, "JobFailed"),
        ],
    );
    for (api_version, kind) in [
        ("v1", "ConfigMap"),
        ("v1", "Secret"),
        ("batch/v1", "CronJob"),
        ("policy/v1", "PodDisruptionBudget"),
    ] {
        table(api_version, kind, &[(status(&[("Ready", "False", "")]), Current, "Current")]);
    }
}
