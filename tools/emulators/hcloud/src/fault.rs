//! Faults that a test injects.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::call::Call;
use crate::error::ApiError;

/// A fault to inject into the calls that match.
///
/// A status from 400 on is the status of the answer: the call changes nothing, or with `after_effect`
/// changes everything and is answered with the error all the same. With a lower status the call is answered
/// as usual, and its actions end with an error: without their effect, or with `after_effect` after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    /// Method of the calls: `GET`, `POST`, `PUT`, `DELETE`, or `*` for every method.
    method: String,
    /// Prefix of the path, with or without `/v1`.
    path: String,
    status: u16,
    code: String,
    #[serde(default)]
    message: String,
    /// `details` of the error, for example `{"fields": [{"name": "name", "messages": ["is too long"]}]}`.
    #[serde(default)]
    details: Option<Value>,
    #[serde(default)]
    after_effect: bool,
    #[serde(default = "once")]
    times: u32,
    /// Name of the action that fails, for example `start_server` (default: the first action of the call).
    #[serde(default)]
    command: Option<String>,
}

fn once() -> u32 {
    1
}

/// The failure that a fault gives to an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) after_effect: bool,
}

impl Fault {
    /// Returns the error to answer with, if the fault replaces the answer.
    pub(crate) fn error(&self) -> Option<ApiError> {
        (self.status >= 400).then(|| ApiError {
            details: self.details.clone().map(Box::new),
            ..ApiError::new(self.status, &self.code, self.message())
        })
    }

    pub(crate) fn after_effect(&self) -> bool {
        self.after_effect
    }

    pub(crate) fn failure(&self) -> Failure {
        Failure {
            code: self.code.clone(),
            message: self.message(),
            after_effect: self.after_effect,
        }
    }

    pub(crate) fn fails(&self, command: &str) -> bool {
        self.command.as_deref().is_none_or(|name| name == command)
    }

    fn message(&self) -> String {
        if self.message.is_empty() {
            format!("{} was injected by the lab", self.code)
        } else {
            self.message.clone()
        }
    }

    fn matches(&self, call: &Call) -> bool {
        let path = format!("/{}", call.path.join("/"));
        let prefix = self.path.strip_prefix("/v1").unwrap_or(&self.path);
        (self.method == "*" || self.method.eq_ignore_ascii_case(&call.method))
            && path.starts_with(prefix)
    }
}

/// The faults to inject, in the order in which the test gave them.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    pub(crate) fn add(&mut self, faults: Vec<Fault>) {
        self.0.extend(faults);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn list(&self) -> &[Fault] {
        &self.0
    }

    /// Returns the first fault that matches the call, and counts its use. A fault is removed after `times` uses.
    pub(crate) fn take(&mut self, call: &Call) -> Option<Fault> {
        self.0.retain(|fault| fault.times > 0);
        let fault = self.0.iter_mut().find(|fault| fault.matches(call))?;
        fault.times -= 1;
        let taken = fault.clone();
        self.0.retain(|fault| fault.times > 0);
        Some(taken)
    }
}
