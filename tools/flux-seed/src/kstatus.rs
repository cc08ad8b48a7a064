//! Is it there yet? What an object's own status says, by the rules that Flux and kubectl go by
//! (`fluxcd/cli-utils`, kstatus), so that we never disagree with them.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// How far an object has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is what its spec says.
    Current,
    /// Somebody is still at work on it.
    InProgress,
    /// It will not get there by itself.
    Failed,
    /// It is being removed.
    Terminating,
}

/// How far, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) state: State,
    pub(crate) reason: String,
    pub(crate) message: String,
}

use State::{Current, Failed, InProgress, Terminating};

impl Reading {
    fn new(state: State, reason: &str, message: impl Into<String>) -> Self {
        Self { state, reason: reason.to_owned(), message: message.into() }
    }

    fn current() -> Self {
        Self::new(Current, "Current", "")
    }
}

/// Why it is not Current; `None` when it is.
type Verdict = Option<Reading>;

#[expect(clippy::unnecessary_wraps, reason = "every rule ends in one of these or in `None`")]
fn wait(reason: &str, message: impl Into<String>) -> Verdict {
    Some(Reading::new(InProgress, reason, message))
}

#[expect(clippy::unnecessary_wraps, reason = "every rule ends in one of these or in `None`")]
fn fail(reason: &str, message: impl Into<String>) -> Verdict {
    Some(Reading::new(Failed, reason, message))
}

/// Reads the status of `object`. The first rule that applies decides.
pub(crate) fn read(object: &Value, now: Timestamp) -> Reading {
    if object["metadata"]["deletionTimestamp"].as_str().is_some_and(|it| !it.is_empty()) {
        return Reading::new(Terminating, "Terminating", "it is being removed");
    }
    let generation = object["metadata"]["generation"].as_i64();
    let seen = object["status"]["observedGeneration"].as_i64();
    if let (Some(generation), Some(seen)) = (generation, seen)
        && generation != seen
    {
        let message = format!("its controller has seen generation {seen} of {generation}");
        return Reading::new(InProgress, "LatestGenerationNotObserved", message);
    }
    for it in conditions(object) {
        let (reason, message) = (text(it, "reason"), text(it, "message"));
        match (text(it, "type"), text(it, "status")) {
            ("Reconciling", "True") => return Reading::new(InProgress, reason, message),
            ("Stalled", "True") => return Reading::new(Failed, reason, message),
            _ => {}
        }
    }
    let rule = by_kind(object, now).unwrap_or_else(|| by_ready(object));
    rule.unwrap_or_else(Reading::current)
}

/// The rule of the object's kind, if it has one.
fn by_kind(object: &Value, now: Timestamp) -> Option<Verdict> {
    let group = text(object, "apiVersion").split_once('/').map_or("", |(group, _)| group);
    Some(match (group, text(object, "kind")) {
        ("apps", "Deployment") => deployment(object),
        ("apps", "StatefulSet") => stateful_set(object),
        ("apps", "DaemonSet") => daemon_set(object),
        ("apps", "ReplicaSet") => replica_set(object),
        ("", "Pod") => pod(object, now),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(object),
        ("", "PersistentVolumeClaim") => claim(object),
        ("", "Service") => service(object),
        ("batch", "Job") => job(object),
        ("", "ConfigMap" | "Secret") | ("batch", "CronJob") | ("policy", "PodDisruptionBudget") => {
            None
        }
        _ => return None,
    })
}

fn by_ready(object: &Value) -> Verdict {
    let ready = condition(object, "Ready")?;
    match text(ready, "status") {
        "True" => None,
        _ => wait(text(ready, "reason"), text(ready, "message")),
    }
}

fn deployment(object: &Value) -> Verdict {
    let progressing = condition(object, "Progressing");
    let reason = progressing.map_or("", |it| text(it, "reason"));
    if reason == "ProgressDeadlineExceeded" {
        return fail(reason, progressing.map_or("", |it| text(it, "message")));
    }
    let deadline = object["spec"]["progressDeadlineSeconds"].as_i64();
    let progressed = deadline.is_none_or(|it| it == i64::from(i32::MAX))
        || progressing.is_some_and(|it| text(it, "status") == "True")
            && reason == "NewReplicaSetAvailable";
    let spec = wanted(object);
    let [all, updated, available, ready] =
        counts(object, ["replicas", "updatedReplicas", "availableReplicas", "readyReplicas"]);
    let of = |has: i64, what: &str| format!("{has} of {spec} replicas are {what}");
    if spec > all {
        wait("LessReplicas", of(all, "there"))
    } else if spec > updated {
        wait("LessUpdated", of(updated, "updated"))
    } else if all > spec {
        wait("ExtraPods", format!("{all} replicas are there, and {spec} are wanted"))
    } else if updated > available {
        wait("LessAvailable", of(available, "available"))
    } else if spec > ready {
        wait("LessReady", of(ready, "ready"))
    } else if !progressed {
        wait("ReplicaSetNotAvailable", "its ReplicaSet is not available")
    } else if condition(object, "Available").is_none_or(|it| text(it, "status") != "True") {
        wait("DeploymentNotAvailable", "it is not available")
    } else {
        None
    }
}

fn stateful_set(object: &Value) -> Verdict {
    let strategy = &object["spec"]["updateStrategy"];
    if strategy["type"] == "OnDelete" {
        return None;
    }
    let spec = wanted(object);
    let [all, ready, current, updated] =
        counts(object, ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas"]);
    let of = |has: i64, what: &str| format!("{has} of {spec} replicas are {what}");
    if spec > all {
        return wait("LessReplicas", of(all, "there"));
    }
    if spec > ready {
        return wait("LessReady", of(ready, "ready"));
    }
    if all > spec {
        return wait("ExtraPods", format!("{all} replicas are there, and {spec} are wanted"));
    }
    if let Some(partition) = strategy["rollingUpdate"]["partition"].as_i64() {
        let short = updated < spec - partition;
        return short.then(|| wait("PartitionRollout", of(updated, "updated"))).flatten();
    }
    if spec > current {
        return wait("LessCurrent", of(current, "current"));
    }
    let status = &object["status"];
    if status["currentRevision"] != status["updateRevision"] {
        return wait("RevisionMismatch", "not every replica has the new revision");
    }
    None
}

fn daemon_set(object: &Value) -> Verdict {
    if object["metadata"]["generation"].as_i64().is_none() {
        return wait("NoGeneration", "it has no generation");
    }
    if object["status"]["observedGeneration"].as_i64().is_none() {
        return wait("NoObservedGeneration", "its controller has not seen it");
    }
    let Some(desired) = object["status"]["desiredNumberScheduled"].as_i64() else {
        return wait("NoDesiredNumber", "its controller has not counted the nodes");
    };
    let short = [
        ("currentNumberScheduled", "LessCurrent"),
        ("updatedNumberScheduled", "LessUpdated"),
        ("numberAvailable", "LessAvailable"),
        ("numberReady", "LessReady"),
    ];
    let has = |field: &str| object["status"][field].as_i64().unwrap_or(0);
    let (field, reason) = short.into_iter().find(|(field, _)| desired > has(field))?;
    wait(reason, format!("{field}: {} of {desired}", has(field)))
}

fn replica_set(object: &Value) -> Verdict {
    if condition(object, "ReplicaFailure").is_some_and(|it| text(it, "status") == "True") {
        return wait("ReplicaFailure", "a replica cannot be made");
    }
    let spec = wanted(object);
    let [labelled, available, ready, all] =
        counts(object, ["fullyLabeledReplicas", "availableReplicas", "readyReplicas", "replicas"]);
    let of = |has: i64, what: &str| format!("{has} of {spec} replicas are {what}");
    if spec > labelled {
        wait("LessLabelled", of(labelled, "labelled"))
    } else if spec > available {
        wait("LessAvailable", of(available, "available"))
    } else if spec > ready {
        wait("LessReady", of(ready, "ready"))
    } else if all > spec {
        wait("ExtraPods", format!("{all} replicas are there, and {spec} are wanted"))
    } else {
        None
    }
}

fn pod(object: &Value, now: Timestamp) -> Verdict {
    let status = &object["status"];
    match text(status, "phase") {
        // A pod that has failed is done: whoever made it makes another one.
        "Succeeded" | "Failed" => None,
        "Running" => {
            if condition(object, "Ready").is_some_and(|it| text(it, "status") == "True") {
                return None;
            }
            let containers = ["initContainerStatuses", "containerStatuses"]
                .into_iter()
                .flat_map(|it| status[it].as_array().into_iter().flatten());
            let crashing: Vec<_> = containers
                .filter(|it| it["state"]["waiting"]["reason"] == "CrashLoopBackOff")
                .map(|it| text(it, "name"))
                .collect();
            if crashing.is_empty() {
                wait("PodRunningNotReady", "it runs and is not ready")
            } else {
                fail(
                    "ContainerCrashLooping",
                    format!("crashes again and again: {}", crashing.join(", ")),
                )
            }
        }
        "Pending" => {
            let scheduled = condition(object, "PodScheduled");
            let stuck = scheduled.filter(|it| {
                text(it, "status") == "False" && text(it, "reason") == "Unschedulable"
            });
            let Some(stuck) = stuck else {
                return wait("PodPending", "it is pending");
            };
            let created: Option<Timestamp> =
                text(&object["metadata"], "creationTimestamp").parse().ok();
            let message = text(stuck, "message");
            if created.is_some_and(|it| now.duration_since(it) < SignedDuration::from_secs(15)) {
                wait("PodNotScheduled", message)
            } else {
                fail("PodUnschedulable", message)
            }
        }
        "" => wait("PodNotObserved", "no kubelet has seen it"),
        other => fail("UnknownPhase", format!("unknown phase {other}")),
    }
}

fn definition(object: &Value) -> Verdict {
    for it in conditions(object) {
        let (reason, message) = (text(it, "reason"), text(it, "message"));
        match (text(it, "type"), text(it, "status")) {
            ("NamesAccepted", "False") => return fail(reason, message),
            ("Established", "False") if reason != "Installing" => return fail(reason, message),
            ("Established", "True") => return None,
            _ => {}
        }
    }
    wait("Installing", "the API server does not serve it yet")
}

fn claim(object: &Value) -> Verdict {
    match text(&object["status"], "phase") {
        "Bound" => None,
        _ => wait("NotBound", "no volume is bound to it"),
    }
}

fn service(object: &Value) -> Verdict {
    let spec = &object["spec"];
    if spec["type"] == "LoadBalancer" && text(spec, "clusterIP").is_empty() {
        return wait("NoIPAssigned", "it has no address in the cluster");
    }
    None
}

/// Flux's own rule: kstatus takes a job that runs for one that is done.
fn job(object: &Value) -> Verdict {
    if object["spec"]["suspend"] == true {
        return None;
    }
    for it in conditions(object) {
        match (text(it, "type"), text(it, "status")) {
            ("Complete", "True") => return None,
            ("Failed", "True") => return fail("JobFailed", text(it, "message")),
            _ => {}
        }
    }
    if object["status"]["startTime"].is_null() {
        wait("JobNotStarted", "it has not started")
    } else {
        wait("JobInProgress", "it is not done")
    }
}

/// The condition of `object` that is about `about`.
pub(crate) fn condition<'a>(object: &'a Value, about: &str) -> Option<&'a Value> {
    conditions(object).find(|it| it["type"] == about)
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}

/// The text of a field; an absent one is empty.
pub(crate) fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().unwrap_or_default()
}

fn wanted(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

fn counts<const N: usize>(object: &Value, fields: [&str; N]) -> [i64; N] {
    fields.map(|it| object["status"][it].as_i64().unwrap_or(0))
}

#[cfg(test)]
mod tests;
