//! Failures of pods, from the status that a kubelet and the scheduler report. Pure.

use serde_json::Value;

use crate::cause::{Event, Failure, Recovery, WorstPod};
use crate::kstatus::{condition, text};

/// Failure of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFailure {
    pub(crate) failure: Failure,
    /// Reason of the kubelet, the scheduler or the container runtime.
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) pod: WorstPod,
    pub(crate) event: Option<Event>,
}

impl PodFailure {
    fn severity(&self) -> (Recovery, Failure, &str) {
        (self.failure.recovery(), self.failure, &self.pod.name)
    }
}

/// Returns the worst failure among `pods`; `None` if no pod fails. `events` are the warnings of the
/// pods' namespace.
pub(crate) fn worst<'a>(
    pods: impl IntoIterator<Item = &'a Value>,
    events: &[Value],
) -> Option<PodFailure> {
    let failures = pods.into_iter().filter_map(|pod| failure(pod, newest(events, uid(pod))));
    failures.min_by(|a, b| a.severity().cmp(&b.severity()))
}

/// Returns the failure of one pod with its newest warning; `None` if the pod is ready, has succeeded, or
/// is still starting.
pub(crate) fn failure(pod: &Value, event: Option<Event>) -> Option<PodFailure> {
    let status = &pod["status"];
    let is_going = pod["metadata"]["deletionTimestamp"].is_string();
    if is_going || text(status, "phase") == "Succeeded" {
        return None;
    }
    let mut found = unscheduled(pod)
        .or_else(|| of_containers(pod))
        .or_else(|| of_phase(pod))
        .or_else(|| by_event(pod, event.as_ref()))?;
    text(&pod["metadata"], "name").clone_into(&mut found.pod.name);
    found.event = event;
    Some(found)
}

fn found(failure: Failure, reason: &str, message: &str) -> PodFailure {
    let (reason, message) = (reason.to_owned(), message.to_owned());
    PodFailure { failure, reason, message, pod: WorstPod::default(), event: None }
}

/// Reason and message of the scheduler
/// (<https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-conditions>).
fn unscheduled(pod: &Value) -> Option<PodFailure> {
    let scheduled = condition(pod, "PodScheduled")?;
    let (reason, message) = (text(scheduled, "reason"), text(scheduled, "message"));
    let fails = text(scheduled, "status") == "False" && !reason.is_empty();
    fails.then(|| found(Failure::PodUnschedulable, reason, message))
}

fn of_phase(pod: &Value) -> Option<PodFailure> {
    let status = &pod["status"];
    (text(status, "phase") == "Failed").then(|| {
        let reason = text(status, "reason");
        let reason = if reason.is_empty() { "Failed" } else { reason };
        found(Failure::PodFailed, reason, text(status, "message"))
    })
}

/// Returns the first failing container: an init container before the others, because they wait for it.
fn of_containers(pod: &Value) -> Option<PodFailure> {
    let lists = [("initContainerStatuses", true), ("containerStatuses", false)];
    let containers = lists.into_iter().flat_map(|(list, init)| {
        let statuses = pod["status"][list].as_array().into_iter().flatten();
        statuses.map(move |container| (container, init))
    });
    let mut failures = containers.filter_map(|(container, init)| {
        let mut found = of_container(container, init)?;
        found.pod.container = Some(text(container, "name").to_owned());
        found.pod.init = init;
        found.pod.restarts = container["restartCount"].as_i64().filter(|count| *count > 0);
        Some(found)
    });
    failures.next()
}

fn of_container(container: &Value, init: bool) -> Option<PodFailure> {
    let state = &container["state"];
    let (reason, message) = (text(&state["waiting"], "reason"), text(&state["waiting"], "message"));
    // Reasons of pkg/kubelet/images/types.go, pkg/kubelet/container/sync_result.go and
    // pkg/kubelet/kuberuntime/kuberuntime_container.go, v1.36.3.
    let failure = match reason {
        "InvalidImageName" => Failure::ImageNameInvalid,
        "ErrImageNeverPull" => Failure::ImageNotFound,
        "ErrImagePull"
        | "ImagePullBackOff"
        | "RegistryUnavailable"
        | "ImageInspectError"
        | "SignatureValidationFailed" => pull(message),
        "CreateContainerConfigError" => Failure::ContainerConfigInvalid,
        "CreateContainerError"
        | "RunContainerError"
        | "StartError"
        | "PostStartHookError"
        | "PreCreateHookError"
        | "PreStartHookError" => Failure::ContainerCannotStart,
        _ => return of_last_run(container, init),
    };
    Some(found(failure, reason, message))
}

/// Returns the failure of an image pull. The kubelet passes on the text of the container runtime, which has
/// the code of gRPC, or the HTTP status of the registry
/// (`pulling from host … failed with status code [manifests TAG]: 401 …`, containerd 1.6,
/// remotes/docker/resolver.go and remotes/errors/errors.go).
fn pull(message: &str) -> Failure {
    let has = |codes: &[&str]| codes.iter().any(|code| message.contains(code));
    let denied = ["401 Unauthorized", "403 Forbidden", "]: 401", "]: 403"];
    if has(&denied) || has(&["insufficient_scope", "authorization failed"]) {
        Failure::ImageDenied
    } else if has(&["code = NotFound", ": not found", "404 Not Found", "manifest unknown"]) {
        Failure::ImageNotFound
    } else {
        Failure::ImagePullFailed
    }
}

/// Returns the failure of a container whose last run ended with an error. A container that is ready has
/// recovered.
fn of_last_run(container: &Value, init: bool) -> Option<PodFailure> {
    let now = &container["state"]["terminated"];
    let ended = if now.is_object() { now } else { &container["lastState"]["terminated"] };
    let code = ended["exitCode"].as_i64().filter(|code| *code != 0)?;
    let is_over = init && container["state"]["terminated"]["exitCode"] == 0;
    if container["ready"] == true || is_over {
        return None;
    }
    // Reasons of the container runtime (containerd, internal/cri/server/container_start.go and
    // container_status.go).
    let failure = match text(ended, "reason") {
        "OOMKilled" => Failure::ContainerOutOfMemory,
        "StartError" | "ContainerCannotRun" => Failure::ContainerCannotStart,
        _ if init => Failure::InitContainerFailed,
        _ => Failure::ContainerCrashes,
    };
    let waiting = text(&container["state"]["waiting"], "reason");
    let reason = match (waiting, text(ended, "reason")) {
        ("", "") => "Error".to_owned(),
        ("", ended) => ended.to_owned(),
        // `Error` adds nothing to `CrashLoopBackOff`.
        (waiting, "" | "Error") => waiting.to_owned(),
        (waiting, ended) => format!("{waiting}, {ended}"),
    };
    // The last lines of the output, if the container declares `terminationMessagePolicy:
    // FallbackToLogsOnError` (https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/).
    let mut failure = found(failure, &reason, text(ended, "message"));
    failure.pod.exit_code = Some(code);
    Some(failure)
}

/// Returns the failure that only an event shows.
fn by_event(pod: &Value, event: Option<&Event>) -> Option<PodFailure> {
    let event = event?;
    let is_ready =
        condition(pod, "Ready").is_some_and(|condition| text(condition, "status") == "True");
    // Reasons of pkg/kubelet/events/event.go, v1.36.3.
    let failure = match event.reason.as_str() {
        _ if is_ready => return None,
        "Unhealthy" | "ProbeWarning" => Failure::ProbeFailed,
        "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => Failure::VolumeNotMounted,
        "FailedCreatePodSandBox" | "NetworkNotReady" => Failure::ContainerCannotStart,
        _ => return None,
    };
    let mut found = found(failure, &event.reason, &event.message);
    if failure == Failure::ProbeFailed {
        let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        let mut unready = containers.filter(|container| container["ready"] == false);
        found.pod.container = unready.next().map(|container| text(container, "name").to_owned());
    }
    if failure == Failure::ContainerCannotStart {
        // The network of a new node takes a moment, and the kubelet tries again.
        found.failure = Failure::PodNotCreated;
    }
    Some(found)
}

/// Returns the newest of `events` about the object with this UID.
pub(crate) fn newest(events: &[Value], uid: &str) -> Option<Event> {
    let about = events.iter().filter(|event| text(&event["involvedObject"], "uid") == uid);
    // Events of the older API have `lastTimestamp`, those of `events.k8s.io` have `eventTime`. All are
    // in UTC, so that they sort as texts.
    let time = |event: &Value| {
        let times = [&event["series"]["lastObservedTime"], &event["lastTimestamp"]];
        let mut times = times.into_iter().chain([&event["eventTime"]]);
        times.find_map(Value::as_str).unwrap_or_default().to_owned()
    };
    let newest = about.max_by_key(|event| time(event))?;
    let (reason, message) = (text(newest, "reason"), text(newest, "message"));
    Some(Event { reason: reason.to_owned(), message: crate::cause::short(message) })
}

fn uid(object: &Value) -> &str {
    text(&object["metadata"], "uid")
}

#[cfg(test)]
mod tests;
