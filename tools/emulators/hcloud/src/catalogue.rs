//! The vendor's catalogue: locations, server types, load balancer types and prices. Only the stock of a
//! server type changes, when a test says so.
//!
//! Cores, memory, disks and locations are the vendor's. Prices have the vendor's form and a realistic size;
//! they are no quotation. Since 2025-09-24 a server type is offered, deprecated and sold out for each location
//! apart (hcloud-go v2.53.0, `schema.ServerTypeLocation`;
//! <https://docs.hetzner.cloud/changelog#2025-09-24-per-location-server-types>).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::error::ApiError;
use crate::list;

/// A location that can hold servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Location {
    pub(crate) id: u64,
    pub(crate) name: &'static str,
    pub(crate) zone: &'static str,
    country: &'static str,
    city: &'static str,
    description: &'static str,
    latitude: f64,
    longitude: f64,
}

const fn location(
    id: u64,
    name: &'static str,
    zone: &'static str,
    country: &'static str,
    city: &'static str,
    description: &'static str,
    at: (f64, f64),
) -> Location {
    Location { id, name, zone, country, city, description, latitude: at.0, longitude: at.1 }
}

const LOCATIONS: [Location; 6] = [
    location(
        1,
        "fsn1",
        "eu-central",
        "DE",
        "Falkenstein",
        "Falkenstein DC Park 1",
        (50.476_12, 12.370_071),
    ),
    location(
        2,
        "nbg1",
        "eu-central",
        "DE",
        "Nuremberg",
        "Nuremberg DC Park 1",
        (49.452_102, 11.076_665),
    ),
    location(
        3,
        "hel1",
        "eu-central",
        "FI",
        "Helsinki",
        "Helsinki DC Park 1",
        (60.169_857, 24.938_379),
    ),
    location(4, "ash", "us-east", "US", "Ashburn, VA", "Ashburn, VA", (39.045_821, -77.487_073)),
    location(
        5,
        "hil",
        "us-west",
        "US",
        "Hillsboro, OR",
        "Hillsboro, OR",
        (45.542_22, -122.951_924),
    ),
    location(6, "sin", "ap-southeast", "SG", "Singapore", "Singapore", (1.283_333, 103.833_333)),
];

const EUROPE: &[&str] = &["fsn1", "nbg1", "hel1"];
const EVERYWHERE: &[&str] = &["fsn1", "nbg1", "hel1", "ash", "hil", "sin"];
/// Locations in which no server of the first generation of `cpx` types can be created any more. The location
/// stays in the list with its deprecation
/// (<https://docs.hetzner.cloud/changelog#2025-10-16-server-types-deprecated>).
const CPX_RETIRED: &[&str] = EUROPE;

/// Server types that are sold out, each with a location.
pub(crate) type SoldOut = BTreeSet<(String, String)>;

/// A size of server that the vendor offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerType {
    pub(crate) id: u64,
    pub(crate) name: &'static str,
    pub(crate) architecture: &'static str,
    pub(crate) disk: u32,
    cores: u32,
    memory: u32,
    /// Net price in euro cents.
    cents_per_month: u64,
    locations: &'static [&'static str],
}

const fn size(
    id: u64,
    name: &'static str,
    architecture: &'static str,
    (cores, memory, disk): (u32, u32, u32),
    cents_per_month: u64,
    locations: &'static [&'static str],
) -> ServerType {
    ServerType { id, name, architecture, disk, cores, memory, cents_per_month, locations }
}

const SERVER_TYPES: [ServerType; 15] = [
    size(22, "cpx11", "x86", (2, 2, 40), 385, EVERYWHERE),
    size(23, "cpx21", "x86", (3, 4, 80), 705, EVERYWHERE),
    size(24, "cpx31", "x86", (4, 8, 160), 1310, EVERYWHERE),
    size(25, "cpx41", "x86", (8, 16, 240), 2460, EVERYWHERE),
    size(26, "cpx51", "x86", (16, 32, 360), 5440, EVERYWHERE),
    size(45, "cax11", "arm", (2, 4, 40), 329, EUROPE),
    size(93, "cax21", "arm", (4, 8, 80), 599, EUROPE),
    size(94, "cax31", "arm", (8, 16, 160), 1199, EUROPE),
    size(95, "cax41", "arm", (16, 32, 320), 2399, EUROPE),
    size(96, "ccx13", "x86", (2, 8, 80), 1249, EVERYWHERE),
    size(97, "ccx23", "x86", (4, 16, 160), 2449, EVERYWHERE),
    size(114, "cx23", "x86", (2, 4, 40), 299, EUROPE),
    size(115, "cx33", "x86", (4, 8, 80), 499, EUROPE),
    size(116, "cx43", "x86", (8, 16, 160), 899, EUROPE),
    size(117, "cx53", "x86", (16, 32, 320), 1699, EUROPE),
];

/// A size of load balancer that the vendor offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BalancerType {
    pub(crate) id: u64,
    pub(crate) name: &'static str,
    pub(crate) services: usize,
    pub(crate) targets: usize,
    connections: u32,
    certificates: u32,
    cents_per_month: u64,
}

const BALANCER_TYPES: [BalancerType; 3] = [
    BalancerType {
        id: 1,
        name: "lb11",
        services: 5,
        targets: 25,
        connections: 10_000,
        certificates: 10,
        cents_per_month: 539,
    },
    BalancerType {
        id: 2,
        name: "lb21",
        services: 15,
        targets: 75,
        connections: 20_000,
        certificates: 25,
        cents_per_month: 1640,
    },
    BalancerType {
        id: 3,
        name: "lb31",
        services: 30,
        targets: 150,
        connections: 40_000,
        certificates: 50,
        cents_per_month: 3280,
    },
];

/// Returns a location by id or name.
pub(crate) fn location_of(wanted: &str) -> Result<Location, ApiError> {
    let found = LOCATIONS
        .iter()
        .find(|location| location.name == wanted || location.id.to_string() == wanted);
    found.copied().ok_or_else(|| ApiError::invalid_input(format!("location '{wanted}' not found")))
}

/// Returns the first location of a network zone.
pub(crate) fn location_in(zone: &str) -> Result<Location, ApiError> {
    let found = LOCATIONS.iter().find(|location| location.zone == zone);
    found
        .copied()
        .ok_or_else(|| ApiError::invalid_fields(&[("network_zone", "is not a network zone")]))
}

/// Refuses a server type that is not offered in the location, or that is sold out there.
pub(crate) fn require_offer(
    offer: ServerType,
    location: Location,
    sold_out: &SoldOut,
) -> Result<(), ApiError> {
    if !offer.is_sold_in(location.name) {
        // Status, code and message as reported at https://github.com/autobase-tech/autobase/issues/1403
        return Err(ApiError::invalid_input("unsupported location for server type"));
    }
    if is_sold_out(sold_out, offer, location.name) {
        let message = format!("error during placement: {} is not available", offer.name);
        return Err(ApiError::new(412, "resource_unavailable", message));
    }
    Ok(())
}

fn is_sold_out(sold_out: &SoldOut, offer: ServerType, location: &str) -> bool {
    sold_out.iter().any(|(name, place)| name == offer.name && place == location)
}

pub(crate) fn server_type_of(wanted: &str) -> Result<ServerType, ApiError> {
    let found =
        SERVER_TYPES.iter().find(|offer| offer.name == wanted || offer.id.to_string() == wanted);
    found
        .copied()
        .ok_or_else(|| ApiError::invalid_input(format!("server type '{wanted}' not found")))
}

pub(crate) fn balancer_type_of(wanted: &str) -> Result<BalancerType, ApiError> {
    let found =
        BALANCER_TYPES.iter().find(|offer| offer.name == wanted || offer.id.to_string() == wanted);
    found
        .copied()
        .ok_or_else(|| ApiError::invalid_input(format!("load balancer type '{wanted}' not found")))
}

/// Answers with a list of the catalogue or with one item.
pub(crate) fn read(call: &Call, path: &[&str], sold_out: &SoldOut) -> Result<Answer, ApiError> {
    let (key, single, items): (_, _, Vec<Value>) = match path.first() {
        Some(&"locations") => {
            ("locations", "location", LOCATIONS.iter().copied().map(Location::to_json).collect())
        }
        Some(&"datacenters") => {
            ("datacenters", "datacenter", LOCATIONS.iter().map(Location::datacenter).collect())
        }
        Some(&"server_types") => (
            "server_types",
            "server_type",
            SERVER_TYPES.iter().map(|offer| offer.to_json(sold_out)).collect(),
        ),
        _ => (
            "load_balancer_types",
            "load_balancer_type",
            BALANCER_TYPES.iter().copied().map(BalancerType::to_json).collect(),
        ),
    };
    let mut answer = match path {
        [_] => list::page(call, key, items, &["name"], &["id", "name"])?,
        [_, id] => {
            let id = id.parse::<u64>().ok();
            let item = items.into_iter().find(|item| id.is_some() && item["id"].as_u64() == id);
            Answer::ok(
                json!({single: item.ok_or_else(|| ApiError::not_found(single, path.last().copied().unwrap_or_default()))?}),
            )
        }
        _ => return Err(ApiError::no_such_path(path)),
    };
    if let Some(body) = answer.body.as_mut().filter(|_| *path == ["datacenters"]) {
        body["recommendation"] = json!(LOCATIONS[0].id);
    }
    Ok(answer)
}

impl Location {
    pub(crate) fn to_json(self) -> Value {
        json!({
            "id": self.id, "name": self.name, "description": self.description, "country": self.country, "city": self.city,
            "latitude": self.latitude, "longitude": self.longitude, "network_zone": self.zone,
        })
    }

    fn datacenter(&self) -> Value {
        let ids: Vec<_> = SERVER_TYPES
            .iter()
            .filter(|offer| offer.locations.contains(&self.name))
            .map(|offer| offer.id)
            .collect();
        json!({
            "id": self.id, "name": format!("{}-dc1", self.name), "description": format!("{} 1 virtual DC", self.city), "location": self.to_json(),
            "server_types": {"supported": ids, "available": ids, "available_for_migration": ids},
        })
    }
}

impl ServerType {
    /// Returns the first location in which a server of this type can be created.
    pub(crate) fn first_location(self) -> Option<&'static str> {
        self.locations.iter().copied().find(|location| self.is_sold_in(location))
    }

    /// Returns whether a server of this type can be created in the location, unless it is sold out.
    pub(crate) fn is_sold_in(self, location: &str) -> bool {
        self.locations.contains(&location) && !self.is_retired_in(location)
    }

    fn is_retired_in(self, location: &str) -> bool {
        self.name.starts_with("cpx") && CPX_RETIRED.contains(&location)
    }

    pub(crate) fn to_json(self, sold_out: &SoldOut) -> Value {
        let dedicated = self.name.starts_with("ccx");
        let locations = LOCATIONS.iter().filter(|location| self.locations.contains(&location.name));
        let shown = |location: &Location| {
            let name = location.name;
            let deprecation = self.is_retired_in(name).then(
                || json!({"announced": "2025-10-16T06:00:00Z", "unavailable_after": "2026-01-01T06:00:00Z"}),
            );
            let available = self.is_sold_in(name) && !is_sold_out(sold_out, self, name);
            json!({"id": location.id, "name": name, "deprecation": deprecation, "available": available, "recommended": available})
        };
        let locations: Vec<_> = locations.map(shown).collect();
        json!({
            "id": self.id, "name": self.name, "description": self.name.to_uppercase(), "cores": self.cores,
            "memory": f64::from(self.memory), "disk": self.disk, "deprecated": false, "deprecation": null,
            "category": if dedicated { "General Purpose" } else { "Cost-Optimized" },
            "prices": prices(self.cents_per_month, self.locations), "storage_type": "local",
            "cpu_type": if dedicated { "dedicated" } else { "shared" }, "architecture": self.architecture, "locations": locations,
        })
    }
}

impl BalancerType {
    pub(crate) fn to_json(self) -> Value {
        json!({
            "id": self.id, "name": self.name, "description": self.name.to_uppercase(), "max_connections": self.connections,
            "max_services": self.services, "max_targets": self.targets, "max_assigned_certificates": self.certificates,
            // `deprecation` since 2026-06-05: hcloud-go v2.46.0.
            "deprecated": null, "deprecation": null, "prices": prices(self.cents_per_month, EVERYWHERE),
        })
    }
}

/// Returns the price list.
pub(crate) fn pricing() -> Value {
    let priced = |id: u64, name: &str, cents: u64, places: &[&str]| json!({"id": id, "name": name, "prices": prices(cents, places)});
    let servers: Vec<_> = SERVER_TYPES
        .iter()
        .map(|offer| priced(offer.id, offer.name, offer.cents_per_month, offer.locations))
        .collect();
    let balancers: Vec<_> = BALANCER_TYPES
        .iter()
        .map(|offer| priced(offer.id, offer.name, offer.cents_per_month, EVERYWHERE))
        .collect();
    let per_place = |cents: u64| -> Vec<Value> {
        EVERYWHERE.iter().map(|location| json!({"location": location, "price_hourly": hourly(cents), "price_monthly": price(cents * 100)})).collect()
    };
    json!({"pricing": {
        "currency": "EUR", "vat_rate": "19.00",
        "image": {"price_per_gb_month": price(110)},
        "volume": {"price_per_gb_month": price(440)},
        "floating_ip": {"price_monthly": price(30_000)},
        "floating_ips": [{"type": "ipv4", "prices": per_place(300)}, {"type": "ipv6", "prices": per_place(100)}],
        "primary_ips": [{"type": "ipv4", "prices": per_place(50)}, {"type": "ipv6", "prices": per_place(0)}],
        "server_backup": {"percentage": "20.00"},
        "server_types": servers,
        "load_balancer_types": balancers,
    }})
}

fn prices(cents_per_month: u64, locations: &[&str]) -> Vec<Value> {
    let price_at = |location: &&str| {
        json!({
            "location": location, "price_hourly": hourly(cents_per_month), "price_monthly": price(cents_per_month * 100),
            "included_traffic": 21_990_232_555_520_u64, "price_per_tb_traffic": price(10_000),
        })
    };
    locations.iter().map(price_at).collect()
}

/// Returns the price per hour. 624 hours cost as much as a month.
fn hourly(cents_per_month: u64) -> Value {
    price((cents_per_month * 100).div_ceil(624))
}

/// Returns a net price, given in ten-thousandths of a euro, and the gross price with 19 % value added tax.
fn price(net: u64) -> Value {
    let gross = net * 119;
    json!({
        "net": format!("{}.{:04}000000", net / 10_000, net % 10_000),
        "gross": format!("{}.{:06}0000000000", gross / 1_000_000, gross % 1_000_000),
    })
}
