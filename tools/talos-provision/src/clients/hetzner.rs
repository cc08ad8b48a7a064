//! Hetzner Cloud: a reader and a writer, so that code that plans cannot write.
//!
//! **Invariant:** every resource that this program creates carries the labels of [`Scope`]. A
//! resource without these labels is neither changed nor removed.

pub(crate) mod error;
mod http;
mod image;
mod model;
mod repair;
mod writer;

use std::collections::{BTreeMap, BTreeSet};

use contract::labels::{CLUSTER, PROJECT, REMOVING, ROLE};
use secrets::Secret;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;
use crate::labels::Labels;
use crate::money::Money;
use crate::plan::{
    Balancer, BalancerService, DesiredState, Images, Kind, Machine, Need, Node, ObservedResource,
    Power, ResourceSpec, Rule, Server, SharedResource, Target, TargetSelector,
};
use crate::spec::Role;
use http::Http;
pub(crate) use image::ImageOrder;
pub(crate) use writer::{Placement, Writer};

/// Items of a page; 50 is the API's maximum.
const PAGE_ITEMS: &str = "50";
/// Most pages that one list may have.
const PAGES_MAX: u32 = 100;
/// Type of a load balancer that this program creates.
const BALANCER_TYPE: &str = "lb11";

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

/// Resource that another program created for the cluster, and that outlives the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leftover {
    family: &'static str,
    id: u64,
}

/// Images and monthly prices of what has to be created.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    /// Ids of images that a person made, by server type. Empty if the document declares an image.
    pub(crate) images: BTreeMap<String, u64>,
    /// Architectures of the server types of new machines. Empty unless the document declares an image.
    pub(crate) architectures: BTreeMap<String, String>,
    /// Needs for images, by architecture.
    needs: BTreeMap<String, Need>,
    /// Prices of machines, by name.
    machines: BTreeMap<String, Money>,
    /// Prices of shared resources. Only load balancers are billed.
    resources: BTreeMap<SharedResource, Money>,
}

impl Catalog {
    /// Returns whether all lookups for the creation of `servers` and of the shared resources of
    /// `wanted` were made.
    pub(crate) fn covers(&self, wanted: &DesiredState, servers: &BTreeSet<String>) -> bool {
        let is_billed = |resource: &&SharedResource| resource.kind == Kind::LoadBalancer;
        servers.iter().all(|name| self.machines.contains_key(name))
            && wanted.resources.keys().filter(is_billed).all(|key| self.resources.contains_key(key))
    }

    /// Adds the prices to `wanted`.
    pub(crate) fn add_prices(&self, wanted: &mut DesiredState) {
        for (name, machine) in &mut wanted.machines {
            machine.monthly = self.machines.get(name).copied();
        }
        wanted.prices.clone_from(&self.resources);
        if let Some(image) = &mut wanted.image {
            image.needs.clone_from(&self.needs);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Reader {
    http: Http,
    scope: Scope,
}

impl Reader {
    pub(crate) fn new(url: &str, token: Secret, scope: Scope) -> Result<Self, Error> {
        Ok(Self { http: Http::new(url, token)?, scope })
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
            let (name, server) = self.server(server);
            cloud.servers.insert(name, server);
        }
        for kind in [Kind::PlacementGroup, Kind::Network, Kind::Firewall, Kind::LoadBalancer] {
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
            Kind::LoadBalancer => {
                let items: Vec<model::LoadBalancer> = self.owned(family(kind), names)?;
                let item = |balancer: model::LoadBalancer| {
                    let monthly =
                        model::price(&balancer.load_balancer_type.prices, &balancer.location.name);
                    let networks = balancer.private_net.iter().map(|net| net.network).collect();
                    let spec = ResourceSpec::LoadBalancer(Balancer {
                        public: balancer.public_net.enabled,
                        services: balancer.services.into_iter().map(forward).collect(),
                        targets: balancer.targets.into_iter().filter_map(target).collect(),
                    });
                    let address = balancer.public_net.ipv4.and_then(|address| address.ip);
                    let found = found(balancer.id, &balancer.labels, spec);
                    (balancer.name, ObservedResource { networks, address, monthly, ..found })
                };
                items.into_iter().map(item).collect()
            }
        })
    }

    fn server(&self, shown: model::Server) -> (String, Server) {
        let role = match shown.labels.get(ROLE).map(String::as_str) {
            Some("controlplane") => Some(Role::Controlplane),
            Some("worker") => Some(Role::Worker),
            _ => None,
        };
        let server = Server {
            id: shown.id,
            ours: self.scope.owns(&shown.labels),
            role,
            monthly: model::price(&shown.server_type.prices, shown.place()),
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
        (shown.name, server)
    }

    /// Lists the resources that carry our labels. Resources that have one of `names` without our
    /// labels are appended.
    fn owned<T: DeserializeOwned>(
        &self,
        family: &str,
        names: &BTreeSet<String>,
    ) -> Result<Vec<T>, Error> {
        let mut items = self.list(family, ("label_selector", &self.scope.selector()))?;
        for name in names {
            if !items.iter().any(|item| item["name"] == **name) {
                items.extend(self.list(family, ("name", name))?);
            }
        }
        parse_items(items)
    }

    fn list(&self, family: &str, filter: (&str, &str)) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        for page in 1..=PAGES_MAX {
            let number = page.to_string();
            let query = [filter, ("page", &number), ("per_page", PAGE_ITEMS)];
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

    /// Looks up the images and prices for the machines in `servers`, and the prices of the shared
    /// resources of `wanted`.
    pub(crate) fn catalog(
        &self,
        wanted: &DesiredState,
        servers: &BTreeSet<String>,
    ) -> Result<Catalog, Error> {
        let none = ("sort", "id");
        let types: Vec<model::ServerType> = parse_items(self.list("server_types", none)?)?;
        let mut catalog = Catalog::default();
        for (name, machine) in wanted.machines.iter().filter(|(name, _)| servers.contains(*name)) {
            let r#type = find_server_type(&types, machine)?;
            let location = machine.locations.first().map_or("", String::as_str);
            catalog.machines.insert(name.clone(), model::price(&r#type.prices, location));
            if wanted.image.is_none() && !catalog.images.contains_key(&machine.r#type) {
                let image = self.image_made_by_hand(machine, r#type)?;
                catalog.images.insert(machine.r#type.clone(), image);
            }
        }
        self.add_needs(&mut catalog, wanted, servers, &types)?;
        let mut resources = wanted.resources.keys();
        if let Some(balancer) = resources.find(|resource| resource.kind == Kind::LoadBalancer) {
            let types: Vec<model::BalancerType> =
                parse_items(self.list("load_balancer_types", none)?)?;
            let location =
                wanted.machines.values().next().and_then(|machine| machine.locations.first());
            let offer = types.iter().find(|offer| offer.name == BALANCER_TYPE);
            let price =
                offer.map(|offer| model::price(&offer.prices, location.map_or("", String::as_str)));
            catalog.resources.insert(balancer.clone(), price.unwrap_or_default());
        }
        Ok(catalog)
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

    /// Lists resources that other programs created in our network or attached to our servers: load
    /// balancers of a cloud controller, and volumes of a storage driver. They outlive the cluster
    /// and are billed.
    pub(crate) fn leftovers(&self, cloud: &CloudState) -> Result<Vec<Leftover>, Error> {
        let ours: BTreeSet<u64> = cloud
            .resources
            .values()
            .filter(|resource| resource.ours)
            .map(|resource| resource.id)
            .collect();
        let mut leftovers = Vec::new();
        for (resource, found) in cloud.resources.iter().filter(|(_, found)| found.ours) {
            if resource.kind != Kind::Network {
                continue;
            }
            let Some(network) = self.has("networks", found.id)? else { continue };
            let balancers = network["load_balancers"].as_array().into_iter().flatten();
            let balancers = balancers.filter_map(Value::as_u64).filter(|id| !ours.contains(id));
            leftovers.extend(balancers.map(|id| Leftover { family: "load_balancers", id }));
        }
        let servers = cloud.servers.values().filter(|server| server.ours);
        let volumes = servers.flat_map(|server| server.volumes.iter().copied());
        leftovers.extend(volumes.map(|id| Leftover { family: "volumes", id }));
        Ok(leftovers)
    }

    /// Describes those of `leftovers` that still exist, for people.
    pub(crate) fn describe(&self, leftovers: &[Leftover]) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for Leftover { family, id } in leftovers {
            if let Some(found) = self.has(family, *id)? {
                let name = found["name"].as_str().unwrap_or_default();
                let kind = family.trim_end_matches('s').replace('_', " ");
                names.push(format!("{kind} {name} ({id})"));
            }
        }
        Ok(names)
    }
}

/// Returns the declared server type, if the cloud offers it in any of the declared locations.
fn find_server_type<'a>(
    types: &'a [model::ServerType],
    machine: &Machine,
) -> Result<&'a model::ServerType, Error> {
    let there = |offer: &&model::ServerType| {
        machine
            .locations
            .iter()
            .any(|place| offer.prices.iter().any(|price| price.location == *place))
    };
    let found = types.iter().filter(there).find(|offer| offer.name == machine.r#type);
    found.ok_or_else(|| {
        let others = types.iter().filter(there);
        let others = others
            .map(|offer| format!("{} ({} cores, {} GB)", offer.name, offer.cores, offer.memory));
        Error::UnknownType {
            name: machine.r#type.clone(),
            place: machine.locations.join(", "),
            others: others.collect::<Vec<_>>().join(", "),
        }
    })
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
