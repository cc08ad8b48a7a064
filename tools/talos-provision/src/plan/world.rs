//! Declared and observed state as plain values that can be compared.

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

/// Declared state of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the cluster.
    pub cluster: String,
    /// Number of times that etcd may be started from nothing, including the first time.
    pub incarnation: u16,
    /// Whether a machine with an unknown key may receive its first configuration.
    pub first_contact: FirstContact,
    /// Resources that the machines share.
    pub resources: BTreeMap<SharedResource, ResourceSpec>,
    /// Monthly prices of those shared resources that are billed.
    pub prices: BTreeMap<SharedResource, Money>,
    /// The machines, by name.
    pub machines: BTreeMap<String, Machine>,
}

/// Declared state of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Role of the machine.
    pub role: Role,
    /// Name of the machine's pool.
    pub pool: String,
    /// Hetzner's type of server.
    pub r#type: String,
    /// Locations in the order in which they are tried, for example `fsn1`.
    pub locations: Vec<String>,
    /// The placement group that keeps it apart from others of its pool.
    pub group: SharedResource,
    /// The digest of its configuration.
    pub configuration: Deferred<String>,
    /// The keys in it that no running cluster can exchange.
    pub keys: Keys,
    /// The version of Talos.
    pub talos: String,
    /// Monthly price. `None` until the price was looked up.
    pub monthly: Option<Money>,
}

impl Machine {
    /// `labels`, with those of this machine as they were when it was created.
    pub(crate) fn relabel(&self, labels: &Labels) -> Labels {
        labels::relabelled(labels, self.role, &self.pool)
    }
}

/// Observed state of everything that a document can declare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// Shared resources that carry our labels, or that have a declared name.
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
    /// Kind of the resource.
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
    /// Private network of the machines.
    Network,
    /// Firewall that protects the machines.
    Firewall,
    /// Load balancer that serves the cluster's endpoint.
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

/// Properties of a [`SharedResource`] that are declared and can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceSpec {
    /// A placement group of type `spread`.
    PlacementGroup,
    /// A network with its addresses.
    Network {
        /// Range of the whole network, for example `10.0.0.0/16`.
        range: String,
        /// The subnets; the declared one is that of the machines.
        nodes: Vec<String>,
    },
    /// Inbound rules of a firewall, sorted.
    Firewall(Vec<Rule>),
    /// It forwards the Kubernetes API to the control planes.
    LoadBalancer(Balancer),
}

/// Services and targets of a load balancer.
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
    /// Whether the load balancer speaks the PROXY protocol to its targets.
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
    /// Selection of the servers.
    pub servers: Selected,
    /// Whether the servers are reached at their private addresses.
    pub private: bool,
}

/// Way in which a target selects its servers.
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

/// Inbound rule of a firewall.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Protocol: `tcp` or `icmp`.
    pub protocol: String,
    /// Port; `None` for `icmp`.
    pub port: Option<String>,
    /// Subnets that are allowed, sorted.
    pub sources: Vec<String>,
}

impl Rule {
    /// Returns the rule that allows `sources`.
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
    /// Id in the cloud.
    pub id: u64,
    /// Whether the resource carries our labels.
    pub ours: bool,
    /// All its labels, those of others included: a change of one label has to send all of them.
    pub labels: BTreeMap<String, String>,
    /// Properties that can be compared with the declared ones.
    pub spec: ResourceSpec,
    /// The ids of the networks that it is attached to.
    pub networks: BTreeSet<u64>,
    /// Public address; only load balancers have one.
    pub address: Option<String>,
    /// Monthly price, net.
    pub monthly: Money,
}

/// A server that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Id in the cloud.
    pub id: u64,
    /// Whether the server carries our labels.
    pub ours: bool,
    /// Role according to the server's label. `None` if the label is missing or unknown.
    pub role: Option<Role>,
    /// Hetzner's type of server.
    pub r#type: String,
    /// Location of the server, for example `fsn1`.
    pub location: String,
    /// Public IPv4 address.
    pub address: Option<String>,
    /// Power state according to the cloud.
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
    /// Monthly price, net.
    pub monthly: Money,
    /// State of Talos on the server.
    pub node: Node,
}

/// Power state of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// The cloud reports `running`.
    On,
    /// The cloud reports `off`.
    Off,
    /// On its way to one of them: `starting`, `stopping`, `migrating` or the like.
    Changing,
}

/// State of Talos on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// It does not answer: nothing is known about it.
    Unreachable {
        /// Error of the last attempt to connect.
        why: String,
    },
    /// It answers, but not as a machine of this cluster.
    Foreign {
        /// Reason for which the connection was rejected.
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
    /// Returns whether the machine has a configuration of this cluster.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        matches!(self, Self::Configured { .. })
    }
}
