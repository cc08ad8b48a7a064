//! Classifies a failed response of the API server. Pure.

use kube::core::Status;

use crate::Error;

/// Returns the error for `status`, which is the response to `request`.
///
/// The API server reports different causes with the same code, so that the code alone does not show
/// whether a retry helps. Codes and reasons: `metav1.StatusReason` in
/// <https://github.com/kubernetes/apimachinery/blob/v0.36.3/pkg/apis/meta/v1/types.go>.
pub(crate) fn error(request: String, status: &Status) -> Error {
    let message = message(&request, status);
    let mentions = |text: &str| status.message.contains(text);
    match status.code {
        401 => Error::Unauthorized { request, message },
        // `metav1.Status` of a Namespace that is being deleted, pkg/admission/plugin/namespace/lifecycle.
        403 if has_cause(status, "NamespaceTerminating") => Error::Terminating { request, message },
        // plugin/pkg/admission/resourcequota: "exceeded quota: NAME, requested: …".
        403 if mentions("exceeded quota") || mentions("failed quota") => {
            Error::QuotaExceeded { request, message }
        }
        // A webhook chooses its code, but its message always begins with the same words
        // (pkg/admission/plugin/webhook/errors/statuserror.go). A ValidatingAdmissionPolicy answers
        // 422 (pkg/admission/plugin/policy/validating), Pod Security 403.
        400.. if is_denied(&status.message) => Error::Denied { request, message },
        403 => Error::Forbidden { request, message },
        // An admission webhook with `failurePolicy: Fail` that did not answer.
        500.. if mentions("failed calling webhook") => Error::WebhookFailed { request, message },
        409 => Error::Changed { request, message },
        code @ (429 | 500..) => Error::Busy { code, request, message },
        404 => Error::Garbled { request },
        _ => Error::Rejected { request, message },
    }
}

/// Returns the error for a request that got no response.
pub(crate) fn failure(request: String, source: kube::Error) -> Error {
    let causes =
        std::iter::successors(Some(&source as &dyn std::error::Error), |cause| cause.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    // rustls 0.23: "invalid peer certificate: Expired" and the like. A retry does not repair a certificate.
    match text.find("invalid peer certificate") {
        Some(at) => Error::Untrusted { request, why: text[at..].to_owned() },
        None => Error::Unreachable { request, source: Box::new(source) },
    }
}

fn is_denied(message: &str) -> bool {
    message.contains("admission webhook") && message.contains("denied the request")
        || message.contains("ValidatingAdmissionPolicy") && message.contains("denied request")
        || message.contains("violates PodSecurity")
}

fn has_cause(status: &Status, reason: &str) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == reason)
}

/// Returns the message that may be shown. The API server quotes values of a Secret that it rejects, so
/// that of a response about a Secret only the reason is shown.
fn message(request: &str, status: &Status) -> String {
    if request.contains(" Secret ") && status.code != 401 {
        return format!("{} (code {})", status.reason, status.code);
    }
    match status.message.trim() {
        "" => format!("{} (code {})", status.reason, status.code),
        message => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use documents::{Diagnostic as _, Exit, Reason};
    use kube::core::response::{StatusCause, StatusDetails};

    use super::*;

    /// Builds a response. Texts are those of the API server 1.36.3, unless a comment names another
    /// source.
    fn status(code: u16, reason: &str, message: &str) -> Status {
        Status { code, ..Status::failure(message, reason) }
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
            let error = error("apply Thing a".to_owned(), &status(code, reason, message));
            assert_eq!(error.reason().as_str(), expected, "{message}");
            assert_eq!(error.exit(), exit, "{message}");
            let text = error.help().unwrap_or_default();
            assert!(text.contains(help), "{message}: {text}");
            assert!(error.to_string().contains(message), "{error}");
            assert!(!error.to_string().contains("Some("), "a Debug format: {error}");
        }
    }

    /// The API server adds the cause to every such response (`NewForbidden` and `StatusCause` in
    /// <https://github.com/kubernetes/kubernetes/blob/v1.36.3/staging/src/k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle/admission.go>).
    #[test]
    fn a_terminating_namespace_is_recognised_by_its_cause_and_not_by_words() {
        let words = r#"configmaps "a" is forbidden: unable to create new content in namespace b because it is being terminated"#;
        let cause = StatusCause {
            reason: "NamespaceTerminating".to_owned(),
            message: String::new(),
            field: "metadata.namespace".to_owned(),
        };
        for message in [words, "namespaces \"b\" is forbidden"] {
            let mut status = status(403, "Forbidden", message);
            let plain = error("apply Thing a".to_owned(), &status);
            assert_eq!(plain.reason(), Reason::Forbidden, "without the cause: {message}");
            let (name, group, kind, uid) = Default::default();
            let causes = vec![cause.clone()];
            let details = StatusDetails { name, group, kind, uid, causes, retry_after_seconds: 0 };
            status.details = Some(details);
            let error = error("apply Thing a".to_owned(), &status);
            assert_eq!((error.reason(), error.exit()), (Reason::Terminating, Exit::Temporary));
            assert!(error.help().unwrap_or_default().contains("finalizers"), "{error}");
        }
    }

    #[test]
    fn a_response_about_a_secret_is_never_quoted_for_any_code() {
        for code in [400, 403, 409, 422, 429, 500, 503] {
            let status = status(code, "Invalid", "Invalid value: \"hunter2\"");
            let error = error("apply Secret flux-system/prod-sops".to_owned(), &status);
            assert!(!error.to_string().contains("hunter2"), "{code}: {error}");
        }
    }
}
