//! Volumes, as a storage driver of Kubernetes creates them.
//!
//! Fields as in hcloud-go v2.53, `schema/volume.go`; the emulator has no disks for them.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::catalogue::{self, Location};
use crate::command::Command;
use crate::error::ApiError;
use crate::labels::Labels;
use crate::list as lists;
use crate::model::{Effect, Volume};
use crate::resource::{IdOrName, Resource};
use crate::state::State;

impl Volume {
    pub(crate) fn to_json(&self) -> Value {
        let id = self.head.id;
        self.head.to_json_with(json!({
            "size": self.size,
            "server": self.server,
            "status": "available",
            "location": catalogue::location_of(&self.location).ok().map(Location::to_json),
            "linux_device": format!("/dev/disk/by-id/scsi-0HC_Volume_{id}"),
            "protection": {"delete": false},
            "format": null,
        }))
    }
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
        size: u32,
        server: Option<u64>,
        location: Option<IdOrName>,
        labels: Option<Labels>,
    }
    let input: Input = call.input()?;
    state.volumes.require_free_name(&input.name, None)?;
    let location = match (input.server, input.location) {
        (Some(server), None) => state.servers.get(server)?.location.clone(),
        (None, Some(location)) => catalogue::location_of(&location.0)?.name.to_owned(),
        _ => {
            return Err(ApiError::invalid_fields(&[(
                "location",
                "give a location or a server, not both",
            )]));
        }
    };
    if !(10..=10_240).contains(&input.size) {
        return Err(ApiError::invalid_fields(&[("size", "must be 10 to 10240")]));
    }
    let head = state.head(input.name, input.labels)?;
    let id = head.id;
    state.volumes.insert(Volume { head, size: input.size, location, server: input.server });
    let action = state.begin("create_volume", &[(Volume::KIND, id)], Effect::Nothing);
    Ok(Answer::created(
        json!({"volume": state.volumes.get(id)?.to_json(), "action": action.to_json(), "next_actions": []}),
    ))
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, ApiError> {
    let items = state.volumes.iter().map(Volume::to_json).collect();
    lists::page(call, "volumes", items, &["name", "status"], &["id", "name", "created"])
}

/// Answers `DELETE /volumes/{id}`, and refuses a volume that is attached.
pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, ApiError> {
    if state.volumes.get(id)?.server.is_some() {
        return Err(ApiError::in_use(Volume::KIND, id));
    }
    state.volumes.remove(id);
    Ok(Answer::no_content())
}

pub(crate) fn act(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        server: Option<u64>,
    }
    let server = match command.name {
        "attach" => {
            let input: Input = command.input()?;
            let server = input.server.ok_or_else(|| ApiError::required("server"))?;
            state.servers.get(server)?;
            Some(server)
        }
        "detach" => None,
        _ => return Err(command.unknown()),
    };
    state.volumes.get_mut(command.id)?.server = server;
    let action = format!("{}_volume", command.name);
    Ok(command.begin(state, &action, &[], Effect::Nothing))
}
