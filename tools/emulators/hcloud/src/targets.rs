//! The targets of a load balancer: servers, servers by label, addresses.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::action::{Effect, begun};
use crate::call::{Answer, Call};
use crate::error::Refusal;
use crate::health::Peer;
use crate::load_balancers::LoadBalancer;
use crate::selector::Selector;
use crate::servers::Server;
use crate::store::State;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    what: What,
    pub(crate) use_private_ip: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Server(u64),
    Selector(String),
    Ip(IpAddr),
}

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
    fn what(&self) -> Result<What, Refusal> {
        match (self.sort.as_str(), &self.server, &self.label_selector, &self.ip) {
            ("server", Some(it), _, _) => Ok(What::Server(it.id)),
            ("label_selector", _, Some(it), _) => {
                Selector::parse(&it.selector).map(|_| What::Selector(it.selector.clone()))
            }
            ("ip", _, _, Some(it)) => Ok(What::Ip(it.ip)),
            _ => Err(Refusal::invalid(&[(
                "type",
                "must be server, label_selector or ip, with the field of that name",
            )])),
        }
    }
}

impl Target {
    pub(crate) fn is_server(&self, server: u64) -> bool {
        self.what == What::Server(server)
    }

    /// Whom traffic may be sent to.
    pub(crate) fn peers(&self, state: &State, balancer: &LoadBalancer) -> Vec<Peer> {
        let reachable = |it: &Server| match (self.use_private_ip, balancer.private_net) {
            (true, Some((network, _))) => it.is_in(network).then_some(it.address),
            (true, None) => None,
            (false, _) => it.public_ipv4(state),
        };
        // By its private address, too, a machine is reached where it lives: the lab has no private networks.
        let server = |it: &Server| {
            reachable(it)
                .map(|_| Peer::Server(it.head.id, it.public_ipv4(state).unwrap_or(it.address)))
        };
        match &self.what {
            What::Server(id) => state.servers.seen(*id).and_then(server).into_iter().collect(),
            What::Selector(text) => match Selector::parse(text) {
                Ok(selector) => state
                    .servers
                    .iter()
                    .filter(|it| selector.matches(&it.head.labels))
                    .filter_map(server)
                    .collect(),
                Err(_) => Vec::new(),
            },
            What::Ip(IpAddr::V4(ip)) => vec![Peer::Ip(*ip)],
            What::Ip(IpAddr::V6(_)) => Vec::new(),
        }
    }

    pub(crate) fn shown(&self, state: &State, balancer: &LoadBalancer) -> Value {
        let health = |peer: Option<&Peer>| -> Vec<Value> {
            let of = |port: u16| {
                peer.map(|it| state.health.shown(balancer.head.id, port, it)).unwrap_or_default()
            };
            balancer
                .services
                .iter()
                .map(|it| json!({"listen_port": it.listen_port, "status": of(it.listen_port)}))
                .collect()
        };
        let peers = self.peers(state, balancer);
        match &self.what {
            What::Server(id) => {
                json!({"type": "server", "server": {"id": id}, "use_private_ip": self.use_private_ip, "health_status": health(peers.first())})
            }
            What::Ip(ip) => {
                json!({"type": "ip", "ip": {"ip": ip}, "health_status": health(peers.first())})
            }
            What::Selector(text) => {
                let target = |it: &Peer| json!({"type": "server", "server": {"id": it.id()}, "use_private_ip": self.use_private_ip, "health_status": health(Some(it))});
                let targets: Vec<_> = peers.iter().map(target).collect();
                json!({"type": "label_selector", "label_selector": {"selector": text}, "use_private_ip": self.use_private_ip, "targets": targets})
            }
        }
    }
}

/// Adds a target that the balancer can reach.
pub(crate) fn add(state: &mut State, id: u64, input: &TargetInput) -> Result<(), Refusal> {
    let target =
        Target { what: input.what()?, use_private_ip: input.use_private_ip.unwrap_or(false) };
    let balancer = state.load_balancers.get(id)?;
    if balancer.targets.iter().any(|it| it.what == target.what) {
        return Err(Refusal::because("target_already_defined", "target is already defined"));
    }
    if balancer.targets.len() >= balancer.kind_of()?.targets {
        return Err(Refusal::new(
            403,
            "resource_limit_exceeded",
            "the load balancer type takes no more targets",
        ));
    }
    if target.use_private_ip && balancer.private_net.is_none() {
        return Err(Refusal::because(
            "load_balancer_not_attached_to_network",
            "load balancer is not attached to a network",
        ));
    }
    if !target.use_private_ip && !balancer.public && !matches!(target.what, What::Ip(_)) {
        return Err(Refusal::because(
            "load_balancer_public_interface_disabled",
            "the public interface is disabled",
        ));
    }
    match &target.what {
        What::Server(server) => {
            state.servers.get(*server)?;
            if target.peers(state, balancer).is_empty() {
                return Err(if target.use_private_ip {
                    Refusal::because(
                        "server_not_attached_to_network",
                        "server is not in the network of the load balancer",
                    )
                } else {
                    Refusal::because("missing_ipv4", "server has no public IPv4 address")
                });
            }
        }
        What::Ip(IpAddr::V4(ip)) if is_own(state, *ip) => {
            return Err(Refusal::because(
                "cloud_resource_ip_not_allowed",
                "the IP belongs to a cloud resource",
            ));
        }
        What::Ip(_) | What::Selector(_) => {}
    }
    state.load_balancers.get_mut(id)?.targets.push(target);
    Ok(())
}

fn is_own(state: &State, ip: Ipv4Addr) -> bool {
    state.servers.iter().any(|it| it.address == ip)
        || state.load_balancers.iter().any(|it| it.address == ip)
}

/// `add_target` and `remove_target`.
pub(crate) fn act(
    state: &mut State,
    call: &Call,
    id: u64,
    command: &str,
) -> Result<Answer, Refusal> {
    state.unlocked("load_balancer", id)?;
    let input: TargetInput = call.input()?;
    if command == "add_target" {
        add(state, id, &input)?;
    } else {
        let what = input.what()?;
        let targets = &mut state.load_balancers.get_mut(id)?.targets;
        let place = targets.iter().position(|it| it.what == what);
        targets.remove(place.ok_or_else(|| Refusal::new(404, "not_found", "target not found"))?);
    }
    Ok(begun(&state.begin(command, &[("load_balancer", id)], Effect::Nothing)))
}
