//! Tokens in request headers.

use secrets::Secret;

/// A token that no header can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The bytes are no text.
    #[error("the token is not UTF-8")]
    NotUtf8,
    /// The secret exists, and is empty.
    #[error("the token is empty")]
    Empty,
    /// A space, a line break, or a character beyond ASCII.
    #[error("the token contains a space, a line break or a character beyond ASCII")]
    Unprintable,
}

/// Returns the token if it fits into a header (RFC 6750, section 2.1, permits fewer characters). A client
/// would take the failure to build a request for an outage and repeat it, and a line break would add a
/// header.
///
/// # Errors
///
/// [`TokenError`], which does not quote the token.
pub fn sendable(token: &Secret) -> Result<&str, TokenError> {
    let text = token.text().map_err(|_| TokenError::NotUtf8)?;
    if text.is_empty() {
        return Err(TokenError::Empty);
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(TokenError::Unprintable);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_printable_ascii_is_sent_in_a_header() {
        let ends = [
            ("ghp_0123/+=-._~", Ok("ghp_0123/+=-._~")),
            ("", Err(TokenError::Empty)),
            ("a b", Err(TokenError::Unprintable)),
            ("a\nAuthorization: b", Err(TokenError::Unprintable)),
            ("\u{7f}æ", Err(TokenError::Unprintable)),
        ];
        for (text, expected) in ends {
            assert_eq!(sendable(&Secret::new(text.as_bytes().to_vec())), expected, "{text:?}");
        }
        assert_eq!(sendable(&Secret::new(vec![0xff])), Err(TokenError::NotUtf8));
    }
}
