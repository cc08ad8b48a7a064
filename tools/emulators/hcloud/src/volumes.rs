//! Volumes, as a storage driver of Kubernetes makes them: they stay when their server goes.
//!
//! Fields as in hcloud-go v2.53, `schema/volume.go`; there is no disk behind them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::action::{Effect, begun};
use crate::call::{Answer, Call};
use crate::catalogue;
use crate::error::Refusal;
use crate::labels::Labels;
use crate::list as lists;
use crate::routes::nowhere;
use crate::servers::Name;
use crate::store::{Head, Resource, State, resource, shown};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Volume {
    head: Head,
    size: u32,
    location: String,
    pub(crate) server: Option<u64>,
}

resource!(Volume, "volume");

impl Volume {
    pub(crate) fn shown(&self) -> Value {
        let id = self.head.id;
        shown(
            &self.head,
            json!({
                "size": self.size,
                "server": self.server,
                "status": "available",
                "location": catalogue::location_of(&self.location).ok().map(|place| place.shown()),
                "linux_device": format!("/dev/disk/by-id/scsi-0HC_Volume_{id}"),
                "protection": {"delete": false},
                "format": null,
            }),
        )
    }
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
        size: u32,
        server: Option<u64>,
        location: Option<Name>,
        labels: Option<Labels>,
    }
    let input: Input = call.input()?;
    state.volumes.unique(&input.name, 0)?;
    let location = match (input.server, input.location) {
        (Some(server), None) => state.servers.get(server)?.location.clone(),
        (None, Some(location)) => catalogue::location_of(&location.0)?.name.to_owned(),
        _ => {
            return Err(Refusal::invalid(&[("location", "give a location or a server, not both")]));
        }
    };
    if !(10..=10_240).contains(&input.size) {
        return Err(Refusal::invalid(&[("size", "must be 10 to 10240")]));
    }
    let head = state.head(input.name, input.labels)?;
    let id = head.id;
    state.volumes.insert(Volume { head, size: input.size, location, server: input.server });
    let action = state.begin("create_volume", &[(Volume::KIND, id)], Effect::Nothing);
    Ok(Answer::made(
        json!({"volume": state.volumes.get(id)?.shown(), "action": action, "next_actions": []}),
    ))
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, Refusal> {
    let items = state.volumes.iter().map(Volume::shown).collect();
    lists::page(call, "volumes", items, &["name", "status"], &["id", "name", "created"])
}

/// An attached volume cannot be deleted.
pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, Refusal> {
    if state.volumes.get(id)?.server.is_some() {
        return Err(Refusal::in_use(Volume::KIND, id));
    }
    state.volumes.remove(id);
    Ok(Answer::gone())
}

/// `attach` and `detach`.
pub(crate) fn act(
    state: &mut State,
    call: &Call,
    id: u64,
    command: &str,
) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        server: Option<u64>,
    }
    let server = match command {
        "attach" => {
            let input: Input = call.input()?;
            let missing = || Refusal::invalid(&[("server", "is required")]);
            let server = input.server.ok_or_else(missing)?;
            state.servers.get(server)?;
            Some(server)
        }
        "detach" => None,
        _ => return Err(nowhere(&["volumes", "actions", command])),
    };
    state.volumes.get_mut(id)?.server = server;
    let command = format!("{command}_volume");
    Ok(begun(&state.begin(&command, &[(Volume::KIND, id)], Effect::Nothing)))
}
