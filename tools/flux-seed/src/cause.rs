//! Causes for which a Delivery is not ready: typed JSON for programs, and one line each for people.

pub(crate) mod failure;
pub(crate) mod flux;
pub(crate) mod pod;
pub(crate) mod workload;

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

pub(crate) use failure::{Failure, Recovery};

use crate::object::Identity;

/// Most causes that a message names. The status has more of them.
const NAMED_MAX: usize = 5;
/// Most causes in the status. One broken node makes hundreds of pods fail in the same way, and the status is
/// passed on to other programs as one line.
pub(crate) const LISTED_MAX: usize = 50;
/// Longest message in bytes. The API server limits the message of an event to 1,024 bytes
/// (`NoteLengthLimit` in pkg/apis/core/validation/events.go, v1.36.3), and a condition may have 32 KiB.
const MESSAGE_BYTES_MAX: usize = 1024;

/// One cause for which the Delivery is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// The object that fails.
    #[serde(flatten)]
    pub object: Subject,
    /// The failure, one word of the list in `knowledge/failures.md`.
    pub failure: Failure,
    /// Chance that the failure passes without a change by a person.
    pub recovery: Recovery,
    /// Reason in the words of the vendor, for example `ImagePullBackOff`.
    pub reason: String,
    /// Message of the vendor. Absent where the reason says all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Flux object that delivers the object, for example `Kustomization flux-system/apps`. Absent for
    /// objects of Flux's installation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_by: Option<String>,
    /// The worst pod of a workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<WorstPod>,
    /// The newest event of type `Warning` about the pod, or about the object if there is no pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
    /// Object whose status has the failure: a Kustomization reports an object that it cannot apply.
    #[serde(skip)]
    pub(crate) reported_by: Subject,
    /// Whether the cause counts as final only because a rollout took too long.
    #[serde(skip)]
    pub(crate) is_overdue: bool,
}

/// Name of an object. Flux reports some objects without the group of their API.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Kind, for example `Deployment`.
    pub kind: String,
    /// Namespace; absent for a cluster-wide object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name, for example `greeter`.
    pub name: String,
}

/// The pod of a workload whose failure is the worst.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorstPod {
    /// Name of the pod.
    pub name: String,
    /// The container that fails; absent if the pod itself fails, for example because no node fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Whether the container is an init container.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub init: bool,
    /// Exit status of the container's last run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Number of restarts of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<i64>,
}

/// An event that Kubernetes recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Reason, for example `FailedMount`.
    pub reason: String,
    /// Message.
    pub message: String,
}

impl From<&Identity> for Subject {
    fn from(id: &Identity) -> Self {
        Self { kind: id.kind.clone(), namespace: id.namespace.clone(), name: id.name.clone() }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl Cause {
    pub(crate) fn new(
        object: impl Into<Subject>,
        failure: Failure,
        reason: impl Into<String>,
        message: &str,
    ) -> Self {
        let object = object.into();
        Self {
            reported_by: object.clone(),
            object,
            failure,
            recovery: failure.recovery(),
            reason: reason.into(),
            message: short(message),
            delivered_by: None,
            pod: None,
            event: None,
            is_overdue: false,
        }
    }

    /// Makes the cause one that may pass, because its report may be about an earlier state.
    pub(crate) fn may_pass(mut self) -> Self {
        self.recovery = Recovery::Possible;
        self
    }

    /// Sort key, the worst first: the recovery, the failure, then the object.
    fn severity(&self) -> (Recovery, Failure, &Subject) {
        (self.recovery, self.failure, &self.object)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if let Some(pod) = &self.pod {
            write!(f, "pod {}", pod.name)?;
            if let Some(container) = &pod.container {
                write!(f, ", {}container {container}", if pod.init { "init " } else { "" })?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)?;
        if let Some(code) = self.pod.as_ref().and_then(|pod| pod.exit_code) {
            write!(f, ", exit code {code}")?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        match &self.event {
            // A kubelet writes the same words to the status and to an event.
            Some(event) if !self.message.contains(&event.message) => {
                write!(f, " ({}: {})", event.reason, event.message)
            }
            _ => Ok(()),
        }
    }
}

/// Sorts causes, the worst first, and limits their number.
pub(crate) fn sorted(mut causes: Vec<Cause>) -> Vec<Cause> {
    causes.sort_by(|a, b| a.severity().cmp(&b.severity()));
    causes.dedup_by(|a, b| a.object == b.object && a.failure == b.failure);
    causes.truncate(LISTED_MAX);
    causes
}

/// Returns one line about all causes, the worst first. Objects that are merely at work are left out
/// while others fail.
pub(crate) fn line(causes: &[Cause]) -> String {
    let failing: Vec<_> = causes.iter().filter(|cause| cause.failure.is_failure()).collect();
    let shown = if failing.is_empty() { causes.iter().collect() } else { failing };
    let named: Vec<_> = shown.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let rest = shown.len().saturating_sub(NAMED_MAX);
    let more = if rest == 0 { String::new() } else { format!("; and {rest} more") };
    format!("{}{more}", named.join("; "))
}

/// Returns a vendor's text on one line and within the limit.
pub(crate) fn short(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|index| line.is_char_boundary(*index));
        line.truncate(end.unwrap_or_default());
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests;
