//! Objects that a program refused to change or remove.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One object that a program refused to change or remove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// The object, for example the claim `default/data`.
    pub object: String,
    /// One word in `CamelCase`, for example `NoReceipt`.
    pub reason: String,
    /// Reason and next action, as a sentence for people.
    pub message: String,
}
