//! Load balancers as the API shows them; `balancer.rs` carries the traffic.

use std::net::Ipv4Addr;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::catalogue::{self, BalancerType, Location};
use crate::cidr::Cidr;
use crate::command::Command;
use crate::error::ApiError;
use crate::labels::Labels;
use crate::list as lists;
use crate::model::{Algorithm, Effect, LoadBalancer, Service};
use crate::resource::{IdOrName, Resource};
use crate::services::{self, ServiceInput};
use crate::state::State;
use crate::targets::{self, TargetInput};
use crate::{address, networks, primary_ips};

#[derive(Deserialize)]
struct AlgorithmInput {
    #[serde(rename = "type")]
    sort: Algorithm,
}

impl LoadBalancer {
    pub(crate) fn to_json(&self, state: &State) -> Value {
        let private: Vec<_> = self
            .private_net
            .iter()
            .map(|(network, ip)| json!({"network": network, "ip": ip}))
            .collect();
        let pointer = self
            .dns_ptr
            .clone()
            .unwrap_or_else(|| format!("static.{}.clients.invalid", self.address));
        let [four, six] = self.primary_ips;
        let range = six.and_then(|id| state.primary_ips.find(id)).map(|ip| ip.ip.clone());
        let range =
            range.unwrap_or_else(|| address::ipv6(&format!("load balancer {}", self.head.name)));
        let public = |id: Option<u64>, ip: String, pointer: Option<String>| {
            let mut shown = json!({"ip": ip, "dns_ptr": pointer});
            if let Some(id) = id {
                shown["id"] = json!(id);
            }
            shown
        };
        self.head.to_json_with(json!({
            "public_net": {
                "enabled": self.public,
                "ipv4": public(four, self.address.to_string(), Some(pointer)),
                "ipv6": public(six, range.replace("/64", "1"), None),
            },
            "private_net": private,
            "location": catalogue::location_of(&self.location).ok().map(Location::to_json),
            "load_balancer_type": self.resolved_type().ok().map(BalancerType::to_json),
            "algorithm": {"type": self.algorithm},
            "services": self.services.iter().map(Service::to_json).collect::<Vec<_>>(),
            "targets": self.targets.iter().map(|target| target.to_json(state, self)).collect::<Vec<_>>(),
            "protection": {"delete": self.protected},
            "included_traffic": 21_990_232_555_520_u64,
            "ingoing_traffic": 0,
            "outgoing_traffic": 0,
        }))
    }
}

/// Existing Primary IPs for a new load balancer (hcloud-go v2.53.0, `LoadBalancerCreateRequestPublicNet`).
#[derive(Clone, Copy, Default, Deserialize)]
struct PublicNet {
    ipv4: Option<u64>,
    ipv6: Option<u64>,
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
        load_balancer_type: IdOrName,
        algorithm: Option<AlgorithmInput>,
        location: Option<IdOrName>,
        network_zone: Option<String>,
        network: Option<u64>,
        public_interface: Option<bool>,
        public_net: Option<PublicNet>,
        services: Option<Vec<ServiceInput>>,
        targets: Option<Vec<TargetInput>>,
        labels: Option<Labels>,
    }
    let input: Input = call.input()?;
    let offer = catalogue::balancer_type_of(&input.load_balancer_type.0)?;
    let location = match (&input.location, &input.network_zone) {
        (Some(location), None) => catalogue::location_of(&location.0)?,
        (None, Some(zone)) => catalogue::location_in(zone)?,
        _ => {
            return Err(ApiError::invalid_fields(&[(
                "location",
                "give a location or a network_zone, not both",
            )]));
        }
    };
    state.load_balancers.require_free_name(&input.name, None)?;
    let private_net = match input.network {
        Some(network) => {
            Some((network, networks::take_address(state, network, location.zone, None, None)?))
        }
        None => None,
    };
    let public_net = input.public_net.unwrap_or_default();
    let address = match public_net.ipv4 {
        Some(ip) => primary_ips::require_ipv4(state, ip)?,
        None => address::load_balancer(state, &input.name)?,
    };
    let head = state.head(input.name, input.labels)?;
    let id = head.id;
    for (ip, is_four) in [(public_net.ipv4, true), (public_net.ipv6, false)] {
        if let Some(ip) = ip {
            primary_ips::assign_to_balancer(state, ip, id, location.name, is_four)?;
        }
    }
    state.load_balancers.insert(LoadBalancer {
        head,
        address,
        primary_ips: [public_net.ipv4, public_net.ipv6],
        public: input.public_interface.unwrap_or(true),
        algorithm: input.algorithm.map(|algorithm| algorithm.sort).unwrap_or_default(),
        services: Vec::new(),
        targets: Vec::new(),
        private_net,
        sort: offer.name.to_owned(),
        location: location.name.to_owned(),
        protected: false,
        dns_ptr: None,
    });
    for service in input.services.unwrap_or_default() {
        services::add(state, id, service)?;
    }
    for target in input.targets.unwrap_or_default() {
        targets::add(state, id, &target)?;
    }
    let action = state.begin("create_load_balancer", &[(LoadBalancer::KIND, id)], Effect::Nothing);
    Ok(Answer::created(
        json!({"load_balancer": state.load_balancers.get(id)?.to_json(state), "action": action.to_json()}),
    ))
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, ApiError> {
    let items = state.load_balancers.iter().map(|balancer| balancer.to_json(state)).collect();
    lists::page(call, "load_balancers", items, &["name"], &["id", "name", "created"])
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, ApiError> {
    state.load_balancers.update(id, call)?;
    Ok(Answer::ok(json!({"load_balancer": state.load_balancers.get(id)?.to_json(state)})))
}

pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, ApiError> {
    if state.load_balancers.get(id)?.protected {
        return Err(ApiError::protected(LoadBalancer::KIND, "deletion"));
    }
    state.require_unlocked(LoadBalancer::KIND, id)?;
    state.load_balancers.remove(id);
    primary_ips::release(state, id);
    let action = state.begin("delete_load_balancer", &[(LoadBalancer::KIND, id)], Effect::Nothing);
    Ok(Answer::ok(json!({"action": action.to_json()})))
}

/// Runs the commands on the balancer itself; `services.rs` and `targets.rs` run the others.
pub(crate) fn act(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        delete: Option<bool>,
        load_balancer_type: Option<IdOrName>,
        #[serde(rename = "type")]
        algorithm: Option<Algorithm>,
        dns_ptr: Option<String>,
    }
    command.require_unlocked(state)?;
    if matches!(command.name, "attach_to_network" | "detach_from_network") {
        return change_network(state, command);
    }
    let input: Input = command.input()?;
    let balancer = state.load_balancers.get_mut(command.id)?;
    match command.name {
        "change_protection" => balancer.protected = input.delete.unwrap_or(balancer.protected),
        "change_algorithm" => {
            balancer.algorithm = input.algorithm.ok_or_else(|| ApiError::required("type"))?;
        }
        "change_dns_ptr" => balancer.dns_ptr = input.dns_ptr,
        "change_type" => {
            let wanted = input.load_balancer_type;
            let wanted = wanted.ok_or_else(|| ApiError::required("load_balancer_type"))?;
            let offer = catalogue::balancer_type_of(&wanted.0)?;
            if balancer.services.len() > offer.services || balancer.targets.len() > offer.targets {
                return Err(ApiError::unprocessable(
                    "invalid_load_balancer_type",
                    "the type does not fit for the given load balancer",
                ));
            }
            offer.name.clone_into(&mut balancer.sort);
        }
        "enable_public_interface" => balancer.public = true,
        "disable_public_interface" => {
            if balancer.private_net.is_none() {
                return Err(ApiError::unprocessable(
                    "load_balancer_not_attached_to_network",
                    "load balancer is not attached to a network",
                ));
            }
            if balancer.targets.iter().any(|target| !target.use_private_ip) {
                return Err(ApiError::unprocessable(
                    "targets_without_use_private_ip",
                    "load balancer has targets that use the public IP",
                ));
            }
            balancer.public = false;
        }
        _ => return Err(command.unknown()),
    }
    Ok(command.done(state))
}

/// Runs `attach_to_network` and `detach_from_network`.
fn change_network(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        network: Option<u64>,
        ip: Option<Ipv4Addr>,
        ip_range: Option<Cidr>,
    }
    let input: Input = command.input()?;
    let network = input.network.ok_or_else(|| ApiError::required("network"))?;
    let balancer = state.load_balancers.get(command.id)?;
    if command.name == "attach_to_network" {
        if balancer.private_net.is_some() {
            return Err(ApiError::unprocessable(
                "load_balancer_already_attached",
                "load balancer is already attached to a network",
            ));
        }
        let zone = catalogue::location_of(&balancer.location)?.zone;
        let ip = networks::take_address(state, network, zone, input.ip, input.ip_range)?;
        state.load_balancers.get_mut(command.id)?.private_net = Some((network, ip));
    } else {
        if !balancer.is_in(network) {
            return Err(ApiError::unprocessable(
                "load_balancer_not_attached_to_network",
                "load balancer is not attached to the network",
            ));
        }
        state.load_balancers.get_mut(command.id)?.detach(network);
    }
    Ok(command.begin(state, command.name, &[("network", network)], Effect::Nothing))
}
