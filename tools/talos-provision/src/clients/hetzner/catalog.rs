//! Offers of the cloud today, and what a plan needs of them: images and prices.

use std::collections::{BTreeMap, BTreeSet};

use super::image::{is_of_version, need};
use super::model::{BalancerType, Deprecation, Image, Location, Pricing, ServerType};
use super::{Reader, parse_items};
use crate::Error;
use crate::money::Money;
use crate::plan::{DesiredState, Kind, Need, SharedResource};

/// Offers of the cloud today.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offers {
    pub(crate) types: Vec<ServerType>,
    pub(crate) locations: Vec<Location>,
    pub(crate) balancers: Vec<BalancerType>,
    /// Images of the declared Talos version that a person made and that can be used.
    pub(crate) images: Vec<Image>,
}

impl Offers {
    pub(crate) fn server_type(&self, name: &str) -> Option<&ServerType> {
        self.types.iter().find(|offer| offer.name == name)
    }

    /// Returns the newest image that fits on the disk of `server_type`.
    pub(crate) fn image(&self, server_type: &ServerType) -> Option<&Image> {
        let fits = |image: &&Image| {
            image.architecture == server_type.architecture && image.disk_size <= server_type.disk
        };
        self.images.iter().filter(fits).max_by_key(|image| (&image.created, image.id))
    }

    /// Returns the cheapest load balancer type that is offered in `location`, with its price. Prices are the
    /// only record of the locations that the API gives for these types.
    pub(crate) fn balancer(
        &self,
        pricing: &Pricing,
        location: &str,
    ) -> Option<(&BalancerType, Money)> {
        let is_withdrawn =
            |offer: &BalancerType| offer.deprecation.as_ref().is_some_and(Deprecation::has_passed);
        let offered = self.balancers.iter().filter(|offer| !is_withdrawn(offer));
        let priced =
            offered.filter_map(|offer| Some((offer, pricing.monthly(&offer.prices, location)?)));
        priced.min_by_key(|(offer, price)| (price.millionths(), offer.name.clone()))
    }
}

/// Images, types and monthly prices of what has to be created.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    /// Ids of images that a person made, by server type. Empty if the document declares an image.
    pub(crate) images: BTreeMap<String, u64>,
    /// Architectures of the server types of new machines. Empty unless the document declares an image.
    pub(crate) architectures: BTreeMap<String, String>,
    /// Needs for images, by architecture.
    needs: BTreeMap<String, Need>,
    /// Locations for the load balancer in the order in which they are tried, each with the type of the
    /// load balancer there.
    pub(crate) balancers: Vec<(String, String)>,
    /// Prices of machines, by name. `None` if the price list has none.
    machines: BTreeMap<String, Option<Money>>,
    /// Prices of shared resources that are billed.
    resources: BTreeMap<SharedResource, Option<Money>>,
}

impl Catalog {
    /// Looks up images and prices in `offers` for the machines in `servers` and for the shared resources
    /// of `desired`. `locations` are those in which a load balancer may be.
    pub(crate) fn new(
        (offers, pricing): (&Offers, &Pricing),
        desired: &DesiredState,
        servers: &BTreeSet<String>,
        locations: &[String],
    ) -> Result<Self, Error> {
        let mut catalog = Self::default();
        for (name, machine) in desired.machines.iter().filter(|(name, _)| servers.contains(*name)) {
            let Some(offer) = offers.server_type(&machine.r#type) else { continue };
            let location = machine.locations.first().map_or("", String::as_str);
            let (price, ipv4) = (pricing.monthly(&offer.prices, location), pricing.ipv4(location));
            catalog.machines.insert(name.clone(), price.zip(ipv4).map(|(price, ip)| price + ip));
            let (r#type, architecture) = (machine.r#type.clone(), offer.architecture.clone());
            if desired.image.is_some() {
                catalog.architectures.insert(r#type, architecture);
                continue;
            }
            let version = machine.talos.clone();
            let image = offers.image(offer).ok_or(Error::NoImage { version, architecture })?;
            catalog.images.insert(r#type, image.id);
        }
        for architecture in catalog.architectures.values() {
            let need = need(desired, architecture, &offers.types, pricing.image_gigabyte());
            catalog.needs.insert(architecture.clone(), need);
        }
        let balancers = locations.iter().filter_map(|location| {
            let (offer, _) = offers.balancer(pricing, location)?;
            Some((location.clone(), offer.name.clone()))
        });
        catalog.balancers = balancers.collect();
        let location = catalog.balancers.first().map_or("", |(location, _)| location);
        for resource in desired.resources.keys() {
            let price = match resource.kind {
                Kind::PrimaryIp => pricing.ipv4(location),
                Kind::LoadBalancer => offers.balancer(pricing, location).map(|(_, price)| price),
                Kind::PlacementGroup | Kind::Network | Kind::Firewall => continue,
            };
            catalog.resources.insert(resource.clone(), price);
        }
        Ok(catalog)
    }

    /// Returns whether all lookups for the creation of `servers` and of the shared resources of
    /// `desired` were made.
    pub(crate) fn covers(&self, desired: &DesiredState, servers: &BTreeSet<String>) -> bool {
        let is_billed = |resource: &&SharedResource| {
            matches!(resource.kind, Kind::PrimaryIp | Kind::LoadBalancer)
        };
        servers.iter().all(|name| self.machines.contains_key(name))
            && desired
                .resources
                .keys()
                .filter(is_billed)
                .all(|key| self.resources.contains_key(key))
    }

    /// Adds the prices to `desired`.
    pub(crate) fn add_prices(&self, desired: &mut DesiredState) {
        for (name, machine) in &mut desired.machines {
            machine.monthly = self.machines.get(name).copied().flatten();
        }
        let known = |(resource, price): (&SharedResource, &Option<Money>)| {
            Some((resource.clone(), (*price)?))
        };
        desired.prices = self.resources.iter().filter_map(known).collect();
        if let Some(image) = &mut desired.image {
            image.needs.clone_from(&self.needs);
        }
    }
}

impl Reader {
    /// Returns the price list, which is read once.
    pub(crate) fn pricing(&self) -> Result<&Pricing, Error> {
        if let Some(pricing) = self.pricing.get() {
            return Ok(pricing);
        }
        let mut answer = self.http.get("/pricing", &[])?;
        let mut lists: Vec<Pricing> = parse_items(vec![answer["pricing"].take()])?;
        let list = lists.pop().filter(|list| list.currency().is_some());
        let list = list.ok_or_else(|| Error::Unexpected { what: "no currency".to_owned() })?;
        Ok(self.pricing.get_or_init(|| list))
    }

    /// Reads the offers of today. `images` are the snapshots that a person made, of which those of Talos
    /// `version` are offered.
    pub(crate) fn offers(&self, version: &str, images: &[Image]) -> Result<Offers, Error> {
        let images = images.iter().filter(|image| is_of_version(image, version)).cloned().collect();
        Ok(Offers {
            types: parse_items(self.list("server_types", None)?)?,
            locations: parse_items(self.list("locations", None)?)?,
            balancers: parse_items(self.list("load_balancer_types", None)?)?,
            images,
        })
    }
}
