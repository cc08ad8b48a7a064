//! The machine's part of the host's network: a bridge for its pods, whose address is the node's.
//!
//! A node must have an address of its own that is not loopback, or the API server cannot reach its
//! kubelet: the bridge has one, and nothing outside of this host is attached to it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use crate::process::run;
use crate::trouble::Trouble;

const LIMIT: Duration = Duration::from_secs(5);

/// Where pods of one machine live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodNetwork {
    pub(crate) bridge: String,
    /// `10.244.7.0/24`
    pub(crate) subnet: String,
    /// The node's address.
    pub(crate) gateway: Ipv4Addr,
}

impl PodNetwork {
    /// The network `number` out of `pods`, of the machine at `machine`.
    pub(crate) fn new(machine: Ipv4Addr, pods: (u8, u8), number: u8) -> Self {
        let (first, second) = pods;
        Self {
            bridge: bridge(machine),
            subnet: format!("{first}.{second}.{number}.0/24"),
            gateway: Ipv4Addr::new(first, second, number, 1),
        }
    }

    /// Makes the bridge anew.
    pub(crate) async fn make(&self) -> Result<(), Trouble> {
        remove(&self.bridge).await;
        ip(&["link", "add", &self.bridge, "type", "bridge"]).await?;
        ip(&["address", "add", &format!("{}/24", self.gateway), "dev", &self.bridge]).await?;
        ip(&["link", "set", &self.bridge, "up"]).await?;
        Ok(())
    }
}

/// The name of a machine's bridge: an interface's name has at most 15 characters.
pub(crate) fn bridge(machine: Ipv4Addr) -> String {
    format!("lab{:08x}", u32::from(machine))
}

/// Removes a bridge; it may be gone already.
pub(crate) async fn remove(bridge: &str) {
    let _ = ip(&["link", "delete", bridge]).await;
}

/// The third octets under `pods` that addresses of this host already use.
pub(crate) async fn used(pods: (u8, u8)) -> BTreeSet<u8> {
    let listed = ip(&["-4", "-o", "address", "show"]).await.unwrap_or_default();
    let addresses = listed.split_whitespace().filter_map(|it| it.split_once('/'));
    addresses
        .filter_map(|(address, _)| address.parse::<Ipv4Addr>().ok())
        .map(|it| it.octets())
        .filter(|it| (it[0], it[1]) == pods)
        .map(|it| it[2])
        .collect()
}

/// Keeps packets to service addresses, which nobody routes here, from leaving the host. Whether the
/// route is new, and so ours to remove.
pub(crate) async fn hold_back(services: &str) -> bool {
    ip(&["route", "add", "unreachable", services]).await.is_ok()
}

/// Takes back [`hold_back`].
pub(crate) async fn let_go(services: &str) {
    let _ = ip(&["route", "delete", "unreachable", services]).await;
}

async fn ip(arguments: &[&str]) -> Result<String, Trouble> {
    run(Path::new("ip"), arguments, None, LIMIT).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_bridge_fits_and_is_the_machines_own() {
        let (one, other) =
            (bridge(Ipv4Addr::new(127, 73, 0, 1)), bridge(Ipv4Addr::new(127, 73, 1, 0)));
        assert!(one.len() <= 15);
        assert_ne!(one, other);
    }

    #[test]
    fn a_machine_gets_its_part_of_the_pod_network() {
        let network = PodNetwork::new(Ipv4Addr::new(127, 73, 0, 1), (10, 244), 7);
        assert_eq!(network.subnet, "10.244.7.0/24");
        assert_eq!(network.gateway, Ipv4Addr::new(10, 244, 7, 1));
    }
}
