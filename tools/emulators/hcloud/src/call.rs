//! One call, and its answer.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Refusal;

/// A call whose token, rate and faults have been seen to.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    /// Without `/v1`, split at the slashes.
    pub(crate) path: Vec<String>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Call {
    /// The body as a `T`. No body is an empty object, as many actions have nothing to say.
    pub(crate) fn input<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let body = if self.body.is_empty() { b"{}" } else { self.body.as_slice() };
        let broken = || Refusal::new(400, "json_error", "the request body is not valid JSON");
        let value: Value = serde_json::from_slice(body).map_err(|_| broken())?;
        if !value.is_object() {
            return Err(broken());
        }
        serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let cause = error.into_inner().to_string();
            // A missing field is reported at its parent; its name is between the back quotes.
            let missing = cause.strip_prefix("missing field `").and_then(|it| it.split('`').next());
            let field = match (path.as_str(), missing) {
                (".", Some(field)) => field.to_owned(),
                (parent, Some(field)) => format!("{parent}.{field}"),
                (path, None) => path.to_owned(),
            };
            Refusal::invalid(&[(&field, &cause)])
        })
    }

    /// Every value of a query parameter; one that was given empty does not count.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.query
            .iter()
            .filter(|(it, value)| it == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// What a call is answered with.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Option<Value>,
}

impl Answer {
    pub(crate) fn ok(body: Value) -> Self {
        Self { status: 200, body: Some(body) }
    }

    pub(crate) fn made(body: Value) -> Self {
        Self { status: 201, body: Some(body) }
    }

    pub(crate) fn gone() -> Self {
        Self { status: 204, body: None }
    }
}
