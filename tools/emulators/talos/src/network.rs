//! The machine's part of the host's network: a bridge for its pods, with the node's address.
//!
//! A node needs an address that is not loopback, because otherwise the API server cannot reach its kubelet.
//! The bridge has such an address, and connects to nothing outside this host.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use crate::error::Error;
use crate::process::run;

const LIMIT: Duration = Duration::from_secs(5);

/// Network of the pods of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodNetwork {
    pub(crate) bridge: String,
    /// Range of the pods, for example `10.244.7.0/24`.
    pub(crate) subnet: String,
    /// Address of the bridge.
    pub(crate) gateway: Ipv4Addr,
    /// Address of the node: of the bridge, or in the private network of the cloud.
    pub(crate) node: Ipv4Addr,
}

impl PodNetwork {
    /// Returns the network `number` of the pod network `pods`, for the machine at the address `machine`.
    pub(crate) fn new(machine: Ipv4Addr, pods: (u8, u8), number: u8) -> Self {
        let (first, second) = pods;
        Self {
            bridge: bridge(machine),
            subnet: format!("{first}.{second}.{number}.0/24"),
            gateway: Ipv4Addr::new(first, second, number, 1),
            node: Ipv4Addr::new(first, second, number, 1),
        }
    }

    /// Returns the network with this address of the node, if there is one.
    pub(crate) fn with_node(self, node: Option<Ipv4Addr>) -> Self {
        Self { node: node.unwrap_or(self.gateway), ..self }
    }

    /// Gives the node's address to the bridge, unless it is the address of the bridge.
    pub(crate) async fn give_node_address(&self) -> Result<(), Error> {
        if self.node != self.gateway {
            let address = format!("{}/32", self.node);
            ip(&["address", "replace", &address, "dev", &self.bridge]).await?;
        }
        Ok(())
    }

    /// Creates the bridge, and replaces an old bridge.
    pub(crate) async fn make(&self) -> Result<(), Error> {
        remove(&self.bridge).await;
        ip(&["link", "add", &self.bridge, "type", "bridge"]).await?;
        ip(&["address", "add", &format!("{}/24", self.gateway), "dev", &self.bridge]).await?;
        ip(&["link", "set", &self.bridge, "up"]).await?;
        Ok(())
    }
}

/// Returns the name of a machine's bridge. Linux allows 15 characters (`IFNAMSIZ`).
pub(crate) fn bridge(machine: Ipv4Addr) -> String {
    format!("lab{:08x}", u32::from(machine))
}

/// Removes a bridge, if it exists.
pub(crate) async fn remove(bridge: &str) {
    let _ = ip(&["link", "delete", bridge]).await;
}

/// Returns the third octets in the pod network that addresses of this host use already.
pub(crate) async fn used(pods: (u8, u8)) -> BTreeSet<u8> {
    let listed = ip(&["-4", "-o", "address", "show"]).await.unwrap_or_default();
    let addresses = listed.split_whitespace().filter_map(|word| word.split_once('/'));
    addresses
        .filter_map(|(address, _)| address.parse::<Ipv4Addr>().ok())
        .map(|address| address.octets())
        .filter(|octets| (octets[0], octets[1]) == pods)
        .map(|octets| octets[2])
        .collect()
}

/// Adds a route that keeps packets to service addresses on this host, because no
/// other route for them exists here. Returns whether the route is new, so that the lab must remove it.
pub(crate) async fn hold_back(services: &str) -> bool {
    ip(&["route", "add", "unreachable", services]).await.is_ok()
}

/// Removes the route of [`hold_back`].
pub(crate) async fn let_go(services: &str) {
    let _ = ip(&["route", "delete", "unreachable", services]).await;
}

async fn ip(arguments: &[&str]) -> Result<String, Error> {
    run(Path::new("ip"), arguments, None, LIMIT).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_machine_has_a_bridge_name_that_linux_accepts() {
        let (one, other) =
            (bridge(Ipv4Addr::new(127, 73, 0, 1)), bridge(Ipv4Addr::new(127, 73, 1, 0)));
        assert!(one.len() <= 15);
        assert_ne!(one, other);
    }

    #[test]
    fn a_machine_gets_a_24_of_the_pod_network() {
        let network = PodNetwork::new(Ipv4Addr::new(127, 73, 0, 1), (10, 244), 7);
        assert_eq!(network.subnet, "10.244.7.0/24");
        assert_eq!(network.gateway, Ipv4Addr::new(10, 244, 7, 1));
        assert_eq!(network.clone().with_node(None).node, network.gateway);
        let private = Ipv4Addr::new(10, 0, 1, 2);
        assert_eq!(network.with_node(Some(private)).node, private);
    }
}
