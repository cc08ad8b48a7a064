//! Labels and their syntax (<https://docs.hetzner.cloud/reference/cloud#labels>).

use std::collections::BTreeMap;

use crate::error::ApiError;

pub(crate) type Labels = BTreeMap<String, String>;

/// Refuses labels that break the documented rules.
pub(crate) fn check(labels: &Labels) -> Result<(), ApiError> {
    for (key, value) in labels {
        if !key_allowed(key) {
            return Err(ApiError::invalid_fields(&[("labels", "a label key is invalid")]));
        }
        if !(value.is_empty() || segment(value)) {
            return Err(ApiError::invalid_fields(&[("labels", "a label value is invalid")]));
        }
    }
    Ok(())
}

/// Whether the key is `name` or `prefix/name`, where the prefix is a DNS name other than the vendor's own.
pub(crate) fn key_allowed(key: &str) -> bool {
    match key.split_once('/') {
        None => segment(key),
        Some((prefix, name)) => {
            let part = |part: &str| {
                !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            };
            let dns = prefix.len() <= 253 && prefix.split('.').all(part);
            dns && prefix != "hetzner.cloud" && segment(name)
        }
    }
}

/// Whether the text has 1 to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
pub(crate) fn segment(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(inside)
        && edge(text.chars().next())
        && edge(text.chars().last())
}
