//! Classifies a failed request. Pure.

use std::error::Error as StdError;
use std::time::Duration;

use http_body_util::LengthLimitError;
use hyper_util::client::legacy;
use serde_json::Value;

use crate::Error;
use crate::request::Exchange;

/// Longest text of an answer that is no `Status` and is shown, in bytes. A proxy answers with a page.
const TEXT_BYTES_MAX: usize = 200;

/// An answer with an error.
pub(crate) struct Failure<'a> {
    /// HTTP status.
    pub(crate) code: u16,
    /// A `metav1.Status`, or the text of another server.
    pub(crate) body: &'a [u8],
    /// Seconds of the header `Retry-After`.
    pub(crate) retry_after: Option<u64>,
}

/// Returns the error for an answer to `exchange`. `clean` removes credentials from a text.
///
/// The API server reports different causes with the same code, so that the code alone does not show
/// whether a retry helps. Codes and reasons: `metav1.StatusReason` in
/// <https://github.com/kubernetes/apimachinery/blob/v0.36.3/pkg/apis/meta/v1/types.go>.
pub(crate) fn error(
    exchange: &Exchange,
    failure: &Failure<'_>,
    clean: impl Fn(&str) -> String,
) -> Error {
    let status = status(failure);
    let reason = status["reason"].as_str().unwrap_or_default();
    let text = status["message"].as_str().unwrap_or_default();
    let mentions = |part: &str| text.contains(part);
    let (request, code) = (exchange.name.clone(), failure.code);
    let message = clean(&message(exchange, &status, code));
    let retry_after = retry_after(failure, &status);
    match code {
        401 => Error::Unauthorized { request, message },
        // The API server adds the cause to every such response
        // (`staging/src/k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle/admission.go`, v1.36.3).
        403 if has_cause(&status, "NamespaceTerminating") => {
            Error::Terminating { request, message }
        }
        // plugin/pkg/admission/resourcequota: "exceeded quota: NAME, requested: …".
        403 if mentions("exceeded quota") || mentions("failed quota") => {
            Error::QuotaExceeded { request, message }
        }
        // A webhook chooses its code, but its message always begins with the same words
        // (pkg/admission/plugin/webhook/errors/statuserror.go). A ValidatingAdmissionPolicy answers
        // 422 (pkg/admission/plugin/policy/validating), Pod Security 403.
        400.. if is_denied(text) => Error::Denied { request, message },
        403 => Error::Forbidden { request, message },
        // An admission webhook with `failurePolicy: Fail` that did not answer.
        500.. if mentions("failed calling webhook") => Error::WebhookFailed { request, message },
        404 if reason == "NotFound" => Error::NotFound { request, message },
        404 => Error::NotServed { request },
        409 => Error::Conflict { request, message },
        410 => Error::Gone { request, message },
        // registry/core/pod/storage/eviction.go
        429 if has_cause(&status, "DisruptionBudget") => {
            let message = clean(&budgets(&status));
            Error::DisruptionBudget { request, message }
        }
        429 => Error::RateLimited { request, message, retry_after },
        500.. => Error::Busy { request, message, retry_after },
        400.. => Error::Invalid { request, message },
        _ => Error::InvalidResponse { request, why: format!("its HTTP status is {code}") },
    }
}

/// Returns the error for a request that got no response.
pub(crate) fn no_answer(
    request: &str,
    source: &(dyn StdError + 'static),
    clean: impl Fn(&str) -> String,
) -> Error {
    let request = request.to_owned();
    let mut chain = vec![source];
    while let Some(cause) = chain.last().copied().and_then(StdError::source) {
        chain.push(cause);
    }
    let mut texts: Vec<String> = Vec::new();
    for error in &chain {
        let text = clean(&error.to_string());
        // kube repeats the text of the cause behind the name of its own variant.
        if texts.last().is_some_and(|last| last.ends_with(&text)) {
            texts.pop();
        }
        texts.push(text);
    }
    let why = texts.join(": ");
    if chain.iter().any(|error| error.is::<LengthLimitError>()) {
        return Error::InvalidResponse { request, why: "it is too large".to_owned() };
    }
    if let Some(why) = remote::certificate_error(source) {
        return Error::Untrusted { request, why };
    }
    let mut clients = chain.iter().filter_map(|error| error.downcast_ref::<legacy::Error>());
    let was_sent = !clients.any(legacy::Error::is_connect);
    Error::Unreachable { request, why, was_sent }
}

/// Returns the answer as a `Status`. The answer of another server becomes its message.
fn status(failure: &Failure<'_>) -> Value {
    match serde_json::from_slice::<Value>(failure.body) {
        Ok(status) if status.is_object() => status,
        _ => {
            let text = std::str::from_utf8(failure.body).unwrap_or_default().trim();
            let is_short = text.len() <= TEXT_BYTES_MAX && !text.contains(['\n', '<']);
            serde_json::json!({"message": if is_short { text } else { "" }})
        }
    }
}

/// Returns the pause before a repetition: the header, or the field of the `Status`.
fn retry_after(failure: &Failure<'_>, status: &Value) -> Option<Duration> {
    let seconds = failure.retry_after.or_else(|| status["details"]["retryAfterSeconds"].as_u64());
    seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

fn is_denied(message: &str) -> bool {
    message.contains("admission webhook") && message.contains("denied the request")
        || message.contains("ValidatingAdmissionPolicy") && message.contains("denied request")
        || message.contains("violates PodSecurity")
}

fn causes(status: &Value) -> impl Iterator<Item = &Value> {
    status["details"]["causes"].as_array().into_iter().flatten()
}

fn has_cause(status: &Value, reason: &str) -> bool {
    causes(status).any(|cause| cause["reason"] == reason)
}

/// Returns what the budgets say about an eviction.
fn budgets(status: &Value) -> String {
    let budgets = causes(status).filter(|cause| cause["reason"] == "DisruptionBudget");
    let messages: Vec<_> = budgets.filter_map(|cause| cause["message"].as_str()).collect();
    messages.join("; ")
}

/// Returns the message that may be shown. The API server quotes values of a Secret that it rejects, so
/// that of a response about a Secret only the reason is shown.
fn message(exchange: &Exchange, status: &Value, code: u16) -> String {
    let text = |field: &str| status[field].as_str().unwrap_or_default().trim();
    match text("message") {
        message if !message.is_empty() && (code == 401 || !exchange.is_about_secrets()) => {
            message.to_owned()
        }
        _ => format!("{} (code {code})", text("reason")).trim_start().to_owned(),
    }
}

#[cfg(test)]
mod tests;
