//! Error responses of a registry (OCI distribution specification, "Error Codes").

use serde_json::Value;
use ureq::Body;
use ureq::http::Response;

use crate::body::beginning;
use crate::redact::redact;

/// Returns the code and the message of a registry's error, without `secrets` and without words that
/// look like tokens. Other fields are dropped because they may repeat the request.
pub(super) fn said(body: &[u8], secrets: &[String]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &body["errors"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    let message = [&error["message"], &body["message"], &body["error"]].map(text);
    let message = message.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    redact(&[text(&error["code"]), message].join(" "), secrets)
}

/// Returns the code of an error response, for example `NAME_UNKNOWN`.
#[must_use]
pub fn error_code(response: &mut Response<Body>) -> String {
    code(&beginning(response))
}

fn code(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_own_words_are_shown_without_any_secret() {
        let body = br#"{"errors":[{"code":"DENIED","message":"installation not allowed to Create organization package\n","detail":{"sent":"sesame"}}]}"#;
        assert_eq!(
            said(body, &[]),
            "DENIED installation not allowed to Create organization package"
        );
        let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"sesame, ghp_abc and eyJhbGci.e30.x are no good"}]}"#;
        assert_eq!(
            said(body, &["sesame".to_owned()]),
            "UNAUTHORIZED (redacted), (redacted) and (redacted) are no good"
        );
        for odd in
            [&b"<html>"[..], b"", b"[]", b"{\"errors\":7}", b"{\"errors\":[]}", b"null", b"\xff"]
        {
            assert_eq!(said(odd, &[]), "");
        }
    }

    #[test]
    fn the_code_of_an_error_is_read_from_its_first_entry() {
        assert_eq!(code(br#"{"errors":[{"code":"NAME_UNKNOWN"},{"code":"X"}]}"#), "NAME_UNKNOWN");
        assert_eq!(code(b"<html>"), "");
    }
}
