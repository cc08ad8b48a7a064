//! Primary IPs: the public addresses of servers, made with them or before them.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::action::{Effect, begun};
use crate::call::{Answer, Call};
use crate::error::Refusal;
use crate::labels::Labels;
use crate::list as lists;
use crate::routes::nowhere;
use crate::servers::{Name, Status};
use crate::store::{Head, Resource, State, now, resource, shown};
use crate::{address, catalogue};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PrimaryIp {
    pub(crate) head: Head,
    /// An IPv4 address, or an IPv6 range.
    pub(crate) ip: String,
    pub(crate) assignee: Option<u64>,
    pub(crate) auto_delete: bool,
    pub(crate) dns_ptr: Option<String>,
    location: String,
    protected: bool,
}

resource!(PrimaryIp, "primary_ip");

impl PrimaryIp {
    pub(crate) fn ipv4(&self) -> Option<Ipv4Addr> {
        self.ip.parse().ok()
    }

    pub(crate) fn pointer(&self) -> String {
        self.dns_ptr.clone().unwrap_or_else(|| format!("static.{}.clients.invalid", self.ip))
    }

    pub(crate) fn shown(&self) -> Value {
        let pointers = if self.ipv4().is_some() {
            vec![json!({"ip": self.ip, "dns_ptr": self.pointer()})]
        } else {
            vec![]
        };
        shown(
            &self.head,
            json!({
                "ip": self.ip,
                "type": if self.ipv4().is_some() { "ipv4" } else { "ipv6" },
                "assignee_id": self.assignee,
                "assignee_type": "server",
                "auto_delete": self.auto_delete,
                "blocked": false,
                "dns_ptr": pointers,
                "location": catalogue::location_of(&self.location).ok().map(|it| it.shown()),
                "protection": {"delete": self.protected},
            }),
        )
    }
}

/// The address that comes and goes with a server.
pub(crate) fn make_for(state: &mut State, server: u64, four: bool) -> Result<(), Refusal> {
    let owner = state.servers.get(server)?;
    let ip = if four { owner.address.to_string() } else { address::ipv6(&owner.head.name) };
    let location = owner.location.clone();
    let id = state.id();
    let head = Head { id, name: format!("primary_ip-{id}"), labels: Labels::new(), created: now() };
    state.primary_ips.insert(PrimaryIp {
        head,
        ip,
        assignee: Some(server),
        auto_delete: true,
        dns_ptr: None,
        location,
        protected: false,
    });
    Ok(())
}

/// Gives an address to a server that has none of its family; of this family, if it matters.
pub(crate) fn assign(
    state: &mut State,
    id: u64,
    server: u64,
    location: &str,
    four: Option<bool>,
) -> Result<(), Refusal> {
    let ip = state.primary_ips.get(id)?;
    let is_four = ip.ipv4().is_some();
    if four.is_some_and(|it| it != is_four) {
        return Err(Refusal::unfit("the primary IP is of the other family"));
    }
    if ip.assignee.is_some() {
        return Err(Refusal::because(
            "primary_ip_already_assigned",
            "primary IP is already assigned to a server",
        ));
    }
    if ip.location != location {
        return Err(Refusal::unfit("primary IP and server must be in the same location"));
    }
    if state
        .primary_ips
        .iter()
        .any(|it| it.assignee == Some(server) && it.ipv4().is_some() == is_four)
    {
        let (code, message) = if is_four {
            ("server_has_ipv4", "the server already has an IPv4 address")
        } else {
            ("server_has_ipv6", "the server already has an IPv6 address")
        };
        return Err(Refusal::because(code, message));
    }
    state.primary_ips.get_mut(id)?.assignee = Some(server);
    Ok(())
}

/// Assigns to a server that exists and is off.
fn assign_to_stopped(state: &mut State, id: u64, server: u64) -> Result<(), Refusal> {
    stopped(state, server)?;
    let location = state.servers.get(server)?.location.clone();
    assign(state, id, server, &location, None)
}

fn stopped(state: &State, server: u64) -> Result<(), Refusal> {
    state.unlocked("server", server)?;
    match state.servers.get(server)?.status {
        Status::Off => Ok(()),
        _ => Err(Refusal::because("server_not_stopped", "server must be stopped")),
    }
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
        #[serde(rename = "type")]
        family: String,
        assignee_id: Option<u64>,
        assignee_type: Option<String>,
        location: Option<Name>,
        auto_delete: Option<bool>,
        labels: Option<Labels>,
    }
    let input: Input = call.input()?;
    if input.assignee_type.is_some_and(|it| it != "server") {
        return Err(Refusal::invalid(&[("assignee_type", "must be server")]));
    }
    let ip = match input.family.as_str() {
        "ipv4" => address::machine(state, &input.name)?.to_string(),
        "ipv6" => address::ipv6(&input.name),
        _ => return Err(Refusal::invalid(&[("type", "must be ipv4 or ipv6")])),
    };
    let location = match (input.assignee_id, &input.location) {
        (Some(_), Some(_)) => {
            return Err(Refusal::invalid(&[("location", "must be omitted with assignee_id")]));
        }
        (Some(server), None) => state.servers.get(server)?.location.clone(),
        (None, Some(location)) => catalogue::location_of(&location.0)?.name.to_owned(),
        (None, None) => {
            return Err(Refusal::invalid(&[("location", "is required without assignee_id")]));
        }
    };
    state.primary_ips.unique(&input.name, 0)?;
    let head = state.head(input.name, input.labels)?;
    let id = head.id;
    let auto_delete = input.auto_delete.unwrap_or(false);
    state.primary_ips.insert(PrimaryIp {
        head,
        ip,
        assignee: None,
        auto_delete,
        dns_ptr: None,
        location,
        protected: false,
    });
    let mut action = Value::Null;
    if let Some(server) = input.assignee_id {
        assign_to_stopped(state, id, server)?;
        action = state.begin(
            "assign_primary_ip",
            &[("primary_ip", id), ("server", server)],
            Effect::Nothing,
        );
    }
    let shown = state.primary_ips.get(id)?.shown();
    // Absent, not null, when there is none: strict clients read it so.
    let body = if action.is_null() {
        json!({"primary_ip": shown})
    } else {
        json!({"primary_ip": shown, "action": action})
    };
    Ok(Answer::made(body))
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, Refusal> {
    let items = state.primary_ips.iter().map(PrimaryIp::shown).collect();
    lists::page(call, "primary_ips", items, &["name", "ip"], &["id", "created"])
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        auto_delete: Option<bool>,
    }
    let input: Input = call.input()?;
    let ip = state.primary_ips.update(id, call)?;
    ip.auto_delete = input.auto_delete.unwrap_or(ip.auto_delete);
    Ok(Answer::ok(json!({"primary_ip": ip.shown()})))
}

pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, Refusal> {
    state.unlocked(PrimaryIp::KIND, id)?;
    let ip = state.primary_ips.get(id)?;
    if ip.protected {
        return Err(Refusal::protected(PrimaryIp::KIND, "deletion"));
    }
    if let Some(server) = ip.assignee {
        stopped(state, server)?;
    }
    state.primary_ips.remove(id);
    Ok(Answer::gone())
}

pub(crate) fn act(
    state: &mut State,
    call: &Call,
    id: u64,
    command: &str,
) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        assignee_id: Option<u64>,
        delete: Option<bool>,
        dns_ptr: Option<String>,
    }
    state.unlocked(PrimaryIp::KIND, id)?;
    let input: Input = call.input()?;
    let mut resources = vec![(PrimaryIp::KIND, id)];
    let done = match command {
        "assign" => {
            let server = input
                .assignee_id
                .ok_or_else(|| Refusal::invalid(&[("assignee_id", "is required")]))?;
            assign_to_stopped(state, id, server)?;
            resources.push(("server", server));
            "assign_primary_ip"
        }
        "unassign" => {
            let server = state
                .primary_ips
                .get(id)?
                .assignee
                .ok_or_else(|| Refusal::unfit("primary IP is not assigned"))?;
            stopped(state, server)?;
            state.primary_ips.get_mut(id)?.assignee = None;
            resources.push(("server", server));
            "unassign_primary_ip"
        }
        "change_protection" => {
            let ip = state.primary_ips.get_mut(id)?;
            ip.protected = input.delete.unwrap_or(ip.protected);
            "change_protection"
        }
        "change_dns_ptr" => {
            state.primary_ips.get_mut(id)?.dns_ptr = input.dns_ptr;
            "change_dns_ptr"
        }
        _ => return Err(nowhere(&["primary_ips", "actions", command])),
    };
    Ok(begun(&state.begin(done, &resources, Effect::Nothing)))
}
