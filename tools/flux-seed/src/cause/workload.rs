//! Causes of workloads and of claims, from the objects around them. Pure.

use serde_json::Value;

use crate::cause::pod::{PodFailure, failure, newest, worst};
use crate::cause::{Cause, Failure, short};
use crate::kstatus::{Reading, State, condition, text};
use crate::object::Identity;

/// Objects of one namespace that explain why its workloads are not ready.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) pods: Vec<Value>,
    pub(crate) replica_sets: Vec<Value>,
    pub(crate) claims: Vec<Value>,
    /// Events of the type `Warning`.
    pub(crate) events: Vec<Value>,
}

/// Whether objects of this kind run pods.
pub(crate) fn runs_pods(id: &Identity) -> bool {
    match id.group() {
        "apps" => {
            ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"].contains(&id.kind.as_str())
        }
        "batch" => id.kind == "Job",
        "" => id.kind == "Pod",
        _ => false,
    }
}

/// Returns the cause of a workload that is not ready.
pub(crate) fn workload(
    id: &Identity,
    object: &Value,
    reading: &Reading,
    around: &Surroundings,
) -> Cause {
    let failure = match id.kind.as_str() {
        "Pod" => failure(object, newest(&around.events, uid(object))),
        _ => worst(pods(id, object, around), &around.events),
    };
    let failure = failure.map(|failure| with_claims(failure, around));
    let verdict = verdict(id, object, reading);
    match (verdict, failure) {
        // The Deployment only counts the time. The pod shows what fails.
        (Some(verdict), Some(failure)) if verdict.failure == Failure::RolloutTooSlow => {
            let overdue = format!("{}: {}", verdict.reason, verdict.message);
            let message = join(&failure.message, &overdue);
            Cause {
                recovery: verdict.recovery,
                is_overdue: true,
                pod: Some(failure.pod),
                event: failure.event,
                ..Cause::new(id, failure.failure, failure.reason, &message)
            }
        }
        (Some(verdict), Some(failure)) => {
            let detail = format!("{}: {}", failure.reason, failure.message);
            let message = short(&join(&verdict.message, detail.trim_end_matches(": ")));
            Cause { message, pod: Some(failure.pod), event: failure.event, ..verdict }
        }
        (Some(mut cause), None) => {
            cause.event = newest(&around.events, uid(object));
            cause
        }
        (None, Some(failure)) => Cause {
            pod: Some(failure.pod),
            event: failure.event,
            ..Cause::new(id, failure.failure, failure.reason, &failure.message)
        },
        (None, None) => not_created(id, object, around).unwrap_or_else(|| {
            Cause::new(id, Failure::InProgress, reading.reason.clone(), &reading.message)
        }),
    }
}

fn join(first: &str, second: &str) -> String {
    if first.is_empty() { second.to_owned() } else { format!("{first}; {second}") }
}

/// Returns the cause that the workload's own controller has decided.
fn verdict(id: &Identity, object: &Value, reading: &Reading) -> Option<Cause> {
    if reading.state != State::Failed {
        return None;
    }
    match id.kind.as_str() {
        "Job" => {
            // Reasons `BackoffLimitExceeded`, `DeadlineExceeded`, `PodFailurePolicy` and others
            // (staging/src/k8s.io/api/batch/v1/types.go, v1.36.3).
            let failed = condition(object, "Failed")?;
            let (reason, message) = (text(failed, "reason"), text(failed, "message"));
            Some(Cause::new(id, Failure::JobAborted, reason, message))
        }
        "Deployment" => {
            let reason = reading.reason.clone();
            let cause = Cause::new(id, Failure::RolloutTooSlow, reason, &reading.message);
            Some(Cause { is_overdue: true, ..cause })
        }
        // A pod by itself: the kubelet tries again, whatever the rules of kstatus say.
        _ => None,
    }
}

/// Returns the cause for which a controller cannot create the pods of a workload.
fn not_created(id: &Identity, object: &Value, around: &Surroundings) -> Option<Cause> {
    let mut objects = vec![object];
    objects.extend(current_set(id, object, around));
    let failure = objects.iter().find_map(|object| {
        let failure = condition(object, "ReplicaFailure")?;
        (text(failure, "status") == "True")
            .then(|| (text(failure, "reason").to_owned(), text(failure, "message").to_owned()))
    });
    // StatefulSets, DaemonSets and Jobs report it in events only.
    let event = objects.iter().rev().find_map(|object| newest(&around.events, uid(object)));
    let (reason, message) = failure.or_else(|| {
        let event = event.as_ref().filter(|event| event.reason == "FailedCreate")?;
        Some((event.reason.clone(), event.message.clone()))
    })?;
    // Kubernetes has no code for these causes. The words are those of the admission plugins
    // (plugin/pkg/admission/resourcequota/controller.go;
    // staging/src/k8s.io/pod-security-admission/admission/admission.go), v1.36.3.
    let failure = if message.contains("exceeded quota") {
        Failure::QuotaUsedUp
    } else if message.contains("violates PodSecurity") {
        Failure::PodDenied
    } else {
        Failure::PodNotCreated
    };
    Some(Cause::new(id, failure, reason, &message))
}

/// Returns the pods of the newest revision of a workload.
fn pods<'a>(id: &Identity, object: &Value, around: &'a Surroundings) -> Vec<&'a Value> {
    let owner = match id.kind.as_str() {
        "Deployment" => match current_set(id, object, around) {
            Some(set) => uid(set),
            None => return Vec::new(),
        },
        _ => uid(object),
    };
    around.pods.iter().filter(|pod| is_owned(pod, owner)).collect()
}

/// Returns the newest `ReplicaSet` of a Deployment.
fn current_set<'a>(id: &Identity, object: &Value, around: &'a Surroundings) -> Option<&'a Value> {
    // The Deployment controller numbers the sets
    // (https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#rolling-back-a-deployment).
    let revision = |set: &Value| {
        let revision = &set["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
        revision.as_str().and_then(|text| text.parse::<u64>().ok())
    };
    let sets = around.replica_sets.iter().filter(|set| is_owned(set, uid(object)));
    sets.max_by_key(|set| revision(set)).filter(|_| id.kind == "Deployment")
}

fn is_owned(object: &Value, owner: &str) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    !owner.is_empty() && owners.into_iter().any(|reference| text(reference, "uid") == owner)
}

/// Names the claim for which a pod is not scheduled or not started.
fn with_claims(mut failure: PodFailure, around: &Surroundings) -> PodFailure {
    let pod = around.pods.iter().find(|pod| text(&pod["metadata"], "name") == failure.pod.name);
    let volumes = pod.and_then(|pod| pod["spec"]["volumes"].as_array()).into_iter().flatten();
    let names = volumes.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
    let unbound = names.into_iter().find_map(|name| {
        let mut claims = around.claims.iter();
        let claim = claims.find(|claim| claim["metadata"]["name"] == name)?;
        (text(&claim["status"], "phase") != "Bound").then_some(claim)
    });
    if let Some(claim) = unbound
        && failure.failure == Failure::PodUnschedulable
    {
        let why = claim_message(claim, &around.events);
        let name = text(&claim["metadata"], "name");
        failure.failure = Failure::ClaimUnbound;
        failure.message = format!("{}; claim {name}: {why}", failure.message);
    }
    failure
}

/// Returns the cause of a claim that is not bound.
pub(crate) fn claim(
    id: &Identity,
    object: &Value,
    reading: &Reading,
    around: &Surroundings,
) -> Cause {
    let message = claim_message(object, &around.events);
    Cause::new(id, Failure::ClaimUnbound, reading.reason.clone(), &message)
}

/// Explains why no volume is bound to a claim.
fn claim_message(claim: &Value, events: &[Value]) -> String {
    // The volume controller reports a missing default class as an event of type `Normal`
    // (`FailedBinding`, pkg/controller/volume/persistentvolume/pv_controller.go, v1.36.3), and
    // a missing class as a `Warning` (`ProvisioningFailed`).
    if let Some(event) = newest(events, uid(claim)) {
        return format!("{}: {}", event.reason, event.message);
    }
    match claim["spec"]["storageClassName"].as_str() {
        None => {
            "no volume is bound; the claim names no StorageClass, and no default exists".to_owned()
        }
        Some("") => {
            "no volume is bound; the claim permits no StorageClass, and no volume fits".to_owned()
        }
        Some(class) => format!("no volume is bound; its StorageClass is {class}"),
    }
}

/// Returns the cause of any other object that is not ready.
pub(crate) fn other(id: &Identity, object: &Value, reading: &Reading) -> Cause {
    let ready = condition(object, "Ready").filter(|ready| text(ready, "status") == "False");
    let failure = match (reading.state, ready) {
        (State::Terminating, _) => Failure::ObjectTerminating,
        (State::Failed, _) => Failure::ObjectStalled,
        (State::InProgress | State::Current, Some(_)) => Failure::ObjectNotReady,
        (State::InProgress | State::Current, None) => Failure::InProgress,
    };
    // The condition `Ready` says why, and `Reconciling` only what the controller does about it.
    match ready.filter(|_| failure == Failure::ObjectNotReady) {
        Some(ready) => Cause::new(id, failure, text(ready, "reason"), text(ready, "message")),
        None => Cause::new(id, failure, reading.reason.clone(), &reading.message),
    }
}

fn uid(object: &Value) -> &str {
    text(&object["metadata"], "uid")
}

#[cfg(test)]
mod tests;
