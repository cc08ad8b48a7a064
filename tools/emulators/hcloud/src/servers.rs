//! Servers: creating, showing, changing and deleting them.

use std::net::Ipv4Addr;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::catalogue::{self, Location, ServerType};
use crate::error::ApiError;
use crate::labels::Labels;
use crate::model::{Action, Effect, Image, PrimaryIp, PrivateNet, Server, Status};
use crate::resource::{IdOrName, Resource};
use crate::state::State;
use crate::{address, firewalls, images, list as lists, machines, networks, primary_ips, ssh_keys};

/// The most servers in one spread placement group
/// (<https://docs.hetzner.com/cloud/placement-groups/overview>).
const SPREAD: usize = 10;
/// The longest user data, as documented for `POST /servers`.
const USER_DATA_BYTES: usize = 32_768;

/// Root password in answers. Machines of the lab accept no password.
pub(crate) const ROOT_PASSWORD: &str = "unused-in-the-lab";

impl Server {
    /// Returns the server as its machine sees it.
    pub(crate) fn machine(&self, state: &State) -> machines::Server {
        let image = self.image.and_then(|id| state.images.find(id));
        machines::Server {
            id: self.head.id,
            name: self.head.name.clone(),
            ipv4: self.public_ipv4(state).unwrap_or(self.address),
            private_ipv4: self.private_net.iter().map(|net| net.ip).collect(),
            user_data: self.user_data.clone(),
            labels: self.head.labels.clone(),
            image: image.map(|image| image.name.as_ref().unwrap_or(&image.head.name).clone()),
            image_labels: image.map(|image| image.head.labels.clone()).unwrap_or_default(),
            image_contents: image.map(|image| image.contents.clone()).unwrap_or_default(),
            disk: self.resolved_type().map_or(0, |offer| offer.disk),
            architecture: self.resolved_type().map_or("x86", |offer| offer.architecture).to_owned(),
            server_type: self.server_type.clone(),
            location: self.location.clone(),
            rescue: self.rescue,
        }
    }

    pub(crate) fn public_ipv4(&self, state: &State) -> Option<Ipv4Addr> {
        self.primary_ips(state).find_map(PrimaryIp::ipv4)
    }

    fn primary_ips<'a>(&self, state: &'a State) -> impl Iterator<Item = &'a PrimaryIp> + use<'a> {
        let id = self.head.id;
        state.primary_ips.iter().filter(move |ip| ip.assignee == Some(id))
    }

    pub(crate) fn to_json(&self, state: &State) -> Value {
        let id = self.head.id;
        let four = self.primary_ips(state).find(|ip| ip.ipv4().is_some()).map(
            |ip| json!({"id": ip.head.id, "ip": ip.ip, "blocked": false, "dns_ptr": ip.pointer()}),
        );
        let six = self
            .primary_ips(state)
            .find(|ip| ip.ipv4().is_none())
            .map(|ip| json!({"id": ip.head.id, "ip": ip.ip, "blocked": false, "dns_ptr": []}));
        let attached = self.private_net.iter().filter(|net| net.attached);
        let private: Vec<_> = attached.map(|net| json!({"network": net.network, "ip": net.ip, "alias_ips": net.alias_ips, "mac_address": mac(net.ip)})).collect();
        let balancers = state.load_balancers.iter().filter(|balancer| balancer.names(id));
        let volumes = state.volumes.iter().filter(|volume| volume.server == Some(id));
        let group = self.placement_group.and_then(|id| state.placement_groups.find(id));
        let server_type = self.resolved_type().ok();
        self.head.to_json_with(json!({
            "status": self.status,
            "server_type": server_type.map(|offer| offer.to_json(&state.sold_out)),
            "primary_disk_size": server_type.map(|offer| offer.disk),
            "location": catalogue::location_of(&self.location).ok().map(Location::to_json),
            "image": self.image.and_then(|id| state.images.find(id)).map(Image::to_json),
            "iso": null,
            "public_net": {"ipv4": four, "ipv6": six, "floating_ips": [], "firewalls": firewalls::on(state, self)},
            "private_net": private,
            "placement_group": group.map(|group| group.to_json(state)),
            "protection": {"delete": self.protected, "rebuild": self.protected},
            "rescue_enabled": self.rescue,
            "locked": state.is_locked(Self::KIND, id),
            "backup_window": self.backup_window,
            "volumes": volumes.map(|volume| volume.head.id).collect::<Vec<_>>(),
            "load_balancers": balancers.map(|balancer| balancer.head.id).collect::<Vec<_>>(),
            "included_traffic": 21_990_232_555_520_u64,
            "ingoing_traffic": 0,
            "outgoing_traffic": 0,
        }))
    }
}

fn mac(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("86:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Returns the servers that run, as their machines see them.
pub(crate) fn running(state: &State) -> Vec<machines::Server> {
    let running = state.servers.iter().filter(|server| server.status == Status::Running);
    running.map(|server| server.machine(state)).collect()
}

#[derive(Deserialize)]
struct Input {
    name: String,
    server_type: IdOrName,
    image: IdOrName,
    location: Option<IdOrName>,
    start_after_create: Option<bool>,
    ssh_keys: Option<Vec<IdOrName>>,
    user_data: Option<String>,
    networks: Option<Vec<u64>>,
    firewalls: Option<Vec<FirewallInput>>,
    placement_group: Option<u64>,
    public_net: Option<PublicNet>,
    labels: Option<Labels>,
    volumes: Option<Vec<u64>>,
}

#[derive(Deserialize)]
struct FirewallInput {
    firewall: u64,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct PublicNet {
    enable_ipv4: Option<bool>,
    enable_ipv6: Option<bool>,
    ipv4: Option<u64>,
    ipv6: Option<u64>,
}

/// Answers `POST /servers` with the server, its first action, and the actions after it.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, ApiError> {
    let input: Input = call.input()?;
    check(&input)?;
    state.servers.require_free_name(&input.name, None)?;
    let server_type = catalogue::server_type_of(&input.server_type.0)?;
    let image = images::find(state, &input.image.0, server_type)?;
    let location = choose_location(state, &input, server_type)?;
    for key in input.ssh_keys.iter().flatten() {
        ssh_keys::require_exists(state, &key.0)?;
    }
    if let Some(group) = input.placement_group {
        require_room(state, group)?;
    }
    let address = address::machine(state, &input.name)?;
    let head = state.head(input.name, input.labels)?;
    let id = head.id;
    state.servers.insert(Server {
        head,
        status: Status::Initializing,
        address,
        server_type: server_type.name.to_owned(),
        location: location.name.to_owned(),
        image: Some(image),
        user_data: input.user_data,
        placement_group: input.placement_group,
        private_net: Vec::new(),
        protected: false,
        rescue: false,
        backup_window: None,
        dns_ptr: None,
    });
    let has_network = input.networks.as_ref().is_some_and(|networks| !networks.is_empty());
    assign_addresses(state, id, location, input.public_net.unwrap_or_default(), has_network)?;
    for wanted in input.firewalls.iter().flatten() {
        firewalls::apply_to_server(state, wanted.firewall, id)?;
    }
    let resources = [(Server::KIND, id)];
    let action = state.begin("create_server", &resources, Effect::Create { server: id });
    let mut next_actions = Vec::new();
    for network in input.networks.unwrap_or_default() {
        let ip = networks::take_address(state, network, location.zone, None, None)?;
        attach(state, id, PrivateNet { network, ip, alias_ips: Vec::new(), attached: false })?;
        next_actions.push(state.begin(
            "attach_to_network",
            &[(Server::KIND, id), ("network", network)],
            Effect::Attach { server: id, network },
        ));
    }
    if input.start_after_create.unwrap_or(true) {
        next_actions.push(state.begin("start_server", &resources, Effect::Start { server: id }));
    }
    let next_actions: Vec<_> = next_actions.iter().map(Action::to_json).collect();
    let has_no_key = input.ssh_keys.is_none_or(|keys| keys.is_empty());
    let server = state.servers.get(id)?.to_json(state);
    Ok(Answer::created(
        json!({"server": server, "action": action.to_json(), "next_actions": next_actions, "root_password": has_no_key.then_some(ROOT_PASSWORD)}),
    ))
}

/// Names every wrong field at once, as the API does.
fn check(input: &Input) -> Result<(), ApiError> {
    let mut wrong = Vec::new();
    if !is_host_name(&input.name) {
        wrong.push(("name", "must be a valid hostname as per RFC 1123"));
    }
    if input.user_data.as_ref().is_some_and(|data| data.len() > USER_DATA_BYTES) {
        wrong.push(("user_data", "Length must be between 0 and 32768"));
    }
    if input.volumes.as_ref().is_some_and(|volumes| !volumes.is_empty()) {
        wrong.push(("volumes", "volume not found"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(ApiError::invalid_fields(&wrong)) }
}

/// Whether the name is a hostname of RFC 1123: letters, digits, hyphens and periods.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let hyphen_at_end = label.starts_with('-') || label.ends_with('-');
        (1..=63).contains(&label.len())
            && !hyphen_at_end
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Returns the requested location, or otherwise the first location that offers the server type.
fn choose_location(
    state: &State,
    input: &Input,
    server_type: ServerType,
) -> Result<Location, ApiError> {
    let wanted = input.location.as_ref().map(|location| location.0.as_str());
    let location =
        catalogue::location_of(wanted.or(server_type.first_location()).unwrap_or_default())?;
    catalogue::require_offer(server_type, location, &state.sold_out)?;
    Ok(location)
}

/// Refuses a placement group that is full.
pub(crate) fn require_room(state: &State, group: u64) -> Result<(), ApiError> {
    state.placement_groups.get(group)?;
    let members = state.servers.iter().filter(|server| server.placement_group == Some(group));
    if members.count() < SPREAD {
        Ok(())
    } else {
        Err(ApiError::unprocessable(
            "placement_error",
            format!("placement group contains already {SPREAD} servers"),
        ))
    }
}

/// Assigns the primary IPs that the client named, and creates one for every other enabled family.
fn assign_addresses(
    state: &mut State,
    id: u64,
    location: Location,
    wanted: PublicNet,
    has_network: bool,
) -> Result<(), ApiError> {
    let four = wanted.enable_ipv4.unwrap_or(true);
    let six = wanted.enable_ipv6.unwrap_or(true);
    if !four && !six && !has_network {
        return Err(ApiError::invalid_input("server must have at least one network interface"));
    }
    for (enabled, given, is_four) in [(four, wanted.ipv4, true), (six, wanted.ipv6, false)] {
        match given {
            Some(given) if enabled => {
                primary_ips::assign(state, given, id, location.name, Some(is_four))?;
            }
            Some(_) => {
                return Err(ApiError::invalid_input("a primary IP needs its family to be enabled"));
            }
            None if enabled => primary_ips::create_for(state, id, is_four)?,
            None => {}
        }
    }
    Ok(())
}

/// Records that a server takes an address in a network.
pub(crate) fn attach(state: &mut State, id: u64, net: PrivateNet) -> Result<(), ApiError> {
    let server = state.servers.get_mut(id)?;
    require_detached(server, net.network)?;
    server.private_net.push(net);
    Ok(())
}

pub(crate) fn require_detached(server: &Server, network: u64) -> Result<(), ApiError> {
    if server.is_in(network) {
        return Err(ApiError::unprocessable(
            "server_already_attached",
            "server is already attached to network",
        ));
    }
    Ok(())
}

pub(crate) fn set_attached(state: &mut State, id: u64, network: u64) {
    let server = state.servers.find_mut(id).into_iter();
    let nets = server.flat_map(|server| server.private_net.iter_mut());
    nets.filter(|net| net.network == network).for_each(|net| net.attached = true);
}

pub(crate) fn detach(state: &mut State, id: u64, network: u64) {
    if let Some(server) = state.servers.find_mut(id) {
        server.private_net.retain(|net| net.network != network);
    }
}

pub(crate) fn set_status(state: &mut State, id: u64, status: Status) {
    if let Some(server) = state.servers.find_mut(id) {
        server.status = status;
    }
}

/// Removes a server, and every reference to the server from other resources.
pub(crate) fn remove(state: &mut State, id: u64) {
    state.servers.remove(id);
    primary_ips::release(state, id);
    for volume in state.volumes.iter_mut().filter(|volume| volume.server == Some(id)) {
        volume.server = None;
    }
    for firewall in state.firewalls.iter_mut() {
        firewall.forget(id);
    }
    for balancer in state.load_balancers.iter_mut() {
        balancer.forget(id);
    }
}

/// Answers `GET /servers` with one page.
pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, ApiError> {
    let items = state.servers.iter().map(|server| server.to_json(state)).collect();
    lists::page(call, "servers", items, &["name", "status"], &["id", "name", "created"])
}

/// Answers `PUT /servers/{id}`, which changes name and labels.
pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, ApiError> {
    let server = state.servers.update(id, call)?;
    if !is_host_name(&server.head.name) {
        return Err(ApiError::invalid_fields(&[(
            "name",
            "must be a valid hostname as per RFC 1123",
        )]));
    }
    Ok(Answer::ok(json!({"server": state.servers.get(id)?.to_json(state)})))
}

/// Answers `DELETE /servers/{id}`. The server is removed when the action ends.
pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, ApiError> {
    let server = state.servers.get(id)?;
    if server.protected {
        return Err(ApiError::protected(Server::KIND, "deletion"));
    }
    state.require_unlocked(Server::KIND, id)?;
    set_status(state, id, Status::Deleting);
    let action = state.begin("delete_server", &[(Server::KIND, id)], Effect::Delete { server: id });
    Ok(Answer::ok(json!({"action": action.to_json()})))
}
