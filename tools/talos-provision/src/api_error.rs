//! Errors of the cloud's API.

use std::fmt;

use documents::Reason;
use serde_json::Value;

/// Most fields of an error that are shown.
const FIELDS_MAX: usize = 10;

/// Error in an answer of the cloud's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status, for example 409.
    pub status: u16,
    /// Error code of the API, for example `uniqueness_error`.
    pub code: String,
    /// Message of the API in English, written for people.
    pub message: String,
    /// Fields of the request that the API rejects, each with the API's messages about the field. The
    /// API names them for the code `invalid_input` alone: hcloud-go v2.53.0,
    /// `schema.ErrorDetailsInvalidInput`.
    pub fields: Vec<FieldError>,
    /// Correlation id, with which the vendor's support can find the request.
    pub correlation: Option<String>,
}

/// Field of a request that the API rejects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Name of the field, for example `rules.source_ips`.
    pub name: String,
    /// Messages of the API in English, written for people.
    pub messages: Vec<String>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        for FieldError { name, messages } in &self.fields {
            write!(f, "; {name}: {}", messages.join(", "))?;
        }
        match &self.correlation {
            Some(id) => write!(f, ", correlation id {id}"),
            None => Ok(()),
        }
    }
}

/// Returns the fields in the `details` of an error.
pub(crate) fn fields(details: &Value) -> Vec<FieldError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let field = |field: &Value| FieldError {
        name: text(&field["name"]),
        messages: field["messages"].as_array().into_iter().flatten().map(text).collect(),
    };
    details["fields"].as_array().into_iter().flatten().take(FIELDS_MAX).map(field).collect()
}

impl ApiError {
    /// Returns the reason of the condition, from the API's error code. Codes:
    /// <https://docs.hetzner.cloud/reference/cloud#errors>.
    pub(crate) fn reason(&self) -> Reason {
        match self.code.as_str() {
            "unauthorized" => Reason::Unauthorized,
            "forbidden" | "token_readonly" => Reason::Forbidden,
            "resource_limit_exceeded" => Reason::QuotaExceeded,
            "not_found" => Reason::NotFound,
            _ => Reason::Rejected,
        }
    }

    /// Returns whether an identical request may succeed a moment later.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(
            self.code.as_str(),
            "conflict"
                | "locked"
                | "rate_limit_exceeded"
                | "bad_gateway"
                | "timeout"
                | "maintenance"
        ) || self.is_server_error()
    }

    /// Returns whether the API failed without a decision about the request. Some codes are decisions,
    /// whatever their status is.
    pub(crate) fn is_server_error(&self) -> bool {
        self.status >= 500 && !self.is_of_location()
    }

    /// Returns whether the same request may succeed in another location. A server type that is not
    /// offered in a location has the code `invalid_input` without `details.fields`:
    /// <https://github.com/autobase-tech/autobase/issues/1403>.
    pub(crate) fn is_of_location(&self) -> bool {
        match self.code.as_str() {
            "resource_unavailable" | "placement_error" => true,
            "invalid_input" => {
                self.message.contains("location")
                    || self.fields.iter().any(|field| field.name == "location")
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn error(status: u16, code: &str, message: &str, details: &Value) -> ApiError {
        let (code, message) = (code.to_owned(), message.to_owned());
        ApiError { status, code, message, fields: fields(details), correlation: None }
    }

    // hazard: The vendor's message about a field never reaches the user.
    // class: Details of an error are dropped.
    // members: error.details.fields, correlation id
    // now: every field is named with all its messages
    #[test]
    fn an_error_shows_every_field_with_its_messages() {
        let details = json!({"fields": [
            {"name": "rules.source_ips", "messages": ["must be a subnet", "has host bits"]},
            {"name": "name", "messages": ["is too long"]},
        ]});
        let error = error(422, "invalid_input", "invalid input in fields", &details);
        assert_eq!(
            error.to_string(),
            "invalid input in fields (invalid_input); rules.source_ips: must be a subnet, has host \
             bits; name: is too long"
        );
        for details in [json!({}), Value::Null, json!({"fields": "x"}), json!({"fields": [1]})] {
            let shown = super::tests::error(422, "invalid_input", "m", &details).to_string();
            assert!(shown.starts_with("m (invalid_input)"), "{shown}");
        }
    }

    #[test]
    fn an_error_about_the_location_lets_the_next_location_be_tried() {
        let field = json!({"fields": [{"name": "location", "messages": ["not found"]}]});
        for (status, code, message, details, expected) in [
            (412, "resource_unavailable", "", Value::Null, true),
            (503, "resource_unavailable", "", Value::Null, true),
            (422, "placement_error", "", Value::Null, true),
            (422, "invalid_input", "unsupported location for server type", json!({}), true),
            (422, "invalid_input", "invalid input in field 'x'", field, true),
            (422, "invalid_input", "image disk is bigger than server type disk", json!({}), false),
            (503, "unavailable", "location", Value::Null, false),
            (403, "resource_limit_exceeded", "", Value::Null, false),
        ] {
            let error = error(status, code, message, &details);
            assert_eq!(error.is_of_location(), expected, "{error}");
            assert_eq!(error.is_server_error(), status >= 500 && !expected, "{error}");
        }
    }
}
