//! Fields of the API's answers that this program reads.
//!
//! Unknown enum values are kept as strings, so that one new value does not fail the whole list.

use serde::Deserialize;

use crate::labels::Labels;
use crate::money::{Currency, Money, Rate};

#[derive(Debug, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

/// Server type with its offers (hcloud-go v2.53.0 `schema.ServerType`).
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ServerType {
    pub(crate) name: String,
    pub(crate) architecture: String,
    pub(crate) cores: u32,
    /// Memory in GB.
    pub(crate) memory: f64,
    /// Disk in GB.
    pub(crate) disk: f64,
    pub(crate) prices: Vec<Price>,
    /// Locations in which the type exists. Since 2025-09-24:
    /// <https://docs.hetzner.cloud/changelog#2025-09-24-per-location-server-types>.
    #[serde(default)]
    pub(crate) locations: Vec<Offer>,
}

/// Server type in one location (hcloud-go v2.53.0 `schema.ServerTypeLocation`).
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Offer {
    pub(crate) name: String,
    /// Whether a server can be created now. Since 2026-04-01:
    /// <https://docs.hetzner.cloud/changelog#2026-04-01-datacenter-deprecations>.
    #[serde(default = "yes")]
    pub(crate) available: bool,
    pub(crate) deprecation: Option<Deprecation>,
}

impl Offer {
    /// Returns whether a server can be ordered. A deprecated type may soon not be.
    pub(crate) fn is_orderable(&self) -> bool {
        self.available && self.deprecation.is_none()
    }
}

fn yes() -> bool {
    true
}

/// Deprecation of a type (hcloud-go v2.53.0 `schema.DeprecationInfo`).
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Deprecation {
    pub(crate) unavailable_after: String,
}

impl Deprecation {
    /// Returns whether the type has been withdrawn. An unreadable time is in the future, because the API
    /// decides in the end.
    pub(crate) fn has_passed(&self) -> bool {
        let end = self.unavailable_after.parse::<jiff::Timestamp>();
        end.is_ok_and(|end| end < jiff::Timestamp::now())
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Location {
    pub(crate) name: String,
    pub(crate) network_zone: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct BalancerType {
    pub(crate) name: String,
    pub(crate) prices: Vec<Price>,
    /// Since 2026-06-05 (hcloud-go v2.46.0).
    pub(crate) deprecation: Option<Deprecation>,
}

#[derive(Clone, Debug, Deserialize)]
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

#[derive(Clone, Debug, Deserialize)]
struct Amount {
    net: String,
}

/// Price list (hcloud-go v2.53.0 `schema.Pricing`).
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Pricing {
    currency: String,
    primary_ips: Vec<AddressPrices>,
    volume: VolumePrice,
    #[serde(default)]
    image: Option<ImagePrice>,
}

#[derive(Clone, Debug, Deserialize)]
struct AddressPrices {
    #[serde(rename = "type")]
    family: String,
    prices: Vec<Price>,
}

/// Price of an image. The list lacks it for accounts that cannot make images.
#[derive(Clone, Debug, Deserialize)]
struct ImagePrice {
    price_per_gb_month: Amount,
}

#[derive(Clone, Debug, Deserialize)]
struct VolumePrice {
    price_per_gb_month: Amount,
}

impl Pricing {
    pub(crate) fn currency(&self) -> Option<Currency> {
        Currency::parse(&self.currency)
    }

    /// Returns the monthly price in `location`; `None` if the list has none for that location, because
    /// the price of another location would be wrong.
    pub(crate) fn monthly(&self, prices: &[Price], location: &str) -> Option<Money> {
        let there = prices.iter().find(|price| price.location == location)?;
        Money::parse(&there.price_monthly.net, self.currency()?)
    }

    /// Returns the monthly price of a public IPv4 address.
    pub(crate) fn ipv4(&self, location: &str) -> Option<Money> {
        let ipv4 = self.primary_ips.iter().find(|address| address.family == "ipv4")?;
        self.monthly(&ipv4.prices, location)
    }

    /// Returns the price of a gigabyte of an image for a month.
    pub(crate) fn image_gigabyte(&self) -> Option<Rate> {
        self.image.as_ref().and_then(|image| Rate::parse(&image.price_per_gb_month.net))
    }

    /// Returns the monthly price of a volume of `size` GB.
    pub(crate) fn volume(&self, size: u64) -> Option<Money> {
        let price = Money::parse(&self.volume.price_per_gb_month.net, self.currency()?)?;
        Some(price.times(size))
    }
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
    /// Ids of the attached volumes.
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

/// Public address that exists by itself (hcloud-go v2.53.0 `schema.PrimaryIP`).
#[derive(Debug, Deserialize)]
pub(crate) struct PrimaryIp {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) ip: String,
    pub(crate) auto_delete: bool,
    pub(crate) location: Named,
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

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Image {
    pub(crate) id: u64,
    pub(crate) status: String,
    pub(crate) architecture: String,
    /// Size of the smallest disk on which the image fits, in GB.
    pub(crate) disk_size: f64,
    pub(crate) created: String,
    #[serde(default)]
    pub(crate) labels: Labels,
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
