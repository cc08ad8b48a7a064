//! Answers of the API server, and the errors that they become.

use documents::{Diagnostic as _, Exit, Reason};
use serde_json::json;

use super::*;
use crate::request::Request;

/// Returns the error for a response to `name`. Texts are those of the API server 1.36.3, unless a
/// comment names another source.
fn answered(name: &str, path: &str, code: u16, status: &Value) -> Error {
    let exchange = Request::get(path).named(name).exchange;
    let body = status.to_string().into_bytes();
    let failure = Failure { code, body: &body, retry_after: None };
    error(&exchange, &failure, str::to_owned)
}

fn status(reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "reason": reason, "message": message})
}

// hazard: A quota, a policy or an expired certificate is reported as a missing permission, and a retry is advised.
// class: One help text for several causes.
// members: 409 as unreachable, webhook denial as a wrong document, terminating Namespace, Debug formats, responses that quote a Secret
// now: one reason, help and exit status for each cause
#[test]
fn each_cause_of_a_response_has_its_own_reason_help_and_exit_status() {
    let table = [
        (401, "Unauthorized", "Unauthorized", "Unauthorized", Exit::Permanent, "expired"),
        (
            403,
            "Forbidden",
            r#"deployments.apps "a" is forbidden: User "viewer" cannot patch resource "deployments""#,
            "Forbidden",
            Exit::Permanent,
            "permission",
        ),
        (
            403,
            "Forbidden",
            r#"pods "a" is forbidden: exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1"#,
            "QuotaExceeded",
            Exit::Permanent,
            "quota",
        ),
        (
            403,
            "Forbidden",
            r#"admission webhook "validate.kyverno.svc-fail" denied the request: require-labels"#,
            "AdmissionDenied",
            Exit::Permanent,
            "policy",
        ),
        (
            422,
            "Invalid",
            r#"deployments.apps "a" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"#,
            "AdmissionDenied",
            Exit::Permanent,
            "policy",
        ),
        (
            403,
            "Forbidden",
            r#"pods "a" is forbidden: violates PodSecurity "restricted:latest": host namespaces"#,
            "AdmissionDenied",
            Exit::Permanent,
            "policy",
        ),
        (
            500,
            "InternalError",
            r#"Internal error occurred: failed calling webhook "v.example.org": connection refused"#,
            "WebhookFailed",
            Exit::Temporary,
            "webhook",
        ),
        (
            409,
            "Conflict",
            r#"Operation cannot be fulfilled on secrets "a": the object has been modified"#,
            "Changed",
            Exit::Temporary,
            "again",
        ),
        (429, "TooManyRequests", "too many requests", "RateLimited", Exit::Temporary, "again"),
        (
            500,
            "InternalError",
            "etcdserver: request timed out",
            "Unreachable",
            Exit::Temporary,
            "again",
        ),
        (503, "ServiceUnavailable", "no endpoints", "Unreachable", Exit::Temporary, "again"),
        (422, "Invalid", "spec.selector: field is immutable", "Rejected", Exit::Permanent, ""),
        (
            400,
            "BadRequest",
            r#"strict decoding error: unknown field "spec.x""#,
            "Rejected",
            Exit::Permanent,
            "",
        ),
    ];
    for (code, reason, message, expected, exit, help) in table {
        let error = answered("apply Thing a", "/api/v1/things/a", code, &status(reason, message));
        assert_eq!(error.reason().as_str(), expected, "{message}");
        assert_eq!(error.exit(), exit, "{message}");
        let text = error.help().unwrap_or_default();
        assert!(text.contains(help), "{message}: {text}");
        assert!(error.to_string().contains(message), "{error}");
        assert!(!error.to_string().contains("Some("), "a Debug format: {error}");
    }
}

#[test]
fn a_terminating_namespace_is_recognised_by_its_cause_and_not_by_words() {
    let words = r#"configmaps "a" is forbidden: unable to create new content in namespace b because it is being terminated"#;
    for message in [words, "namespaces \"b\" is forbidden"] {
        let mut status = status("Forbidden", message);
        let plain = answered("apply Thing a", "/api/v1/things/a", 403, &status);
        assert_eq!(plain.reason(), Reason::Forbidden, "without the cause: {message}");
        status["details"]["causes"] = json!([{"reason": "NamespaceTerminating"}]);
        let error = answered("apply Thing a", "/api/v1/things/a", 403, &status);
        assert_eq!((error.reason(), error.exit()), (Reason::Terminating, Exit::Temporary));
        assert!(error.help().is_some_and(|help| help.contains("finalizers")));
    }
}

#[test]
fn a_response_about_a_secret_is_never_quoted_for_any_code() {
    let paths = ["/api/v1/namespaces/n/secrets/s", "/api/v1/namespaces/n/secrets?limit=500"];
    for (code, path) in [400, 403, 409, 422, 429, 500, 503]
        .into_iter()
        .flat_map(|code| paths.map(|path| (code, path)))
    {
        let error = answered(
            "apply Secret n/s",
            path,
            code,
            &status("Invalid", "Invalid value: \"hunter2\""),
        );
        assert!(!error.to_string().contains("hunter2"), "{code}: {error}");
    }
}

#[test]
fn absent_object_is_told_from_an_api_that_is_not_served_and_from_another_server() {
    let absent = status("NotFound", "pods \"a\" not found");
    assert!(matches!(answered("get", "/a", 404, &absent), Error::NotFound { .. }));
    // The API server's own answer for an unknown path is plain text.
    for other in ["404 page not found\n", "<html>not here</html>"] {
        let failure = Failure { code: 404, body: other.as_bytes(), retry_after: None };
        let error = error(&Request::get("/a").exchange, &failure, str::to_owned);
        assert!(matches!(error, Error::NotServed { .. }), "{error}");
    }
}

#[test]
fn budget_that_blocks_an_eviction_is_told_from_a_rate_limit_with_its_pause() {
    let mut limited = status("TooManyRequests", "too many requests");
    limited["details"]["retryAfterSeconds"] = json!(7);
    let error = answered("evict", "/a", 429, &limited);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert_eq!(error.help().as_deref(), Some("run the same command again in 7 s"));
    limited["details"]["causes"] = json!([{"reason": "DisruptionBudget", "message": "The disruption budget b needs 1 healthy pods"}]);
    let error = answered("evict", "/a", 429, &limited);
    assert!(matches!(error, Error::DisruptionBudget { .. }), "{error}");
    assert!(error.to_string().contains("The disruption budget b"), "{error}");
}

#[test]
fn page_of_a_proxy_is_not_quoted_and_a_short_text_is() {
    for (body, text) in
        [("no healthy upstream", "no healthy upstream"), ("<html>hunter2", "(code 502)")]
    {
        let failure = Failure { code: 502, body: body.as_bytes(), retry_after: None };
        let error = error(&Request::get("/a").exchange, &failure, str::to_owned);
        assert!(
            error.to_string().contains(text) && !error.to_string().contains("hunter2"),
            "{error}"
        );
    }
}
