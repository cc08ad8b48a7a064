//! One change to a cluster or to a store, as a plan shows it.

use std::fmt;

use documents::Effect;
use schemars::JsonSchema;
use serde::Serialize;

/// One change to a cluster or to a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// Write into an annotation of a claim on which node its data is, because only the claim's own pod
    /// tells, and that pod is stopped.
    RecordNode {
        /// `NAMESPACE/NAME` of the claim, for example `default/data`.
        claim: String,
        /// Node in the annotation, for example `worker-1`; absent when there is no annotation.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// Node that holds the data.
        to: String,
    },
    /// Stop a workload that can write to a claim, and keep Flux from starting it again.
    Stop {
        /// Namespace, kind and name of the workload, for example `default deployment/web`.
        workload: String,
        /// Number of replicas before the stop.
        from: u32,
    },
    /// Create the policies that let only the reader's pods mount the claims, and that let nothing delete
    /// them.
    Hold {
        /// Number of claims.
        claims: usize,
    },
    /// Copy a source into the store, encrypted, and read it a second time to prove that it is at rest.
    Copy {
        /// The claim (`default/data`) or the repository (`forge web`).
        source: String,
    },
    /// Read every object back, and sign the receipt.
    Sign {
        /// Number of sources in the receipt.
        sources: usize,
    },
    /// Write the digest of the receipt into the policy, so that objects with that digest may be deleted.
    Record {
        /// Number of claims.
        claims: usize,
    },
    /// Remove the policies, so that pods may mount the claims again.
    Thaw {
        /// Number of claims.
        claims: usize,
    },
    /// Start a workload that `apply` stopped, and give it back to Flux.
    Start {
        /// Namespace, kind and name of the workload, for example `default deployment/web`.
        workload: String,
        /// Present number of replicas.
        from: u32,
        /// Number of replicas before `apply` stopped the workload.
        to: u32,
    },
}

impl documents::Step for Step {
    fn effect(&self) -> Effect {
        match self {
            Self::Hold { .. } | Self::Copy { .. } | Self::Sign { .. } => Effect::Create,
            Self::RecordNode { .. }
            | Self::Stop { .. }
            | Self::Record { .. }
            | Self::Start { .. } => Effect::Change,
            Self::Thaw { .. } => Effect::Remove,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RecordNode { claim, from: None, to } => {
                write!(f, "record the node of claim {claim}: {to}")
            }
            Self::RecordNode { claim, from: Some(from), to } => {
                write!(f, "record the node of claim {claim}: {from} → {to}")
            }
            Self::Stop { workload, from: 0 } => {
                write!(f, "keep {workload} stopped: it has 0 replicas")
            }
            Self::Stop { workload, from } => write!(f, "stop {workload}: {from} → 0 replicas"),
            Self::Hold { claims } => {
                write!(f, "hold {}: only the reader may mount them", counted(*claims, "claim"))
            }
            Self::Copy { source } => write!(f, "copy {source}"),
            Self::Sign { sources } => {
                write!(f, "read back and sign a receipt for {}", counted(*sources, "source"))
            }
            Self::Record { claims } => {
                let claims = counted(*claims, "claim");
                write!(f, "record the receipt in the hold on {claims}: it lets them be deleted")
            }
            Self::Thaw { claims } => {
                write!(f, "remove the hold on {}: pods may mount them", counted(*claims, "claim"))
            }
            Self::Start { workload, from, to } => {
                write!(f, "start {workload}: {from} → {to} replicas")
            }
        }
    }
}

/// Returns a count with its noun, for example `1 claim` or `2 claims`.
fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn step_is_flat_json_and_a_sentence_with_old_and_new_values() {
        let step = Step::Stop { workload: "default deployment/web".to_owned(), from: 3 };
        assert_eq!(
            json!(step),
            json!({"action": "stop", "workload": "default deployment/web", "from": 3})
        );
        assert_eq!(step.to_string(), "stop default deployment/web: 3 → 0 replicas");
        let step = Step::RecordNode {
            claim: "default/data".to_owned(),
            from: Some("worker-1".to_owned()),
            to: "worker-2".to_owned(),
        };
        assert_eq!(step.to_string(), "record the node of claim default/data: worker-1 → worker-2");
    }
}
