//! One change, as data.

use std::fmt;

use documents::Deferred;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Change, SharedResource};
use crate::money::Money;
use crate::spec::Role;

/// One change. Says what it makes true, so that a reader can object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// Something that machines share is not there.
    Create {
        /// What.
        thing: SharedResource,
        /// What it costs in a month, net.
        #[serde(skip_serializing_if = "Option::is_none")]
        monthly: Option<Money>,
    },
    /// Something that machines share differs from what is declared.
    Update {
        /// What.
        thing: SharedResource,
        /// The parts that differ.
        changes: Vec<Change>,
    },
    /// A server lost a label of ours, or still carries the one of a removal that was given up.
    SetLabels {
        /// Which.
        name: String,
        /// Its id.
        id: u64,
    },
    /// A server is not attached to the network.
    AttachNetwork {
        /// Which.
        name: String,
        /// Its id.
        id: u64,
    },
    /// The firewall is not applied to a server.
    AttachFirewall {
        /// Which.
        name: String,
        /// Its id.
        id: u64,
    },
    /// A server is not in its placement group.
    JoinGroup {
        /// Which.
        name: String,
        /// Its id.
        id: u64,
        /// Whether it runs, and is shut down and started again, because only a server that is off
        /// can join a group.
        restarts: bool,
    },
    /// A server is powered off.
    PowerOn {
        /// Which.
        name: String,
        /// Its id.
        id: u64,
    },
    /// A member of etcd has no machine any more.
    RemoveMember {
        /// The name of its machine.
        hostname: String,
        /// Its number, in hex.
        id: String,
    },
    /// A machine is not there.
    CreateServer {
        /// Which.
        name: String,
        /// What it does.
        role: Role,
        /// Hetzner's type of server.
        r#type: String,
        /// Where it may stand, in the order in which that is tried.
        locations: Vec<String>,
        /// What it costs in a month, net.
        #[serde(skip_serializing_if = "Option::is_none")]
        monthly: Option<Money>,
    },
    /// A machine waits for its configuration, has another, or does not answer: then it is waited
    /// for, and given its configuration if it lacks it.
    Configure {
        /// Which.
        name: String,
        /// What it does.
        role: Role,
        /// The digest of the configuration.
        sha256: Deferred<String>,
        /// Whether it already works for this cluster.
        alive: bool,
    },
    /// No control plane has been bootstrapped.
    Bootstrap {
        /// Where etcd begins.
        name: String,
    },
    /// etcd has members, and the network does not record that yet.
    RecordStart {
        /// The `spec.incarnation` that is used up.
        incarnation: u16,
    },
    /// A machine is declared whose node we cordoned, because it was being removed.
    Uncordon {
        /// Which.
        name: String,
    },
    /// A machine is no longer declared. Its node is cordoned, its pods are evicted and their volumes
    /// detached; then it leaves the load balancer and etcd, and its server is deleted.
    RemoveServer {
        /// Which.
        name: String,
        /// Its number.
        id: u64,
        /// Whether it leaves etcd first.
        leave: bool,
    },
    /// Kubernetes remembers a node that has no machine.
    ForgetNode {
        /// Which.
        name: String,
        /// Whether a machine of this name is made again: then before that, or what the lost one
        /// was last would be taken for what the new one is.
        recreated: bool,
    },
    /// Something that machines shared goes.
    Remove {
        /// What.
        thing: SharedResource,
    },
}

/// What is taken together: before the next stage the world is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// What machines share.
    Things,
    /// Servers that others changed.
    Repairs,
    /// etcd makes room, and Kubernetes.
    Members,
    /// Machines.
    Servers,
    /// New control planes.
    Configurations,
    /// etcd starts. Before workers get their configuration, because a worker gets its certificate
    /// from a control plane that it may find through Kubernetes alone.
    Bootstrap,
    /// New workers.
    Workers,
    /// Machines that work, one at a time.
    Changes,
    /// Machines that are shut down and started again, one at a time.
    Restarts,
    /// What is no longer declared.
    Removal,
}

impl Step {
    /// When it is taken.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Create { .. } | Self::Update { .. } => Stage::Things,
            Self::SetLabels { .. }
            | Self::AttachNetwork { .. }
            | Self::AttachFirewall { .. }
            | Self::JoinGroup { restarts: false, .. }
            | Self::PowerOn { .. } => Stage::Repairs,
            Self::JoinGroup { restarts: true, .. } => Stage::Restarts,
            Self::RemoveMember { .. }
            | Self::ForgetNode { recreated: true, .. }
            | Self::Uncordon { .. } => Stage::Members,
            Self::CreateServer { .. } => Stage::Servers,
            Self::Configure { alive: true, .. } => Stage::Changes,
            Self::Configure { role: Role::Controlplane, .. } => Stage::Configurations,
            Self::Configure { role: Role::Worker, .. } => Stage::Workers,
            Self::Bootstrap { .. } | Self::RecordStart { .. } => Stage::Bootstrap,
            Self::RemoveServer { .. }
            | Self::ForgetNode { recreated: false, .. }
            | Self::Remove { .. } => Stage::Removal,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { thing, .. } => write!(f, "create {thing}"),
            Self::Update { thing, changes } => {
                let changes: Vec<_> = changes.iter().map(|change| change.as_str()).collect();
                write!(f, "update {thing}: {}", changes.join(", "))
            }
            Self::SetLabels { name, .. } => write!(f, "label {name}"),
            Self::AttachNetwork { name, .. } => write!(f, "attach {name} to the network"),
            Self::AttachFirewall { name, .. } => write!(f, "apply the firewall to {name}"),
            Self::JoinGroup { name, restarts: true, .. } => {
                write!(f, "restart {name} in its placement group")
            }
            Self::JoinGroup { name, .. } => write!(f, "put {name} into its placement group"),
            Self::PowerOn { name, .. } => write!(f, "power on {name}"),
            Self::RemoveMember { hostname, .. } => write!(f, "remove etcd member {hostname}"),
            Self::CreateServer { name, .. } => write!(f, "create {name}"),
            Self::Configure { name, .. } => write!(f, "configure {name}"),
            Self::Bootstrap { name } => write!(f, "bootstrap {name}"),
            Self::Uncordon { name } => write!(f, "uncordon {name}"),
            Self::RecordStart { .. } => write!(f, "record that etcd was started"),
            Self::RemoveServer { name, .. } => write!(f, "remove {name}"),
            Self::ForgetNode { name, .. } => write!(f, "forget node {name}"),
            Self::Remove { thing } => write!(f, "remove {thing}"),
        }
    }
}
