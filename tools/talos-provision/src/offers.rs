//! Validation of a document against the offers of the cloud today.
//!
//! A server type is offered, deprecated and sold out for each location apart, since 2025-09-24
//! (<https://docs.hetzner.cloud/changelog#2025-09-24-per-location-server-types>).

use std::collections::BTreeSet;

use crate::clients::hetzner::Offers;
use crate::clients::hetzner::model::{Deprecation, Offer, Pricing, ServerType};
use crate::desired;
use crate::spec::{Cluster, Pool};

/// JSON pointers, each with a message.
type Mistakes = Vec<(String, String)>;

/// Resources that a plan is about to create.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Creation<'a> {
    /// Names of the pools that get a new machine. Other pools are not validated, so that a type that is
    /// no longer offered does not block unrelated changes.
    pub(crate) pools: &'a BTreeSet<String>,
    /// Whether the load balancer is created.
    pub(crate) has_balancer: bool,
}

/// Returns the mistakes of the document, and hints for people that stop nothing.
pub(crate) fn mistakes(
    spec: &Cluster,
    creation: Creation<'_>,
    (offers, pricing): (&Offers, &Pricing),
) -> (Mistakes, Vec<String>) {
    let (mut mistakes, mut hints) = (Vec::new(), Vec::new());
    let zone = &spec.network.zone;
    let in_zone: Vec<_> = offers
        .locations
        .iter()
        .filter(|location| location.network_zone == *zone)
        .map(|location| location.name.as_str())
        .collect();
    if in_zone.is_empty() {
        let zones: BTreeSet<_> =
            offers.locations.iter().map(|location| location.network_zone.as_str()).collect();
        let zones = zones.into_iter().collect::<Vec<_>>().join(", ");
        let message = format!("no network zone of Hetzner: declare one of {zones}");
        return (vec![("/spec/network/zone".to_owned(), message)], hints);
    }
    let created = spec
        .pools
        .iter()
        .enumerate()
        .filter(|(_, pool)| creation.pools.contains(pool.name.as_str()));
    for (index, pool) in created {
        let path = |field: &str| format!("/spec/pools/{index}/{field}");
        let mut known = Vec::new();
        for (number, location) in pool.locations.iter().enumerate() {
            let found = offers.locations.iter().find(|offer| offer.name == *location);
            let message = match found {
                None => format!("unknown location: zone {zone} has {}", in_zone.join(", ")),
                Some(offer) if offer.network_zone != *zone => format!(
                    "{location} is in the network zone {}, and the machines' network is in {zone}, \
                     which has {}",
                    offer.network_zone,
                    in_zone.join(", ")
                ),
                Some(_) => {
                    known.push((number, location.as_str()));
                    continue;
                }
            };
            mistakes.push((path(&format!("locations/{number}")), message));
        }
        let Some(offer) = offers.server_type(&pool.r#type) else {
            let others = others(offers, &known);
            mistakes.push((path("type"), format!("unknown server type: {others}")));
            continue;
        };
        let (wrong, more) = of_type((index, pool), offer, &known, offers);
        mistakes.extend(wrong);
        hints.extend(more);
        if spec.image.is_none() {
            mistakes.extend(image(&path("type"), offer, offers));
        }
    }
    let candidates = desired::balancer_locations(spec);
    let is_offered = candidates.iter().any(|location| offers.balancer(pricing, location).is_some());
    if mistakes.is_empty() && creation.has_balancer && !is_offered {
        let message = format!(
            "no load balancer is offered in {}: declare another location, or an `endpoint` that \
             leads to the machines",
            candidates.join(", ")
        );
        mistakes.push(("/spec/pools".to_owned(), message));
    }
    (mistakes, hints)
}

/// Returns the mistakes of a known server type in known locations.
fn of_type(
    (index, pool): (usize, &Pool),
    server_type: &ServerType,
    known: &[(usize, &str)],
    offers: &Offers,
) -> (Mistakes, Vec<String>) {
    let offer_in =
        |location: &str| server_type.locations.iter().find(|offer| offer.name == location);
    let is_withdrawn =
        |offer: &Offer| offer.deprecation.as_ref().is_some_and(Deprecation::has_passed);
    let is_sold = |location: &str| offer_in(location).is_some_and(|offer| !is_withdrawn(offer));
    let sold: Vec<_> = known.iter().filter(|(_, location)| is_sold(location)).collect();
    let name = &server_type.name;
    if sold.is_empty() {
        if known.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let places: Vec<_> = known.iter().map(|(_, location)| *location).collect();
        let message =
            format!("{name} is not offered in {}: {}", places.join(", "), others(offers, known));
        return (vec![(format!("/spec/pools/{index}/type"), message)], Vec::new());
    }
    let (mut mistakes, mut hints) = (Vec::new(), Vec::new());
    for (number, location) in known {
        let Some(offer) = offer_in(location).filter(|offer| !is_withdrawn(offer)) else {
            let places: Vec<_> = server_type
                .locations
                .iter()
                .filter(|offer| !is_withdrawn(offer))
                .map(|offer| offer.name.as_str())
                .collect();
            let message = format!(
                "{name} is not offered in {location}, only in {}: remove the location, or declare \
                 another type",
                places.join(", ")
            );
            mistakes.push((format!("/spec/pools/{index}/locations/{number}"), message));
            continue;
        };
        if let Some(end) = &offer.deprecation {
            hints.push(format!(
                "pool {}: no {name} can be created in {location} after {}",
                pool.name, end.unavailable_after
            ));
        }
        if !offer.available {
            hints.push(format!("pool {}: {name} is sold out in {location} today", pool.name));
        }
    }
    let is_available = |location: &str| offer_in(location).is_some_and(|offer| offer.available);
    if !sold.iter().any(|(_, location)| is_available(location)) {
        let places: Vec<_> = sold.iter().map(|(_, location)| *location).collect();
        let message = format!(
            "{name} is sold out today in {}: declare another location or another type, or run the \
             same command later; {}",
            places.join(", "),
            others(offers, known)
        );
        mistakes.push((format!("/spec/pools/{index}/type"), message));
    }
    (mistakes, hints)
}

/// Returns the server types that can be created now in one of the locations, for people.
fn others(offers: &Offers, locations: &[(usize, &str)]) -> String {
    let is_there = |offer: &&ServerType| {
        let there = offer.locations.iter().filter(|offer| offer.available);
        there.into_iter().any(|offer| locations.iter().any(|(_, name)| *name == offer.name))
    };
    let types = offers.types.iter().filter(is_there);
    let types: Vec<_> = types
        .map(|offer| format!("{} ({} cores, {} GB)", offer.name, offer.cores, offer.memory))
        .collect();
    let places: Vec<_> = locations.iter().map(|(_, location)| *location).collect();
    let places = places.join(", ");
    match types.as_slice() {
        [] => format!("nothing is offered in {places}"),
        types => format!("in {places} Hetzner offers {}", types.join(", ")),
    }
}

/// Returns the mistake of a type whose disk is smaller than every image of its architecture. A type
/// without any image of its architecture is no mistake of the document.
fn image(path: &str, server_type: &ServerType, offers: &Offers) -> Option<(String, String)> {
    let sizes = offers.images.iter().filter(|image| image.architecture == server_type.architecture);
    let smallest = sizes.map(|image| image.disk_size).min_by(f64::total_cmp)?;
    (smallest > server_type.disk).then(|| {
        let message = format!(
            "the disk of {} has {} GB, and the image of Talos needs {smallest} GB: declare a type \
             with a larger disk, or `image: {{}}`, so that `apply` creates an image that fits",
            server_type.name, server_type.disk
        );
        (path.to_owned(), message)
    })
}

#[cfg(test)]
mod tests;
