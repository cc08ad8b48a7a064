//! Private networks: ranges, subnets, routes, and who gets which address.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::action::{Effect, begun};
use crate::call::{Answer, Call};
use crate::catalogue;
use crate::cidr::Cidr;
use crate::error::Refusal;
use crate::labels::Labels;
use crate::list as lists;
use crate::routes::nowhere;
use crate::store::{Head, Resource, State, resource, shown};

/// The most servers and load balancers in one network.
const ATTACHED: usize = 100;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) head: Head,
    ip_range: Cidr,
    subnets: Vec<Subnet>,
    routes: Vec<Route>,
    expose_routes_to_vswitch: bool,
    protected: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Subnet {
    sort: String,
    ip_range: Cidr,
    zone: String,
    vswitch_id: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Route {
    destination: Cidr,
    gateway: Ipv4Addr,
}

#[derive(Deserialize)]
struct SubnetInput {
    #[serde(rename = "type")]
    sort: String,
    ip_range: Option<Cidr>,
    network_zone: String,
    vswitch_id: Option<u64>,
}

resource!(Network, "network");

impl Network {
    pub(crate) fn shown(&self, state: &State) -> Value {
        let id = self.head.id;
        let servers = state
            .servers
            .iter()
            .filter(|it| it.private_net.iter().any(|net| net.network == id && net.attached));
        let balancers = state.load_balancers.iter().filter(|it| it.is_in(id));
        let subnet = |it: &Subnet| json!({"type": it.sort, "ip_range": it.ip_range, "network_zone": it.zone, "gateway": self.ip_range.gateway(), "vswitch_id": it.vswitch_id});
        shown(
            &self.head,
            json!({
                "ip_range": self.ip_range,
                "subnets": self.subnets.iter().map(subnet).collect::<Vec<_>>(),
                "routes": self.routes,
                "servers": servers.map(|it| it.head.id).collect::<Vec<_>>(),
                "load_balancers": balancers.map(|it| it.head.id).collect::<Vec<_>>(),
                "protection": {"delete": self.protected},
                "expose_routes_to_vswitch": self.expose_routes_to_vswitch,
            }),
        )
    }

    fn add_subnet(&mut self, wanted: SubnetInput) -> Result<(), Refusal> {
        if !matches!(wanted.sort.as_str(), "cloud" | "server" | "vswitch") {
            return Err(Refusal::invalid(&[("type", "must be cloud, server or vswitch")]));
        }
        if (wanted.sort == "vswitch") != wanted.vswitch_id.is_some() {
            return Err(Refusal::invalid(&[("vswitch_id", "belongs to subnets of type vswitch")]));
        }
        catalogue::location_in(&wanted.network_zone)?;
        let ip_range = wanted
            .ip_range
            .or_else(|| self.free_range())
            .ok_or_else(|| Refusal::unfit("no range is left in the network"))?;
        if !self.ip_range.spans(ip_range) || ip_range.bits() > 30 {
            return Err(Refusal::invalid(&[(
                "ip_range",
                "must lie in the network and be /30 or larger",
            )]));
        }
        if self.subnets.iter().any(|it| it.ip_range.overlaps(ip_range))
            || self.routes.iter().any(|it| it.destination.overlaps(ip_range))
        {
            return Err(Refusal::invalid(&[("ip_range", "overlaps with a subnet or a route")]));
        }
        self.subnets.push(Subnet {
            sort: wanted.sort,
            ip_range,
            zone: wanted.network_zone,
            vswitch_id: wanted.vswitch_id,
        });
        Ok(())
    }

    /// The first /24 that no subnet has.
    fn free_range(&self) -> Option<Cidr> {
        let blocks = (self.ip_range.first()..=self.ip_range.last())
            .step_by(256)
            .filter_map(|it| Cidr::new(it, 24));
        let mut free = blocks.filter(|it| {
            self.ip_range.spans(*it)
                && !self.subnets.iter().any(|subnet| subnet.ip_range.overlaps(*it))
        });
        free.next()
    }

    fn add_route(&mut self, route: Route) -> Result<(), Refusal> {
        if !self.ip_range.holds(route.gateway) || route.gateway == self.ip_range.gateway() {
            return Err(Refusal::invalid(&[(
                "gateway",
                "must be an address of the network, and not its gateway",
            )]));
        }
        let everything = route.destination.bits() == 0;
        if !everything && self.subnets.iter().any(|it| it.ip_range.overlaps(route.destination)) {
            return Err(Refusal::invalid(&[("destination", "overlaps with a subnet")]));
        }
        if self.routes.iter().any(|it| it.destination == route.destination) {
            return Err(Refusal::invalid(&[("destination", "has a route already")]));
        }
        self.routes.push(route);
        Ok(())
    }
}

/// The addresses that are taken in a network.
fn taken(state: &State, network: u64) -> BTreeSet<Ipv4Addr> {
    let nets = state
        .servers
        .iter()
        .flat_map(|it| it.private_net.iter())
        .filter(|it| it.network == network);
    let servers = nets.flat_map(|it| std::iter::once(it.ip).chain(it.alias_ips.iter().copied()));
    servers.chain(state.load_balancers.iter().filter_map(|it| it.ip_in(network))).collect()
}

/// An address for somebody in this zone: the wanted one, or the first that is free in the first subnet with room.
pub(crate) fn take(
    state: &State,
    id: u64,
    zone: &str,
    wanted: Option<Ipv4Addr>,
    within: Option<Cidr>,
) -> Result<Ipv4Addr, Refusal> {
    let network = state.networks.get(id)?;
    let taken = taken(state, id);
    if taken.len() >= ATTACHED {
        return Err(Refusal::new(
            403,
            "resource_limit_exceeded",
            format!("a network takes at most {ATTACHED} resources"),
        ));
    }
    let mut subnets: Vec<_> = network
        .subnets
        .iter()
        .filter(|it| it.sort != "vswitch" && it.zone == zone)
        .map(|it| it.ip_range)
        .collect();
    subnets.retain(|it| within.is_none_or(|within| within == *it));
    subnets.sort_unstable();
    let gateway = network.ip_range.gateway();
    let free = |ip: &Ipv4Addr| !taken.contains(ip) && *ip != gateway;
    let hosts = |range: &Cidr| (range.first() + 1..range.last()).map(Ipv4Addr::from_bits);
    match wanted {
        None => subnets.iter().flat_map(hosts).find(free).ok_or_else(|| {
            Refusal::because(
                "no_subnet_available",
                "no subnet or IP is available within the network",
            )
        }),
        Some(ip)
            if subnets.iter().any(|it| {
                it.holds(ip) && it.first() < ip.to_bits() && ip.to_bits() < it.last()
            }) && free(&ip) =>
        {
            Ok(ip)
        }
        Some(_) => {
            Err(Refusal::because("ip_not_available", "the provided network IP is not available"))
        }
    }
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
        ip_range: Cidr,
        labels: Option<Labels>,
        subnets: Option<Vec<SubnetInput>>,
        routes: Option<Vec<Route>>,
        expose_routes_to_vswitch: Option<bool>,
    }
    let input: Input = call.input()?;
    if !input.ip_range.is_private() || input.ip_range.bits() > 24 {
        return Err(Refusal::invalid(&[(
            "ip_range",
            "must be a private range of RFC 1918, /24 or larger",
        )]));
    }
    state.networks.unique(&input.name, 0)?;
    let head = state.head(input.name, input.labels)?;
    let id = head.id;
    let expose_routes_to_vswitch = input.expose_routes_to_vswitch.unwrap_or(false);
    let mut network = Network {
        head,
        ip_range: input.ip_range,
        subnets: Vec::new(),
        routes: Vec::new(),
        expose_routes_to_vswitch,
        protected: false,
    };
    for subnet in input.subnets.unwrap_or_default() {
        network.add_subnet(subnet)?;
    }
    for route in input.routes.unwrap_or_default() {
        network.add_route(route)?;
    }
    state.networks.insert(network);
    Ok(Answer::made(json!({"network": state.networks.get(id)?.shown(state)})))
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, Refusal> {
    let items = state.networks.iter().map(|it| it.shown(state)).collect();
    lists::page(call, "networks", items, &["name"], &["id", "name", "created"])
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        expose_routes_to_vswitch: Option<bool>,
    }
    state.unlocked(Network::KIND, id)?;
    let input: Input = call.input()?;
    let network = state.networks.update(id, call)?;
    network.expose_routes_to_vswitch =
        input.expose_routes_to_vswitch.unwrap_or(network.expose_routes_to_vswitch);
    Ok(Answer::ok(json!({"network": state.networks.get(id)?.shown(state)})))
}

/// Whoever is still attached is detached.
pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, Refusal> {
    if state.networks.get(id)?.protected {
        return Err(Refusal::protected(Network::KIND, "deletion"));
    }
    state.unlocked(Network::KIND, id)?;
    state.networks.remove(id);
    for server in state.servers.iter_mut() {
        server.private_net.retain(|it| it.network != id);
    }
    for balancer in state.load_balancers.iter_mut() {
        balancer.leave(id);
    }
    Ok(Answer::gone())
}

pub(crate) fn act(
    state: &mut State,
    call: &Call,
    id: u64,
    command: &str,
) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Protection {
        delete: Option<bool>,
    }
    #[derive(Deserialize)]
    struct Range {
        ip_range: Cidr,
    }
    state.unlocked(Network::KIND, id)?;
    match command {
        "add_subnet" => state.networks.get_mut(id)?.add_subnet(call.input()?)?,
        "delete_subnet" => {
            let Range { ip_range } = call.input()?;
            if taken(state, id).into_iter().any(|it| ip_range.holds(it)) {
                return Err(Refusal::because(
                    "resource_in_use",
                    "subnet contains attached resources",
                ));
            }
            let subnets = &mut state.networks.get_mut(id)?.subnets;
            let place = subnets.iter().position(|it| it.ip_range == ip_range);
            subnets
                .remove(place.ok_or_else(|| Refusal::new(404, "not_found", "subnet not found"))?);
        }
        "add_route" => state.networks.get_mut(id)?.add_route(call.input()?)?,
        "delete_route" => {
            let route: Route = call.input()?;
            let routes = &mut state.networks.get_mut(id)?.routes;
            let place = routes.iter().position(|it| *it == route);
            routes.remove(place.ok_or_else(|| Refusal::new(404, "not_found", "route not found"))?);
        }
        "change_ip_range" => {
            let Range { ip_range } = call.input()?;
            let network = state.networks.get_mut(id)?;
            if !ip_range.spans(network.ip_range) || ip_range.first() != network.ip_range.first() {
                return Err(Refusal::invalid(&[("ip_range", "can only be extended at its end")]));
            }
            network.ip_range = ip_range;
        }
        "change_protection" => {
            let Protection { delete } = call.input()?;
            let network = state.networks.get_mut(id)?;
            network.protected = delete.unwrap_or(network.protected);
        }
        _ => return Err(nowhere(&["networks", "actions", command])),
    }
    Ok(begun(&state.begin(command, &[(Network::KIND, id)], Effect::Nothing)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn network(ip_range: &str, subnets: &[&str]) -> State {
        let mut state = State::new([127, 72]);
        let subnets: Vec<_> = subnets
            .iter()
            .map(|it| json!({"type": "cloud", "network_zone": "eu-central", "ip_range": it}))
            .collect();
        let body = json!({"name": "n", "ip_range": ip_range, "subnets": subnets});
        let call = Call {
            method: "POST".into(),
            path: vec!["networks".into()],
            query: vec![],
            body: body.to_string().into_bytes(),
        };
        create(&mut state, &call).unwrap();
        state
    }

    fn first(state: &State, within: Option<&str>) -> String {
        let within = within.and_then(Cidr::parse);
        take(state, 1001, "eu-central", None, within).map_or_else(|it| it.code, |it| it.to_string())
    }

    #[test]
    fn the_gateway_of_a_network_is_nobodys_and_addresses_are_given_from_below() {
        assert_eq!(first(&network("10.0.0.0/16", &["10.0.0.0/24"]), None), "10.0.0.2");
        assert_eq!(first(&network("10.0.0.0/16", &["10.0.1.0/24"]), None), "10.0.1.1");
        assert_eq!(
            first(&network("10.0.0.0/16", &["10.0.2.0/24", "10.0.1.0/24"]), None),
            "10.0.1.1"
        );
        assert_eq!(
            first(&network("10.0.0.0/16", &["10.0.2.0/24", "10.0.1.0/24"]), Some("10.0.2.0/24")),
            "10.0.2.1"
        );
        assert_eq!(first(&network("10.0.0.0/16", &[]), None), "no_subnet_available");
        assert!(
            take(&network("10.0.0.0/16", &["10.0.1.0/24"]), 1001, "us-east", None, None).is_err()
        );
    }
}
