//! Fields of the API's answers that this program reads.
//!
//! Unknown enum values are kept as strings, so that one new value does not fail the whole list.

use serde::Deserialize;

use crate::labels::Labels;
use crate::money::{Money, Rate};

#[derive(Debug, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ServerType {
    pub(crate) name: String,
    pub(crate) architecture: String,
    pub(crate) cores: u32,
    pub(crate) memory: f64,
    /// Size of the disk, in GB.
    pub(crate) disk: f64,
    pub(crate) prices: Vec<Price>,
    /// Offer in each location (hcloud-go v2.53 `schema.ServerTypeLocation`). Types of load balancers
    /// have none.
    #[serde(default)]
    pub(crate) locations: Vec<Offered>,
}

/// Offer of a server type in one location.
#[derive(Debug, Deserialize)]
pub(crate) struct Offered {
    pub(crate) name: String,
    #[serde(default)]
    available: Option<bool>,
    #[serde(default)]
    deprecation: serde_json::Value,
}

impl Offered {
    /// Returns whether a server can be ordered. A deprecated type may soon not be.
    pub(crate) fn is_orderable(&self) -> bool {
        self.available != Some(false) && self.deprecation.is_null()
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct BalancerType {
    pub(crate) name: String,
    pub(crate) prices: Vec<Price>,
}

#[derive(Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names are the API's")]
pub(crate) struct Price {
    pub(crate) location: String,
    price_monthly: Amount,
    price_hourly: Amount,
}

impl Price {
    /// Returns the price of an hour.
    pub(crate) fn hourly(&self) -> Rate {
        Rate::parse(&self.price_hourly.net).unwrap_or_default()
    }
}

#[derive(Debug, Deserialize)]
struct Amount {
    net: String,
}

/// Returns the monthly price in `location`. If the list has no price for that location, the first
/// price is used.
pub(crate) fn price(prices: &[Price], location: &str) -> Money {
    let there = prices.iter().find(|price| price.location == location).or(prices.first());
    there.and_then(|price| Money::parse(&price.price_monthly.net)).unwrap_or_default()
}

#[derive(Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names are the API's")]
pub(crate) struct Server {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) labels: Labels,
    pub(crate) server_type: ServerType,
    pub(crate) location: Option<Named>,
    pub(crate) datacenter: Option<Datacenter>,
    pub(crate) public_net: PublicNet,
    #[serde(default)]
    pub(crate) private_net: Vec<PrivateNet>,
    pub(crate) placement_group: Option<Numbered>,
    pub(crate) image: Option<Numbered>,
    #[serde(default)]
    pub(crate) volumes: Vec<u64>,
}

/// Resource of which only the id is read.
#[derive(Debug, Deserialize)]
pub(crate) struct Numbered {
    pub(crate) id: u64,
}

/// Attachment to a network (hcloud-go v2.53 `schema.ServerPrivateNet`).
#[derive(Debug, Deserialize)]
pub(crate) struct PrivateNet {
    pub(crate) network: u64,
}

/// Firewall of a server, `applied` or `pending` (hcloud-go v2.53 `schema.ServerFirewall`).
#[derive(Debug, Deserialize)]
pub(crate) struct OnServer {
    pub(crate) id: u64,
}

impl Server {
    pub(crate) fn place(&self) -> &str {
        let place =
            self.location.as_ref().or(self.datacenter.as_ref().map(|place| &place.location));
        place.map_or("", |place| &place.name)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Datacenter {
    location: Named,
}

#[derive(Debug, Deserialize)]
pub(crate) struct PublicNet {
    pub(crate) ipv4: Option<Address>,
    /// Set for servers only.
    #[serde(default)]
    pub(crate) firewalls: Vec<OnServer>,
    /// Set for load balancers only: whether the public interface is enabled.
    #[serde(default)]
    pub(crate) enabled: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Address {
    pub(crate) ip: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Network {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) ip_range: String,
    pub(crate) subnets: Vec<NetworkSubnet>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct NetworkSubnet {
    pub(crate) ip_range: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Firewall {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) rules: Vec<FirewallRule>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct FirewallRule {
    pub(crate) direction: String,
    pub(crate) protocol: String,
    pub(crate) port: Option<String>,
    #[serde(default)]
    pub(crate) source_ips: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct PlacementGroup {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) labels: Labels,
}

#[derive(Debug, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names are the API's")]
pub(crate) struct LoadBalancer {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) load_balancer_type: BalancerType,
    pub(crate) location: Named,
    pub(crate) public_net: PublicNet,
    #[serde(default)]
    pub(crate) private_net: Vec<PrivateNet>,
    #[serde(default)]
    pub(crate) services: Vec<Service>,
    #[serde(default)]
    pub(crate) targets: Vec<Target>,
}

/// Port of a load balancer (hcloud-go v2.53 `schema.LoadBalancerService`).
#[derive(Debug, Deserialize)]
pub(crate) struct Service {
    pub(crate) protocol: String,
    pub(crate) listen_port: u16,
    pub(crate) destination_port: u16,
    #[serde(default)]
    pub(crate) proxyprotocol: bool,
    pub(crate) health_check: HealthCheck,
}

#[derive(Debug, Deserialize)]
pub(crate) struct HealthCheck {
    pub(crate) protocol: String,
    pub(crate) port: u16,
}

/// Target of a load balancer (hcloud-go v2.53 `schema.LoadBalancerTarget`). Of the three optional
/// fields, the one that `type` names is set.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    pub(crate) server: Option<Numbered>,
    pub(crate) label_selector: Option<LabelSelector>,
    pub(crate) ip: Option<TargetAddress>,
    #[serde(default)]
    pub(crate) use_private_ip: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct LabelSelector {
    pub(crate) selector: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct TargetAddress {
    pub(crate) ip: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Image {
    pub(crate) id: u64,
    pub(crate) status: String,
    pub(crate) architecture: String,
    pub(crate) created: String,
    #[serde(default)]
    pub(crate) labels: Labels,
    /// Size of the smallest disk on which the image fits, in GB.
    pub(crate) disk_size: f64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Action {
    pub(crate) id: u64,
    pub(crate) command: String,
    pub(crate) status: String,
    pub(crate) error: Option<ActionError>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ActionError {
    pub(crate) code: String,
    pub(crate) message: String,
}
