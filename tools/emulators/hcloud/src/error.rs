//! Errors of the API, with the vendor's statuses and codes
//! (<https://docs.hetzner.cloud/reference/cloud#errors>).

use std::fmt::Display;

use serde_json::{Value, json};

/// An answer of the form `{"error": {"code", "message", "details"}}`.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    /// Status of the HTTP answer.
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) details: Option<Box<Value>>,
}

impl ApiError {
    pub(crate) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), details: None }
    }

    pub(crate) fn not_found(kind: &str, id: impl Display) -> Self {
        Self::new(404, "not_found", format!("{kind} with ID '{id}' not found"))
    }

    /// Error for a path that the API does not have.
    pub(crate) fn no_such_path<S: AsRef<str>>(path: &[S]) -> Self {
        let path = path.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/");
        Self::new(404, "not_found", format!("no endpoint at /{path}"))
    }

    /// Error that names each wrong field and its message.
    pub(crate) fn invalid_fields(fields: &[(&str, &str)]) -> Self {
        let names = fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("', '");
        let listed: Vec<_> = fields
            .iter()
            .map(|(name, message)| json!({"name": name, "messages": [message]}))
            .collect();
        Self {
            details: Some(Box::new(json!({"fields": listed}))),
            ..Self::new(422, "invalid_input", format!("invalid input in field '{names}'"))
        }
    }

    /// Error for a field that a command needs.
    pub(crate) fn required(field: &str) -> Self {
        Self::invalid_fields(&[(field, "is required")])
    }

    /// Error for fields that are valid alone and contradict each other or the state.
    pub(crate) fn invalid_input(message: impl Into<String>) -> Self {
        Self { details: Some(Box::new(json!({}))), ..Self::new(422, "invalid_input", message) }
    }

    pub(crate) fn already_used(kind: &str, field: &str) -> Self {
        Self {
            details: Some(Box::new(
                json!({"fields": [{"name": field, "messages": ["is already used"]}]}),
            )),
            ..Self::new(409, "uniqueness_error", format!("{kind} {field} is already used"))
        }
    }

    pub(crate) fn locked(kind: &str) -> Self {
        Self::new(423, "locked", format!("cannot perform operation because {kind} is locked"))
    }

    pub(crate) fn conflict(kind: &str) -> Self {
        Self::new(409, "conflict", format!("{kind} is being changed by another request"))
    }

    pub(crate) fn protected(kind: &str, against: &str) -> Self {
        Self::new(423, "protected", format!("{kind} {against} is protected"))
    }

    pub(crate) fn in_use(kind: &str, id: u64) -> Self {
        Self::new(422, "resource_in_use", format!("{kind} with ID {id} is still in use"))
    }

    pub(crate) fn limit_exceeded(message: impl Into<String>) -> Self {
        Self::new(403, "resource_limit_exceeded", message)
    }

    /// Error of status 422 with a code that only one call has.
    pub(crate) fn unprocessable(code: &str, message: impl Into<String>) -> Self {
        Self::new(422, code, message)
    }

    /// Returns the body of the answer.
    pub(crate) fn body(&self) -> Value {
        json!({"error": {"code": self.code, "message": self.message, "details": self.details}})
    }
}
