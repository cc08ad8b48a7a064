//! Objects that a program refused to change or remove.

use reasons::Reason;
use schemars::JsonSchema;
use serde::Serialize;

/// One object that a program refused to change or remove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Refusal {
    /// The object, for example the claim `default/data`.
    pub object: String,
    /// One word of the list in `knowledge/reasons.md`, for example `NoReceipt`.
    pub reason: Reason,
    /// Reason and next action, as a sentence for people.
    pub message: String,
}
