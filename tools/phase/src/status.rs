//! What a program says of a document.

use std::collections::BTreeMap;
use std::iter::successors;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Fault;

/// What a program fills in: `O` is what it observes, `E` evidence, `S` a step of its plan.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Status<O, E, S> {
    /// Whether the document is true of the world.
    pub conditions: Vec<Condition>,
    /// Facts that other documents may refer to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<O>,
    /// Digests that bind what is there to what was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<E>,
    /// What must be handed on secretly, each encrypted with age to the project's recipients. The
    /// one part of a status that differs from run to run.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sealed: BTreeMap<String, String>,
    /// The steps that are left to take.
    pub plan: Vec<S>,
    /// What the program refused to change or remove, one entry for each object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// One object that a program refused to change or remove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// The object, for example the claim `default/data`.
    pub object: String,
    /// One word in `CamelCase`, for example `NoReceipt`.
    pub reason: String,
    /// Sentence for people: why, and what to do.
    pub message: String,
}

impl<O, E, S> Status<O, E, S> {
    /// A status that says no more than `ready`.
    #[must_use]
    pub fn new(ready: Condition) -> Self {
        Self {
            conditions: vec![ready],
            observed: None,
            evidence: Vec::new(),
            sealed: BTreeMap::new(),
            plan: Vec::new(),
            refusals: Vec::new(),
        }
    }

    /// The status of a document for which `plan` is left to do.
    #[must_use]
    pub fn planned(observed: Option<O>, plan: Vec<S>) -> Self {
        let message = format!("steps to take: {}", plan.len());
        let ready = Condition::ready(false, "Planned", message);
        Self { observed, plan, ..Self::new(ready) }
    }

    /// The status of a document of which nothing is left; `kept` says what was not ours to remove.
    #[must_use]
    pub fn destroyed(kept: impl Into<String>) -> Self {
        Self::new(Condition::ready(false, Condition::DESTROYED, kept.into()))
    }

    /// The status of a document on which the program failed.
    #[must_use]
    pub fn failed(fault: &dyn Fault) -> Self {
        let causes = successors(fault.source(), |cause| cause.source());
        let message = causes.fold(fault.to_string(), |text, cause| format!("{text}: {cause}"));
        let ready = Condition::ready(false, fault.reason(), message);
        Self { refusals: fault.refusals(), ..Self::new(ready) }
    }
}

/// A condition as Kubernetes has them, without its times: the same world gives the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Condition {
    /// What it is about: `Ready`.
    #[serde(rename = "type")]
    pub about: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, as one word in `CamelCase`.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

impl Condition {
    /// The reason of a document that `destroy` has undone.
    pub const DESTROYED: &str = "Destroyed";

    /// The condition for which other documents wait.
    #[must_use]
    pub fn ready(is: bool, reason: &str, message: impl Into<String>) -> Self {
        Self::new("Ready", is, reason, message)
    }

    /// A condition about something else than the whole.
    #[must_use]
    pub fn new(about: &str, is: bool, reason: &str, message: impl Into<String>) -> Self {
        let status = if is { "True" } else { "False" }.to_owned();
        Self { about: about.to_owned(), status, reason: reason.to_owned(), message: message.into() }
    }
}
