//! JSON of our own values.

use serde::Serialize;

/// The bytes of a value of ours, which always serialises: strings, numbers and maps with strings as
/// keys.
pub(crate) fn bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
