//! Percent-encoding (RFC 3986, section 2).

use std::fmt::Write as _;

/// Percent-encodes `text` for one value of a query or one segment of a path: all bytes except the
/// unreserved characters.
#[must_use]
pub fn percent_encode(text: &str) -> String {
    percent_encode_except(text, "")
}

/// Percent-encodes `text`, and leaves the ASCII characters of `kept` as they are, for example `/` in a
/// path.
#[must_use]
pub fn percent_encode_except(text: &str, kept: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric()
            || b"-._~".contains(&byte)
            || kept.as_bytes().contains(&byte)
        {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreserved_characters_alone_stay_as_they_are() {
        assert_eq!(percent_encode("aZ09-._~"), "aZ09-._~");
        assert_eq!(percent_encode("a b/c?d&e=f#ü%"), "a%20b%2Fc%3Fd%26e%3Df%23%C3%BC%25");
    }

    #[test]
    fn characters_of_the_exception_stay_and_all_others_are_encoded() {
        assert_eq!(percent_encode_except("release/*/a b", "/*"), "release/*/a%20b");
    }
}
