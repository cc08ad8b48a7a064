//! Resources of a Cluster in the terms of `OpenTofu`'s provider for Hetzner: `plan --output tofu`.
//!
//! Arguments and the forms of import ids are those of the provider hetznercloud/hcloud 1.68.0:
//! <https://github.com/hetznercloud/terraform-provider-hcloud/tree/v1.68.0/docs/resources>.
//!
//! An argument that the document declares has the declared value, so that `OpenTofu` shows the same drift as
//! `plan`. Every other argument has the observed value, so that `OpenTofu` changes nothing that others have
//! set: protection, backups, labels, descriptions.
//!
//! **Invariant:** a resource without our labels is in no configuration.
//! **Invariant:** a configuration holds no key: the user data and the configuration of a machine are not in it.

mod balancer;
mod details;
mod servers;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use contract::{Cloud, Projects};
use documents::{Declared, Stream};
use opentofu::{Address, Arguments, Provider, Resource, Value};

use crate::Error;
use crate::clients::hetzner::Scope;
use crate::labels::{self, Labels};
use crate::observe::Observation;
use crate::plan::{Family, Kind, ObservedResource, ResourceSpec, Rule, SharedResource};
use crate::session::Session;
use crate::spec::Cluster;
use details::details;

const SUBNET: &str = "hcloud_network_subnet";
const SNAPSHOT: &str = "hcloud_snapshot";

/// URL of Hetzner's API, which the provider takes without an argument.
const ENDPOINT: &str = "https://api.hetzner.cloud/v1";

/// Returns the type of the resource of `kind`.
fn kind_of(kind: Kind) -> &'static str {
    match kind {
        Kind::PlacementGroup => "hcloud_placement_group",
        Kind::Network => "hcloud_network",
        Kind::Firewall => "hcloud_firewall",
        Kind::PrimaryIp => "hcloud_primary_ip",
        Kind::LoadBalancer => "hcloud_load_balancer",
    }
}

/// Reports documents of a second Project: a configuration has one provider with one token.
pub(crate) fn validate(stream: &mut Stream, declared: &[Declared<Cluster>]) {
    let Some(first) = declared.first() else { return };
    for other in declared.iter().filter(|other| other.spec.project != first.spec.project) {
        let message = "a configuration of OpenTofu has the Clusters of one Project: run `plan` for each \
                       Project alone";
        stream.invalid(other, "/spec/project", message);
    }
}

/// Returns the provider for the cloud of the documents. It reads its token from `HCLOUD_TOKEN`.
pub(crate) fn provider(projects: &Projects, declared: &[Declared<Cluster>]) -> Provider {
    let project = declared.first().and_then(|cluster| projects.get(&cluster.spec.project).ok());
    let cloud = project.and_then(|project| project.spec.endpoints.cloud.as_ref());
    let url = cloud.map(|Cloud::Hetzner { url, .. }| url.as_str());
    provider_at(url.filter(|url| url.trim_end_matches('/') != ENDPOINT))
}

fn provider_at(url: Option<&str>) -> Provider {
    Provider {
        name: "hcloud",
        source: "hetznercloud/hcloud",
        version: "~> 1.68",
        arguments: url.map(|url| ("endpoint", url.into())).into_iter().collect(),
    }
}

/// Returns the resources of the Cluster.
pub(crate) fn resources(session: &Session<'_>, now: &Observation) -> Result<Vec<Resource>, Error> {
    let scope = Scope { project: session.project.name.to_string(), cluster: session.name().into() };
    World { scope: &scope, zone: &session.spec().network.zone, now }.resources()
}

/// Everything from which the resources of a Cluster are computed.
struct World<'a> {
    scope: &'a Scope,
    /// Declared network zone.
    zone: &'a str,
    now: &'a Observation,
}

/// A shared resource that is declared, that exists, or both.
struct Shared<'a> {
    name: &'a str,
    declared: Option<&'a ResourceSpec>,
    found: Option<&'a ObservedResource>,
}

impl World<'_> {
    fn resources(&self) -> Result<Vec<Resource>, Error> {
        let mut resources = Vec::new();
        for resource in self.shared() {
            let declared = self.now.desired.resources.get(resource);
            let found = self.now.actual.resources.get(resource);
            let shared = Shared { name: &resource.name, declared, found };
            resources.extend(match resource.kind {
                Kind::PlacementGroup => vec![self.group(&shared)],
                Kind::Network => self.network(&shared)?,
                Kind::Firewall => vec![self.firewall(&shared)?],
                Kind::PrimaryIp => self.primary_ip(&shared)?.into_iter().collect(),
                Kind::LoadBalancer => balancer::resources(self, &shared)?,
            });
        }
        resources.extend(self.snapshots()?);
        resources.extend(servers::resources(self)?);
        Ok(resources)
    }

    /// Returns the shared resources that are declared or ours, without those that others have created.
    fn shared(&self) -> BTreeSet<&SharedResource> {
        let actual = &self.now.actual.resources;
        let ours = actual.iter().filter(|(_, found)| found.ours).map(|(resource, _)| resource);
        let is_free =
            |resource: &&SharedResource| actual.get(*resource).is_none_or(|found| found.ours);
        self.now.desired.resources.keys().filter(is_free).chain(ours).collect()
    }

    /// Returns the address of our only resource of this kind, or of the one that is planned.
    fn address(&self, kind: Kind) -> Option<Address> {
        let resource = self.shared().into_iter().find(|resource| resource.kind == kind)?;
        Some(Address::new(kind_of(kind), &resource.name))
    }

    /// Returns a value for the id of a shared resource: a reference if the resource is ours.
    fn id(&self, kind: Kind, id: u64) -> Value {
        let actual = self.now.actual.resources.iter();
        let mut ours = actual.filter(|(_, found)| found.ours);
        let ours = ours.find(|(resource, found)| resource.kind == kind && found.id == id);
        ours.map_or(Value::Number(id), |(resource, _)| {
            Address::new(kind_of(kind), &resource.name).id()
        })
    }

    /// Returns the subnets that an attachment to our network needs.
    fn subnets(&self) -> Vec<Address> {
        let mut subnets = Vec::new();
        for (resource, spec) in &self.now.desired.resources {
            if let ResourceSpec::Network { nodes, .. } = spec {
                subnets.extend(nodes.iter().map(|range| subnet(&resource.name, range)));
            }
        }
        subnets
    }

    fn details<T: serde::de::DeserializeOwned>(
        &self,
        kind: Kind,
        found: Option<&ObservedResource>,
    ) -> Result<Option<T>, Error> {
        let found = found.map(|found| details(&self.now.cloud, Family::Shared(kind), found.id));
        found.transpose()
    }

    /// Returns the arguments that most resources have: the name, and the labels, which prove that the
    /// resource is ours.
    fn named(&self, shared: &Shared<'_>) -> Arguments {
        let labels = match shared.found {
            Some(found) => labels::not_destroying(&found.labels),
            // Without the record about etcd: a network without it counts as one whose etcd was started.
            None => self.scope.labels(),
        };
        vec![("name", shared.name.into()), ("labels", label_map(&labels))]
    }

    fn group(&self, shared: &Shared<'_>) -> Resource {
        let mut arguments = self.named(shared);
        arguments.push(("type", "spread".into()));
        shared.resource(Kind::PlacementGroup, arguments)
    }

    fn network(&self, shared: &Shared<'_>) -> Result<Vec<Resource>, Error> {
        let found: Option<details::Network> = self.details(Kind::Network, shared.found)?;
        let spec = shared.found.map(|found| &found.spec).or(shared.declared);
        let Some(ResourceSpec::Network { range, nodes }) = spec else { return Ok(Vec::new()) };
        let mut arguments = self.named(shared);
        arguments.push(("ip_range", range.into()));
        if let Some(found) = &found {
            let is_exposed = found.expose_routes_to_vswitch;
            arguments.push(("delete_protection", found.protection.delete.into()));
            arguments.push(("expose_routes_to_vswitch", is_exposed.into()));
        }
        let network = shared.resource(Kind::Network, arguments);
        // Subnets that others have added to our network are not ours.
        let declared = match shared.declared {
            Some(ResourceSpec::Network { nodes, .. }) => nodes,
            _ => nodes,
        };
        let subnets = declared.iter().map(|range| {
            let is_it = |subnet: &&details::Subnet| subnet.ip_range.as_ref() == Some(range);
            let mut subnets = found.iter().flat_map(|found| &found.subnets);
            let there = subnets.find(is_it);
            let (kind, zone) = there.map_or(("cloud", self.zone), |subnet| {
                (subnet.r#type.as_str(), subnet.network_zone.as_str())
            });
            let id = shared.found.filter(|_| there.is_some());
            Resource::new(
                subnet(shared.name, range),
                id.map(|found| format!("{}-{range}", found.id)),
                vec![
                    ("network_id", network.address.id()),
                    ("type", kind.into()),
                    ("network_zone", zone.into()),
                    ("ip_range", range.into()),
                ],
            )
        });
        let subnets: Vec<_> = subnets.collect();
        Ok([network].into_iter().chain(subnets).collect())
    }

    fn firewall(&self, shared: &Shared<'_>) -> Result<Resource, Error> {
        let found: Option<details::Firewall> = self.details(Kind::Firewall, shared.found)?;
        let found = found.map(|found| found.rules).unwrap_or_default();
        let mut arguments = self.named(shared);
        let rules: Vec<_> = match shared.declared {
            Some(ResourceSpec::Firewall(declared)) => {
                declared.iter().map(|rule| described(rule, &found)).collect()
            }
            _ => found,
        };
        if !rules.is_empty() {
            arguments.push(("rule", rules.iter().map(firewall_rule).collect()));
        }
        Ok(shared.resource(Kind::Firewall, arguments))
    }

    /// Returns the Primary IP of the load balancer if it exists. One that does not exist is left out, because
    /// the provider has no argument that assigns a Primary IP to a load balancer.
    fn primary_ip(&self, shared: &Shared<'_>) -> Result<Option<Resource>, Error> {
        let Some(found) = shared.found else { return Ok(None) };
        let details: details::PrimaryIp =
            details(&self.now.cloud, Family::Shared(Kind::PrimaryIp), found.id)?;
        let spec = shared.declared.unwrap_or(&found.spec);
        let mut arguments = self.named(shared);
        arguments.push(("type", details.r#type.into()));
        arguments.extend(found.location.as_ref().map(|location| ("location", location.into())));
        if let ResourceSpec::PrimaryIp { auto_delete } = spec {
            arguments.push(("auto_delete", (*auto_delete).into()));
        }
        arguments.push(("delete_protection", details.protection.delete.into()));
        Ok(Some(shared.resource(Kind::PrimaryIp, arguments)))
    }

    /// Returns our images. The provider requires the server from which a snapshot was created.
    fn snapshots(&self) -> Result<Vec<Resource>, Error> {
        let mut snapshots = Vec::new();
        for (id, image) in &self.now.actual.images.ours {
            let details: details::Image = details(&self.now.cloud, Family::Images, *id)?;
            let (true, Some(server)) = (image.is_available, &details.created_from) else {
                continue;
            };
            let mut arguments = vec![("server_id", server.id.into())];
            arguments.extend(details.description.map(|text| ("description", text.into())));
            arguments.push(("labels", label_map(&details.labels)));
            snapshots.push(Resource::new(self.snapshot(*id), Some(id.to_string()), arguments));
        }
        Ok(snapshots)
    }

    /// Returns the address of one of our images.
    fn snapshot(&self, id: u64) -> Address {
        Address::new(SNAPSHOT, format!("{}-image-{id}", self.scope.cluster))
    }
}

impl Shared<'_> {
    fn resource(&self, kind: Kind, arguments: Arguments) -> Resource {
        let id = self.found.map(|found| found.id.to_string());
        Resource::new(Address::new(kind_of(kind), self.name), id, arguments)
    }
}

fn subnet(network: &str, range: &str) -> Address {
    Address::new(SUBNET, format!("{network}-{range}"))
}

fn label_map(labels: &Labels) -> Value {
    Value::Map(labels.iter().map(|(key, value)| (key.clone(), value.into())).collect())
}

/// Returns a declared rule, with the description that it has in the cloud.
fn described(rule: &Rule, found: &[details::FirewallRule]) -> details::FirewallRule {
    let is_it = |other: &&details::FirewallRule| {
        let mut sources = other.source_ips.clone();
        sources.sort();
        let other = (&*other.direction, &other.protocol, &other.port, &sources);
        other == ("in", &rule.protocol, &rule.port, &rule.sources)
    };
    details::FirewallRule {
        direction: "in".to_owned(),
        protocol: rule.protocol.clone(),
        port: rule.port.clone(),
        source_ips: rule.sources.clone(),
        destination_ips: Vec::new(),
        description: found.iter().find(is_it).and_then(|other| other.description.clone()),
    }
}

fn firewall_rule(rule: &details::FirewallRule) -> Value {
    let mut arguments: Arguments =
        vec![("direction", (&rule.direction).into()), ("protocol", (&rule.protocol).into())];
    arguments.extend(rule.port.as_ref().map(|port| ("port", port.into())));
    for (name, subnets) in
        [("source_ips", &rule.source_ips), ("destination_ips", &rule.destination_ips)]
    {
        if !subnets.is_empty() {
            arguments.push((name, subnets.iter().collect()));
        }
    }
    arguments.extend(rule.description.as_ref().map(|text| ("description", text.into())));
    Value::block(arguments)
}
