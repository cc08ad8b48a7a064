//! Errors of the cloud's API.

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
