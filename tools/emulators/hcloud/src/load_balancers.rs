//! Load balancers as the API shows them; `balancer.rs` is what carries the traffic.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::action::{Effect, begun};
use crate::call::{Answer, Call};
use crate::catalogue::{self, BalancerType};
use crate::cidr::Cidr;
use crate::error::Refusal;
use crate::labels::Labels;
use crate::list as lists;
use crate::routes::nowhere;
use crate::servers::Name;
use crate::services::{self, Service, ServiceInput};
use crate::store::{Head, Resource, State, resource, shown};
use crate::targets::{self, Target, TargetInput};
use crate::{address, networks};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Algorithm {
    #[default]
    RoundRobin,
    LeastConnections,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoadBalancer {
    pub(crate) head: Head,
    pub(crate) address: Ipv4Addr,
    pub(crate) public: bool,
    pub(crate) algorithm: Algorithm,
    pub(crate) services: Vec<Service>,
    pub(crate) targets: Vec<Target>,
    pub(crate) private_net: Option<(u64, Ipv4Addr)>,
    sort: String,
    location: String,
    protected: bool,
    dns_ptr: Option<String>,
}

resource!(LoadBalancer, "load_balancer");

#[derive(Deserialize)]
struct AlgorithmInput {
    #[serde(rename = "type")]
    sort: Algorithm,
}

impl LoadBalancer {
    pub(crate) fn kind_of(&self) -> Result<BalancerType, Refusal> {
        catalogue::balancer_type_of(&self.sort)
    }

    pub(crate) fn is_in(&self, network: u64) -> bool {
        self.ip_in(network).is_some()
    }

    pub(crate) fn ip_in(&self, network: u64) -> Option<Ipv4Addr> {
        self.private_net.filter(|(it, _)| *it == network).map(|(_, ip)| ip)
    }

    pub(crate) fn leave(&mut self, network: u64) {
        self.private_net = self.private_net.filter(|(it, _)| *it != network);
    }

    /// Whether a server is a target by itself, not by its labels.
    pub(crate) fn names(&self, server: u64) -> bool {
        self.targets.iter().any(|it| it.is_server(server))
    }

    pub(crate) fn forget(&mut self, server: u64) {
        self.targets.retain(|it| !it.is_server(server));
    }

    pub(crate) fn shown(&self, state: &State) -> Value {
        let private: Vec<_> = self
            .private_net
            .iter()
            .map(|(network, ip)| json!({"network": network, "ip": ip}))
            .collect();
        let pointer = self
            .dns_ptr
            .clone()
            .unwrap_or_else(|| format!("static.{}.clients.invalid", self.address));
        let six = address::ipv6(&format!("load balancer {}", self.head.name)).replace("/64", "1");
        shown(
            &self.head,
            json!({
                "public_net": {"enabled": self.public, "ipv4": {"ip": self.address, "dns_ptr": pointer}, "ipv6": {"ip": six, "dns_ptr": null}},
                "private_net": private,
                "location": catalogue::location_of(&self.location).ok().map(|it| it.shown()),
                "load_balancer_type": self.kind_of().ok().map(|it| it.shown()),
                "algorithm": {"type": self.algorithm},
                "services": self.services.iter().map(Service::shown).collect::<Vec<_>>(),
                "targets": self.targets.iter().map(|it| it.shown(state, self)).collect::<Vec<_>>(),
                "protection": {"delete": self.protected},
                "included_traffic": 21_990_232_555_520_u64,
                "ingoing_traffic": 0,
                "outgoing_traffic": 0,
            }),
        )
    }
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
        load_balancer_type: Name,
        algorithm: Option<AlgorithmInput>,
        location: Option<Name>,
        network_zone: Option<String>,
        network: Option<u64>,
        public_interface: Option<bool>,
        services: Option<Vec<ServiceInput>>,
        targets: Option<Vec<TargetInput>>,
        labels: Option<Labels>,
    }
    let input: Input = call.input()?;
    let sort = catalogue::balancer_type_of(&input.load_balancer_type.0)?;
    let location = match (&input.location, &input.network_zone) {
        (Some(location), None) => catalogue::location_of(&location.0)?,
        (None, Some(zone)) => catalogue::location_in(zone)?,
        _ => {
            return Err(Refusal::invalid(&[(
                "location",
                "give a location or a network_zone, not both",
            )]));
        }
    };
    state.load_balancers.unique(&input.name, 0)?;
    let private_net = match input.network {
        Some(network) => {
            Some((network, networks::take(state, network, location.zone, None, None)?))
        }
        None => None,
    };
    let address = address::load_balancer(state, &input.name)?;
    let head = state.head(input.name, input.labels)?;
    let id = head.id;
    state.load_balancers.insert(LoadBalancer {
        head,
        address,
        public: input.public_interface.unwrap_or(true),
        algorithm: input.algorithm.map(|it| it.sort).unwrap_or_default(),
        services: Vec::new(),
        targets: Vec::new(),
        private_net,
        sort: sort.name.to_owned(),
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
    Ok(Answer::made(
        json!({"load_balancer": state.load_balancers.get(id)?.shown(state), "action": action}),
    ))
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, Refusal> {
    let items = state.load_balancers.iter().map(|it| it.shown(state)).collect();
    lists::page(call, "load_balancers", items, &["name"], &["id", "name", "created"])
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    state.load_balancers.update(id, call)?;
    Ok(Answer::ok(json!({"load_balancer": state.load_balancers.get(id)?.shown(state)})))
}

pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, Refusal> {
    if state.load_balancers.get(id)?.protected {
        return Err(Refusal::protected(LoadBalancer::KIND, "deletion"));
    }
    state.unlocked(LoadBalancer::KIND, id)?;
    state.load_balancers.remove(id);
    Ok(Answer::ok(
        json!({"action": state.begin("delete_load_balancer", &[(LoadBalancer::KIND, id)], Effect::Nothing)}),
    ))
}

/// The commands that are about the balancer itself.
pub(crate) fn act(
    state: &mut State,
    call: &Call,
    id: u64,
    command: &str,
) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        delete: Option<bool>,
        network: Option<u64>,
        ip: Option<Ipv4Addr>,
        ip_range: Option<Cidr>,
        load_balancer_type: Option<Name>,
        #[serde(rename = "type")]
        algorithm: Option<Algorithm>,
        dns_ptr: Option<String>,
    }
    state.unlocked(LoadBalancer::KIND, id)?;
    let input: Input = call.input()?;
    let missing = |field: &str| Refusal::invalid(&[(field, "is required")]);
    let mut resources = vec![(LoadBalancer::KIND, id)];
    let balancer = state.load_balancers.get(id)?;
    let change: Box<dyn FnOnce(&mut LoadBalancer)> = match command {
        "change_protection" => Box::new(|it| it.protected = input.delete.unwrap_or(it.protected)),
        "change_algorithm" => {
            let algorithm = input.algorithm.ok_or_else(|| missing("type"))?;
            Box::new(move |it| it.algorithm = algorithm)
        }
        "change_dns_ptr" => Box::new(|it| it.dns_ptr = input.dns_ptr),
        "change_type" => {
            let sort = catalogue::balancer_type_of(
                &input.load_balancer_type.ok_or_else(|| missing("load_balancer_type"))?.0,
            )?;
            if balancer.services.len() > sort.services || balancer.targets.len() > sort.targets {
                return Err(Refusal::because(
                    "invalid_load_balancer_type",
                    "the type does not fit for the given load balancer",
                ));
            }
            Box::new(move |it| sort.name.clone_into(&mut it.sort))
        }
        "attach_to_network" => {
            let network = input.network.ok_or_else(|| missing("network"))?;
            if balancer.private_net.is_some() {
                return Err(Refusal::because(
                    "load_balancer_already_attached",
                    "load balancer is already attached to a network",
                ));
            }
            let zone = catalogue::location_of(&balancer.location)?.zone;
            let ip = networks::take(state, network, zone, input.ip, input.ip_range)?;
            resources.push(("network", network));
            Box::new(move |it| it.private_net = Some((network, ip)))
        }
        "detach_from_network" => {
            let network = input.network.ok_or_else(|| missing("network"))?;
            if !balancer.is_in(network) {
                return Err(Refusal::because(
                    "load_balancer_not_attached_to_network",
                    "load balancer is not attached to the network",
                ));
            }
            resources.push(("network", network));
            Box::new(move |it| it.leave(network))
        }
        "enable_public_interface" => Box::new(|it| it.public = true),
        "disable_public_interface" => {
            if balancer.private_net.is_none() {
                return Err(Refusal::because(
                    "load_balancer_not_attached_to_network",
                    "load balancer is not attached to a network",
                ));
            }
            if balancer.targets.iter().any(|it| !it.use_private_ip) {
                return Err(Refusal::because(
                    "targets_without_use_private_ip",
                    "load balancer has targets that use the public IP",
                ));
            }
            Box::new(|it| it.public = false)
        }
        _ => return Err(nowhere(&["load_balancers", "actions", command])),
    };
    change(state.load_balancers.get_mut(id)?);
    Ok(begun(&state.begin(command, &resources, Effect::Nothing)))
}
