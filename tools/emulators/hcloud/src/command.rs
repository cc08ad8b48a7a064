//! Commands on one resource: `POST /{family}/{id}/actions/{name}`.
//!
//! Every handler `act` has the same shape: refuse a locked resource, read the input, change the state,
//! and answer with the action that the command began.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::error::ApiError;
use crate::model::Effect;
use crate::state::State;

/// A command on a resource that exists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command<'a> {
    pub(crate) call: &'a Call,
    /// Kind of the resource, for example `server`.
    pub(crate) kind: &'static str,
    pub(crate) id: u64,
    /// Last part of the path, for example `poweron`.
    pub(crate) name: &'a str,
}

impl Command<'_> {
    pub(crate) fn input<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        self.call.input()
    }

    /// Refuses a resource that a running action locks.
    pub(crate) fn require_unlocked(&self, state: &State) -> Result<(), ApiError> {
        state.require_unlocked(self.kind, self.id)
    }

    /// Returns the error for a command that resources of this kind do not have.
    pub(crate) fn unknown(&self) -> ApiError {
        ApiError::no_such_path(&self.call.path)
    }

    /// Begins an action of the command's own name whose change has taken effect already.
    pub(crate) fn done(&self, state: &mut State) -> Answer {
        self.begin(state, self.name, &[], Effect::Nothing)
    }

    /// Begins an action on the resource and on `others`, and answers with the action.
    pub(crate) fn begin(
        &self,
        state: &mut State,
        action: &str,
        others: &[(&str, u64)],
        effect: Effect,
    ) -> Answer {
        Answer::created(json!({"action": self.begin_json(state, action, others, effect)}))
    }

    /// Begins an action, for answers that hold more than the action.
    pub(crate) fn begin_json(
        &self,
        state: &mut State,
        action: &str,
        others: &[(&str, u64)],
        effect: Effect,
    ) -> Value {
        let resources = [&[(self.kind, self.id)], others].concat();
        state.begin(action, &resources, effect).to_json()
    }
}
