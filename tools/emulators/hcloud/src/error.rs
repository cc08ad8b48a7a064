//! Why the API says no: its statuses and codes.

use serde_json::{Value, json};

/// An answer in the shape `{"error": {"code", "message", "details"}}`.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) details: Option<Box<Value>>,
}

impl Refusal {
    pub(crate) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), details: None }
    }

    pub(crate) fn not_found(kind: &str, which: impl std::fmt::Display) -> Self {
        Self::new(404, "not_found", format!("{kind} with ID '{which}' not found"))
    }

    /// Input that is wrong in these fields.
    pub(crate) fn invalid(fields: &[(&str, &str)]) -> Self {
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

    /// Fields that are right each by itself, and together impossible.
    pub(crate) fn unfit(message: impl Into<String>) -> Self {
        Self { details: Some(Box::new(json!({}))), ..Self::new(422, "invalid_input", message) }
    }

    pub(crate) fn taken(kind: &str, field: &str) -> Self {
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

    /// A code of one call only.
    pub(crate) fn because(code: &str, message: impl Into<String>) -> Self {
        Self::new(422, code, message)
    }

    pub(crate) fn body(&self) -> Value {
        json!({"error": {"code": self.code, "message": self.message, "details": self.details}})
    }
}
