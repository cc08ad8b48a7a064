//! Faults that a test puts in the way.

use serde::{Deserialize, Serialize};

use crate::call::Call;
use crate::error::Refusal;

/// What goes wrong, and how often.
///
/// With a status from 400 on, the call is refused with it: before anything is done, or with `after_effect`
/// once everything is done. With a lower status the call is answered truly, and its actions end in an error:
/// without their effect, or with `after_effect` in spite of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    /// `GET`, `POST`, `PUT`, `DELETE`, or `*`.
    method: String,
    /// How the path begins, with or without `/v1`.
    path: String,
    status: u16,
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    after_effect: bool,
    #[serde(default = "once")]
    times: u32,
    /// The first action to fail, such as `start_server`; else the first of the call.
    #[serde(default)]
    command: Option<String>,
}

fn once() -> u32 {
    1
}

/// The failure that an action was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) after_effect: bool,
}

impl Fault {
    /// The refusal, if that is how it shows.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        (self.status >= 400).then(|| Refusal::new(self.status, &self.code, self.message()))
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
        self.command.as_deref().is_none_or(|it| it == command)
    }

    fn message(&self) -> String {
        if self.message.is_empty() {
            format!("{} was asked for by the lab", self.code)
        } else {
            self.message.clone()
        }
    }

    fn meets(&self, call: &Call) -> bool {
        let path = format!("/{}", call.path.join("/"));
        let prefix = self.path.strip_prefix("/v1").unwrap_or(&self.path);
        (self.method == "*" || self.method.eq_ignore_ascii_case(&call.method))
            && path.starts_with(prefix)
    }
}

/// The faults to come, in the order they were given.
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

    /// The first fault that meets the call; counted, and gone once it has happened `times` times.
    pub(crate) fn meet(&mut self, call: &Call) -> Option<Fault> {
        self.0.retain(|it| it.times > 0);
        let fault = self.0.iter_mut().find(|it| it.meets(call))?;
        fault.times -= 1;
        let met = fault.clone();
        self.0.retain(|it| it.times > 0);
        Some(met)
    }
}
