//! Placement groups, which keep servers on different hosts.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::error::ApiError;
use crate::labels::Labels;
use crate::list as lists;
use crate::model::PlacementGroup;
use crate::resource::Resource;
use crate::state::State;

impl PlacementGroup {
    pub(crate) fn to_json(&self, state: &State) -> Value {
        let servers = members(state, self.head.id);
        self.head.to_json_with(json!({"type": "spread", "servers": servers}))
    }
}

fn members(state: &State, id: u64) -> Vec<u64> {
    let members = state.servers.iter().filter(|server| server.placement_group == Some(id));
    members.map(|server| server.head.id).collect()
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
        #[serde(rename = "type")]
        sort: String,
        labels: Option<Labels>,
    }
    let input: Input = call.input()?;
    if input.sort != "spread" {
        return Err(ApiError::invalid_fields(&[("type", "must be spread")]));
    }
    state.placement_groups.require_free_name(&input.name, None)?;
    let group = PlacementGroup { head: state.head(input.name, input.labels)? };
    let json = group.to_json(state);
    state.placement_groups.insert(group);
    Ok(Answer::created(json!({"placement_group": json, "action": null})))
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, ApiError> {
    let items = state.placement_groups.iter().map(|group| group.to_json(state)).collect();
    lists::page(call, "placement_groups", items, &["name", "type"], &["id", "name", "created"])
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, ApiError> {
    state.placement_groups.update(id, call)?;
    Ok(Answer::ok(json!({"placement_group": state.placement_groups.get(id)?.to_json(state)})))
}

pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, ApiError> {
    state.placement_groups.get(id)?;
    if !members(state, id).is_empty() {
        return Err(ApiError::in_use(PlacementGroup::KIND, id));
    }
    state.placement_groups.remove(id);
    Ok(Answer::no_content())
}
