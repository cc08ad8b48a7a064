//! Which public address a name gets.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use sha2::{Digest as _, Sha256};

use crate::error::Refusal;
use crate::store::State;

/// An address for the machine or primary IP of this name: `N.1.1` to `N.199.254`.
pub(crate) fn machine(state: &State, name: &str) -> Result<Ipv4Addr, Refusal> {
    free(state, name, 1, 199)
}

/// An address for the load balancer of this name: `N.200.1` to `N.200.254`.
pub(crate) fn load_balancer(state: &State, name: &str) -> Result<Ipv4Addr, Refusal> {
    free(state, name, 200, 1)
}

/// The place that the name's digest points to, or the next free one. So the order of creation matters
/// only to names that point to the same place.
fn free(state: &State, name: &str, first: u8, blocks: u8) -> Result<Ipv4Addr, Refusal> {
    let servers = state.servers.iter().map(|it| it.address);
    let balancers = state.load_balancers.iter().map(|it| it.address);
    let primary = state.primary_ips.iter().filter_map(crate::primary_ips::PrimaryIp::ipv4);
    let used: BTreeSet<_> = servers.chain(balancers).chain(primary).collect();
    let [a, b] = state.network;
    let places = u64::from(blocks) * 254;
    let start = number(name) % places;
    (0..places)
        .map(|step| (start + step) % places)
        .map(|place| Ipv4Addr::new(a, b, first + byte(place / 254), 1 + byte(place % 254)))
        .find(|it| !used.contains(it))
        .ok_or_else(|| Refusal::new(412, "resource_unavailable", "no public address is left"))
}

/// A /64 of the range for documentation, from the name.
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

    fn made(names: &[String]) -> BTreeMap<String, Ipv4Addr> {
        let mut state = State::new([127, 72]);
        for name in names {
            let body = json!({"name": name, "server_type": "cax11", "image": "debian-13", "public_net": {"enable_ipv4": true, "enable_ipv6": false}});
            let call = Call {
                method: "POST".into(),
                path: vec!["servers".into()],
                query: vec![],
                body: body.to_string().into_bytes(),
            };
            routes::write(&mut state, &call).unwrap();
            let body = json!({"name": name, "load_balancer_type": "lb11", "location": "fsn1"});
            let call = Call {
                path: vec!["load_balancers".into()],
                body: body.to_string().into_bytes(),
                ..call
            };
            routes::write(&mut state, &call).unwrap();
        }
        let servers =
            state.servers.iter().map(|it| (format!("server {}", it.head.name), it.address));
        let balancers = state
            .load_balancers
            .iter()
            .map(|it| (format!("balancer {}", it.head.name), it.address));
        servers.chain(balancers).collect()
    }

    #[test]
    fn the_names_of_a_cluster_get_the_same_addresses_in_whatever_order_they_are_made() {
        let names: Vec<_> = ["prod-control-1", "prod-control-2", "prod-control-3", "prod-worker-1"]
            .map(str::to_owned)
            .to_vec();
        let expected = made(&names);
        for turn in 0..names.len() {
            let mut order = names.clone();
            order.rotate_left(turn);
            assert_eq!(made(&order), expected);
            order.reverse();
            assert_eq!(made(&order), expected);
        }
    }

    #[test]
    fn no_two_get_the_same_address_and_each_lies_in_its_own_part() {
        let names: Vec<_> = (0..250).map(|it| format!("n-{it}")).collect();
        let all = made(&names);
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
