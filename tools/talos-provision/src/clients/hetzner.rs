//! Hetzner Cloud: a reader and a writer, so that code that plans cannot write.
//!
//! **Invariant:** every resource that this program creates carries the labels of [`Scope`]. A
//! resource without these labels is neither changed nor removed.

mod catalog;
mod http;
mod image;
mod leftovers;
pub(crate) mod model;
mod repair;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use contract::labels::{CLUSTER, PROJECT, REMOVING, ROLE};
use secrets::Secret;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;
use crate::labels::Labels;
use crate::money::Money;
use crate::plan::{
    Balancer, BalancerService, Images, Kind, Node, ObservedResource, Power, ResourceSpec, Rule,
    Server, SharedResource, Target, TargetSelector,
};
use crate::spec::Role;
pub(crate) use catalog::{Catalog, Offers};
use http::Http;
pub(crate) use image::ImageOrder;
pub(crate) use leftovers::Leftover;
use model::Pricing;
pub(crate) use writer::{Placement, SharedPlacement, Writer};

/// Items of a page; 50 is the API's maximum.
const PAGE_ITEMS: &str = "50";
/// Most pages that one list may have.
const PAGES_MAX: u32 = 100;

/// Project and cluster to which resources belong.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    /// Name of the Project document.
    pub(crate) project: String,
    /// Name of the Cluster document.
    pub(crate) cluster: String,
}

impl Scope {
    fn labels(&self) -> Labels {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        [label(PROJECT, &self.project), label(CLUSTER, &self.cluster)].into()
    }

    fn selector(&self) -> String {
        format!("{PROJECT}={},{CLUSTER}={}", self.project, self.cluster)
    }

    /// Returns the label selector by which the load balancer finds its targets.
    pub(crate) fn control_planes(&self) -> String {
        format!("{},{ROLE}={},!{REMOVING}", self.selector(), Role::Controlplane.as_str())
    }

    fn owns(&self, labels: &Labels) -> bool {
        self.labels().iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// Resources of a cluster as the cloud shows them.
#[derive(Clone, Debug, Default)]
pub(crate) struct CloudState {
    pub(crate) resources: BTreeMap<SharedResource, ObservedResource>,
    pub(crate) servers: BTreeMap<String, Server>,
    /// Ids of servers that are being deleted. The API accepts no change of such a server, but its
    /// name stays taken until it is gone.
    pub(crate) leaving: BTreeSet<u64>,
    pub(crate) images: Images,
}

#[derive(Debug)]
pub(crate) struct Reader {
    http: Http,
    scope: Scope,
    /// Price list, which is read once.
    pricing: OnceLock<Pricing>,
}

impl Reader {
    pub(crate) fn new(url: &str, token: Secret, scope: Scope) -> Result<Self, Error> {
        Ok(Self { http: Http::new(url, token)?, scope, pricing: OnceLock::new() })
    }

    /// Lists the resources that carry our labels, and the resources of others that have a declared
    /// name.
    pub(crate) fn observe(
        &self,
        resources: &BTreeSet<SharedResource>,
        servers: &BTreeSet<String>,
    ) -> Result<CloudState, Error> {
        let mut cloud = CloudState::default();
        for server in self.owned::<model::Server>("servers", servers)? {
            if server.status == "deleting" {
                cloud.leaving.insert(server.id);
                continue;
            }
            if let Some(builder) =
                image::as_builder(&server).filter(|_| self.scope.owns(&server.labels))
            {
                cloud.images.builders.insert(server.id, builder);
                continue;
            }
            let (name, server) = self.server(server)?;
            cloud.servers.insert(name, server);
        }
        for kind in Kind::ALL {
            let names = resources
                .iter()
                .filter(|resource| resource.kind == kind)
                .map(|resource| resource.name.clone());
            for (name, found) in self.resources(kind, &names.collect())? {
                cloud.resources.insert(SharedResource { kind, name }, found);
            }
        }
        cloud.images.ours = self.own_images()?;
        Ok(cloud)
    }

    fn resources(
        &self,
        kind: Kind,
        names: &BTreeSet<String>,
    ) -> Result<Vec<(String, ObservedResource)>, Error> {
        let found = |id, labels: &Labels, spec| ObservedResource {
            id,
            ours: self.scope.owns(labels),
            labels: labels.clone(),
            spec,
            networks: BTreeSet::new(),
            address: None,
            location: None,
            monthly: Money::default(),
        };
        Ok(match kind {
            Kind::PlacementGroup => {
                let items: Vec<model::PlacementGroup> = self.owned(family(kind), names)?;
                let item = |group: model::PlacementGroup| {
                    (group.name, found(group.id, &group.labels, ResourceSpec::PlacementGroup))
                };
                items.into_iter().map(item).collect()
            }
            Kind::Network => {
                let items: Vec<model::Network> = self.owned(family(kind), names)?;
                let item = |network: model::Network| {
                    let nodes =
                        network.subnets.into_iter().filter_map(|subnet| subnet.ip_range).collect();
                    let spec = ResourceSpec::Network { range: network.ip_range, nodes };
                    (network.name, found(network.id, &network.labels, spec))
                };
                items.into_iter().map(item).collect()
            }
            Kind::Firewall => {
                let items: Vec<model::Firewall> = self.owned(family(kind), names)?;
                let item = |firewall: model::Firewall| {
                    let spec = ResourceSpec::Firewall(rules(firewall.rules));
                    (firewall.name, found(firewall.id, &firewall.labels, spec))
                };
                items.into_iter().map(item).collect()
            }
            Kind::PrimaryIp => {
                let items: Vec<model::PrimaryIp> = self.owned(family(kind), names)?;
                let item = |ip: model::PrimaryIp| {
                    let spec = ResourceSpec::PrimaryIp { auto_delete: ip.auto_delete };
                    let monthly = self.pricing()?.ipv4(&ip.location.name).unwrap_or_default();
                    let (address, location) = (Some(ip.ip), Some(ip.location.name));
                    let found = found(ip.id, &ip.labels, spec);
                    Ok((ip.name, ObservedResource { address, location, monthly, ..found }))
                };
                items.into_iter().map(item).collect::<Result<_, Error>>()?
            }
            Kind::LoadBalancer => {
                let items: Vec<model::LoadBalancer> = self.owned(family(kind), names)?;
                let item = |balancer: model::LoadBalancer| {
                    let (prices, location) =
                        (&balancer.load_balancer_type.prices, balancer.location.name);
                    let monthly = self.pricing()?.monthly(prices, &location).unwrap_or_default();
                    let networks = balancer.private_net.iter().map(|net| net.network).collect();
                    let spec = ResourceSpec::LoadBalancer(Balancer {
                        public: balancer.public_net.enabled,
                        services: balancer.services.into_iter().map(forward).collect(),
                        targets: balancer.targets.into_iter().filter_map(target).collect(),
                    });
                    let address = balancer.public_net.ipv4.and_then(|address| address.ip);
                    let location = Some(location);
                    let found = found(balancer.id, &balancer.labels, spec);
                    let found = ObservedResource { networks, address, location, monthly, ..found };
                    Ok((balancer.name, found))
                };
                items.into_iter().map(item).collect::<Result<_, Error>>()?
            }
        })
    }

    fn server(&self, shown: model::Server) -> Result<(String, Server), Error> {
        let role = match shown.labels.get(ROLE).map(String::as_str) {
            Some("controlplane") => Some(Role::Controlplane),
            Some("worker") => Some(Role::Worker),
            _ => None,
        };
        let (pricing, place) = (self.pricing()?, shown.place());
        let price = pricing.monthly(&shown.server_type.prices, place).unwrap_or_default();
        let ipv4 = shown.public_net.ipv4.as_ref().and_then(|_| pricing.ipv4(place));
        let server = Server {
            id: shown.id,
            ours: self.scope.owns(&shown.labels),
            role,
            monthly: price + ipv4.unwrap_or_default(),
            location: shown.place().to_owned(),
            r#type: shown.server_type.name,
            address: shown.public_net.ipv4.and_then(|address| address.ip),
            power: match shown.status.as_str() {
                "running" => Power::On,
                "off" => Power::Off,
                _ => Power::Changing,
            },
            labels: shown.labels,
            networks: shown.private_net.iter().map(|net| net.network).collect(),
            firewalls: shown.public_net.firewalls.iter().map(|wall| wall.id).collect(),
            group: shown.placement_group.map(|group| group.id),
            image: shown.image.map(|image| image.id),
            volumes: shown.volumes,
            node: Node::Unreachable { why: "not asked".to_owned() },
        };
        Ok((shown.name, server))
    }

    /// Lists the resources that carry our labels. If `names` are given, resources that have one of these
    /// names are listed as well. That takes one request for all names, and not one for each.
    fn owned<T: DeserializeOwned>(
        &self,
        family: &str,
        names: &BTreeSet<String>,
    ) -> Result<Vec<T>, Error> {
        if names.is_empty() {
            return parse_items(
                self.list(family, Some(("label_selector", &self.scope.selector())))?,
            );
        }
        let mut items = self.list(family, None)?;
        items.retain(|item| {
            let labels = serde_json::from_value(item["labels"].clone()).unwrap_or_default();
            let is_named = item["name"].as_str().is_some_and(|name| names.contains(name));
            is_named || self.scope.owns(&labels)
        });
        parse_items(items)
    }

    /// Lists a family, page by page. Only parameters that the API describes for the family are sent.
    fn list(&self, family: &str, filter: Option<(&str, &str)>) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        for page in 1..=PAGES_MAX {
            let number = page.to_string();
            let page = [("page", number.as_str()), ("per_page", PAGE_ITEMS)];
            let query: Vec<_> = filter.into_iter().chain(page).collect();
            let mut answer = self.http.get(&format!("/{family}"), &query)?;
            match answer.get_mut(family).map(Value::take).unwrap_or_default() {
                Value::Array(more) => items.extend(more),
                _ => return Err(Error::Unexpected { what: format!("no list of {family}") }),
            }
            if answer["meta"]["pagination"]["next_page"].is_null() {
                return Ok(items);
            }
        }
        Err(Error::Unexpected { what: format!("more than {PAGES_MAX} pages of {family}") })
    }

    /// Returns those of `servers` that exist.
    pub(crate) fn still_leaving(&self, servers: &BTreeSet<u64>) -> Result<BTreeSet<u64>, Error> {
        let mut left = BTreeSet::new();
        for server in servers {
            if self.has("servers", *server)?.is_some() {
                left.insert(*server);
            }
        }
        Ok(left)
    }

    /// Returns whether the token's project contains a snapshot with this id. Images of other types
    /// prove nothing, because every project shows the vendor's own images.
    pub(crate) fn has_snapshot(&self, id: u64) -> Result<bool, Error> {
        let found = self.has("images", id)?;
        Ok(found.is_some_and(|image| image["type"] == "snapshot"))
    }

    /// Returns one resource, or `None` if the API answers `not_found`.
    fn has(&self, family: &str, id: u64) -> Result<Option<Value>, Error> {
        match self.http.get(&format!("/{family}/{id}"), &[]) {
            Ok(mut answer) => Ok(answer
                .as_object_mut()
                .and_then(|fields| fields.values_mut().next())
                .map(Value::take)),
            Err(Error::Api(error)) if error.code == "not_found" => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn forward(service: model::Service) -> BalancerService {
    BalancerService {
        protocol: service.protocol,
        listen: service.listen_port,
        to: service.destination_port,
        proxy: service.proxyprotocol,
        check: (service.health_check.protocol, service.health_check.port),
    }
}

fn target(target: model::Target) -> Option<Target> {
    let by_labels = target.label_selector.map(|labels| TargetSelector::Labels(labels.selector));
    let by_id = target.server.map(|server| TargetSelector::Server(server.id));
    let by_address = target.ip.map(|address| TargetSelector::Address(address.ip));
    let servers = by_labels.or(by_id).or(by_address)?;
    Some(Target { servers, private: target.use_private_ip })
}

/// Returns the path segment of the API for `kind`.
fn family(kind: Kind) -> &'static str {
    match kind {
        Kind::PlacementGroup => "placement_groups",
        Kind::Network => "networks",
        Kind::Firewall => "firewalls",
        Kind::PrimaryIp => "primary_ips",
        Kind::LoadBalancer => "load_balancers",
    }
}

fn rules(rules: Vec<model::FirewallRule>) -> Vec<Rule> {
    let rule = |rule: model::FirewallRule| {
        // An outbound rule never equals a declared rule, because its protocol begins with its direction.
        let protocol = match rule.direction.as_str() {
            "in" => rule.protocol,
            direction => format!("{direction} {}", rule.protocol),
        };
        let mut sources = rule.source_ips;
        sources.sort();
        Rule { protocol, port: rule.port, sources }
    };
    let mut rules: Vec<_> = rules.into_iter().map(rule).collect();
    rules.sort();
    rules
}

fn parse_items<T: DeserializeOwned>(items: Vec<Value>) -> Result<Vec<T>, Error> {
    let typed = items.into_iter().map(serde_json::from_value).collect::<Result<_, _>>();
    typed.map_err(|error| Error::InvalidResponse { what: "the cloud", source: error.into() })
}
