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
use std::sync::{Arc, OnceLock};

use contract::labels::{CLUSTER, PROJECT, REMOVING, ROLE};
use secrets::Secret;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;
use crate::labels::Labels;
use crate::money::Money;
use crate::plan::{
    Balancer, BalancerService, Family, Images, Kind, Node, ObservedResource, Power, ResourceSpec,
    Rule, Server, SharedResource, Target, TargetSelector,
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
    /// Returns the labels of every resource of the cluster.
    pub(crate) fn labels(&self) -> Labels {
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

    fn owns_item(&self, item: &Value) -> bool {
        self.owns(&serde_json::from_value(item["labels"].clone()).unwrap_or_default())
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
    /// Available snapshots of Talos that a person made.
    pub(crate) images_by_hand: Vec<model::Image>,
    /// Whether all servers of the cloud project were listed, so that `images.used_by_others` is complete.
    pub(crate) has_all_servers: bool,
    /// Ids of the load balancers in our network, among them those of a cloud controller.
    pub(crate) attached_balancers: BTreeSet<u64>,
    /// Our resources as the API describes them, by id. `plan --output tofu` needs fields that no plan
    /// compares.
    pub(crate) details: BTreeMap<(Family, u64), Arc<Value>>,
}

impl CloudState {
    /// Replaces the details of a family by those of our resources among `items`.
    fn keep_details(&mut self, scope: &Scope, family: Family, items: &[Value]) {
        self.details.retain(|(other, _), _| *other != family);
        for item in items.iter().filter(|item| scope.owns_item(item)) {
            if let Some(id) = item["id"].as_u64() {
                self.details.insert((family, id), Arc::new(item.clone()));
            }
        }
    }
}

/// Declared names. Resources of others with these names are observed, too.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeclaredNames {
    pub(crate) resources: BTreeSet<SharedResource>,
    pub(crate) servers: BTreeSet<String>,
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

    /// Lists one family anew in `cloud`: the resources that carry our labels, and with `names` the
    /// resources of others that have a declared name.
    pub(crate) fn refresh(
        &self,
        cloud: &mut CloudState,
        family: Family,
        names: Option<&DeclaredNames>,
    ) -> Result<(), Error> {
        match family {
            Family::Servers => self.refresh_servers(cloud, names),
            Family::Shared(kind) => self.refresh_resources(cloud, kind, names),
            Family::Images => self.refresh_images(cloud),
        }
    }

    fn refresh_servers(
        &self,
        cloud: &mut CloudState,
        names: Option<&DeclaredNames>,
    ) -> Result<(), Error> {
        let items = self.list_owned("servers", names.is_some())?;
        cloud.keep_details(&self.scope, Family::Servers, &items);
        cloud.leaving.clear();
        cloud.servers.clear();
        cloud.images.builders.clear();
        cloud.images.used_by_others.clear();
        cloud.has_all_servers = names.is_some();
        for server in parse_items::<model::Server>(items)? {
            let is_ours = self.scope.owns(&server.labels);
            if !is_ours {
                cloud.images.used_by_others.extend(server.image.as_ref().map(|image| image.id));
                if names.is_none_or(|names| !names.servers.contains(&server.name)) {
                    continue;
                }
            }
            if server.status == "deleting" {
                cloud.leaving.insert(server.id);
                continue;
            }
            if let Some(builder) = image::as_builder(&server).filter(|_| is_ours) {
                cloud.images.builders.insert(server.id, builder);
                continue;
            }
            let (name, server) = self.server(server)?;
            cloud.servers.insert(name, server);
        }
        Ok(())
    }

    fn refresh_resources(
        &self,
        cloud: &mut CloudState,
        kind: Kind,
        names: Option<&DeclaredNames>,
    ) -> Result<(), Error> {
        let mut items = self.list_owned(family(kind), names.is_some())?;
        let is_declared = |name: &str| {
            let name = name.to_owned();
            names.is_some_and(|names| names.resources.contains(&SharedResource { kind, name }))
        };
        items.retain(|item| {
            self.scope.owns_item(item) || item["name"].as_str().is_some_and(is_declared)
        });
        cloud.keep_details(&self.scope, Family::Shared(kind), &items);
        if kind == Kind::Network {
            let ours = items.iter().filter(|item| self.scope.owns_item(item));
            let ids = ours.filter_map(|item| item["load_balancers"].as_array()).flatten();
            cloud.attached_balancers = ids.filter_map(Value::as_u64).collect();
        }
        cloud.resources.retain(|resource, _| resource.kind != kind);
        for (name, found) in self.resources(kind, items)? {
            cloud.resources.insert(SharedResource { kind, name }, found);
        }
        Ok(())
    }

    fn resources(
        &self,
        kind: Kind,
        items: Vec<Value>,
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
                let items: Vec<model::PlacementGroup> = parse_items(items)?;
                let item = |group: model::PlacementGroup| {
                    (group.name, found(group.id, &group.labels, ResourceSpec::PlacementGroup))
                };
                items.into_iter().map(item).collect()
            }
            Kind::Network => {
                let items: Vec<model::Network> = parse_items(items)?;
                let item = |network: model::Network| {
                    let nodes =
                        network.subnets.into_iter().filter_map(|subnet| subnet.ip_range).collect();
                    let spec = ResourceSpec::Network { range: network.ip_range, nodes };
                    (network.name, found(network.id, &network.labels, spec))
                };
                items.into_iter().map(item).collect()
            }
            Kind::Firewall => {
                let items: Vec<model::Firewall> = parse_items(items)?;
                let item = |firewall: model::Firewall| {
                    let spec = ResourceSpec::Firewall(rules(firewall.rules));
                    (firewall.name, found(firewall.id, &firewall.labels, spec))
                };
                items.into_iter().map(item).collect()
            }
            Kind::PrimaryIp => {
                let items: Vec<model::PrimaryIp> = parse_items(items)?;
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
                let items: Vec<model::LoadBalancer> = parse_items(items)?;
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

    /// Lists the resources that carry our labels; or all of them, which takes one request for all declared
    /// names, and not one for each.
    fn list_owned(&self, family: &str, has_foreign: bool) -> Result<Vec<Value>, Error> {
        let selector = self.scope.selector();
        self.list(family, (!has_foreign).then_some(("label_selector", selector.as_str())))
    }

    /// Lists a family, page by page. Only parameters that the API describes for the family are sent.
    fn list(&self, family: &str, filter: Option<(&str, &str)>) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        self.each_page(family, family, filter, |page| {
            items.extend(page);
            true
        })?;
        Ok(items)
    }

    /// Calls `read` with each page of the list `field` at `path`, until `read` returns `false`.
    fn each_page(
        &self,
        path: &str,
        field: &str,
        filter: Option<(&str, &str)>,
        mut read: impl FnMut(Vec<Value>) -> bool,
    ) -> Result<(), Error> {
        for page in 1..=PAGES_MAX {
            let number = page.to_string();
            let page = [("page", number.as_str()), ("per_page", PAGE_ITEMS)];
            let query: Vec<_> = filter.into_iter().chain(page).collect();
            let mut answer = self.http.get(&format!("/{path}"), &query)?;
            let is_enough = match answer.get_mut(field).map(Value::take).unwrap_or_default() {
                Value::Array(items) => !read(items),
                _ => return Err(Error::Unexpected { what: format!("no list of {path}") }),
            };
            if is_enough || answer["meta"]["pagination"]["next_page"].is_null() {
                return Ok(());
            }
        }
        Err(Error::Unexpected { what: format!("more than {PAGES_MAX} pages of {path}") })
    }

    /// Returns those of `servers` that exist, with one request for up to 50 of them.
    pub(crate) fn still_leaving(&self, servers: &BTreeSet<u64>) -> Result<BTreeSet<u64>, Error> {
        let all = self.list("servers", None)?;
        let ids = all.iter().filter_map(|server| server["id"].as_u64());
        Ok(ids.filter(|id| servers.contains(id)).collect())
    }

    /// Returns whether the token's project contains a snapshot with this id. Images of other types
    /// prove nothing, because every project shows the vendor's own images.
    pub(crate) fn has_snapshot(&self, id: u64) -> Result<bool, Error> {
        let found = self.has("images", id)?;
        Ok(found.is_some_and(|image| image["type"] == "snapshot"))
    }

    /// Returns whether the token's project lists an action on one of `servers`, which may be deleted.
    ///
    /// A token sees the actions of its own project alone, and ids of servers are unique in the whole
    /// cloud. `delete_server` can be asked for after its server is gone, because it succeeds then
    /// (<https://docs.hetzner.cloud/reference/cloud#server-actions-list-actions>).
    pub(crate) fn has_acted_on(&self, servers: &BTreeSet<u64>) -> Result<bool, Error> {
        let is_one = |resource: &Value| {
            resource["type"] == "server"
                && resource["id"].as_u64().is_some_and(|id| servers.contains(&id))
        };
        // The newest come first, because the last run of `destroy` is the likely one.
        let mut is_found = false;
        self.each_page("servers/actions", "actions", Some(("sort", "id:desc")), |actions| {
            let resources = actions.iter().filter_map(|action| action["resources"].as_array());
            is_found = resources.flatten().any(is_one);
            !is_found
        })?;
        Ok(is_found)
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
