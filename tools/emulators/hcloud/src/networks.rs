//! Private networks: creating and changing them, and the addresses in them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::catalogue;
use crate::cidr::Cidr;
use crate::command::Command;
use crate::error::ApiError;
use crate::labels::Labels;
use crate::list as lists;
use crate::model::{Network, Route, Subnet};
use crate::resource::Resource;
use crate::state::State;

/// The most servers and load balancers in one network.
const ATTACHED: usize = 100;

#[derive(Deserialize)]
struct SubnetInput {
    #[serde(rename = "type")]
    sort: String,
    ip_range: Option<Cidr>,
    network_zone: String,
    vswitch_id: Option<u64>,
}

impl SubnetInput {
    /// Returns the subnet that the client asked for, with a free range if the client named none.
    fn subnet(self, network: &Network) -> Result<Subnet, ApiError> {
        if !matches!(self.sort.as_str(), "cloud" | "server" | "vswitch") {
            return Err(ApiError::invalid_fields(&[("type", "must be cloud, server or vswitch")]));
        }
        if (self.sort == "vswitch") != self.vswitch_id.is_some() {
            return Err(ApiError::invalid_fields(&[(
                "vswitch_id",
                "belongs to subnets of type vswitch",
            )]));
        }
        catalogue::location_in(&self.network_zone)?;
        let ip_range = self
            .ip_range
            .or_else(|| network.free_range())
            .ok_or_else(|| ApiError::invalid_input("no range is left in the network"))?;
        Ok(Subnet {
            sort: self.sort,
            ip_range,
            zone: self.network_zone,
            vswitch_id: self.vswitch_id,
        })
    }
}

impl Network {
    pub(crate) fn to_json(&self, state: &State) -> Value {
        let id = self.head.id;
        let servers = state.servers.iter().filter(|server| {
            server.private_net.iter().any(|net| net.network == id && net.attached)
        });
        let balancers = state.load_balancers.iter().filter(|balancer| balancer.is_in(id));
        let subnet = |subnet: &Subnet| json!({"type": subnet.sort, "ip_range": subnet.ip_range, "network_zone": subnet.zone, "gateway": self.ip_range.gateway(), "vswitch_id": subnet.vswitch_id});
        self.head.to_json_with(json!({
            "ip_range": self.ip_range,
            "subnets": self.subnets.iter().map(subnet).collect::<Vec<_>>(),
            "routes": self.routes,
            "servers": servers.map(|server| server.head.id).collect::<Vec<_>>(),
            "load_balancers": balancers.map(|balancer| balancer.head.id).collect::<Vec<_>>(),
            "protection": {"delete": self.protected},
            "expose_routes_to_vswitch": self.expose_routes_to_vswitch,
        }))
    }
}

/// Returns the addresses that servers and load balancers have in a network.
fn taken(state: &State, network: u64) -> BTreeSet<Ipv4Addr> {
    let nets = state.servers.iter().flat_map(|server| server.private_net.iter());
    let nets = nets.filter(|net| net.network == network);
    let servers = nets.flat_map(|net| net.alias_ips.iter().chain([&net.ip]).copied());
    let balancers = state.load_balancers.iter().filter_map(|balancer| balancer.ip_in(network));
    servers.chain(balancers).collect()
}

/// Returns an address for a resource in this zone: the wanted address, or the first free address of the
/// first subnet that has room.
pub(crate) fn take_address(
    state: &State,
    id: u64,
    zone: &str,
    wanted: Option<Ipv4Addr>,
    within: Option<Cidr>,
) -> Result<Ipv4Addr, ApiError> {
    let network = state.networks.get(id)?;
    let taken = taken(state, id);
    if taken.len() >= ATTACHED {
        let message = format!("a network takes at most {ATTACHED} resources");
        return Err(ApiError::limit_exceeded(message));
    }
    let subnets = network.subnets.iter();
    let mut ranges: Vec<_> = subnets
        .filter(|subnet| subnet.sort != "vswitch" && subnet.zone == zone)
        .map(|subnet| subnet.ip_range)
        .filter(|range| within.is_none_or(|within| within == *range))
        .collect();
    ranges.sort_unstable();
    let gateway = network.ip_range.gateway();
    let is_free = |ip: &Ipv4Addr| !taken.contains(ip) && *ip != gateway;
    let hosts = |range: &Cidr| (range.first() + 1..range.last()).map(Ipv4Addr::from_bits);
    let is_host = |range: &Cidr, ip: Ipv4Addr| {
        range.holds(ip) && range.first() < ip.to_bits() && ip.to_bits() < range.last()
    };
    match wanted {
        None => ranges.iter().flat_map(hosts).find(is_free).ok_or_else(|| {
            ApiError::unprocessable(
                "no_subnet_available",
                "no subnet or IP is available within the network",
            )
        }),
        Some(ip) if ranges.iter().any(|range| is_host(range, ip)) && is_free(&ip) => Ok(ip),
        Some(_) => Err(ApiError::unprocessable(
            "ip_not_available",
            "the provided network IP is not available",
        )),
    }
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, ApiError> {
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
        return Err(ApiError::invalid_fields(&[(
            "ip_range",
            "must be a private range of RFC 1918, /24 or larger",
        )]));
    }
    state.networks.require_free_name(&input.name, None)?;
    let head = state.head(input.name, input.labels)?;
    let id = head.id;
    let mut network = Network {
        head,
        ip_range: input.ip_range,
        subnets: Vec::new(),
        routes: Vec::new(),
        expose_routes_to_vswitch: input.expose_routes_to_vswitch.unwrap_or(false),
        protected: false,
    };
    for subnet in input.subnets.unwrap_or_default() {
        let subnet = subnet.subnet(&network)?;
        network.add_subnet(subnet)?;
    }
    for route in input.routes.unwrap_or_default() {
        network.add_route(route)?;
    }
    state.networks.insert(network);
    Ok(Answer::created(json!({"network": state.networks.get(id)?.to_json(state)})))
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, ApiError> {
    let items = state.networks.iter().map(|network| network.to_json(state)).collect();
    lists::page(call, "networks", items, &["name"], &["id", "name", "created"])
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        expose_routes_to_vswitch: Option<bool>,
    }
    state.require_unlocked(Network::KIND, id)?;
    let input: Input = call.input()?;
    let network = state.networks.update(id, call)?;
    network.expose_routes_to_vswitch =
        input.expose_routes_to_vswitch.unwrap_or(network.expose_routes_to_vswitch);
    Ok(Answer::ok(json!({"network": state.networks.get(id)?.to_json(state)})))
}

/// Answers `DELETE /networks/{id}`, and detaches every server and load balancer first.
pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, ApiError> {
    if state.networks.get(id)?.protected {
        return Err(ApiError::protected(Network::KIND, "deletion"));
    }
    state.require_unlocked(Network::KIND, id)?;
    state.networks.remove(id);
    for server in state.servers.iter_mut() {
        server.private_net.retain(|net| net.network != id);
    }
    for balancer in state.load_balancers.iter_mut() {
        balancer.detach(id);
    }
    Ok(Answer::no_content())
}

pub(crate) fn act(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Protection {
        delete: Option<bool>,
    }
    #[derive(Deserialize)]
    struct Range {
        ip_range: Cidr,
    }
    command.require_unlocked(state)?;
    let taken = taken(state, command.id);
    let network = state.networks.get_mut(command.id)?;
    match command.name {
        "add_subnet" => {
            let subnet = command.input::<SubnetInput>()?.subnet(network)?;
            network.add_subnet(subnet)?;
        }
        "delete_subnet" => {
            let Range { ip_range } = command.input()?;
            if taken.into_iter().any(|ip| ip_range.holds(ip)) {
                return Err(ApiError::unprocessable(
                    "resource_in_use",
                    "subnet contains attached resources",
                ));
            }
            remove_one(&mut network.subnets, "subnet", |subnet| subnet.ip_range == ip_range)?;
        }
        "add_route" => network.add_route(command.input()?)?,
        "delete_route" => {
            let route: Route = command.input()?;
            remove_one(&mut network.routes, "route", |other| *other == route)?;
        }
        "change_ip_range" => {
            let Range { ip_range } = command.input()?;
            if !ip_range.spans(network.ip_range) || ip_range.first() != network.ip_range.first() {
                return Err(ApiError::invalid_fields(&[(
                    "ip_range",
                    "can only be extended at its end",
                )]));
            }
            network.ip_range = ip_range;
        }
        "change_protection" => {
            let Protection { delete } = command.input()?;
            network.protected = delete.unwrap_or(network.protected);
        }
        _ => return Err(command.unknown()),
    }
    Ok(command.done(state))
}

/// Removes the item that matches, or returns the error `not_found`.
fn remove_one<T>(
    items: &mut Vec<T>,
    kind: &str,
    matches: impl Fn(&T) -> bool,
) -> Result<(), ApiError> {
    let position = items.iter().position(matches);
    let not_found = || ApiError::new(404, "not_found", format!("{kind} not found"));
    items.remove(position.ok_or_else(not_found)?);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn network(ip_range: &str, subnets: &[&str]) -> State {
        let mut state = State::new([127, 72]);
        let subnets: Vec<_> = subnets
            .iter()
            .map(|range| json!({"type": "cloud", "network_zone": "eu-central", "ip_range": range}))
            .collect();
        let body = json!({"name": "n", "ip_range": ip_range, "subnets": subnets});
        create(&mut state, &Call::post("networks", &body)).unwrap();
        state
    }

    fn first(state: &State, within: Option<&str>) -> String {
        let within = within.and_then(Cidr::parse);
        take_address(state, 1001, "eu-central", None, within)
            .map_or_else(|error| error.code, |ip| ip.to_string())
    }

    #[test]
    fn addresses_are_taken_in_ascending_order_without_the_gateway() {
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
            take_address(&network("10.0.0.0/16", &["10.0.1.0/24"]), 1001, "us-east", None, None)
                .is_err()
        );
    }
}
