//! One change, as data.

use std::fmt;

use phase::Known;
use schemars::JsonSchema;
use serde::Serialize;

use super::Thing;
use crate::money::Money;
use crate::spec::Role;

/// One change. Says what it makes true, so that a reader can object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// Something that machines share is not there.
    Create {
        /// What.
        thing: Thing,
        /// What it costs in a month, net.
        #[serde(skip_serializing_if = "Option::is_none")]
        monthly: Option<Money>,
    },
    /// It is there, and lets others in than those that are declared.
    Update {
        /// What.
        thing: Thing,
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
        sha256: Known<String>,
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
    /// A machine is no longer declared.
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
        thing: Thing,
    },
}

/// What is taken together: before the next stage the world is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// What machines share.
    Things,
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
    /// What is no longer declared.
    Removal,
}

impl Step {
    /// When it is taken.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Create { .. } | Self::Update { .. } => Stage::Things,
            Self::RemoveMember { .. } | Self::ForgetNode { recreated: true, .. } => Stage::Members,
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
            Self::Update { thing } => write!(f, "update {thing}"),
            Self::RemoveMember { hostname, .. } => write!(f, "remove etcd member {hostname}"),
            Self::CreateServer { name, .. } => write!(f, "create {name}"),
            Self::Configure { name, .. } => write!(f, "configure {name}"),
            Self::Bootstrap { name } => write!(f, "bootstrap {name}"),
            Self::RecordStart { .. } => write!(f, "record that etcd was started"),
            Self::RemoveServer { name, .. } => write!(f, "remove {name}"),
            Self::ForgetNode { name, .. } => write!(f, "forget node {name}"),
            Self::Remove { thing } => write!(f, "remove {thing}"),
        }
    }
}
