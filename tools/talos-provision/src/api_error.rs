//! Refusals of the cloud.

/// An error that the API of the cloud answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The status of HTTP.
    pub status: u16,
    /// `uniqueness_error` or the like.
    pub code: String,
    /// Message of the API in English, written for people.
    pub message: String,
    /// Correlation id, by which the vendor finds the call again.
    pub correlation: Option<String>,
}

impl ApiError {
    /// Returns whether an identical request may succeed a moment later.
    pub(crate) fn passes(&self) -> bool {
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
