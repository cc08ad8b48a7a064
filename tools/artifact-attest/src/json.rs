//! Serialises this program's own values.

use serde::Serialize;

/// Returns the JSON of a value. Serialising cannot fail, because the values consist of strings,
/// numbers, and maps with strings as keys.
pub(crate) fn bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
