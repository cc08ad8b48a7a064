//! Commands on a server: `POST /servers/{id}/actions/{name}`.

use std::net::Ipv4Addr;

use serde::Deserialize;
use serde_json::json;

use crate::call::Answer;
use crate::catalogue;
use crate::cidr::Cidr;
use crate::command::Command;
use crate::error::ApiError;
use crate::labels::Labels;
use crate::model::{Effect, Image, PrivateNet, Status};
use crate::resource::IdOrName;
use crate::servers::{self, ROOT_PASSWORD};
use crate::state::State;
use crate::{images, networks, ssh_keys};

pub(crate) fn act(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    command.require_unlocked(state)?;
    let server = command.id;
    match command.name {
        "poweron" => {
            servers::set_status(state, server, Status::Starting);
            Ok(command.begin(state, "start_server", &[], Effect::Start { server }))
        }
        "poweroff" => Ok(stop(state, command, "stop_server")),
        "shutdown" => Ok(stop(state, command, "shutdown_server")),
        "reboot" => restart(state, command, "reboot_server"),
        "reset" => restart(state, command, "reset_server"),
        "change_protection" => change_protection(state, command),
        "attach_to_network" => attach(state, command),
        "detach_from_network" => detach(state, command),
        "change_alias_ips" => change_alias_ips(state, command),
        "enable_rescue" => enable_rescue(state, command),
        "disable_rescue" => {
            state.servers.get_mut(server)?.rescue = false;
            Ok(command.done(state))
        }
        "rebuild" => rebuild(state, command),
        "create_image" => create_image(state, command),
        "change_type" => change_type(state, command),
        "add_to_placement_group" => join_placement_group(state, command),
        "remove_from_placement_group" => {
            state.servers.get_mut(server)?.placement_group = None;
            Ok(command.done(state))
        }
        "change_dns_ptr" => change_dns_ptr(state, command),
        "enable_backup" | "disable_backup" => {
            state.servers.get_mut(server)?.backup_window =
                (command.name == "enable_backup").then(|| "22-02".to_owned());
            Ok(command.done(state))
        }
        "reset_password" => Ok(with_password(state, command, "reset_password", Effect::Nothing)),
        "request_console" => {
            let action = command.begin_json(state, "request_console", &[], Effect::Nothing);
            Ok(Answer::created(
                json!({"action": action, "wss_url": "wss://console.invalid/", "password": ROOT_PASSWORD}),
            ))
        }
        _ => Err(command.unknown()),
    }
}

fn with_password(state: &mut State, command: &Command<'_>, action: &str, effect: Effect) -> Answer {
    let action = command.begin_json(state, action, &[], effect);
    Answer::created(json!({"action": action, "root_password": ROOT_PASSWORD}))
}

fn stop(state: &mut State, command: &Command<'_>, action: &str) -> Answer {
    servers::set_status(state, command.id, Status::Stopping);
    command.begin(state, action, &[], Effect::Stop { server: command.id })
}

/// Restarts a machine. A reboot signals the running system, so that it fails while the machine is off; a
/// reset starts the machine.
fn restart(state: &mut State, command: &Command<'_>, action: &str) -> Result<Answer, ApiError> {
    let is_off = state.servers.get(command.id)?.status == Status::Off;
    if is_off && command.name == "reboot" {
        return Err(ApiError::unprocessable("server_error", "server is not running"));
    }
    servers::set_status(state, command.id, Status::Starting);
    Ok(command.begin(state, action, &[], Effect::Restart { server: command.id }))
}

fn require_off(state: &State, id: u64) -> Result<(), ApiError> {
    match state.servers.get(id)?.status {
        Status::Off => Ok(()),
        _ => Err(ApiError::unprocessable("server_not_stopped", "server must be stopped")),
    }
}

fn change_protection(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        delete: Option<bool>,
        rebuild: Option<bool>,
    }
    let input: Input = command.input()?;
    let protected = match (input.delete, input.rebuild) {
        (Some(delete), Some(rebuild)) if delete == rebuild => delete,
        _ => {
            return Err(ApiError::invalid_fields(&[
                ("delete", "must be given and equal to rebuild"),
                ("rebuild", "must be given and equal to delete"),
            ]));
        }
    };
    state.servers.get_mut(command.id)?.protected = protected;
    Ok(command.done(state))
}

fn attach(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        network: u64,
        ip: Option<Ipv4Addr>,
        ip_range: Option<Cidr>,
        alias_ips: Option<Vec<Ipv4Addr>>,
    }
    let input: Input = command.input()?;
    let network = input.network;
    state.require_unlocked("network", network)?;
    let server = state.servers.get(command.id)?;
    servers::require_detached(server, network)?;
    let zone = catalogue::location_of(&server.location)?.zone;
    let ip = networks::take_address(state, network, zone, input.ip, input.ip_range)?;
    let mut alias_ips = Vec::new();
    for alias in input.alias_ips.unwrap_or_default() {
        alias_ips.push(networks::take_address(state, network, zone, Some(alias), None)?);
    }
    servers::attach(state, command.id, PrivateNet { network, ip, alias_ips, attached: false })?;
    let effect = Effect::Attach { server: command.id, network };
    Ok(command.begin(state, command.name, &[("network", network)], effect))
}

fn require_attached(state: &State, id: u64, network: u64) -> Result<(), ApiError> {
    if state.servers.get(id)?.is_in(network) {
        Ok(())
    } else {
        Err(ApiError::invalid_input("server is not attached to network"))
    }
}

#[derive(Deserialize)]
struct NetworkInput {
    network: u64,
    alias_ips: Option<Vec<Ipv4Addr>>,
}

fn detach(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    let NetworkInput { network, .. } = command.input()?;
    require_attached(state, command.id, network)?;
    servers::detach(state, command.id, network);
    Ok(command.begin(state, command.name, &[("network", network)], Effect::Nothing))
}

fn change_alias_ips(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    let NetworkInput { network, alias_ips } = command.input()?;
    require_attached(state, command.id, network)?;
    let zone = catalogue::location_of(&state.servers.get(command.id)?.location)?.zone;
    // The old aliases are free again before the new ones are taken.
    let mut aliases = Vec::new();
    set_alias_ips(state, command.id, network, &aliases)?;
    for alias in alias_ips.unwrap_or_default() {
        aliases.push(networks::take_address(state, network, zone, Some(alias), None)?);
        set_alias_ips(state, command.id, network, &aliases)?;
    }
    Ok(command.begin(state, command.name, &[("network", network)], Effect::Nothing))
}

fn set_alias_ips(
    state: &mut State,
    id: u64,
    network: u64,
    aliases: &[Ipv4Addr],
) -> Result<(), ApiError> {
    let nets = state.servers.get_mut(id)?.private_net.iter_mut();
    nets.filter(|net| net.network == network).for_each(|net| net.alias_ips = aliases.to_vec());
    Ok(())
}

fn enable_rescue(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        #[serde(rename = "type")]
        system: Option<String>,
        ssh_keys: Option<Vec<IdOrName>>,
    }
    let input: Input = command.input()?;
    if input.system.is_some_and(|system| system != "linux64") {
        return Err(ApiError::invalid_fields(&[("type", "must be linux64")]));
    }
    for key in input.ssh_keys.iter().flatten() {
        ssh_keys::require_exists(state, &key.0)?;
    }
    let server = state.servers.get_mut(command.id)?;
    if server.rescue {
        return Err(ApiError::invalid_input("rescue mode is already enabled"));
    }
    server.rescue = true;
    Ok(with_password(state, command, "enable_rescue", Effect::Nothing))
}

fn rebuild(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        image: IdOrName,
        user_data: Option<String>,
    }
    let input: Input = command.input()?;
    let server = state.servers.get(command.id)?;
    if server.protected {
        return Err(ApiError::protected("server", "rebuild"));
    }
    let image = images::find(state, &input.image.0, server.resolved_type()?)?;
    let server = state.servers.get_mut(command.id)?;
    server.image = Some(image);
    server.status = Status::Rebuilding;
    if input.user_data.is_some() {
        server.user_data = input.user_data;
    }
    Ok(with_password(state, command, "rebuild_server", Effect::Rebuild { server: command.id }))
}

fn create_image(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        description: Option<String>,
        #[serde(rename = "type")]
        sort: Option<String>,
        labels: Option<Labels>,
    }
    let input: Input = command.input()?;
    let server = state.servers.get(command.id)?.clone();
    let sort = input.sort.unwrap_or_else(|| "snapshot".to_owned());
    match (sort.as_str(), &server.backup_window) {
        ("snapshot", _) | ("backup", Some(_)) => {}
        ("backup", None) => {
            return Err(ApiError::invalid_input("backups are not enabled for this server"));
        }
        _ => return Err(ApiError::invalid_fields(&[("type", "must be snapshot or backup")])),
    }
    let description = input
        .description
        .filter(|description| !description.is_empty())
        .unwrap_or_else(|| format!("{sort} of {}", server.head.name));
    let head = state.head(description, input.labels)?;
    let image = head.id;
    state.images.insert(Image::of_server(head, &sort, &server.head, server.resolved_type()?));
    let effect = Effect::FinishImage { image };
    let action = command.begin_json(state, command.name, &[("image", image)], effect);
    Ok(Answer::created(json!({"action": action, "image": state.images.get(image)?.to_json()})))
}

fn change_type(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        server_type: IdOrName,
        #[allow(dead_code, reason = "required by the API, and disks of the lab have no size")]
        upgrade_disk: bool,
    }
    let input: Input = command.input()?;
    require_off(state, command.id)?;
    let wanted = catalogue::server_type_of(&input.server_type.0)?;
    let current = state.servers.get(command.id)?.resolved_type()?;
    let server = state.servers.get_mut(command.id)?;
    let fits = wanted.architecture == current.architecture
        && wanted.disk >= current.disk
        && wanted.name != current.name;
    if !fits || !wanted.is_sold_in(&server.location) {
        return Err(ApiError::unprocessable(
            "invalid_server_type",
            "the server type does not fit for the given server",
        ));
    }
    wanted.name.clone_into(&mut server.server_type);
    Ok(command.begin(state, "change_server_type", &[], Effect::Nothing))
}

fn join_placement_group(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        placement_group: u64,
    }
    let Input { placement_group } = command.input()?;
    require_off(state, command.id)?;
    if state.servers.get(command.id)?.placement_group.is_some() {
        return Err(ApiError::unprocessable(
            "already_in_placement_group",
            "the server is already part of a placement group",
        ));
    }
    servers::require_room(state, placement_group)?;
    state.servers.get_mut(command.id)?.placement_group = Some(placement_group);
    Ok(command.done(state))
}

fn change_dns_ptr(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        ip: String,
        dns_ptr: Option<String>,
    }
    let input: Input = command.input()?;
    let ip = state
        .primary_ips
        .iter_mut()
        .find(|ip| ip.assignee == Some(command.id) && ip.ip == input.ip);
    let ip =
        ip.ok_or_else(|| ApiError::invalid_fields(&[("ip", "is not an address of this server")]))?;
    ip.dns_ptr = input.dns_ptr;
    Ok(command.done(state))
}
