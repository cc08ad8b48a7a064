//! What a server can be told: `POST /servers/{id}/actions/{command}`.

use std::net::Ipv4Addr;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::action::{Effect, begun};
use crate::call::{Answer, Call};
use crate::catalogue;
use crate::cidr::Cidr;
use crate::error::Refusal;
use crate::labels::Labels;
use crate::routes::nowhere;
use crate::servers::{self, Name, PrivateNet, Status};
use crate::store::{Head, State, now};
use crate::{images, networks, ssh_keys};

/// Does a command, or begins to.
pub(crate) fn act(
    state: &mut State,
    call: &Call,
    id: u64,
    command: &str,
) -> Result<Answer, Refusal> {
    state.unlocked("server", id)?;
    match command {
        "poweron" => Ok(begun(&power_on(state, id))),
        "poweroff" => Ok(begun(&stop(state, id, "stop_server"))),
        "shutdown" => Ok(begun(&stop(state, id, "shutdown_server"))),
        "reboot" => restart(state, id, "reboot_server"),
        "reset" => restart(state, id, "reset_server"),
        "change_protection" => change_protection(state, call, id),
        "attach_to_network" => attach(state, call, id),
        "detach_from_network" => detach(state, call, id),
        "change_alias_ips" => change_alias_ips(state, call, id),
        "enable_rescue" => enable_rescue(state, call, id),
        "disable_rescue" => {
            state.servers.get_mut(id)?.rescue = false;
            Ok(simple(state, id, "disable_rescue"))
        }
        "rebuild" => rebuild(state, call, id),
        "create_image" => create_image(state, call, id),
        "change_type" => change_type(state, call, id),
        "add_to_placement_group" => join(state, call, id),
        "remove_from_placement_group" => {
            state.servers.get_mut(id)?.placement_group = None;
            Ok(simple(state, id, "remove_from_placement_group"))
        }
        "change_dns_ptr" => change_dns_ptr(state, call, id),
        "enable_backup" | "disable_backup" => {
            state.servers.get_mut(id)?.backup_window =
                (command == "enable_backup").then(|| "22-02".to_owned());
            Ok(simple(state, id, command))
        }
        "reset_password" => Ok(with_password(state, id, "reset_password", Effect::Nothing)),
        "request_console" => {
            let action = state.begin("request_console", &[("server", id)], Effect::Nothing);
            Ok(Answer::made(
                json!({"action": action, "wss_url": "wss://console.invalid/", "password": "nobody-looks-here"}),
            ))
        }
        _ => Err(nowhere(&["servers", "actions", command])),
    }
}

fn simple(state: &mut State, id: u64, command: &str) -> Answer {
    begun(&state.begin(command, &[("server", id)], Effect::Nothing))
}

fn with_password(state: &mut State, id: u64, command: &str, effect: Effect) -> Answer {
    let action = state.begin(command, &[("server", id)], effect);
    Answer::made(json!({"action": action, "root_password": "nobody-logs-in-here"}))
}

fn power_on(state: &mut State, id: u64) -> Value {
    servers::set(state, id, Status::Starting);
    state.begin("start_server", &[("server", id)], Effect::Start { server: id })
}

fn stop(state: &mut State, id: u64, command: &str) -> Value {
    servers::set(state, id, Status::Stopping);
    state.begin(command, &[("server", id)], Effect::Stop { server: id })
}

/// A machine that is off has nobody to hear of a reboot; a reset starts it.
fn restart(state: &mut State, id: u64, command: &str) -> Result<Answer, Refusal> {
    let off = state.servers.get(id)?.status == Status::Off;
    if off && command == "reboot_server" {
        return Err(Refusal::because("server_error", "server is not running"));
    }
    servers::set(state, id, Status::Starting);
    Ok(begun(&state.begin(command, &[("server", id)], Effect::Restart { server: id })))
}

fn stopped(state: &State, id: u64) -> Result<(), Refusal> {
    match state.servers.get(id)?.status {
        Status::Off => Ok(()),
        _ => Err(Refusal::because("server_not_stopped", "server must be stopped")),
    }
}

fn change_protection(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        delete: Option<bool>,
        rebuild: Option<bool>,
    }
    let input: Input = call.input()?;
    let protected = match (input.delete, input.rebuild) {
        (Some(delete), Some(rebuild)) if delete == rebuild => delete,
        _ => {
            return Err(Refusal::invalid(&[
                ("delete", "must be given and equal to rebuild"),
                ("rebuild", "must be given and equal to delete"),
            ]));
        }
    };
    state.servers.get_mut(id)?.protected = protected;
    Ok(simple(state, id, "change_protection"))
}

fn attach(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        network: u64,
        ip: Option<Ipv4Addr>,
        ip_range: Option<Cidr>,
        alias_ips: Option<Vec<Ipv4Addr>>,
    }
    let input: Input = call.input()?;
    let network = input.network;
    state.unlocked("network", network)?;
    let server = state.servers.get(id)?;
    if server.is_in(network) {
        return Err(Refusal::because(
            "server_already_attached",
            "server is already attached to network",
        ));
    }
    let zone = catalogue::location_of(&server.location)?.zone;
    let ip = networks::take(state, network, zone, input.ip, input.ip_range)?;
    let mut alias_ips = Vec::new();
    for alias in input.alias_ips.unwrap_or_default() {
        alias_ips.push(networks::take(state, network, zone, Some(alias), None)?);
    }
    servers::attach(state, id, PrivateNet { network, ip, alias_ips, attached: false })?;
    let action = state.begin(
        "attach_to_network",
        &[("server", id), ("network", network)],
        Effect::Attach { server: id, network },
    );
    Ok(begun(&action))
}

fn attached_to(state: &State, id: u64, network: u64) -> Result<(), Refusal> {
    if state.servers.get(id)?.is_in(network) {
        Ok(())
    } else {
        Err(Refusal::unfit("server is not attached to network"))
    }
}

#[derive(Deserialize)]
struct InNetwork {
    network: u64,
    alias_ips: Option<Vec<Ipv4Addr>>,
}

fn detach(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    let InNetwork { network, .. } = call.input()?;
    attached_to(state, id, network)?;
    servers::detach(state, id, network);
    Ok(begun(&state.begin(
        "detach_from_network",
        &[("server", id), ("network", network)],
        Effect::Nothing,
    )))
}

fn change_alias_ips(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    let InNetwork { network, alias_ips } = call.input()?;
    attached_to(state, id, network)?;
    let zone = catalogue::location_of(&state.servers.get(id)?.location)?.zone;
    let mut aliases = |change: &dyn Fn(&mut PrivateNet)| {
        let nets = state.servers.seen_mut(id).into_iter().flat_map(|it| it.private_net.iter_mut());
        nets.filter(|it| it.network == network).for_each(change);
    };
    aliases(&|it| it.alias_ips.clear());
    for alias in alias_ips.unwrap_or_default() {
        let alias = networks::take(state, network, zone, Some(alias), None)?;
        let nets = state.servers.get_mut(id)?.private_net.iter_mut();
        nets.filter(|it| it.network == network).for_each(|it| it.alias_ips.push(alias));
    }
    Ok(begun(&state.begin(
        "change_alias_ips",
        &[("server", id), ("network", network)],
        Effect::Nothing,
    )))
}

fn enable_rescue(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        #[serde(rename = "type")]
        system: Option<String>,
        ssh_keys: Option<Vec<Name>>,
    }
    let input: Input = call.input()?;
    if input.system.is_some_and(|it| it != "linux64") {
        return Err(Refusal::invalid(&[("type", "must be linux64")]));
    }
    for key in input.ssh_keys.iter().flatten() {
        ssh_keys::find(state, &key.0)?;
    }
    let server = state.servers.get_mut(id)?;
    if server.rescue {
        return Err(Refusal::unfit("rescue mode is already enabled"));
    }
    server.rescue = true;
    Ok(with_password(state, id, "enable_rescue", Effect::Nothing))
}

fn rebuild(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        image: Name,
        user_data: Option<String>,
    }
    let input: Input = call.input()?;
    let server = state.servers.get(id)?;
    if server.protected {
        return Err(Refusal::protected("server", "rebuild"));
    }
    let image = images::find(state, &input.image.0, server.kind_of()?)?;
    let server = state.servers.get_mut(id)?;
    server.image = Some(image);
    server.status = Status::Rebuilding;
    if input.user_data.is_some() {
        server.user_data = input.user_data;
    }
    Ok(with_password(state, id, "rebuild_server", Effect::Rebuild { server: id }))
}

fn create_image(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        description: Option<String>,
        #[serde(rename = "type")]
        sort: Option<String>,
        labels: Option<Labels>,
    }
    let input: Input = call.input()?;
    let server = state.servers.get(id)?.clone();
    let sort = input.sort.unwrap_or_else(|| "snapshot".to_owned());
    match (sort.as_str(), &server.backup_window) {
        ("snapshot", _) | ("backup", Some(_)) => {}
        ("backup", None) => return Err(Refusal::unfit("backups are not enabled for this server")),
        _ => return Err(Refusal::invalid(&[("type", "must be snapshot or backup")])),
    }
    let description = input
        .description
        .filter(|it| !it.is_empty())
        .unwrap_or_else(|| format!("{sort} of {}", server.head.name));
    let head = Head { created: now(), ..state.head(description, input.labels)? };
    let image = head.id;
    let server_type = server.kind_of()?;
    state.images.insert(images::Image::of_server(head, &sort, &server.head, server_type));
    let resources = [("server", id), ("image", image)];
    let action = state.begin("create_image", &resources, Effect::FinishImage { image });
    Ok(Answer::made(json!({"action": action, "image": state.images.get(image)?.shown()})))
}

fn change_type(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        server_type: Name,
        #[allow(dead_code, reason = "required by the API, and disks of the lab have no size")]
        upgrade_disk: bool,
    }
    let input: Input = call.input()?;
    stopped(state, id)?;
    let wanted = catalogue::server_type_of(&input.server_type.0)?;
    let now = state.servers.get(id)?.kind_of()?;
    let server = state.servers.get_mut(id)?;
    let fits = wanted.architecture == now.architecture
        && wanted.disk >= now.disk
        && wanted.name != now.name;
    if !fits || !wanted.locations.contains(&server.location.as_str()) {
        return Err(Refusal::because(
            "invalid_server_type",
            "the server type does not fit for the given server",
        ));
    }
    wanted.name.clone_into(&mut server.server_type);
    Ok(simple(state, id, "change_server_type"))
}

fn join(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        placement_group: u64,
    }
    let Input { placement_group } = call.input()?;
    stopped(state, id)?;
    if state.servers.get(id)?.placement_group.is_some() {
        return Err(Refusal::new(
            422,
            "already_in_placement_group",
            "the server is already part of a placement group",
        ));
    }
    servers::has_room(state, placement_group)?;
    state.servers.get_mut(id)?.placement_group = Some(placement_group);
    Ok(simple(state, id, "add_to_placement_group"))
}

fn change_dns_ptr(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        ip: String,
        dns_ptr: Option<String>,
    }
    let input: Input = call.input()?;
    let own = state.primary_ips.iter_mut().find(|it| it.assignee == Some(id) && it.ip == input.ip);
    let own = own.ok_or_else(|| Refusal::invalid(&[("ip", "is not an address of this server")]))?;
    own.dns_ptr = input.dns_ptr;
    Ok(simple(state, id, "change_dns_ptr"))
}
