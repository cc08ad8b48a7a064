//! Readiness of an object, computed from its status by the rules of kstatus (`fluxcd/cli-utils`). Flux
//! and kubectl use the same rules, so that this program agrees with them.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// State of an object's reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The live state matches the spec.
    Current,
    /// A controller has not finished yet.
    InProgress,
    /// The controller has stopped and will not succeed without a change.
    Failed,
    /// The object is being deleted.
    Terminating,
}

/// State of an object with its reason.
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

/// Reason why an object is not Current; `None` if it is Current.
type Verdict = Option<Reading>;

#[expect(clippy::unnecessary_wraps, reason = "every rule ends in one of these or in `None`")]
fn wait(reason: &str, message: impl Into<String>) -> Verdict {
    Some(Reading::new(InProgress, reason, message))
}

#[expect(clippy::unnecessary_wraps, reason = "every rule ends in one of these or in `None`")]
fn fail(reason: &str, message: impl Into<String>) -> Verdict {
    Some(Reading::new(Failed, reason, message))
}

/// Computes the state of `object`. The first rule that applies decides.
pub(crate) fn read(object: &Value, now: Timestamp) -> Reading {
    if object["metadata"]["deletionTimestamp"].as_str().is_some_and(|time| !time.is_empty()) {
        return Reading::new(Terminating, "Terminating", "the object is being deleted");
    }
    let generation = object["metadata"]["generation"].as_i64();
    let seen = object["status"]["observedGeneration"].as_i64();
    if let (Some(generation), Some(seen)) = (generation, seen)
        && generation != seen
    {
        let message = format!("the controller has observed generation {seen} of {generation}");
        return Reading::new(InProgress, "LatestGenerationNotObserved", message);
    }
    for condition in conditions(object) {
        let (reason, message) = (text(condition, "reason"), text(condition, "message"));
        match (text(condition, "type"), text(condition, "status")) {
            ("Reconciling", "True") => return Reading::new(InProgress, reason, message),
            ("Stalled", "True") => return Reading::new(Failed, reason, message),
            _ => {}
        }
    }
    let rule = by_kind(object, now).unwrap_or_else(|| by_ready(object));
    rule.unwrap_or_else(Reading::current)
}

/// Applies the rule of the object's kind. Returns `None` if the kind has no rule.
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
    let reason = progressing.map_or("", |condition| text(condition, "reason"));
    if reason == "ProgressDeadlineExceeded" {
        return fail(reason, progressing.map_or("", |condition| text(condition, "message")));
    }
    let deadline = object["spec"]["progressDeadlineSeconds"].as_i64();
    let progressed = deadline.is_none_or(|seconds| seconds == i64::from(i32::MAX))
        || progressing.is_some_and(|condition| text(condition, "status") == "True")
            && reason == "NewReplicaSetAvailable";
    let spec = declared_replicas(object);
    let [all, updated, available, ready] =
        counts(object, ["replicas", "updatedReplicas", "availableReplicas", "readyReplicas"]);
    let count = |has: i64, what: &str| format!("{has} of {spec} replicas are {what}");
    if spec > all {
        wait("LessReplicas", count(all, "created"))
    } else if spec > updated {
        wait("LessUpdated", count(updated, "updated"))
    } else if all > spec {
        wait("ExtraPods", format!("{all} replicas exist, and {spec} are declared"))
    } else if updated > available {
        wait("LessAvailable", count(available, "available"))
    } else if spec > ready {
        wait("LessReady", count(ready, "ready"))
    } else if !progressed {
        wait("ReplicaSetNotAvailable", "the ReplicaSet is not available")
    } else if condition(object, "Available")
        .is_none_or(|condition| text(condition, "status") != "True")
    {
        wait("DeploymentNotAvailable", "the Deployment is not available")
    } else {
        None
    }
}

fn stateful_set(object: &Value) -> Verdict {
    let strategy = &object["spec"]["updateStrategy"];
    if strategy["type"] == "OnDelete" {
        return None;
    }
    let spec = declared_replicas(object);
    let [all, ready, current, updated] =
        counts(object, ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas"]);
    let count = |has: i64, what: &str| format!("{has} of {spec} replicas are {what}");
    if spec > all {
        return wait("LessReplicas", count(all, "created"));
    }
    if spec > ready {
        return wait("LessReady", count(ready, "ready"));
    }
    if all > spec {
        return wait("ExtraPods", format!("{all} replicas exist, and {spec} are declared"));
    }
    if let Some(partition) = strategy["rollingUpdate"]["partition"].as_i64() {
        let short = updated < spec - partition;
        return short.then(|| wait("PartitionRollout", count(updated, "updated"))).flatten();
    }
    if spec > current {
        return wait("LessCurrent", count(current, "current"));
    }
    let status = &object["status"];
    if status["currentRevision"] != status["updateRevision"] {
        return wait("RevisionMismatch", "not every replica has the new revision");
    }
    None
}

fn daemon_set(object: &Value) -> Verdict {
    if object["metadata"]["generation"].as_i64().is_none() {
        return wait("NoGeneration", "the DaemonSet has no generation");
    }
    if object["status"]["observedGeneration"].as_i64().is_none() {
        return wait("NoObservedGeneration", "the controller has not observed the DaemonSet");
    }
    let Some(desired) = object["status"]["desiredNumberScheduled"].as_i64() else {
        return wait("NoDesiredNumber", "the controller has not counted the nodes");
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
    if condition(object, "ReplicaFailure")
        .is_some_and(|condition| text(condition, "status") == "True")
    {
        return wait("ReplicaFailure", "a replica cannot be created");
    }
    let spec = declared_replicas(object);
    let [labelled, available, ready, all] =
        counts(object, ["fullyLabeledReplicas", "availableReplicas", "readyReplicas", "replicas"]);
    let count = |has: i64, what: &str| format!("{has} of {spec} replicas are {what}");
    if spec > labelled {
        wait("LessLabelled", count(labelled, "labelled"))
    } else if spec > available {
        wait("LessAvailable", count(available, "available"))
    } else if spec > ready {
        wait("LessReady", count(ready, "ready"))
    } else if all > spec {
        wait("ExtraPods", format!("{all} replicas exist, and {spec} are declared"))
    } else {
        None
    }
}

fn pod(object: &Value, now: Timestamp) -> Verdict {
    let status = &object["status"];
    match text(status, "phase") {
        // A failed pod is final: its controller creates another one.
        "Succeeded" | "Failed" => None,
        "Running" => {
            if condition(object, "Ready")
                .is_some_and(|condition| text(condition, "status") == "True")
            {
                return None;
            }
            let containers = ["initContainerStatuses", "containerStatuses"]
                .into_iter()
                .flat_map(|list| status[list].as_array().into_iter().flatten());
            let crashing: Vec<_> = containers
                .filter(|container| container["state"]["waiting"]["reason"] == "CrashLoopBackOff")
                .map(|container| text(container, "name"))
                .collect();
            if crashing.is_empty() {
                wait("PodRunningNotReady", "the pod runs and is not ready")
            } else {
                fail(
                    "ContainerCrashLooping",
                    format!("these containers crash repeatedly: {}", crashing.join(", ")),
                )
            }
        }
        "Pending" => {
            let scheduled = condition(object, "PodScheduled");
            let stuck = scheduled.filter(|condition| {
                text(condition, "status") == "False" && text(condition, "reason") == "Unschedulable"
            });
            let Some(stuck) = stuck else {
                return wait("PodPending", "the pod is pending");
            };
            let created: Option<Timestamp> =
                text(&object["metadata"], "creationTimestamp").parse().ok();
            let message = text(stuck, "message");
            if created.is_some_and(|time| now.duration_since(time) < SignedDuration::from_secs(15))
            {
                wait("PodNotScheduled", message)
            } else {
                fail("PodUnschedulable", message)
            }
        }
        "" => wait("PodNotObserved", "no kubelet has reported the pod"),
        other => fail("UnknownPhase", format!("unknown phase {other}")),
    }
}

fn definition(object: &Value) -> Verdict {
    for condition in conditions(object) {
        let (reason, message) = (text(condition, "reason"), text(condition, "message"));
        match (text(condition, "type"), text(condition, "status")) {
            ("NamesAccepted", "False") => return fail(reason, message),
            ("Established", "False") if reason != "Installing" => return fail(reason, message),
            ("Established", "True") => return None,
            _ => {}
        }
    }
    wait("Installing", "the API server does not serve the kind yet")
}

fn claim(object: &Value) -> Verdict {
    match text(&object["status"], "phase") {
        "Bound" => None,
        _ => wait("NotBound", "no volume is bound to the claim"),
    }
}

fn service(object: &Value) -> Verdict {
    let spec = &object["spec"];
    if spec["type"] == "LoadBalancer" && text(spec, "clusterIP").is_empty() {
        return wait("NoIPAssigned", "the Service has no cluster IP");
    }
    None
}

/// Applies Flux's own rule, because kstatus treats a running Job as Current.
fn job(object: &Value) -> Verdict {
    if object["spec"]["suspend"] == true {
        return None;
    }
    for condition in conditions(object) {
        match (text(condition, "type"), text(condition, "status")) {
            ("Complete", "True") => return None,
            ("Failed", "True") => return fail("JobFailed", text(condition, "message")),
            _ => {}
        }
    }
    if object["status"]["startTime"].is_null() {
        wait("JobNotStarted", "the Job has not started")
    } else {
        wait("JobInProgress", "the Job has not finished")
    }
}

/// Returns the condition of `object` whose type is `kind`.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    conditions(object).find(|condition| condition["type"] == kind)
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}

/// Returns the text of a field, or an empty text if the field is absent.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

fn declared_replicas(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

fn counts<const N: usize>(object: &Value, fields: [&str; N]) -> [i64; N] {
    fields.map(|field| object["status"][field].as_i64().unwrap_or(0))
}

#[cfg(test)]
mod tests;
