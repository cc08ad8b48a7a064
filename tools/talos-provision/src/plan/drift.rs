//! Changes that others made to what we made, and the steps that repair them.
//!
//! | drift | seen in | repaired by |
//! |---|---|---|
//! | firewall rules | firewall | `update` |
//! | subnet removed, label of a `destroy` that was given up | network | `update` |
//! | load balancer detached, not public, other services or targets | load balancer | `update` |
//! | Primary IP would be deleted with its load balancer | Primary IP | `update` |
//! | load balancer deleted | load balancer | `create`, with the same Primary IP |
//! | labels | server | `setLabels` |
//! | detached from the network | server | `attachNetwork` |
//! | firewall detached | server | `attachFirewall` |
//! | placement group lost | server | `joinGroup`, which needs the server to be off |
//! | powered off | server | `powerOn` |
//!
//! A server whose `attach_to_network` or `start_server` action failed while it was created shows the
//! same drift, so the next run repairs it.

use std::collections::BTreeSet;

use crate::change::{Change, Part, listed};
use crate::labels::{self, Labels};
use crate::model::{
    ActualState, Balancer, BalancerService, DesiredState, Kind, Machine, ObservedResource, Power,
    ResourceSpec, Rule, Server, SharedResource, Target, TargetSelector,
};
use crate::step::Step;

/// Returns the parts of `found` that `apply` changes, so that they equal `spec`. Differences that
/// no API call can change are conflicts instead.
pub(super) fn changes(
    spec: &ResourceSpec,
    found: &ObservedResource,
    actual: &ActualState,
) -> Vec<Change> {
    match (spec, &found.spec) {
        (ResourceSpec::Firewall(declared), ResourceSpec::Firewall(rules)) if rules != declared => {
            let set = |rules: &[Rule]| rules.iter().cloned().collect::<BTreeSet<_>>();
            let change = Part::Rules.change_of_set(&set(rules), &set(declared), rule_text);
            // The lists may differ in repeated rules only.
            vec![change.unwrap_or_else(|| Part::Rules.change("repeated rules", "each rule once"))]
        }
        (ResourceSpec::Network { nodes: declared, .. }, ResourceSpec::Network { nodes, .. }) => {
            let subnet = nodes.is_empty().then(|| Part::Subnet.change("none", listed(declared)));
            let label = labels::destroyed_label(&found.labels);
            let label = label.map(|label| Part::Labels.change(label, "none"));
            subnet.into_iter().chain(label).collect()
        }
        (
            ResourceSpec::PrimaryIp { auto_delete: declared },
            ResourceSpec::PrimaryIp { auto_delete },
        ) if auto_delete != declared => {
            vec![Part::AutoDelete.change(auto_delete.to_string(), declared.to_string())]
        }
        (ResourceSpec::LoadBalancer(declared), ResourceSpec::LoadBalancer(balancer)) => {
            balancer_changes(declared, balancer, found, actual)
        }
        _ => Vec::new(),
    }
}

fn balancer_changes(
    declared: &Balancer,
    balancer: &Balancer,
    found: &ObservedResource,
    actual: &ActualState,
) -> Vec<Change> {
    let attached = actual.id(Kind::Network).is_some_and(|id| found.networks.contains(&id));
    let network = (!attached).then(|| Part::Network.change("not attached", "attached"));
    let on = |is_public: bool| if is_public { "on" } else { "off" };
    let public = (balancer.public != declared.public)
        .then(|| Part::PublicInterface.change(on(balancer.public), on(declared.public)));
    let services =
        Part::Services.change_of_set(&balancer.services, &declared.services, service_text);
    let targets = Part::Targets.change_of_set(&balancer.targets, &declared.targets, target_text);
    [network, public, services, targets].into_iter().flatten().collect()
}

fn rule_text(rule: &Rule) -> String {
    let port = rule.port.as_ref().map_or_else(String::new, |port| format!(" {port}"));
    format!("{}{port} from {}", rule.protocol, rule.sources.join(" and "))
}

fn service_text(service: &BalancerService) -> String {
    let (protocol, port) = &service.check;
    let proxy = if service.proxy { " with the PROXY protocol" } else { "" };
    format!(
        "{} {} to {}{proxy}, checked by {protocol} {port}",
        service.protocol, service.listen, service.to
    )
}

fn target_text(target: &Target) -> String {
    let servers = match &target.servers {
        TargetSelector::Labels(labels) => labels.clone(),
        TargetSelector::Server(id) => format!("server {id}"),
        TargetSelector::Address(address) => address.clone(),
    };
    let address = if target.private { "private" } else { "public" };
    format!("{servers} at {address} addresses")
}

/// Returns the labels that only `found` or only `declared` has, each as one text.
fn label_difference(found: &Labels, declared: &Labels) -> (String, String) {
    let text = |labels: &Labels, others: &Labels| {
        let differs = |(key, value): &(&String, &String)| others.get(*key) != Some(*value);
        let labels = labels.iter().filter(differs).map(|(key, value)| format!("{key}={value}"));
        listed(&labels.collect::<Vec<_>>())
    };
    (text(found, declared), text(declared, found))
}

/// Returns the steps that restore a declared server of ours to its original state.
pub(super) fn repairs(
    (name, machine): (&str, &Machine),
    server: &Server,
    desired: &DesiredState,
    actual: &ActualState,
) -> Vec<Step> {
    let (id, named) = (server.id, || name.to_owned());
    let lacks = |ids: &BTreeSet<u64>, kind| {
        let declared = desired.resources.keys().any(|resource| resource.kind == kind);
        declared && actual.id(kind).is_none_or(|id| !ids.contains(&id))
    };
    let group = actual.resources.get(&machine.group).map(|found| found.id);
    let mut steps = Vec::new();
    let declared = machine.relabel(&server.labels);
    if declared != server.labels {
        let (from, to) = label_difference(&server.labels, &declared);
        steps.push(Step::SetLabels { name: named(), id, from, to });
    }
    if lacks(&server.networks, Kind::Network) {
        steps.push(Step::AttachNetwork { name: named(), id });
    }
    if lacks(&server.firewalls, Kind::Firewall) {
        steps.push(Step::AttachFirewall { name: named(), id });
    }
    let grouped = desired.resources.contains_key(&machine.group);
    let lost = grouped && (group.is_none() || server.group != group);
    if lost && server.power != Power::Changing {
        // https://docs.hetzner.cloud/reference/cloud#server-actions-add-to-a-placement-group:
        // "Server must be powered off for this command to succeed."
        let restarts = server.power == Power::On;
        steps.push(Step::JoinGroup {
            name: named(),
            id,
            group: machine.group.name.clone(),
            restarts,
        });
    }
    if server.power == Power::Off {
        steps.push(Step::PowerOn { name: named(), id });
    }
    steps
}

impl ActualState {
    /// Returns the id of our only resource of this kind.
    pub(crate) fn id(&self, kind: Kind) -> Option<u64> {
        let ours = |(resource, found): &(&SharedResource, &ObservedResource)| {
            resource.kind == kind && found.ours
        };
        self.resources.iter().find(ours).map(|(_, found)| found.id)
    }
}
