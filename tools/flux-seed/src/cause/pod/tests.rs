//! Tables of pods, as a kubelet and the scheduler report them, and the failures that follow from them.

use serde_json::{Value, json};

use super::*;

fn pod(name: &str, status: &Value) -> Value {
    json!({"metadata": {"name": name, "uid": name}, "status": status})
}

/// Returns the status of a pod whose only container has these fields.
fn container(fields: &Value) -> Value {
    let mut container = json!({"name": "web", "ready": false, "restartCount": 0});
    for (key, value) in fields.as_object().into_iter().flatten() {
        container[key] = value.clone();
    }
    json!({"phase": "Pending", "containerStatuses": [container]})
}

fn waiting(reason: &str, message: &str) -> Value {
    container(&json!({"state": {"waiting": {"reason": reason, "message": message}}}))
}

fn ended(code: i64, reason: &str, message: &str) -> Value {
    container(&json!({
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}},
        "lastState": {"terminated": {"exitCode": code, "reason": reason, "message": message}},
        "restartCount": 2,
    }))
}

fn check(status: &Value, failure: Failure, reason: &str) {
    let found = super::failure(&pod("a", status), None);
    let found = found.map(|found| (found.failure, found.reason));
    assert_eq!(found, Some((failure, reason.to_owned())), "{status}");
}

/// Reasons and messages of kubelet v1.36.3 with containerd 1.6, recorded in the catalogue's cluster.
#[test]
fn waiting_container_is_told_by_the_reason_of_the_kubelet() {
    let missing = "Back-off pulling image \"r/nothing:1\": ErrImagePull: rpc error: code = NotFound desc = \
                   failed to pull and unpack image \"r/nothing:1\": failed to resolve reference \
                   \"r/nothing:1\": r/nothing:1: not found";
    let denied = "Back-off pulling image \"r/x:1\": ErrImagePull: failed to pull and unpack image \
                  \"r/x:1\": failed to resolve reference \"r/x:1\": unexpected status from HEAD request to \
                  http://r/v2/x/manifests/1: 401 Unauthorized";
    let plain = "Back-off pulling image \"r/x:1\": ErrImagePull: failed to pull and unpack image \
                 \"r/x:1\": failed to resolve reference \"r/x:1\": pulling from host r failed with status \
                 code [manifests 1]: 401 Response";
    let silent = "Back-off pulling image \"r/x:1\": ErrImagePull: failed to do request: Head \
                  \"http://r/v2/x/manifests/1\": dial tcp 127.0.0.1:1: connect: connection refused";
    for (reason, message, failure) in [
        ("ImagePullBackOff", missing, Failure::ImageNotFound),
        ("ErrImagePull", denied, Failure::ImageDenied),
        ("ImagePullBackOff", plain, Failure::ImageDenied),
        ("ImagePullBackOff", silent, Failure::ImagePullFailed),
        ("InvalidImageName", "couldn't parse image name", Failure::ImageNameInvalid),
        ("ErrImageNeverPull", "not present with pull policy of Never", Failure::ImageNotFound),
        (
            "CreateContainerConfigError",
            "configmap \"a\" not found",
            Failure::ContainerConfigInvalid,
        ),
        ("RunContainerError", "exec: no such file", Failure::ContainerCannotStart),
    ] {
        check(&waiting(reason, message), failure, reason);
    }
    for starting in ["ContainerCreating", "PodInitializing"] {
        assert_eq!(super::failure(&pod("a", &waiting(starting, "")), None), None, "{starting}");
    }
}

#[test]
fn container_that_ends_is_told_by_its_last_run() {
    check(&ended(3, "Error", "no database"), Failure::ContainerCrashes, "CrashLoopBackOff");
    let memory = ended(137, "OOMKilled", "");
    check(&memory, Failure::ContainerOutOfMemory, "CrashLoopBackOff, OOMKilled");
    let start = ended(128, "StartError", "no such file");
    check(&start, Failure::ContainerCannotStart, "CrashLoopBackOff, StartError");
    let found = super::failure(&pod("a", &ended(3, "Error", "no database")), None);
    let found = found.expect("a failure");
    assert_eq!(found.message, "no database", "the last lines of its output");
    assert_eq!((found.pod.exit_code, found.pod.restarts), (Some(3), Some(2)));
    let mut init = ended(4, "Error", "no table");
    init["initContainerStatuses"] = init["containerStatuses"].take();
    check(&init, Failure::InitContainerFailed, "CrashLoopBackOff");
    let between = container(&json!({"state": {"terminated": {"exitCode": 3, "reason": "Error"}}}));
    check(&between, Failure::ContainerCrashes, "Error");
    let mut recovered = ended(3, "Error", "");
    recovered["containerStatuses"][0]["state"] = json!({"running": {}});
    recovered["containerStatuses"][0]["ready"] = true.into();
    assert_eq!(super::failure(&pod("a", &recovered), None), None);
}

#[test]
fn pod_itself_is_told_by_its_conditions_and_its_phase() {
    let unscheduled = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."}]});
    check(&unscheduled, Failure::PodUnschedulable, "Unschedulable");
    let evicted =
        json!({"phase": "Failed", "reason": "Evicted", "message": "the node was low on disk"});
    check(&evicted, Failure::PodFailed, "Evicted");
    for fine in [json!({"phase": "Succeeded"}), json!({"phase": "Running"}), json!({})] {
        assert_eq!(super::failure(&pod("a", &fine), None), None, "{fine}");
    }
    let mut going = pod("a", &evicted);
    going["metadata"]["deletionTimestamp"] = "2026-11-30T12:00:00Z".into();
    assert_eq!(super::failure(&going, None), None, "a pod that is being deleted is replaced");
}

fn event(about: &str, time: &str, reason: &str) -> Value {
    json!({"involvedObject": {"uid": about}, "lastTimestamp": time, "reason": reason,
        "message": format!("message of {reason}")})
}

#[test]
fn newest_event_shows_what_no_status_does() {
    let events = [
        event("a", "2026-11-30T12:00:02Z", "Unhealthy"),
        event("a", "2026-11-30T12:00:01Z", "FailedMount"),
        event("b", "2026-11-30T12:00:09Z", "FailedMount"),
    ];
    let running = container(&json!({"state": {"running": {}}}));
    let found = worst([&pod("a", &running)], &events).expect("a failure");
    assert_eq!((found.failure, found.reason.as_str()), (Failure::ProbeFailed, "Unhealthy"));
    assert_eq!(found.pod.container.as_deref(), Some("web"));
    let found = worst([&pod("b", &running)], &events).expect("a failure");
    assert_eq!(found.failure, Failure::VolumeNotMounted);
    let mut ready = running.clone();
    ready["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    assert_eq!(worst([&pod("a", &ready)], &events), None, "an old event about a pod that is ready");
}

#[test]
fn worst_of_several_pods_is_the_one_that_can_recover_least() {
    let pods = [
        pod("a", &ended(3, "Error", "")),
        pod("b", &waiting("InvalidImageName", "")),
        pod("c", &waiting("ImagePullBackOff", "401 Unauthorized")),
    ];
    let found = worst(&pods, &[]).expect("a failure");
    assert_eq!(found.pod.name, "b");
    assert_eq!(worst(&pods[..1], &[]).map(|found| found.pod.name).as_deref(), Some("a"));
}
