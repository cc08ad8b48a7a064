//! What a program says of a document.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::diagnostic::Diagnostic;
use crate::refusal::Refusal;
use crate::report::with_causes;

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
    /// The steps that are left to take; empty when nothing is left to do. Absent when they are not
    /// known, because the observation failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Vec<S>>,
    /// What the program refused to change or remove, one entry for each object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
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
            plan: Some(Vec::new()),
            refusals: Vec::new(),
        }
    }

    /// The status of a document for which `plan` is left to do.
    #[must_use]
    pub fn planned(observed: Option<O>, plan: Vec<S>) -> Self {
        let message = format!("steps to take: {}", plan.len());
        let ready = Condition::ready(false, "Planned", message);
        Self { observed, plan: Some(plan), ..Self::new(ready) }
    }

    /// The status of a document of which nothing is left; `kept` says what was not ours to remove.
    #[must_use]
    pub fn destroyed(kept: impl Into<String>) -> Self {
        Self::new(Condition::ready(false, Condition::DESTROYED, kept.into()))
    }

    /// The status of a document on which the program failed.
    #[must_use]
    pub fn failed(fault: &dyn Diagnostic) -> Self {
        let message = with_causes(fault);
        let ready = if fault.is_unknown() {
            Condition::unknown("Ready", fault.reason(), message)
        } else {
            Condition::ready(false, fault.reason(), message)
        };
        Self { plan: None, refusals: fault.refusals(), ..Self::new(ready) }
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

    /// A condition that the program could not determine.
    #[must_use]
    pub fn unknown(about: &str, reason: &str, message: impl Into<String>) -> Self {
        Self { status: "Unknown".to_owned(), ..Self::new(about, false, reason, message) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{Error, Kind, schema};

    /// Facts of which one is left out when it is empty, and none when it is not known.
    #[derive(Serialize, JsonSchema)]
    struct Facts {
        name: String,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        foreign: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    }

    #[derive(Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only read")]
    struct Spec {
        #[serde(default)]
        size: u8,
    }

    impl Kind for Spec {
        const KIND: &'static str = "Spec";
        type Observed = Facts;
        type Evidence = String;
        type Step = String;
    }

    /// The fields that `schema` requires and `written` lacks, and those that it does not know.
    fn unfit(schema: &Value, written: &Value) -> Vec<String> {
        let required =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let lacks = required.filter(|name| written.get(name).is_none());
        let known = |name: &&String| schema["properties"].get(name.as_str()).is_none();
        let unknown = written.as_object().into_iter().flat_map(|it| it.keys()).filter(known);
        lacks.map(str::to_owned).chain(unknown.cloned()).collect()
    }

    // hazard: A finished stream violates the schemas that the programs publish.
    // class: What is written is not what is read.
    // members: `sealed`, `evidence`, `foreign`
    // now: every document is valid
    #[test]
    fn every_status_is_valid_against_the_schema() {
        let facts = |foreign: &[&str], address: Option<&str>| Facts {
            name: "a".to_owned(),
            foreign: foreign.iter().map(|&name| name.to_owned()).collect(),
            address: address.map(str::to_owned),
        };
        let ready = || Condition::ready(true, "Ready", "it runs");
        let schema = schema::<Spec>();
        let status = &schema["properties"]["status"];
        assert_eq!(status["required"], json!(["conditions"]), "{schema:#}");
        assert!(schema["$defs"]["Facts"]["required"] == json!(["name"]), "{schema:#}");
        let full = Status {
            observed: Some(facts(&["x"], Some("y"))),
            evidence: vec!["z".to_owned()],
            sealed: [("a".to_owned(), "b".to_owned())].into(),
            ..Status::<Facts, String, String>::new(ready())
        };
        for written in [
            Status::new(ready()),
            Status::planned(None, vec!["create".to_owned()]),
            Status::planned(Some(facts(&[], None)), Vec::new()),
            Status::destroyed("nothing is left"),
            Status::failed(&Error::Interrupted),
            full,
        ] {
            let written = json!(written);
            assert_eq!(unfit(status, &written), [""; 0], "{written}");
            if let Some(observed) = written.get("observed") {
                assert_eq!(unfit(&schema["$defs"]["Facts"], observed), [""; 0], "{written}");
            }
        }
    }

    // hazard: A failed observation writes an empty plan: "nothing to do".
    // class: Unknown is shown as empty.
    // members: `--check`
    // now: no `plan` in the status
    #[test]
    fn a_failed_observation_has_no_plan_and_a_good_one_has_one_even_if_it_is_empty() {
        let failed = json!(Status::<Facts, String, String>::failed(&Error::Interrupted));
        assert_eq!(failed.get("plan"), None);
        let done = json!(Status::<Facts, String, String>::planned(None, Vec::new()));
        assert_eq!(done["plan"], json!([]));
    }
}
