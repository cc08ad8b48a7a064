//! Names of Kubernetes, as `pkg/machinery/labels/validate.go` of Talos v1.13.9 checks them.

/// Longest name, and longest value of a label.
const NAME_BYTES_MAX: usize = 63;

/// Returns why a key of a label, an annotation or a taint is invalid.
pub(super) fn key(text: &str) -> Result<(), &'static str> {
    let name = match text.split_once('/') {
        Some((prefix, _)) if !is_domain(prefix) => {
            return Err("has a prefix that is no domain in lower case");
        }
        Some((_, name)) => name,
        None => text,
    };
    let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX && is_name(name);
    if fits {
        Ok(())
    } else {
        Err(
            "is no valid name: use at most 63 letters, digits, `-`, `_` and `.`, with a letter or a digit at both ends",
        )
    }
}

/// Returns whether a text is a valid value of a label.
pub(super) fn is_value(text: &str) -> bool {
    text.is_empty() || text.len() <= NAME_BYTES_MAX && is_name(text)
}

fn is_name(text: &str) -> bool {
    let end = |letter: char| letter.is_ascii_alphanumeric();
    text.starts_with(end)
        && text.ends_with(end)
        && text.chars().all(|letter| end(letter) || "-_.".contains(letter))
}

fn is_domain(text: &str) -> bool {
    let end = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let label = |label: &str| {
        label.starts_with(end)
            && label.ends_with(end)
            && label.chars().all(|letter| end(letter) || letter == '-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Returns whether a text is a DNS name, such as `cluster.local`.
pub(super) fn is_dns(text: &str) -> bool {
    let text = text.strip_suffix(['.', '_']).unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-".contains(letter))
    };
    text.len() <= 255 && text.split('.').all(label)
}
