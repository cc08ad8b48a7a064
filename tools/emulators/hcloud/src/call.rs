//! One call, and its answer.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::ApiError;

/// A call that passed the checks of token and rate limit.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    /// Parts of the path below `/v1`.
    pub(crate) path: Vec<String>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Call {
    /// Reads the body as a `T`. An empty body counts as `{}`, because many actions take no input.
    pub(crate) fn input<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let body = if self.body.is_empty() { b"{}" } else { self.body.as_slice() };
        let not_json = || ApiError::new(400, "json_error", "the request body is not valid JSON");
        let value: Value = serde_json::from_slice(body).map_err(|_| not_json())?;
        if !value.is_object() {
            return Err(not_json());
        }
        serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let cause = error.into_inner().to_string();
            // serde reports a missing field at its parent, with the field's name between back quotes.
            let missing =
                cause.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
            let field = match (path.as_str(), missing) {
                (".", Some(field)) => field.to_owned(),
                (parent, Some(field)) => format!("{parent}.{field}"),
                (path, None) => path.to_owned(),
            };
            ApiError::invalid_fields(&[(&field, &cause)])
        })
    }

    /// Returns every value of a query parameter that is not empty.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.query
            .iter()
            .filter(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// Creates a `POST` to a family of resources.
    #[cfg(test)]
    pub(crate) fn post(family: &str, body: &Value) -> Self {
        Self {
            method: "POST".into(),
            path: vec![family.into()],
            query: vec![],
            body: body.to_string().into_bytes(),
        }
    }
}

/// Status and body of the answer to a call.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Option<Value>,
}

impl Answer {
    pub(crate) fn ok(body: Value) -> Self {
        Self { status: 200, body: Some(body) }
    }

    pub(crate) fn created(body: Value) -> Self {
        Self { status: 201, body: Some(body) }
    }

    pub(crate) fn no_content() -> Self {
        Self { status: 204, body: None }
    }
}
