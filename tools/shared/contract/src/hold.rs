//! Holds: admission policies that keep pods off drained claims.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Object of a hold. An object that was edited, or deleted and created again, is not equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HoldObject {
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
    /// `metadata.generation`, which grows with every change of the spec.
    pub generation: i64,
}

/// Admission policy that keeps pods off drained claims, and its binding. Both are recorded before the
/// claim is read, so that a hold that was removed, edited or put back is detected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Hold {
    /// `ValidatingAdmissionPolicy` of the hold.
    pub policy: HoldObject,
    /// `ValidatingAdmissionPolicyBinding` of the policy.
    pub binding: HoldObject,
}
