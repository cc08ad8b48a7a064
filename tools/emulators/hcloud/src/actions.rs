//! Calls that read actions: `GET /actions` and `GET /{family}/{id}/actions`.

use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::error::ApiError;
use crate::list;
use crate::model::Action;
use crate::state::State;

const SORTS: &[&str] = &["id", "command", "status", "started", "finished"];

/// Answers `GET /actions?id=1&id=2`. The API no longer lists actions without ids.
pub(crate) fn by_ids(state: &State, call: &Call) -> Result<Answer, ApiError> {
    let ids = call.values("id");
    if ids.is_empty() {
        return Err(ApiError::new(
            410,
            "deprecated_api_endpoint",
            "actions can only be listed by their ids",
        ));
    }
    let ids: Result<Vec<u64>, _> = ids.into_iter().map(str::parse).collect();
    let ids = ids.map_err(|_| ApiError::invalid_fields(&[("id", "must be numbers")]))?;
    let actions = ids.iter().filter_map(|id| state.actions.get(id));
    list::page(call, "actions", actions.map(Action::to_json).collect(), &["status"], SORTS)
}

/// Answers with the actions on resources of this kind, or on one resource.
pub(crate) fn on(
    state: &State,
    call: &Call,
    kind: &str,
    id: Option<u64>,
) -> Result<Answer, ApiError> {
    let actions = state.actions.values().filter(|action| action.concerns(kind, id));
    list::page(call, "actions", actions.map(Action::to_json).collect(), &["id", "status"], SORTS)
}

/// Answers with one action, which must concern this kind and resource where they are given.
pub(crate) fn get(
    state: &State,
    id: u64,
    kind: Option<&str>,
    resource: Option<u64>,
) -> Result<Answer, ApiError> {
    let action = state.actions.get(&id).ok_or_else(|| ApiError::not_found("action", id))?;
    if kind.is_none_or(|kind| action.concerns(kind, resource)) {
        Ok(answer(action))
    } else {
        Err(ApiError::not_found("action", id))
    }
}

fn answer(action: &Action) -> Answer {
    let action: Value = action.to_json();
    Answer::ok(json!({"action": action}))
}
