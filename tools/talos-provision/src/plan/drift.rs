//! Changes that others made to what we made, and the steps that repair them.
//!
//! | drift | seen in | repaired by |
//! |---|---|---|
//! | firewall rules | firewall | `update` |
//! | subnet removed, label of a `destroy` that was given up | network | `update` |
//! | load balancer detached, not public, other services or targets | load balancer | `update` |
//! | labels | server | `setLabels` |
//! | detached from the network | server | `attachNetwork` |
//! | firewall detached | server | `attachFirewall` |
//! | placement group lost | server | `joinGroup`, which needs the server to be off |
//! | powered off | server | `powerOn` |
//!
//! A server whose `attach_to_network` or `start_server` action failed while it was created shows the
//! same drift, so the next run repairs it.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Balancer, Kind, Machine, ObservedResource, Power, ResourceSpec, Server, SharedResource, Step,
    Wanted, World,
};
use crate::labels;

/// Part of a shared resource that differs from the declared state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// The rules of the firewall differ.
    Rules,
    /// The network has no subnet for the machines.
    Subnet,
    /// The load balancer is not attached to the network.
    Network,
    /// The load balancer does not answer at its public address.
    PublicInterface,
    /// The load balancer forwards other ports.
    Services,
    /// The load balancer forwards to other servers.
    Targets,
    /// The network carries the label of a `destroy` that did not finish.
    Labels,
}

impl Change {
    /// Returns the name for people, for example `public interface`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Subnet => "subnet",
            Self::Network => "network",
            Self::PublicInterface => "public interface",
            Self::Services => "services",
            Self::Targets => "targets",
            Self::Labels => "labels",
        }
    }
}

/// Returns the parts of `found` that `apply` changes, so that they equal `spec`. Differences that
/// no API call can change are conflicts instead.
pub(super) fn changes(spec: &ResourceSpec, found: &ObservedResource, world: &World) -> Vec<Change> {
    match (spec, &found.spec) {
        (ResourceSpec::Firewall(declared), ResourceSpec::Firewall(rules)) if rules != declared => {
            vec![Change::Rules]
        }
        (ResourceSpec::Network { .. }, ResourceSpec::Network { nodes, .. }) => {
            let changes = [
                (nodes.is_empty(), Change::Subnet),
                (labels::is_destroying(&found.labels), Change::Labels),
            ];
            changes.into_iter().filter(|(differs, _)| *differs).map(|(_, change)| change).collect()
        }
        (ResourceSpec::LoadBalancer(declared), ResourceSpec::LoadBalancer(balancer)) => {
            balancer_changes(declared, balancer, found, world)
        }
        _ => Vec::new(),
    }
}

fn balancer_changes(
    declared: &Balancer,
    balancer: &Balancer,
    found: &ObservedResource,
    world: &World,
) -> Vec<Change> {
    let attached = world.id(Kind::Network).is_some_and(|id| found.networks.contains(&id));
    let changes = [
        (!attached, Change::Network),
        (balancer.public != declared.public, Change::PublicInterface),
        (balancer.services != declared.services, Change::Services),
        (balancer.targets != declared.targets, Change::Targets),
    ];
    changes.into_iter().filter(|(differs, _)| *differs).map(|(_, change)| change).collect()
}

/// Returns the steps that restore a declared server of ours to its original state.
pub(super) fn repairs(
    (name, machine): (&str, &Machine),
    server: &Server,
    wanted: &Wanted,
    world: &World,
) -> Vec<Step> {
    let (id, named) = (server.id, || name.to_owned());
    let lacks = |ids: &std::collections::BTreeSet<u64>, kind| {
        let declared = wanted.resources.keys().any(|resource| resource.kind == kind);
        declared && world.id(kind).is_none_or(|id| !ids.contains(&id))
    };
    let group = world.resources.get(&machine.group).map(|found| found.id);
    let mut steps = Vec::new();
    if machine.relabel(&server.labels) != server.labels {
        steps.push(Step::SetLabels { name: named(), id });
    }
    if lacks(&server.networks, Kind::Network) {
        steps.push(Step::AttachNetwork { name: named(), id });
    }
    if lacks(&server.firewalls, Kind::Firewall) {
        steps.push(Step::AttachFirewall { name: named(), id });
    }
    let grouped = wanted.resources.contains_key(&machine.group);
    let lost = grouped && (group.is_none() || server.group != group);
    if lost && server.power != Power::Changing {
        // https://docs.hetzner.cloud/reference/cloud#server-actions-add-to-a-placement-group:
        // "Server must be powered off for this command to succeed."
        let restarts = server.power == Power::On;
        steps.push(Step::JoinGroup { name: named(), id, restarts });
    }
    if server.power == Power::Off {
        steps.push(Step::PowerOn { name: named(), id });
    }
    steps
}

impl World {
    /// Returns the id of our only resource of this kind.
    pub(crate) fn id(&self, kind: Kind) -> Option<u64> {
        let ours = |(resource, found): &(&SharedResource, &ObservedResource)| {
            resource.kind == kind && found.ours
        };
        self.resources.iter().find(ours).map(|(_, found)| found.id)
    }
}
