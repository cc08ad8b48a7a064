use serde_json::{Value, json};

use super::*;
use crate::money::Money;

const PAST: &str = "2026-01-01T06:00:00Z";
const FUTURE: &str = "2999-01-01T06:00:00Z";

fn price(location: &str) -> Value {
    json!({"location": location, "price_hourly": {"net": "0.0048000000"}, "price_monthly": {"net": "3.0000000000"}})
}

/// Returns a server type with its locations, each with availability and the end of its offer.
fn server_type(name: &str, disk: u32, offers: &[(&str, bool, Option<&str>)]) -> Value {
    let locations: Vec<_> = offers
        .iter()
        .map(|(name, available, end)| {
            let end = end.map(|end| json!({"announced": PAST, "unavailable_after": end}));
            json!({"name": name, "available": available, "deprecation": end})
        })
        .collect();
    let prices: Vec<_> = offers.iter().map(|(name, ..)| price(name)).collect();
    json!({
        "name": name, "architecture": "x86", "cores": 2, "memory": 4.0, "disk": disk,
        "prices": prices, "locations": locations,
    })
}

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the form of the API")
}

fn offers(image_gb: u32, balancer_end: Option<&str>) -> Offers {
    let location = |name: &str, zone: &str| json!({"name": name, "network_zone": zone});
    let end = balancer_end.map(|end| json!({"announced": PAST, "unavailable_after": end}));
    Offers {
        types: parse(json!([
            server_type("cx23", 40, &[("fsn1", true, None), ("nbg1", false, None)]),
            server_type("cx33", 80, &[("fsn1", false, None), ("nbg1", false, None)]),
            server_type("old", 80, &[("fsn1", false, Some(PAST)), ("nbg1", true, Some(FUTURE))]),
            server_type("gone", 80, &[("fsn1", false, Some(PAST))]),
            server_type("us", 80, &[("ash", true, None)]),
        ])),
        locations: parse(json!([
            location("fsn1", "eu-central"),
            location("nbg1", "eu-central"),
            location("ash", "us-east"),
        ])),
        balancers: parse(json!([
            {"name": "lb21", "prices": [price("nbg1"), price("fsn1")], "deprecation": end},
            {"name": "lb11", "prices": [price("fsn1")], "deprecation": end},
        ])),
        images: parse(json!([{
            "id": 1, "status": "available", "architecture": "x86", "disk_size": image_gb,
            "created": PAST,
        }])),
    }
}

fn pricing() -> Pricing {
    parse(json!({
        "currency": "USD", "volume": {"price_per_gb_month": {"net": "0.0440"}},
        "primary_ips": [{"type": "ipv4", "prices": [price("fsn1")]}],
    }))
}

fn cluster(zone: &str, r#type: &str, locations: &[&str]) -> Cluster {
    parse(json!({
        "project": "p", "talos": "v1.13.9", "kubernetes": "v1.36.3",
        "certificates": {"notBefore": "2026-11-01"},
        "network": {"zone": zone},
        "pools": [
            {"name": "c", "role": "controlplane", "count": 1, "type": "cx23", "locations": ["fsn1"]},
            {"name": "w", "role": "worker", "count": 1, "type": r#type, "locations": locations},
        ],
    }))
}

fn found(cluster: &Cluster, offers: &Offers) -> (Mistakes, Vec<String>) {
    let pools = ["c".to_owned(), "w".to_owned()].into();
    let creation = Creation { pools: &pools, has_balancer: true };
    mistakes(cluster, creation, (offers, &pricing()))
}

// hazard: A document is accepted, and `apply` fails after the first machine, on every run.
// class: The program accepts what the vendor does not offer today.
// members: unknown location, unknown type, another zone, a withdrawn type, a type that is sold out, a small disk
// now: every mistake is found before anything is created, each at its own field
#[test]
fn a_document_that_the_vendor_cannot_fulfil_is_a_mistake_at_its_field() {
    let pool = "/spec/pools/1";
    for (zone, r#type, locations, path, message) in [
        (
            "eu-central",
            "cx23",
            vec!["fsn1", "fsn9"],
            "/locations/1",
            "unknown location: zone eu-central has fsn1, nbg1",
        ),
        (
            "eu-central",
            "cx23",
            vec!["ash", "fsn1"],
            "/locations/0",
            "ash is in the network zone us-east",
        ),
        (
            "eu-central",
            "cx24",
            vec!["fsn1"],
            "/type",
            "unknown server type: in fsn1 Hetzner offers cx23 (2 cores, 4 GB)",
        ),
        (
            "eu-central",
            "us",
            vec!["fsn1"],
            "/type",
            "us is not offered in fsn1: in fsn1 Hetzner offers cx23",
        ),
        ("eu-central", "gone", vec!["fsn1"], "/type", "gone is not offered in fsn1"),
        (
            "eu-central",
            "old",
            vec!["nbg1", "fsn1"],
            "/locations/1",
            "old is not offered in fsn1, only in nbg1",
        ),
        (
            "eu-central",
            "cx33",
            vec!["fsn1", "nbg1"],
            "/type",
            "cx33 is sold out today in fsn1, nbg1",
        ),
        ("eu-central", "cx23", vec!["nbg1"], "/type", "cx23 is sold out today in nbg1"),
    ] {
        let (mistakes, _) = found(&cluster(zone, r#type, &locations), &offers(10, None));
        let [(at, text)] = mistakes.as_slice() else { panic!("{type}: {mistakes:?}") };
        assert_eq!(*at, format!("{pool}{path}"), "{text}");
        assert!(text.starts_with(message), "{text}");
    }
    let (mistakes, _) = found(&cluster("eu-west", "cx23", &["fsn1"]), &offers(10, None));
    let zones = "no network zone of Hetzner: declare one of eu-central, us-east";
    assert_eq!(mistakes, [("/spec/network/zone".to_owned(), zones.to_owned())]);
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let (mistakes, _) = found(&cluster("eu-central", "cx33", &["fsn9", "ash"]), &offers(41, None));
    let paths: Vec<_> = mistakes.iter().map(|(path, _)| path.as_str()).collect();
    let pool = "/spec/pools/1/locations";
    assert_eq!(paths, ["/spec/pools/0/type", &format!("{pool}/0"), &format!("{pool}/1")]);
    assert!(mistakes[0].1.contains("the disk of cx23 has 40 GB"), "{mistakes:?}");
    assert!(mistakes[0].1.contains("needs 41 GB"), "{mistakes:?}");
}

#[test]
fn an_offer_that_is_short_or_ends_later_is_a_hint_and_no_mistake() {
    let hints = |r#type, locations: &[&str]| {
        let (mistakes, hints) = found(&cluster("eu-central", r#type, locations), &offers(10, None));
        assert_eq!(mistakes, [], "{type}");
        hints
    };
    assert_eq!(hints("cx23", &["fsn1"]), [""; 0]);
    assert_eq!(hints("cx23", &["fsn1", "nbg1"]), ["pool w: cx23 is sold out in nbg1 today"]);
    let end = format!("pool w: no old can be created in nbg1 after {FUTURE}");
    assert_eq!(hints("old", &["nbg1"]), [end]);
}

#[test]
fn pools_without_a_new_machine_are_not_validated() {
    let pools = ["c".to_owned()].into();
    let creation = Creation { pools: &pools, has_balancer: false };
    let cluster = cluster("eu-central", "gone", &["fsn9"]);
    let (offers, pricing) = (offers(10, Some(PAST)), pricing());
    assert_eq!(mistakes(&cluster, creation, (&offers, &pricing)).0, []);
}

#[test]
fn the_cheapest_load_balancer_that_is_offered_in_a_location_is_chosen() {
    let (offered, pricing) = (offers(10, None), pricing());
    let name =
        |location| offered.balancer(&pricing, location).map(|(offer, _)| offer.name.as_str());
    assert_eq!(name("fsn1"), Some("lb11"));
    assert_eq!(name("nbg1"), Some("lb21"), "the small type has no price there");
    assert_eq!(name("ash"), None);
    let (mistakes, _) = found(&cluster("eu-central", "cx23", &["fsn1"]), &offers(10, Some(PAST)));
    let [(path, message)] = mistakes.as_slice() else { panic!("{mistakes:?}") };
    assert_eq!(path, "/spec/pools");
    assert!(message.starts_with("no load balancer is offered in fsn1"), "{message}");
}

#[test]
fn a_price_of_another_location_is_not_taken() {
    let pricing = pricing();
    assert_eq!(pricing.ipv4("fsn1").map(Money::with_currency), Some("3.00 USD".to_owned()));
    assert_eq!(pricing.ipv4("nbg1"), None);
    let volume = pricing.volume(10).map(Money::with_currency);
    assert_eq!(volume, Some("0.44 USD".to_owned()));
}
