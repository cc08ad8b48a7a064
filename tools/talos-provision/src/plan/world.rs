//! What is wanted and what is there, as values that can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use documents::Deferred;
use schemars::JsonSchema;
use serde::Serialize;

use super::Etcd;
use crate::config::Keys;
use crate::labels::{self, Labels};
use crate::money::Money;
use crate::spec::{FirstContact, Role, Source, Subnet};

/// What a document declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The cluster's name.
    pub cluster: String,
    /// How often etcd may have been started from nothing, this time included.
    pub incarnation: u16,
    /// Whether a machine whose key is not known may get its first configuration.
    pub first_contact: FirstContact,
    /// What machines share.
    pub resources: BTreeMap<SharedResource, ResourceSpec>,
    /// What of that costs something in a month.
    pub prices: BTreeMap<SharedResource, Money>,
    /// The machines, by name.
    pub machines: BTreeMap<String, Machine>,
}

/// One declared machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What it does.
    pub role: Role,
    /// Its pool.
    pub pool: String,
    /// Hetzner's type of server.
    pub r#type: String,
    /// Where it may stand, in the order in which that is tried.
    pub locations: Vec<String>,
    /// The placement group that keeps it apart from others of its pool.
    pub group: SharedResource,
    /// The digest of its configuration.
    pub configuration: Deferred<String>,
    /// The keys in it that no running cluster can exchange.
    pub keys: Keys,
    /// The version of Talos.
    pub talos: String,
    /// What it costs in a month, where that has been asked.
    pub monthly: Option<Money>,
}

impl Machine {
    /// `labels`, with those of this machine as they were when it was created.
    pub(crate) fn relabel(&self, labels: &Labels) -> Labels {
        labels::relabelled(labels, self.role, &self.pool)
    }
}

/// What is there, as far as a document can speak of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// What machines share: what carries our labels, and what else has a declared name.
    pub resources: BTreeMap<SharedResource, ObservedResource>,
    /// The same of servers.
    pub servers: BTreeMap<String, Server>,
    /// The members of etcd.
    pub etcd: Etcd,
    /// The nodes that Kubernetes remembers; none, before it answers.
    pub nodes: BTreeSet<String>,
    /// Those of them that we cordoned.
    pub cordoned: BTreeSet<String>,
}

/// Something that machines share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[schemars(rename = "Thing")]
pub struct SharedResource {
    /// What it is.
    pub kind: Kind,
    /// Its name, unique among its kind.
    pub name: String,
}

impl fmt::Display for SharedResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Kinds of what machines share, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Keeps machines on different hosts.
    PlacementGroup,
    /// The private network.
    Network,
    /// Who may reach the machines.
    Firewall,
    /// The endpoint.
    LoadBalancer,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PlacementGroup => "placement group",
            Self::Network => "network",
            Self::Firewall => "firewall",
            Self::LoadBalancer => "load balancer",
        })
    }
}

/// What is declared about a [`SharedResource`], and can be compared with what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceSpec {
    /// It spreads.
    PlacementGroup,
    /// Its addresses.
    Network {
        /// All of them.
        range: String,
        /// The subnets; the declared one is that of the machines.
        nodes: Vec<String>,
    },
    /// Who may come in; sorted.
    Firewall(Vec<Rule>),
    /// It forwards the Kubernetes API to the control planes.
    LoadBalancer(Balancer),
}

/// What a load balancer forwards, and to which servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balancer {
    /// Whether the load balancer answers at its public address.
    pub public: bool,
    /// The ports that it listens on.
    pub services: BTreeSet<Forward>,
    /// The servers that it forwards to.
    pub targets: BTreeSet<Target>,
}

/// One port of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// `tcp`, `http` or `https`.
    pub protocol: String,
    /// The port of the load balancer.
    pub listen: u16,
    /// The port of the targets.
    pub to: u16,
    /// Whether the PROXY protocol is spoken to the targets.
    pub proxy: bool,
    /// The protocol and the port of the health check.
    pub check: (String, u16),
}

impl Forward {
    /// The Kubernetes API, forwarded as it is.
    #[must_use]
    pub fn kubernetes() -> Self {
        let tcp = || "tcp".to_owned();
        Self { protocol: tcp(), listen: 6443, to: 6443, proxy: false, check: (tcp(), 6443) }
    }
}

/// Servers to which a load balancer forwards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Which servers.
    pub servers: Selected,
    /// Whether they are reached at their private addresses.
    pub private: bool,
}

/// How a target names its servers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selected {
    /// All whose labels match, for example `holistic/role=controlplane`.
    Labels(String),
    /// One server, by its id.
    Server(u64),
    /// Any address outside the cloud.
    Address(String),
}

impl ResourceSpec {
    /// The network with these addresses.
    #[must_use]
    pub fn network(range: Subnet, nodes: Subnet) -> Self {
        Self::Network { range: range.to_string(), nodes: vec![nodes.to_string()] }
    }
}

/// Who may come in where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// `tcp` or `icmp`.
    pub protocol: String,
    /// Where that has one.
    pub port: Option<String>,
    /// From where; sorted.
    pub sources: Vec<String>,
}

impl Rule {
    /// Lets `sources` in.
    #[must_use]
    pub fn new(protocol: &str, port: Option<u16>, sources: &[Source]) -> Self {
        let mut sources: Vec<_> = sources.iter().map(|source| source.as_str().to_owned()).collect();
        sources.sort();
        let port = port.map(|port| port.to_string());
        Self { protocol: protocol.to_owned(), port, sources }
    }
}

/// A [`SharedResource`] that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedResource {
    /// Its number.
    pub id: u64,
    /// Whether it carries our labels.
    pub ours: bool,
    /// All its labels, those of others included: a change of one label has to send all of them.
    pub labels: BTreeMap<String, String>,
    /// What it is like.
    pub spec: ResourceSpec,
    /// The ids of the networks that it is attached to.
    pub networks: BTreeSet<u64>,
    /// Where it answers, if it is something that does.
    pub address: Option<String>,
    /// What it costs in a month.
    pub monthly: Money,
}

/// A server that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its number.
    pub id: u64,
    /// Whether it carries our labels.
    pub ours: bool,
    /// What it does, as its label says.
    pub role: Option<Role>,
    /// Hetzner's type of server.
    pub r#type: String,
    /// Where it stands.
    pub location: String,
    /// Its public address.
    pub address: Option<String>,
    /// Whether it runs, as the cloud says.
    pub power: Power,
    /// All of its labels.
    pub labels: BTreeMap<String, String>,
    /// The ids of the networks that it is attached to.
    pub networks: BTreeSet<u64>,
    /// The ids of the firewalls that are applied to it.
    pub firewalls: BTreeSet<u64>,
    /// The id of its placement group.
    pub group: Option<u64>,
    /// The id of the image that it was made from.
    pub image: Option<u64>,
    /// The ids of the volumes of the cloud that are attached to it.
    pub volumes: Vec<u64>,
    /// What it costs in a month.
    pub monthly: Money,
    /// What runs on it.
    pub node: Node,
}

/// Whether a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// `running`.
    On,
    /// `off`.
    Off,
    /// On its way to one of them: `starting`, `stopping`, `migrating` or the like.
    Changing,
}

/// What runs on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// It does not answer: nothing is known about it.
    Unreachable {
        /// Why.
        why: String,
    },
    /// It answers, but not as a machine of this cluster.
    Foreign {
        /// Why.
        why: String,
    },
    /// It waits for its configuration.
    Maintenance,
    /// It has one, and shows a certificate of this cluster.
    Configured {
        /// The digest of the configuration.
        sha256: String,
        /// The version of Talos.
        talos: String,
        /// The keys that it works with, where that is not the declared configuration.
        keys: Keys,
    },
}

impl Node {
    /// Whether it has a configuration of ours.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        matches!(self, Self::Configured { .. })
    }
}
