//! Placement groups.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::error::Refusal;
use crate::labels::Labels;
use crate::list as lists;
use crate::store::{Head, Resource, State, resource, shown};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlacementGroup {
    head: Head,
}

resource!(PlacementGroup, "placement_group");

impl PlacementGroup {
    pub(crate) fn shown(&self, state: &State) -> Value {
        shown(&self.head, json!({"type": "spread", "servers": members(state, self.head.id)}))
    }
}

fn members(state: &State, id: u64) -> Vec<u64> {
    state.servers.iter().filter(|it| it.placement_group == Some(id)).map(|it| it.head.id).collect()
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
        #[serde(rename = "type")]
        sort: String,
        labels: Option<Labels>,
    }
    let input: Input = call.input()?;
    if input.sort != "spread" {
        return Err(Refusal::invalid(&[("type", "must be spread")]));
    }
    state.placement_groups.unique(&input.name, 0)?;
    let group = PlacementGroup { head: state.head(input.name, input.labels)? };
    let shown = group.shown(state);
    state.placement_groups.insert(group);
    Ok(Answer::made(json!({"placement_group": shown, "action": null})))
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, Refusal> {
    let items = state.placement_groups.iter().map(|it| it.shown(state)).collect();
    lists::page(call, "placement_groups", items, &["name", "type"], &["id", "name", "created"])
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    state.placement_groups.update(id, call)?;
    Ok(Answer::ok(json!({"placement_group": state.placement_groups.get(id)?.shown(state)})))
}

pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, Refusal> {
    state.placement_groups.get(id)?;
    if !members(state, id).is_empty() {
        return Err(Refusal::in_use(PlacementGroup::KIND, id));
    }
    state.placement_groups.remove(id);
    Ok(Answer::gone())
}
