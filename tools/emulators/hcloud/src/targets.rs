//! The targets of a load balancer: servers, servers with a label, and addresses.

use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::Answer;
use crate::command::Command;
use crate::error::ApiError;
use crate::health::Peer;
use crate::model::{LoadBalancer, Server, Target, TargetSelector};
use crate::selector::Selector;
use crate::state::State;

#[derive(Deserialize)]
pub(crate) struct TargetInput {
    #[serde(rename = "type")]
    sort: String,
    server: Option<ServerInput>,
    label_selector: Option<SelectorInput>,
    ip: Option<IpInput>,
    use_private_ip: Option<bool>,
}

#[derive(Deserialize)]
struct ServerInput {
    id: u64,
}

#[derive(Deserialize)]
struct SelectorInput {
    selector: String,
}

#[derive(Deserialize)]
struct IpInput {
    ip: IpAddr,
}

impl TargetInput {
    fn selector(&self) -> Result<TargetSelector, ApiError> {
        match (self.sort.as_str(), &self.server, &self.label_selector, &self.ip) {
            ("server", Some(server), _, _) => Ok(TargetSelector::Server(server.id)),
            ("label_selector", _, Some(input), _) => {
                Selector::parse(&input.selector)?;
                Ok(TargetSelector::Selector(input.selector.clone()))
            }
            ("ip", _, _, Some(input)) => Ok(TargetSelector::Ip(input.ip)),
            _ => Err(ApiError::invalid_fields(&[(
                "type",
                "must be server, label_selector or ip, with the field of that name",
            )])),
        }
    }
}

impl Target {
    /// Returns the machines and addresses that may receive traffic.
    pub(crate) fn peers(&self, state: &State, balancer: &LoadBalancer) -> Vec<Peer> {
        let is_reachable = |server: &Server| match (self.use_private_ip, balancer.private_net) {
            (true, Some((network, _))) => server.is_in(network),
            (true, None) => false,
            (false, _) => server.public_ipv4(state).is_some(),
        };
        // The lab has no private networks, so the balancer always connects to the loopback address.
        let peer = |server: &Server| {
            let address = server.public_ipv4(state).unwrap_or(server.address);
            is_reachable(server).then_some(Peer::Server(server.head.id, address))
        };
        match &self.what {
            TargetSelector::Server(id) => {
                state.servers.find(*id).and_then(peer).into_iter().collect()
            }
            TargetSelector::Selector(text) => match Selector::parse(text) {
                Ok(selector) => state
                    .servers
                    .iter()
                    .filter(|server| selector.matches(&server.head.labels))
                    .filter_map(peer)
                    .collect(),
                Err(_) => Vec::new(),
            },
            TargetSelector::Ip(IpAddr::V4(ip)) => vec![Peer::Ip(*ip)],
            TargetSelector::Ip(IpAddr::V6(_)) => Vec::new(),
        }
    }

    pub(crate) fn to_json(&self, state: &State, balancer: &LoadBalancer) -> Value {
        let status = |peer: Option<&Peer>, port: u16| {
            peer.map(|peer| state.health.word(balancer.head.id, port, peer)).unwrap_or_default()
        };
        let health = |peer: Option<&Peer>| -> Vec<Value> {
            let ports = balancer.services.iter().map(|service| service.listen_port);
            ports.map(|port| json!({"listen_port": port, "status": status(peer, port)})).collect()
        };
        let peers = self.peers(state, balancer);
        match &self.what {
            TargetSelector::Server(id) => {
                json!({"type": "server", "server": {"id": id}, "use_private_ip": self.use_private_ip, "health_status": health(peers.first())})
            }
            TargetSelector::Ip(ip) => {
                json!({"type": "ip", "ip": {"ip": ip}, "health_status": health(peers.first())})
            }
            TargetSelector::Selector(text) => {
                let target = |peer: &Peer| json!({"type": "server", "server": {"id": peer.id()}, "use_private_ip": self.use_private_ip, "health_status": health(Some(peer))});
                let targets: Vec<_> = peers.iter().map(target).collect();
                json!({"type": "label_selector", "label_selector": {"selector": text}, "use_private_ip": self.use_private_ip, "targets": targets})
            }
        }
    }
}

/// Adds a target that the balancer can reach.
pub(crate) fn add(state: &mut State, id: u64, input: &TargetInput) -> Result<(), ApiError> {
    let target =
        Target { what: input.selector()?, use_private_ip: input.use_private_ip.unwrap_or(false) };
    let balancer = state.load_balancers.get(id)?;
    if balancer.targets.iter().any(|other| other.what == target.what) {
        return Err(ApiError::unprocessable("target_already_defined", "target is already defined"));
    }
    if balancer.targets.len() >= balancer.resolved_type()?.targets {
        return Err(ApiError::limit_exceeded("the load balancer type takes no more targets"));
    }
    if target.use_private_ip && balancer.private_net.is_none() {
        return Err(ApiError::unprocessable(
            "load_balancer_not_attached_to_network",
            "load balancer is not attached to a network",
        ));
    }
    let is_ip = matches!(target.what, TargetSelector::Ip(_));
    if !target.use_private_ip && !balancer.public && !is_ip {
        return Err(ApiError::unprocessable(
            "load_balancer_public_interface_disabled",
            "the public interface is disabled",
        ));
    }
    match &target.what {
        TargetSelector::Server(server) => {
            state.servers.get(*server)?;
            if target.peers(state, balancer).is_empty() {
                return Err(if target.use_private_ip {
                    ApiError::unprocessable(
                        "server_not_attached_to_network",
                        "server is not in the network of the load balancer",
                    )
                } else {
                    ApiError::unprocessable("missing_ipv4", "server has no public IPv4 address")
                });
            }
        }
        TargetSelector::Ip(IpAddr::V4(ip)) if is_of_the_cloud(state, *ip) => {
            return Err(ApiError::unprocessable(
                "cloud_resource_ip_not_allowed",
                "the IP belongs to a cloud resource",
            ));
        }
        TargetSelector::Ip(_) | TargetSelector::Selector(_) => {}
    }
    state.load_balancers.get_mut(id)?.targets.push(target);
    Ok(())
}

/// Whether the address belongs to a server or load balancer of the cloud.
fn is_of_the_cloud(state: &State, ip: Ipv4Addr) -> bool {
    state.servers.iter().any(|server| server.address == ip)
        || state.load_balancers.iter().any(|balancer| balancer.address == ip)
}

/// Runs `add_target` and `remove_target`.
pub(crate) fn act(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    command.require_unlocked(state)?;
    let input: TargetInput = command.input()?;
    if command.name == "add_target" {
        add(state, command.id, &input)?;
    } else {
        let selector = input.selector()?;
        let targets = &mut state.load_balancers.get_mut(command.id)?.targets;
        let position = targets.iter().position(|target| target.what == selector);
        let not_found = || ApiError::new(404, "not_found", "target not found");
        targets.remove(position.ok_or_else(not_found)?);
    }
    Ok(command.done(state))
}
