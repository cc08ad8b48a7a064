//! Primary IPs: the public addresses of servers and load balancers.
//!
//! Since 2026-10-05 a load balancer can be created with an existing Primary IP, which stays assigned as long as
//! the load balancer exists (hcloud-go v2.52.0;
//! <https://docs.hetzner.cloud/changelog#2026-10-05-load-balancers-can-use-existing-primary-ips>). The type of the
//! assignee is `unassigned` without an assignee since 2026-08-01
//! (<https://docs.hetzner.cloud/changelog#2026-04-27-primary-ips-make-assignee_type-optional>).

use std::net::Ipv4Addr;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::address;
use crate::call::{Answer, Call};
use crate::catalogue::{self, Location};
use crate::command::Command;
use crate::error::ApiError;
use crate::labels::Labels;
use crate::list as lists;
use crate::model::{Effect, LoadBalancer, PrimaryIp, Server, Status};
use crate::resource::{Head, IdOrName, Resource, now};
use crate::state::State;

impl PrimaryIp {
    pub(crate) fn to_json(&self) -> Value {
        let pointers = if self.ipv4().is_some() {
            vec![json!({"ip": self.ip, "dns_ptr": self.pointer()})]
        } else {
            vec![]
        };
        self.head.to_json_with(json!({
            "ip": self.ip,
            "type": if self.ipv4().is_some() { "ipv4" } else { "ipv6" },
            "assignee_id": self.assignee,
            "assignee_type": match self.assignee {
                None => "unassigned",
                Some(_) if self.on_balancer => LoadBalancer::KIND,
                Some(_) => Server::KIND,
            },
            "auto_delete": self.auto_delete,
            "blocked": false,
            "dns_ptr": pointers,
            "location": catalogue::location_of(&self.location).ok().map(Location::to_json),
            "protection": {"delete": self.protected},
        }))
    }
}

/// Creates an address that is deleted with its server.
pub(crate) fn create_for(state: &mut State, server: u64, is_four: bool) -> Result<(), ApiError> {
    let owner = state.servers.get(server)?;
    let ip = if is_four { owner.address.to_string() } else { address::ipv6(&owner.head.name) };
    let location = owner.location.clone();
    let id = state.id();
    let head = Head { id, name: format!("primary_ip-{id}"), labels: Labels::new(), created: now() };
    state.primary_ips.insert(PrimaryIp {
        head,
        ip,
        assignee: Some(server),
        on_balancer: false,
        auto_delete: true,
        dns_ptr: None,
        location,
        protected: false,
    });
    Ok(())
}

/// Assigns an address to a server that has no address of the same family. `is_four` is the family that
/// the client asked for, if the call names a family.
pub(crate) fn assign(
    state: &mut State,
    id: u64,
    server: u64,
    location: &str,
    is_four: Option<bool>,
) -> Result<(), ApiError> {
    let family = require_assignable(state, id, location, is_four)?;
    let is_taken = state
        .primary_ips
        .iter()
        .any(|other| other.assignee == Some(server) && other.ipv4().is_some() == family);
    if is_taken {
        let (code, message) = if family {
            ("server_has_ipv4", "the server already has an IPv4 address")
        } else {
            ("server_has_ipv6", "the server already has an IPv6 address")
        };
        return Err(ApiError::unprocessable(code, message));
    }
    state.primary_ips.get_mut(id)?.assignee = Some(server);
    Ok(())
}

/// Assigns an address to a load balancer that is being created.
pub(crate) fn assign_to_balancer(
    state: &mut State,
    id: u64,
    balancer: u64,
    location: &str,
    is_four: bool,
) -> Result<(), ApiError> {
    require_assignable(state, id, location, Some(is_four))?;
    let ip = state.primary_ips.get_mut(id)?;
    (ip.assignee, ip.on_balancer) = (Some(balancer), true);
    Ok(())
}

/// Returns the address of a Primary IP of IPv4.
pub(crate) fn require_ipv4(state: &State, id: u64) -> Result<Ipv4Addr, ApiError> {
    let ip = state.primary_ips.get(id)?.ipv4();
    ip.ok_or_else(|| ApiError::invalid_input("the primary IP is of the other family"))
}

/// Deletes the addresses of a deleted server or load balancer, or only takes them from it.
pub(crate) fn release(state: &mut State, assignee: u64) {
    state.primary_ips.retain(|ip| ip.assignee != Some(assignee) || !ip.auto_delete);
    for ip in state.primary_ips.iter_mut().filter(|ip| ip.assignee == Some(assignee)) {
        (ip.assignee, ip.on_balancer) = (None, false);
    }
}

/// Refuses an address that is assigned, or of another location or family. Returns whether the address is IPv4.
fn require_assignable(
    state: &State,
    id: u64,
    location: &str,
    is_four: Option<bool>,
) -> Result<bool, ApiError> {
    let ip = state.primary_ips.get(id)?;
    let family = ip.ipv4().is_some();
    if is_four.is_some_and(|is_four| is_four != family) {
        return Err(ApiError::invalid_input("the primary IP is of the other family"));
    }
    if ip.assignee.is_some() {
        return Err(ApiError::unprocessable(
            "primary_ip_already_assigned",
            "primary IP is already assigned",
        ));
    }
    if ip.location != location {
        return Err(ApiError::invalid_input(
            "primary IP and resource must be in the same location",
        ));
    }
    Ok(family)
}

/// Refuses to take an address from a load balancer that exists.
fn require_not_on_balancer(ip: &PrimaryIp) -> Result<(), ApiError> {
    if ip.on_balancer { Err(ApiError::in_use(PrimaryIp::KIND, ip.head.id)) } else { Ok(()) }
}

fn assign_to_stopped(state: &mut State, id: u64, server: u64) -> Result<(), ApiError> {
    require_stopped(state, server)?;
    let location = state.servers.get(server)?.location.clone();
    assign(state, id, server, &location, None)
}

fn require_stopped(state: &State, server: u64) -> Result<(), ApiError> {
    state.require_unlocked(Server::KIND, server)?;
    match state.servers.get(server)?.status {
        Status::Off => Ok(()),
        _ => Err(ApiError::unprocessable("server_not_stopped", "server must be stopped")),
    }
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
        #[serde(rename = "type")]
        family: String,
        assignee_id: Option<u64>,
        assignee_type: Option<String>,
        location: Option<IdOrName>,
        auto_delete: Option<bool>,
        labels: Option<Labels>,
    }
    let input: Input = call.input()?;
    if input.assignee_type.is_some_and(|kind| kind != "server") {
        return Err(ApiError::invalid_fields(&[("assignee_type", "must be server")]));
    }
    let ip = match input.family.as_str() {
        "ipv4" => address::machine(state, &input.name)?.to_string(),
        "ipv6" => address::ipv6(&input.name),
        _ => return Err(ApiError::invalid_fields(&[("type", "must be ipv4 or ipv6")])),
    };
    let location = match (input.assignee_id, &input.location) {
        (Some(_), Some(_)) => {
            let message = "must be omitted with assignee_id";
            return Err(ApiError::invalid_fields(&[("location", message)]));
        }
        (Some(server), None) => state.servers.get(server)?.location.clone(),
        (None, Some(location)) => catalogue::location_of(&location.0)?.name.to_owned(),
        (None, None) => {
            let message = "is required without assignee_id";
            return Err(ApiError::invalid_fields(&[("location", message)]));
        }
    };
    state.primary_ips.require_free_name(&input.name, None)?;
    let head = state.head(input.name, input.labels)?;
    let id = head.id;
    state.primary_ips.insert(PrimaryIp {
        head,
        ip,
        assignee: None,
        on_balancer: false,
        auto_delete: input.auto_delete.unwrap_or(false),
        dns_ptr: None,
        location,
        protected: false,
    });
    let mut body = json!({});
    if let Some(server) = input.assignee_id {
        assign_to_stopped(state, id, server)?;
        let resources = [(PrimaryIp::KIND, id), (Server::KIND, server)];
        // Without an assignee the field is absent, because strict clients refuse `null` here.
        body["action"] = state.begin("assign_primary_ip", &resources, Effect::Nothing).to_json();
    }
    body["primary_ip"] = state.primary_ips.get(id)?.to_json();
    Ok(Answer::created(body))
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, ApiError> {
    let items = state.primary_ips.iter().map(PrimaryIp::to_json).collect();
    lists::page(call, "primary_ips", items, &["name", "ip"], &["id", "created"])
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        auto_delete: Option<bool>,
    }
    let input: Input = call.input()?;
    let ip = state.primary_ips.update(id, call)?;
    ip.auto_delete = input.auto_delete.unwrap_or(ip.auto_delete);
    Ok(Answer::ok(json!({"primary_ip": ip.to_json()})))
}

pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, ApiError> {
    state.require_unlocked(PrimaryIp::KIND, id)?;
    let ip = state.primary_ips.get(id)?;
    if ip.protected {
        return Err(ApiError::protected(PrimaryIp::KIND, "deletion"));
    }
    require_not_on_balancer(ip)?;
    if let Some(server) = ip.assignee {
        require_stopped(state, server)?;
    }
    state.primary_ips.remove(id);
    Ok(Answer::no_content())
}

pub(crate) fn act(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        assignee_id: Option<u64>,
        delete: Option<bool>,
        dns_ptr: Option<String>,
    }
    command.require_unlocked(state)?;
    let input: Input = command.input()?;
    let ip = state.primary_ips.get_mut(command.id)?;
    match command.name {
        "assign" => {
            let server = input.assignee_id.ok_or_else(|| ApiError::required("assignee_id"))?;
            assign_to_stopped(state, command.id, server)?;
            let others = [(Server::KIND, server)];
            return Ok(command.begin(state, "assign_primary_ip", &others, Effect::Nothing));
        }
        "unassign" => {
            require_not_on_balancer(ip)?;
            let server =
                ip.assignee.ok_or_else(|| ApiError::invalid_input("primary IP is not assigned"))?;
            require_stopped(state, server)?;
            state.primary_ips.get_mut(command.id)?.assignee = None;
            let others = [(Server::KIND, server)];
            return Ok(command.begin(state, "unassign_primary_ip", &others, Effect::Nothing));
        }
        "change_protection" => ip.protected = input.delete.unwrap_or(ip.protected),
        "change_dns_ptr" => ip.dns_ptr = input.dns_ptr,
        _ => return Err(command.unknown()),
    }
    Ok(command.done(state))
}
