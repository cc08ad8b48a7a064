//! Requests to the API server: those that read, and those that change objects.

use http::Method;
use serde_json::{Value, json};

/// Media type of one object, and of a list of objects.
const JSON: &str = "application/json";

/// Failures after which a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Repeat {
    /// No failure: the caller decides.
    Never,
    /// The API server has not processed the request: no connection, or 429.
    Unprocessed,
    /// Also an error of the API server, because the request has the same effect again.
    Idempotent,
    /// Also a lost response, because the request changes nothing.
    Read,
}

/// One HTTP request.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) method: Method,
    /// Path with its query.
    pub(crate) path: String,
    pub(crate) accept: &'static str,
    pub(crate) content: &'static str,
    pub(crate) body: Vec<u8>,
    /// Description in errors, for example `get Namespace flux-system`.
    pub(crate) name: String,
    pub(crate) repeat: Repeat,
}

impl Exchange {
    /// Whether the request reads or changes a Secret.
    pub(crate) fn is_about_secrets(&self) -> bool {
        let path = self.path.split('?').next().unwrap_or_default();
        path.split('/').any(|segment| segment == "secrets")
    }

    /// Returns the request as a dry run.
    ///
    /// A deletion with a body needs the mark in its body: the API server then ignores the query, and would delete
    /// the object (kubernetes v1.36.3, `staging/src/k8s.io/apiserver/pkg/endpoints/handlers/delete.go`,
    /// `DeleteResource`). The query keeps the mark for those who read logs.
    pub(crate) fn as_dry_run(&self) -> Self {
        let mut exchange = self.with("dryRun=All");
        if exchange.method == Method::DELETE
            && let Ok(mut options) = serde_json::from_slice::<Value>(&exchange.body)
        {
            options["dryRun"] = json!(["All"]);
            exchange.body = options.to_string().into_bytes();
        }
        exchange
    }

    /// Returns the request with one more parameter in its query.
    pub(crate) fn with(&self, parameter: &str) -> Self {
        let mut exchange = self.clone();
        exchange.path.push(if exchange.path.contains('?') { '&' } else { '?' });
        exchange.path.push_str(parameter);
        exchange
    }
}

/// A request that reads one object or one list.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) exchange: Exchange,
    pub(crate) is_optional: bool,
}

impl Request {
    /// Reads `path`, which may have a query.
    #[must_use]
    pub fn get(path: &str) -> Self {
        let exchange = Exchange {
            method: Method::GET,
            path: path.to_owned(),
            accept: JSON,
            content: JSON,
            body: Vec::new(),
            name: format!("GET {path}"),
            repeat: Repeat::Read,
        };
        Self { exchange, is_optional: false }
    }

    /// Sets the description in errors, for example `get Namespace flux-system`.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.exchange.name = name.into();
        self
    }

    /// Asks for another representation than plain JSON, for example for metadata only.
    #[must_use]
    pub fn accept(mut self, media_types: &'static str) -> Self {
        self.exchange.accept = media_types;
        self
    }

    /// Permits that the API server does not serve the API, for example before its
    /// `CustomResourceDefinition` exists. The object then counts as absent.
    #[must_use]
    pub fn of_optional_api(mut self) -> Self {
        self.is_optional = true;
        self
    }

    /// Sends the request once, because the caller repeats it.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.exchange.repeat = Repeat::Never;
        self
    }
}

/// A request that changes one object.
#[derive(Clone, Debug)]
pub struct Change(pub(crate) Exchange);

impl Change {
    /// Applies `object` at `path` by server-side apply, also over fields of other managers.
    #[must_use]
    pub fn apply(path: &str, object: &Value) -> Self {
        let path = format!("{path}?force=true&fieldValidation=Strict");
        Self::new((Method::PATCH, path), "application/apply-patch+yaml", object, Repeat::Idempotent)
    }

    /// Changes some fields of the object at `path` by a merge patch (RFC 7396).
    #[must_use]
    pub fn merge(path: &str, fields: &Value) -> Self {
        let target = (Method::PATCH, path.to_owned());
        Self::new(target, "application/merge-patch+json", fields, Repeat::Idempotent)
    }

    /// Changes the object at `path` by a JSON patch (RFC 6902).
    #[must_use]
    pub fn json_patch(path: &str, operations: &Value) -> Self {
        // An operation on a list has another effect at its second time.
        let target = (Method::PATCH, path.to_owned());
        Self::new(target, "application/json-patch+json", operations, Repeat::Unprocessed)
    }

    /// Creates `object` in the collection at `path`.
    #[must_use]
    pub fn create(path: &str, object: &Value) -> Self {
        // A repetition of a request that succeeded would report that the object exists already.
        let path = format!("{path}?fieldValidation=Strict");
        Self::new((Method::POST, path), JSON, object, Repeat::Unprocessed)
    }

    /// Replaces the object at `path`, unless its `resourceVersion` has changed.
    #[must_use]
    pub fn replace(path: &str, object: &Value) -> Self {
        Self::new((Method::PUT, path.to_owned()), JSON, object, Repeat::Unprocessed)
    }

    /// Deletes the object at `path`. `options` are the fields of `DeleteOptions`; a UID in their
    /// `preconditions` protects a newer object of the same name.
    #[must_use]
    pub fn delete(path: &str, options: &Value) -> Self {
        let mut options = options.clone();
        options["apiVersion"] = "v1".into();
        options["kind"] = "DeleteOptions".into();
        let is_precise = options["preconditions"]["uid"].is_string();
        let repeat = if is_precise { Repeat::Idempotent } else { Repeat::Unprocessed };
        Self::new((Method::DELETE, path.to_owned()), JSON, &options, repeat)
    }

    /// Requests the eviction of a pod at the path of its subresource `eviction`. The request is sent
    /// once, because 429 is the answer of a `PodDisruptionBudget`, for which the caller waits
    /// (<https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/>).
    #[must_use]
    pub fn evict(path: &str, eviction: &Value) -> Self {
        Self::new((Method::POST, path.to_owned()), JSON, eviction, Repeat::Never)
    }

    /// Sets the description in errors, for example `apply Namespace flux-system`.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.0.name = name.into();
        self
    }

    fn new(
        (method, path): (Method, String),
        content: &'static str,
        body: &Value,
        repeat: Repeat,
    ) -> Self {
        let name = format!("{method} {}", path.split('?').next().unwrap_or_default());
        let body = body.to_string().into_bytes();
        Self(Exchange { method, path, accept: JSON, content, body, name, repeat })
    }
}
