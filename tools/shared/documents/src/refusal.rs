//! What a program refused to do, as data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
