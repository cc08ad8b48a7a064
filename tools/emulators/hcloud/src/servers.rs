//! Servers: making, showing, changing and removing them.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::action::Effect;
use crate::call::{Answer, Call};
use crate::catalogue::{self, Location, ServerType};
use crate::error::Refusal;
use crate::labels::Labels;
use crate::store::{Head, Resource, State, resource, shown};
use crate::{address, firewalls, images, list as lists, networks, primary_ips, ssh_keys};

/// The most servers that one spread placement group takes.
const SPREAD: usize = 10;
/// The longest user data.
const USER_DATA_BYTES: usize = 32_768;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Initializing,
    Off,
    Starting,
    Running,
    Stopping,
    Rebuilding,
    Deleting,
}

/// A server in a private network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PrivateNet {
    pub(crate) network: u64,
    pub(crate) ip: Ipv4Addr,
    pub(crate) alias_ips: Vec<Ipv4Addr>,
    /// The address is taken from the first moment on, and shown once the action is done.
    pub(crate) attached: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::struct_field_names, reason = "the words of the API")]
pub(crate) struct Server {
    pub(crate) head: Head,
    pub(crate) status: Status,
    /// Where the machine lives, with or without a public address.
    pub(crate) address: Ipv4Addr,
    pub(crate) server_type: String,
    pub(crate) location: String,
    pub(crate) image: Option<u64>,
    pub(crate) user_data: Option<String>,
    pub(crate) placement_group: Option<u64>,
    pub(crate) private_net: Vec<PrivateNet>,
    pub(crate) protected: bool,
    pub(crate) rescue: bool,
    pub(crate) backup_window: Option<String>,
    pub(crate) dns_ptr: Option<String>,
}

resource!(Server, "server");

impl Server {
    pub(crate) fn kind_of(&self) -> Result<ServerType, Refusal> {
        catalogue::server_type_of(&self.server_type)
    }

    /// What the machine is told.
    pub(crate) fn machine(&self, state: &State) -> crate::Server {
        let image = self.image.and_then(|it| state.images.seen(it));
        crate::Server {
            id: self.head.id,
            name: self.head.name.clone(),
            ipv4: self.public_ipv4(state).unwrap_or(self.address),
            private_ipv4: self.private_net.iter().map(|it| it.ip).collect(),
            user_data: self.user_data.clone(),
            labels: self.head.labels.clone(),
            image: image.map(|it| it.name.clone().unwrap_or_else(|| it.head.name.clone())),
            image_labels: image.map(|it| it.head.labels.clone()).unwrap_or_default(),
            architecture: self.kind_of().map_or("x86", |it| it.architecture).to_owned(),
            server_type: self.server_type.clone(),
            location: self.location.clone(),
            rescue: self.rescue,
        }
    }

    pub(crate) fn public_ipv4(&self, state: &State) -> Option<Ipv4Addr> {
        state
            .primary_ips
            .iter()
            .filter(|it| it.assignee == Some(self.head.id))
            .find_map(primary_ips::PrimaryIp::ipv4)
    }

    pub(crate) fn is_in(&self, network: u64) -> bool {
        self.private_net.iter().any(|it| it.network == network)
    }

    pub(crate) fn shown(&self, state: &State) -> Value {
        let id = self.head.id;
        let own = |six: bool| {
            state
                .primary_ips
                .iter()
                .find(move |it| it.assignee == Some(id) && it.ipv4().is_none() == six)
        };
        let four = own(false).map(
            |it| json!({"id": it.head.id, "ip": it.ip, "blocked": false, "dns_ptr": it.pointer()}),
        );
        let six = own(true)
            .map(|it| json!({"id": it.head.id, "ip": it.ip, "blocked": false, "dns_ptr": []}));
        let attached = self.private_net.iter().filter(|it| it.attached);
        let private: Vec<_> = attached.map(|it| json!({"network": it.network, "ip": it.ip, "alias_ips": it.alias_ips, "mac_address": mac(it.ip)})).collect();
        let balancers = state.load_balancers.iter().filter(|it| it.names(id));
        let volumes = state.volumes.iter().filter(|volume| volume.server == Some(id));
        let group = self.placement_group.and_then(|it| state.placement_groups.seen(it));
        let server_type = self.kind_of().ok();
        shown(
            &self.head,
            json!({
                "status": self.status,
                "server_type": server_type.map(|it| it.shown()),
                "primary_disk_size": server_type.map(|it| it.disk),
                "location": catalogue::location_of(&self.location).ok().map(|it| it.shown()),
                "image": self.image.and_then(|it| state.images.seen(it)).map(images::Image::shown),
                "iso": null,
                "public_net": {"ipv4": four, "ipv6": six, "floating_ips": [], "firewalls": firewalls::on(state, self)},
                "private_net": private,
                "placement_group": group.map(|it| it.shown(state)),
                "protection": {"delete": self.protected, "rebuild": self.protected},
                "rescue_enabled": self.rescue,
                "locked": state.busy("server", id),
                "backup_window": self.backup_window,
                "volumes": volumes.map(|volume| volume.head().id).collect::<Vec<_>>(),
                "load_balancers": balancers.map(|it| it.head.id).collect::<Vec<_>>(),
                "included_traffic": 21_990_232_555_520_u64,
                "ingoing_traffic": 0,
                "outgoing_traffic": 0,
            }),
        )
    }
}

fn mac(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("86:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// The server that an effect touches.
pub(crate) fn of(effect: &Effect) -> Option<u64> {
    match effect {
        Effect::Create { server }
        | Effect::Start { server }
        | Effect::Stop { server }
        | Effect::Restart { server } => Some(*server),
        Effect::Rebuild { server } | Effect::Delete { server } | Effect::Attach { server, .. } => {
            Some(*server)
        }
        Effect::Nothing | Effect::FinishImage { .. } => None,
    }
}

#[derive(Deserialize)]
struct Input {
    name: String,
    server_type: Name,
    image: Name,
    location: Option<Name>,
    start_after_create: Option<bool>,
    ssh_keys: Option<Vec<Name>>,
    user_data: Option<String>,
    networks: Option<Vec<u64>>,
    firewalls: Option<Vec<OnFirewall>>,
    placement_group: Option<u64>,
    public_net: Option<PublicNet>,
    labels: Option<Labels>,
    volumes: Option<Vec<u64>>,
}

#[derive(Deserialize)]
struct OnFirewall {
    firewall: u64,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct PublicNet {
    enable_ipv4: Option<bool>,
    enable_ipv6: Option<bool>,
    ipv4: Option<u64>,
    ipv6: Option<u64>,
}

/// An id or a name: `7`, `"7"`, `"cax11"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Value")]
pub(crate) struct Name(pub(crate) String);

impl From<Value> for Name {
    fn from(value: Value) -> Self {
        Self(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }
}

/// `POST /servers`.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    let input: Input = call.input()?;
    check(&input)?;
    state.servers.unique(&input.name, 0)?;
    let server_type = catalogue::server_type_of(&input.server_type.0)?;
    let image = images::find(state, &input.image.0, server_type)?;
    let location = place(&input, server_type)?;
    for key in input.ssh_keys.iter().flatten() {
        ssh_keys::find(state, &key.0)?;
    }
    if let Some(group) = input.placement_group {
        has_room(state, group)?;
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
    give_addresses(
        state,
        id,
        location,
        input.public_net.unwrap_or_default(),
        input.networks.as_ref().is_some_and(|it| !it.is_empty()),
    )?;
    for wanted in input.firewalls.iter().flatten() {
        firewalls::put_on(state, wanted.firewall, id)?;
    }
    let resources = [("server", id)];
    let action = state.begin("create_server", &resources, Effect::Create { server: id });
    let mut next_actions = Vec::new();
    for network in input.networks.unwrap_or_default() {
        let ip = networks::take(state, network, location.zone, None, None)?;
        attach(state, id, PrivateNet { network, ip, alias_ips: Vec::new(), attached: false })?;
        next_actions.push(state.begin(
            "attach_to_network",
            &[("server", id), ("network", network)],
            Effect::Attach { server: id, network },
        ));
    }
    if input.start_after_create.unwrap_or(true) {
        next_actions.push(state.begin("start_server", &resources, Effect::Start { server: id }));
    }
    let password = input.ssh_keys.is_none_or(|it| it.is_empty()).then_some("nobody-logs-in-here");
    let server = state.servers.get(id)?.shown(state);
    Ok(Answer::made(
        json!({"server": server, "action": action, "next_actions": next_actions, "root_password": password}),
    ))
}

fn check(input: &Input) -> Result<(), Refusal> {
    let mut wrong = Vec::new();
    if !is_host_name(&input.name) {
        wrong.push(("name", "must be a valid hostname as per RFC 1123"));
    }
    if input.user_data.as_ref().is_some_and(|it| it.len() > USER_DATA_BYTES) {
        wrong.push(("user_data", "Length must be between 0 and 32768"));
    }
    if input.volumes.as_ref().is_some_and(|it| !it.is_empty()) {
        wrong.push(("volumes", "volume not found"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Refusal::invalid(&wrong)) }
}

/// RFC 1123: letters, digits, dashes and periods.
pub(crate) fn is_host_name(name: &str) -> bool {
    let part = |it: &str| {
        let hyphen_at_end = it.starts_with('-') || it.ends_with('-');
        (1..=63).contains(&it.len())
            && !hyphen_at_end
            && it.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    name.len() <= 253 && name.split('.').all(part)
}

/// Where: as asked, else where its own primary IP is, else at the first place that has the type.
fn place(input: &Input, server_type: ServerType) -> Result<Location, Refusal> {
    let wanted = input.location.as_ref().map(|it| it.0.as_str());
    let location = catalogue::location_of(
        wanted.or(server_type.locations.first().copied()).unwrap_or_default(),
    )?;
    if server_type.locations.contains(&location.name) {
        Ok(location)
    } else {
        Err(Refusal::unfit("unsupported location for server type"))
    }
}

/// Refuses a placement group that is full.
pub(crate) fn has_room(state: &State, group: u64) -> Result<(), Refusal> {
    state.placement_groups.get(group)?;
    let members = state.servers.iter().filter(|it| it.placement_group == Some(group)).count();
    if members < SPREAD {
        Ok(())
    } else {
        Err(Refusal::new(
            422,
            "placement_error",
            format!("placement group contains already {SPREAD} servers"),
        ))
    }
}

fn give_addresses(
    state: &mut State,
    id: u64,
    location: Location,
    wanted: PublicNet,
    networked: bool,
) -> Result<(), Refusal> {
    let four = wanted.enable_ipv4.unwrap_or(true);
    let six = wanted.enable_ipv6.unwrap_or(true);
    if !four && !six && !networked {
        return Err(Refusal::unfit("server must have at least one network interface"));
    }
    for (enabled, given, is_four) in [(four, wanted.ipv4, true), (six, wanted.ipv6, false)] {
        match given {
            Some(given) if enabled => {
                primary_ips::assign(state, given, id, location.name, Some(is_four))?;
            }
            Some(_) => return Err(Refusal::unfit("a primary IP needs its family to be enabled")),
            None if enabled => primary_ips::make_for(state, id, is_four)?,
            None => {}
        }
    }
    Ok(())
}

/// Notes that a server takes an address in a network.
pub(crate) fn attach(state: &mut State, id: u64, net: PrivateNet) -> Result<(), Refusal> {
    let server = state.servers.get_mut(id)?;
    if server.is_in(net.network) {
        return Err(Refusal::because(
            "server_already_attached",
            "server is already attached to network",
        ));
    }
    server.private_net.push(net);
    Ok(())
}

pub(crate) fn attached(state: &mut State, id: u64, network: u64) {
    let nets = state.servers.seen_mut(id).into_iter().flat_map(|it| it.private_net.iter_mut());
    nets.filter(|it| it.network == network).for_each(|it| it.attached = true);
}

pub(crate) fn detach(state: &mut State, id: u64, network: u64) {
    if let Some(server) = state.servers.seen_mut(id) {
        server.private_net.retain(|it| it.network != network);
    }
}

pub(crate) fn set(state: &mut State, id: u64, status: Status) {
    if let Some(server) = state.servers.seen_mut(id) {
        server.status = status;
    }
}

/// A server that could not be deleted stays, and stays off: its machine may be half gone.
pub(crate) fn undelete(state: &mut State, id: u64) {
    set(state, id, Status::Off);
}

/// A server goes, and all that is said of it elsewhere.
pub(crate) fn remove(state: &mut State, id: u64) {
    state.servers.remove(id);
    state.primary_ips.retain(|it| it.assignee != Some(id) || !it.auto_delete);
    for ip in state.primary_ips.iter_mut().filter(|it| it.assignee == Some(id)) {
        ip.assignee = None;
    }
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

/// `GET /servers`.
pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, Refusal> {
    let items = state.servers.iter().map(|it| it.shown(state)).collect();
    lists::page(call, "servers", items, &["name", "status"], &["id", "name", "created"])
}

/// `PUT /servers/{id}`.
pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    let server = state.servers.update(id, call)?;
    if !is_host_name(&server.head.name) {
        return Err(Refusal::invalid(&[("name", "must be a valid hostname as per RFC 1123")]));
    }
    Ok(Answer::ok(json!({"server": state.servers.get(id)?.shown(state)})))
}

/// `DELETE /servers/{id}`.
pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, Refusal> {
    let server = state.servers.get(id)?;
    if server.protected {
        return Err(Refusal::protected(Server::KIND, "deletion"));
    }
    state.unlocked(Server::KIND, id)?;
    set(state, id, Status::Deleting);
    let action = state.begin("delete_server", &[("server", id)], Effect::Delete { server: id });
    Ok(Answer::ok(json!({"action": action})))
}
