//! Errors of the cloud's API.

use documents::Reason;

/// Error in an answer of the cloud's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status, for example 409.
    pub status: u16,
    /// Error code of the API, for example `uniqueness_error`.
    pub code: String,
    /// Message of the API in English, written for people.
    pub message: String,
    /// Correlation id, with which the vendor's support can find the request.
    pub correlation: Option<String>,
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

    pub(crate) fn is_server_error(&self) -> bool {
        self.status >= 500
    }
}
