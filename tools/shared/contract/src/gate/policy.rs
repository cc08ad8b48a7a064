//! Data policy of a document: the condition under which `destroy` may delete data.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Condition under which data may be deleted with what holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DataPolicy {
    /// A Drain has a receipt for it.
    #[default]
    RequireReceipt,
    /// None: the data may be lost.
    Discard,
}

/// Data policy by claim, for example `{default/cache: discard}`. A claim that is not named requires
/// a receipt. The key is `NAMESPACE/NAME`, or `volume/NAME` for a `PersistentVolume` that no claim owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct DataOnDestroy(BTreeMap<ClaimName, DataPolicy>);

impl DataOnDestroy {
    /// Whether the document allows the data of the claim called `name` to be lost.
    #[must_use]
    pub fn discards(&self, name: &str) -> bool {
        self.0.iter().any(|(claim, policy)| claim.0 == name && *policy == DataPolicy::Discard)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^[a-z0-9][-a-z0-9]*/[a-z0-9][-.a-z0-9]*$"))]
struct ClaimName(String);

impl TryFrom<String> for ClaimName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_name = |part: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            let edge = |byte: Option<&u8>| byte.is_some_and(|byte| inner(*byte));
            part.bytes().all(|byte| inner(byte) || byte == b'-' || byte == b'.')
                && edge(part.as_bytes().first())
                && edge(part.as_bytes().last())
        };
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok(Self(text)),
            _ => Err("not a claim: write NAMESPACE/NAME; there is no wildcard"),
        }
    }
}
