//! Error responses of a registry (OCI distribution specification, "Error Codes").

use serde_json::Value;
use ureq::Body;
use ureq::http::Response;

use crate::body::beginning;
use crate::redact::redact;

/// Words for an error without a message.
const SILENT: &str = "(without a message)";

/// Returns the code and the message of a registry's error, or of its token service, without `secrets` and
/// without words that look like tokens. Other fields are dropped because they may repeat the request.
/// `is_text` tells that the body is plain text.
///
/// Token services write `details` (Docker Hub) or `error_description` (RFC 6749, section 5.2).
pub(super) fn said(body: &[u8], is_text: bool, secrets: &[String]) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &parsed["errors"][0];
    let messages = [
        &error["message"],
        &parsed["message"],
        &parsed["details"],
        &parsed["error_description"],
        &parsed["error"],
    ];
    let message = messages.map(text).into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    let mut said = [text(&error["code"]), message].join(" ").trim().to_owned();
    if said.is_empty() && is_text {
        said = String::from_utf8_lossy(body).into_owned();
    }
    match redact(&said, secrets) {
        nothing if nothing.is_empty() => SILENT.to_owned(),
        said => said,
    }
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
            said(body, false, &[]),
            "DENIED installation not allowed to Create organization package"
        );
        let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"sesame, ghp_abc and eyJhbGci.e30.x are no good"}]}"#;
        assert_eq!(
            said(body, false, &["sesame".to_owned()]),
            "UNAUTHORIZED (redacted), (redacted) and (redacted) are no good"
        );
        for odd in
            [&b"<html>"[..], b"", b"[]", b"{\"errors\":7}", b"{\"errors\":[]}", b"null", b"\xff"]
        {
            assert_eq!(said(odd, false, &[]), SILENT);
        }
    }

    #[test]
    fn the_message_of_a_token_service_or_a_proxy_is_shown() {
        let said = |body: &str, is_text| said(body.as_bytes(), is_text, &[]);
        let hub = r#"{"details":"incorrect username or password"}"#;
        assert_eq!(said(hub, false), "incorrect username or password");
        let oauth = r#"{"error":"invalid_grant","error_description":"the token has expired"}"#;
        assert_eq!(said(oauth, false), "the token has expired");
        assert_eq!(said("too many uploads\n", true), "too many uploads");
        assert_eq!(said("<html>", false), SILENT);
    }

    #[test]
    fn the_code_of_an_error_is_read_from_its_first_entry() {
        assert_eq!(code(br#"{"errors":[{"code":"NAME_UNKNOWN"},{"code":"X"}]}"#), "NAME_UNKNOWN");
        assert_eq!(code(b"<html>"), "");
    }
}
