//! The status of a document, which its program writes.

use std::collections::BTreeMap;

use reasons::Reason;
use schemars::JsonSchema;
use serde::Serialize;

use crate::diagnostic::Diagnostic;
use crate::refusal::Refusal;
use crate::report::with_causes;

/// Status of a document. `O` holds observed facts, `E` is evidence, `S` a step of the plan.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Status<O, E, S> {
    /// Conditions of the document. The first one is `Ready`.
    pub conditions: Vec<Condition>,
    /// Facts that other documents may refer to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<O>,
    /// Digests that prove that the observed state is the declared one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<E>,
    /// Secrets for other documents, each encrypted with age to the project's recipients. Only this part
    /// of a status differs between two runs on the same state.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sealed: BTreeMap<String, String>,
    /// Steps that are left to execute; empty when nothing is left to do. Absent when steps may be left
    /// that are unknown, because the observation failed or the caller may not see everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Vec<S>>,
    /// Objects that the program refused to change or remove.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

impl<O, E, S> Status<O, E, S> {
    /// Creates a status with the condition `ready`, and with an empty plan unless `ready` is `Unknown`.
    #[must_use]
    pub fn new(ready: Condition) -> Self {
        let plan = (!ready.is_unknown()).then(Vec::new);
        Self {
            conditions: vec![ready],
            observed: None,
            evidence: Vec::new(),
            sealed: BTreeMap::new(),
            plan,
            refusals: Vec::new(),
        }
    }

    /// Creates the status of a document whose `plan` is left to execute.
    #[must_use]
    pub fn planned(observed: Option<O>, plan: Vec<S>) -> Self {
        let message = format!("steps to take: {}", plan.len());
        let ready = Condition::ready(false, Reason::Planned, message);
        Self { observed, plan: Some(plan), ..Self::new(ready) }
    }

    /// Creates the status of a destroyed document; `kept` names what belongs to others and stays.
    #[must_use]
    pub fn destroyed(kept: impl Into<String>) -> Self {
        Self::new(Condition::ready(false, Reason::Destroyed, kept.into()))
    }

    /// Creates the status of a document on which the program failed.
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

/// A condition in the form of Kubernetes, without timestamps, so that the same state gives the same
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Condition {
    /// Subject of the condition, for example `Ready`.
    #[serde(rename = "type")]
    pub about: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Reason as one word of the list in `knowledge/reasons.md`, for example `NotConverged`.
    pub reason: Reason,
    /// Explanation for people, as one sentence.
    pub message: String,
}

impl Condition {
    /// Creates the condition `Ready`, for which other documents wait.
    #[must_use]
    pub fn ready(is_true: bool, reason: Reason, message: impl Into<String>) -> Self {
        Self::new("Ready", is_true, reason, message)
    }

    /// Creates a condition about one aspect of the document.
    #[must_use]
    pub fn new(about: &str, is_true: bool, reason: Reason, message: impl Into<String>) -> Self {
        let status = if is_true { "True" } else { "False" }.to_owned();
        Self { about: about.to_owned(), status, reason, message: message.into() }
    }

    /// Creates a condition that the program could not determine.
    #[must_use]
    pub fn unknown(about: &str, reason: Reason, message: impl Into<String>) -> Self {
        Self { status: "Unknown".to_owned(), ..Self::new(about, false, reason, message) }
    }

    fn is_unknown(&self) -> bool {
        self.status == "Unknown"
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;
    use crate::{Error, Kind, schema};

    /// Facts with a field that is omitted when it is empty, and a field that is omitted when it is unknown.
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

    /// Returns the required fields that `written` lacks, and the fields of `written` that are unknown to
    /// the `schema`.
    fn unfit(schema: &Value, written: &Value) -> Vec<String> {
        let required =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let lacks = required.filter(|name| written.get(name).is_none());
        let known = |name: &&String| schema["properties"].get(name.as_str()).is_none();
        let unknown = written.as_object().into_iter().flat_map(serde_json::Map::keys).filter(known);
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
        let ready = || Condition::ready(true, Reason::AsDeclared, "it runs");
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
    fn failed_observation_has_no_plan_and_a_successful_one_may_have_an_empty_plan() {
        let failed = json!(Status::<Facts, String, String>::failed(&Error::Interrupted));
        assert_eq!(failed.get("plan"), None);
        let hidden = Condition::unknown("Ready", Reason::ReaderAccess, "Secrets were not compared");
        assert_eq!(json!(Status::<Facts, String, String>::new(hidden)).get("plan"), None);
        let done = json!(Status::<Facts, String, String>::planned(None, Vec::new()));
        assert_eq!(done["plan"], json!([]));
    }
}
