//! Conflicts: differences that no step can change.

use crate::model::{ActualState, DesiredState, Etcd, Node, ResourceSpec, SharedResource, Start};
use crate::spec::FirstContact;

/// Difference that only a person can resolve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A resource without our labels has a name that this cluster needs.
    #[error("{what} exists and does not carry the labels of this cluster")]
    Taken {
        /// The resource, for example `the network prod`.
        what: String,
    },
    /// A property cannot be changed without creating the resource anew.
    #[error("{what} is {is}, and {declared} is declared")]
    Differs {
        /// The property, for example `the type of the server prod-work-1`.
        what: String,
        /// Observed value, for example `cx23`.
        is: String,
        /// Declared value, for example `cx33`.
        declared: String,
    },
    /// A machine works with a key that differs from the declared one and cannot be exchanged.
    #[error("the server {name} works with another `{item}` than the declared one")]
    Rekeyed {
        /// Name of the machine.
        name: String,
        /// Item from which the key derives.
        item: &'static str,
    },
    /// A machine shows a certificate that another authority signed.
    #[error("the server {name} answers, but not as a machine of this cluster: {why}")]
    Foreign {
        /// Name of the machine.
        name: String,
        /// Reason for which the connection was rejected.
        why: String,
    },
    /// The document does not allow the first configuration of a machine whose key is unknown.
    #[error(
        "the first configuration of {} holds the cluster's keys, and nothing proves which machine \
         would receive it", .names.join(", ")
    )]
    FirstContact {
        /// Names of these machines.
        names: Vec<String>,
    },
    /// etcd was started before, and no control plane has its data any more.
    #[error(
        "the cluster {cluster} was started before (its network records `{record}`), and no control \
         plane has data of etcd: starting etcd again would make a second, empty cluster"
    )]
    StartedBefore {
        /// Name of the cluster.
        cluster: String,
        /// Value of the label on the network.
        record: String,
    },
    /// Too few machines with data of etcd are left, so etcd elects no leader.
    #[error(
        "etcd of the cluster {cluster} has lost its quorum: machines that still have its data: \
         {members}, and none of them knows a leader"
    )]
    QuorumLost {
        /// Name of the cluster.
        cluster: String,
        /// Number of control planes whose member of etcd runs without a leader.
        members: usize,
    },
}

impl From<Conflict> for documents::Conflict {
    fn from(conflict: Conflict) -> Self {
        Self { message: conflict.to_string(), help: conflict.help().to_owned() }
    }
}

impl Conflict {
    /// Returns the command or the decision that resolves the conflict.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::Taken { .. } => {
                "declare another name for the cluster; or delete the resource, if nothing else uses it"
            }
            Self::Differs { .. } => {
                "declare the observed value; to replace machines without losing their data, add a pool with \
                 the new value and run `apply`, then remove the old pool from the document and run \
                 `apply` again"
            }
            Self::Rekeyed { .. } => {
                "restore the previous generation of the item (or of `talos-provision`) in the Project, because \
                 a running cluster cannot exchange this key; or drain the cluster, destroy it and apply it again"
            }
            Self::FirstContact { .. } => {
                "allow only your own address to reach port 50000 (`spec.firewall.talos`), and declare \
                 `firstContact: trustOnFirstUse`: the first machine that answers at the address in the \
                 cloud's API is then trusted"
            }
            Self::StartedBefore { .. } => {
                "restore etcd from a snapshot with `talosctl bootstrap --recover-from`; or, if \
                 everything in the cluster may be lost, destroy the cluster and apply it again, or raise \
                 `spec.incarnation` by one, apply, and reboot the workers: a kubelet registers its \
                 node only when it starts"
            }
            Self::QuorumLost { .. } => {
                "copy the data of a control plane that answers (`talosctl cp /var/lib/etcd/member/snap/db .`), \
                 wipe etcd on every control plane (`talosctl reset --graceful=false --reboot \
                 --system-labels-to-wipe EPHEMERAL`), restore the data on one of them (`talosctl bootstrap \
                 --recover-from=db --recover-skip-hash-check`), then run `apply`"
            }
            Self::Foreign { .. } => {
                "restore the previous generation of `os-ca` in the Project, if it was changed. Otherwise the \
                 server's disk belongs to another cluster: delete the server only if it holds no data, \
                 then run `apply`, which creates the server again"
            }
        }
    }
}

/// Returns all conflicts between `desired` and `actual`.
#[must_use]
pub fn conflicts(desired: &DesiredState, actual: &ActualState) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for (resource, spec) in &desired.resources {
        match actual.resources.get(resource) {
            Some(found) if !found.ours => {
                conflicts.push(Conflict::Taken { what: format!("the {resource}") });
            }
            Some(found) if is_unchangeable(&found.spec, spec) => {
                conflicts.push(differs(resource, &found.spec, spec));
            }
            Some(_) | None => {}
        }
    }
    for (name, machine) in &desired.machines {
        let Some(server) = actual.servers.get(name) else { continue };
        if !server.ours {
            conflicts.push(Conflict::Taken { what: format!("the server {name}") });
            continue;
        }
        let mut same = |what: &str, is: &str, declared: &str| {
            if is != declared {
                conflicts.push(Conflict::Differs {
                    what: format!("the {what} of the server {name}"),
                    is: is.to_owned(),
                    declared: declared.to_owned(),
                });
            }
        };
        same("type", &server.r#type, &machine.r#type);
        // A label that was changed on a machine that works as declared is drift. On any other
        // machine the label is the only record of the machine's original role.
        let works = matches!(&server.node, Node::Configured { sha256, .. }
            if machine.configuration.value() == Some(sha256));
        if let Some(role) = server.role.filter(|_| !works) {
            same("role", role.as_str(), machine.role.as_str());
        }
        match &server.node {
            Node::Configured { talos, keys, .. } => {
                same("Talos", talos, &machine.talos);
                let declared = |item: &str| machine.keys.get(item);
                let others = keys
                    .iter()
                    .filter(|(item, key)| declared(item).is_some_and(|declared| declared != *key));
                let others = others.map(|(item, _)| *item);
                conflicts.extend(others.map(|item| Conflict::Rekeyed { name: name.clone(), item }));
            }
            Node::Foreign { why } => {
                conflicts.push(Conflict::Foreign { name: name.clone(), why: why.clone() });
            }
            Node::Unreachable { .. } | Node::Maintenance => {}
        }
    }
    let unknown = |name: &&String| match actual.servers.get(*name) {
        None => true,
        Some(server) => server.ours && server.node == Node::Maintenance,
    };
    let names: Vec<_> = desired.machines.keys().filter(unknown).cloned().collect();
    if desired.first_contact == FirstContact::Refuse && !names.is_empty() {
        conflicts.push(Conflict::FirstContact { names });
    }
    if let Start::Before(record) = Start::decide(desired, actual) {
        let (cluster, record) = (desired.cluster.clone(), record.to_string());
        conflicts.push(Conflict::StartedBefore { cluster, record });
    }
    if let (Etcd::Leaderless { members }, true) = (&actual.etcd, actual.has_lost_quorum(desired)) {
        let (cluster, members) = (desired.cluster.clone(), *members);
        conflicts.push(Conflict::QuorumLost { cluster, members });
    }
    conflicts
}

/// Returns whether a shared resource would have to be created anew. A network keeps its range, and
/// the machines keep the subnet of their addresses. Further subnets belong to others.
fn is_unchangeable(found: &ResourceSpec, declared: &ResourceSpec) -> bool {
    match (found, declared) {
        (
            ResourceSpec::Network { range, nodes },
            ResourceSpec::Network { range: declared_range, nodes: declared_nodes },
        ) => {
            let missing = declared_nodes.iter().any(|subnet| !nodes.contains(subnet));
            range != declared_range || (missing && !nodes.is_empty())
        }
        _ => std::mem::discriminant(found) != std::mem::discriminant(declared),
    }
}

fn differs(resource: &SharedResource, is: &ResourceSpec, declared: &ResourceSpec) -> Conflict {
    let text = |spec: &ResourceSpec| match spec {
        ResourceSpec::Network { range, nodes } => {
            format!("{range} with the subnets {}", nodes.join(", "))
        }
        ResourceSpec::PlacementGroup => "spread".to_owned(),
        ResourceSpec::PrimaryIp { .. } => "an address of IPv4".to_owned(),
        ResourceSpec::LoadBalancer(_) => "for the control planes".to_owned(),
        ResourceSpec::Firewall(rules) => format!("{} rules", rules.len()),
    };
    Conflict::Differs { what: format!("the {resource}"), is: text(is), declared: text(declared) }
}
