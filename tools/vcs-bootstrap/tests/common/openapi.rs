//! GitHub's description of the API operations that the program uses.

use std::error::Error;

use serde_json::{Map, Value};

pub(crate) struct OpenApi(Value);

impl OpenApi {
    pub(crate) fn read() -> Result<Self, Box<dyn Error>> {
        let mut all: Value = serde_json::from_str(include_str!("../github-openapi.json"))?;
        Ok(Self(all["operations"].take()))
    }

    /// Returns the description's key of an operation, for example `GET /repos/{owner}/{repo}`.
    pub(crate) fn find(&self, method: &str, path: &str) -> Option<String> {
        let parts: Vec<_> = path.split('/').collect();
        let fits = |operation: &&String| {
            let (verb, template) = operation.split_once(' ').unwrap_or_default();
            let template: Vec<_> = template.split('/').collect();
            let part = |(a, b): (&&str, &&str)| a == b || a.starts_with('{');
            verb == method && template.len() == parts.len() && template.iter().zip(&parts).all(part)
        };
        let mut found: Vec<_> = self.0.as_object()?.keys().filter(fits).cloned().collect();
        // Prefer templates with fewer placeholders.
        found.sort_by_key(|operation| operation.matches('{').count());
        found.into_iter().next()
    }

    pub(crate) fn example(&self, operation: &str) -> Value {
        match &self.0[operation]["response"] {
            Value::String(other) => self.example(other),
            example => example.clone(),
        }
    }

    pub(crate) fn may_answer(&self, operation: &str, status: u16) -> bool {
        let statuses = self.0[operation]["statuses"].as_array();
        // Some operations describe only the success.
        status >= 400
            || statuses.is_some_and(|statuses| statuses.contains(&status.to_string().into()))
    }

    /// Returns the differences between a request and its description.
    pub(crate) fn mistakes(&self, operation: &str, query: &str, body: &Value) -> Vec<String> {
        let described = &self.0[operation];
        let known = described["query"].as_array().cloned().unwrap_or_default();
        let names = query.split('&').filter(|pair| !pair.is_empty());
        let names = names.filter_map(|pair| pair.split('=').next());
        let unknown = names.filter(|name| !known.contains(&(*name).into()));
        let mut mistakes: Vec<_> =
            unknown.map(|name| format!("{operation}: no query {name}")).collect();
        if described["request"].is_object() {
            self.check(&described["request"], body, operation, &mut mistakes);
        } else if !body.is_null() {
            mistakes.push(format!("{operation} takes no body"));
        }
        mistakes
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, mistakes: &mut Vec<String>) {
        if let Some(other) = schema.as_str() {
            return self.check(
                &self.0[other]["request"]["properties"]["rules"],
                value,
                at,
                mistakes,
            );
        }
        if value.is_null() && schema["nullable"] == true {
            return;
        }
        for choice in ["oneOf", "anyOf"] {
            let Some(choices) = schema[choice].as_array() else { continue };
            let fits = |schema: &Value| {
                let mut wrong = Vec::new();
                self.check(schema, value, at, &mut wrong);
                wrong.is_empty()
            };
            if !choices.iter().any(fits) {
                mistakes.push(format!("{at}: {value} is none of what is described"));
            }
            return;
        }
        let fits = match schema["type"].as_str() {
            Some("string") => value.is_string(),
            Some("integer") => value.is_u64() || value.is_i64(),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            _ => true,
        };
        let words = schema["enum"].as_array();
        if !fits || words.is_some_and(|words| !words.contains(value)) {
            return mistakes.push(format!("{at}: {value} is not {}", schema["type"]));
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            self.check(&schema["items"], item, &format!("{at}[{index}]"), mistakes);
        }
        let Some(properties) = schema["properties"].as_object() else { return };
        for required in schema["required"].as_array().into_iter().flatten() {
            if required.as_str().is_some_and(|name| value.get(name).is_none()) {
                mistakes.push(format!("{at}: {required} is missing"));
            }
        }
        for (name, value) in value.as_object().into_iter().flatten() {
            match properties.get(name) {
                Some(schema) => self.check(schema, value, &format!("{at}.{name}"), mistakes),
                None => mistakes.push(format!("{at}: {name} is unknown")),
            }
        }
    }
}

/// Returns `example` with the values of `ours`.
pub(crate) fn overlay(example: &Value, ours: &Value) -> Value {
    let mut all = example.as_object().cloned().unwrap_or_else(Map::new);
    all.extend(ours.as_object().cloned().unwrap_or_default());
    Value::Object(all)
}
