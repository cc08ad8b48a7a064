//! Public addresses, derived from names so that a test sees the same address in every run.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use sha2::{Digest as _, Sha256};

use crate::error::ApiError;
use crate::model::PrimaryIp;
use crate::state::State;

/// Returns an address for the machine or primary IP of this name: `N.1.1` to `N.199.254`.
pub(crate) fn machine(state: &State, name: &str) -> Result<Ipv4Addr, ApiError> {
    free(state, name, 1, 199)
}

/// Returns an address for the load balancer of this name: `N.200.1` to `N.200.254`.
pub(crate) fn load_balancer(state: &State, name: &str) -> Result<Ipv4Addr, ApiError> {
    free(state, name, 200, 1)
}

/// Returns the address that the name's digest selects, or the next free address. So the order of creation
/// matters only for names whose digests select the same address.
fn free(state: &State, name: &str, first: u8, blocks: u8) -> Result<Ipv4Addr, ApiError> {
    let servers = state.servers.iter().map(|server| server.address);
    let balancers = state.load_balancers.iter().map(|balancer| balancer.address);
    let primary = state.primary_ips.iter().filter_map(PrimaryIp::ipv4);
    let used: BTreeSet<_> = servers.chain(balancers).chain(primary).collect();
    let [a, b] = state.network;
    let places = u64::from(blocks) * 254;
    let start = number(name) % places;
    (0..places)
        .map(|step| (start + step) % places)
        .map(|place| Ipv4Addr::new(a, b, first + byte(place / 254), 1 + byte(place % 254)))
        .find(|address| !used.contains(address))
        .ok_or_else(|| ApiError::new(412, "resource_unavailable", "no public address is left"))
}

/// Returns a /64 of the range for documentation (RFC 3849), derived from the name.
pub(crate) fn ipv6(name: &str) -> String {
    let bits = 0x2001_0db8_u128 << 96 | u128::from(number(name) >> 32) << 64;
    format!("{}/64", Ipv6Addr::from_bits(bits))
}

fn number(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn byte(number: u64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::call::Call;
    use crate::routes;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn addresses(names: &[String]) -> BTreeMap<String, Ipv4Addr> {
        let mut state = State::new([127, 72]);
        for name in names {
            let body = json!({"name": name, "server_type": "cax11", "image": "debian-13", "public_net": {"enable_ipv4": true, "enable_ipv6": false}});
            routes::write(&mut state, &Call::post("servers", &body)).unwrap();
            let body = json!({"name": name, "load_balancer_type": "lb11", "location": "fsn1"});
            routes::write(&mut state, &Call::post("load_balancers", &body)).unwrap();
        }
        let servers = state
            .servers
            .iter()
            .map(|server| (format!("server {}", server.head.name), server.address));
        let balancers = state
            .load_balancers
            .iter()
            .map(|balancer| (format!("balancer {}", balancer.head.name), balancer.address));
        servers.chain(balancers).collect()
    }

    #[test]
    fn machines_of_a_cluster_get_the_same_addresses_in_every_order_of_creation() {
        let names: Vec<_> = ["prod-control-1", "prod-control-2", "prod-control-3", "prod-worker-1"]
            .map(str::to_owned)
            .to_vec();
        let expected = addresses(&names);
        for turn in 0..names.len() {
            let mut order = names.clone();
            order.rotate_left(turn);
            assert_eq!(addresses(&order), expected);
            order.reverse();
            assert_eq!(addresses(&order), expected);
        }
    }

    #[test]
    fn every_resource_gets_its_own_address_in_the_part_for_its_kind() {
        let names: Vec<_> = (0..250).map(|number| format!("n-{number}")).collect();
        let all = addresses(&names);
        assert_eq!(all.values().collect::<BTreeSet<_>>().len(), 500);
        for (name, address) in all {
            let [a, b, c, d] = address.octets();
            let block = if name.starts_with("server") { 1..=199 } else { 200..=200 };
            assert!(
                [a, b] == [127, 72] && block.contains(&c) && (1..=254).contains(&d),
                "{name}: {address}"
            );
        }
    }
}
