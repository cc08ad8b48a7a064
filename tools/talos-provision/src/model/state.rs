//! Declared and observed state as plain values that can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use documents::Deferred;
use schemars::JsonSchema;
use serde::Serialize;

use super::{DesiredImage, Etcd, Images};
use crate::config::Keys;
use crate::labels::{self, Labels};
use crate::money::Money;
use crate::spec::{Firewall, FirstContact, Role, Source, Subnet};

/// Port of the Kubernetes API on control planes and on the load balancer.
pub(crate) const KUBERNETES_PORT: u16 = 6443;

/// Declared state of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredState {
    /// Name of the cluster.
    pub cluster: String,
    /// Number of times that etcd may be started from nothing, including the first time.
    pub incarnation: u16,
    /// Rule for the first configuration of a machine whose key is unknown.
    pub first_contact: FirstContact,
    /// Resources that the machines share.
    pub resources: BTreeMap<SharedResource, ResourceSpec>,
    /// Monthly prices of those shared resources that are billed.
    pub prices: BTreeMap<SharedResource, Money>,
    /// Declared machines, by name.
    pub machines: BTreeMap<String, Machine>,
    /// Declared image. `None` if machines are created from a snapshot that was made by hand.
    pub image: Option<DesiredImage>,
}

/// Declared state of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Role of the machine.
    pub role: Role,
    /// Name of the machine's pool.
    pub pool: String,
    /// Hetzner's server type, for example `cax11`.
    pub r#type: String,
    /// Locations in the order in which they are tried, for example `fsn1`.
    pub locations: Vec<String>,
    /// Placement group that keeps the machine apart from others of its pool.
    pub group: SharedResource,
    /// SHA-256 digest of the configuration.
    pub configuration: Deferred<String>,
    /// Keys of the configuration that a running cluster cannot exchange.
    pub keys: Keys,
    /// Version of Talos, for example `v1.13.9`.
    pub talos: String,
    /// Monthly price. `None` until the price was looked up.
    pub monthly: Option<Money>,
}

impl Machine {
    /// Restores the labels that this machine had when it was created.
    pub(crate) fn relabel(&self, labels: &Labels) -> Labels {
        labels::relabelled(labels, self.role, &self.pool)
    }
}

/// Observed state of everything that a document can declare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActualState {
    /// Shared resources that carry our labels, or that have a declared name.
    pub resources: BTreeMap<SharedResource, ObservedResource>,
    /// Servers that carry our labels, or that have a declared name.
    pub servers: BTreeMap<String, Server>,
    /// Merged report about etcd.
    pub etcd: Etcd,
    /// Nodes that are registered in Kubernetes. Empty while the API does not answer.
    pub nodes: BTreeSet<String>,
    /// Nodes that this program cordoned.
    pub cordoned: BTreeSet<String>,
    /// Images of the cluster, and the temporary servers that write them.
    pub images: Images,
}

/// Name of a cloud resource that the machines share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[schemars(rename = "Thing")]
pub struct SharedResource {
    /// Kind of the resource.
    pub kind: Kind,
    /// Name, unique within its kind.
    pub name: String,
}

impl fmt::Display for SharedResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Families of cloud resources. The API lists each family separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Machines and temporary servers.
    Servers,
    /// Resources that the machines share.
    Shared(Kind),
    /// Snapshots.
    Images,
}

impl Family {
    /// Returns all families.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Self::Servers, Self::Images].into_iter().chain(Kind::ALL.map(Self::Shared))
    }
}

/// Kinds of shared resources, in the order in which they are created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Placement group, which keeps machines on different hosts.
    PlacementGroup,
    /// Private network of the machines.
    Network,
    /// Firewall that protects the machines.
    Firewall,
    /// Public IPv4 address of the load balancer. It outlives the load balancer, so the endpoint keeps its
    /// address.
    PrimaryIp,
    /// Load balancer that serves the cluster's endpoint.
    LoadBalancer,
}

impl Kind {
    /// All kinds, in the order in which they are created.
    pub const ALL: [Self; 5] =
        [Self::PlacementGroup, Self::Network, Self::Firewall, Self::PrimaryIp, Self::LoadBalancer];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PlacementGroup => "placement group",
            Self::Network => "network",
            Self::Firewall => "firewall",
            Self::PrimaryIp => "primary IP",
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
        /// Ranges of the subnets. The declared subnet is that of the machines.
        nodes: Vec<String>,
    },
    /// Inbound rules of a firewall, sorted.
    Firewall(Vec<Rule>),
    /// An address of IPv4 for the load balancer.
    PrimaryIp {
        /// Whether the address is deleted with its load balancer. `false` is declared.
        auto_delete: bool,
    },
    /// A load balancer that forwards the Kubernetes API to the control planes.
    LoadBalancer(Balancer),
}

/// Services and targets of a load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balancer {
    /// Whether the load balancer answers at its public address.
    pub public: bool,
    /// Ports on which the load balancer listens.
    pub services: BTreeSet<BalancerService>,
    /// Servers to which the load balancer forwards.
    pub targets: BTreeSet<Target>,
}

/// Port of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BalancerService {
    /// Protocol: `tcp`, `http` or `https`.
    pub protocol: String,
    /// Port on which the load balancer listens.
    pub listen: u16,
    /// Port of the targets.
    pub to: u16,
    /// Whether the load balancer speaks the PROXY protocol to its targets.
    pub proxy: bool,
    /// Protocol and port of the health check.
    pub check: (String, u16),
}

impl BalancerService {
    /// Returns the service that forwards the Kubernetes API unchanged.
    #[must_use]
    pub fn kubernetes() -> Self {
        let tcp = || "tcp".to_owned();
        let port = KUBERNETES_PORT;
        Self { protocol: tcp(), listen: port, to: port, proxy: false, check: (tcp(), port) }
    }
}

/// Servers to which a load balancer forwards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Selection of the servers.
    pub servers: TargetSelector,
    /// Whether the servers are reached at their private addresses.
    pub private: bool,
}

/// Way in which a target selects its servers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetSelector {
    /// All servers whose labels match, for example `holistic/role=controlplane`.
    Labels(String),
    /// One server, by its id.
    Server(u64),
    /// Any address outside of the cloud.
    Address(String),
}

impl ResourceSpec {
    /// Returns the network with these addresses.
    #[must_use]
    pub fn network(range: Subnet, nodes: Subnet) -> Self {
        Self::Network { range: range.to_string(), nodes: vec![nodes.to_string()] }
    }
}

/// Inbound rule of a firewall.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Protocol, for example `tcp` or `icmp`.
    pub protocol: String,
    /// Port or range of ports; `None` for protocols without ports.
    pub port: Option<String>,
    /// Subnets that are allowed, sorted.
    pub sources: Vec<String>,
}

impl Rule {
    /// Returns the inbound rules of `firewall`, sorted. Rules for the same port are one rule, and a
    /// rule without a source is none.
    #[must_use]
    pub fn inbound(firewall: &Firewall) -> Vec<Self> {
        let kubernetes = firewall.kubernetes.as_deref().unwrap_or_default();
        let fields = [
            ("icmp", None, firewall.icmp.as_slice()),
            ("tcp", Some(talos_api::PORT.to_string()), &firewall.talos),
            ("tcp", Some(KUBERNETES_PORT.to_string()), kubernetes),
        ];
        let further = firewall.rules.iter().map(|rule| {
            let port = rule.port.map(|port| port.to_string());
            (rule.protocol.as_str(), port, rule.from.as_slice())
        });
        let mut merged: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (protocol, port, sources) in fields.into_iter().chain(further) {
            let subnets = sources.iter().flat_map(Source::subnets);
            merged.entry((protocol, port)).or_default().extend(subnets);
        }
        let mut rules: Vec<_> = merged
            .into_iter()
            .filter(|(_, sources)| !sources.is_empty())
            .map(|((protocol, port), sources)| Self {
                protocol: protocol.to_owned(),
                port,
                sources: sources.into_iter().collect(),
            })
            .collect();
        rules.sort();
        rules
    }
}

/// Observed state of a [`SharedResource`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedResource {
    /// Id in the cloud.
    pub id: u64,
    /// Whether the resource carries our labels.
    pub ours: bool,
    /// All labels, including those of others, because the API replaces all labels at once.
    pub labels: BTreeMap<String, String>,
    /// Properties that can be compared with the declared ones.
    pub spec: ResourceSpec,
    /// Ids of the networks to which the resource is attached.
    pub networks: BTreeSet<u64>,
    /// Public address of a Primary IP or of a load balancer.
    pub address: Option<String>,
    /// Location of a Primary IP or of a load balancer, for example `fsn1`.
    pub location: Option<String>,
    /// Monthly price, net.
    pub monthly: Money,
}

/// Observed state of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Id in the cloud.
    pub id: u64,
    /// Whether the server carries our labels.
    pub ours: bool,
    /// Role according to the server's label. `None` if the label is missing or unknown.
    pub role: Option<Role>,
    /// Hetzner's server type, for example `cax11`.
    pub r#type: String,
    /// Location of the server, for example `fsn1`.
    pub location: String,
    /// Public IPv4 address of the server.
    pub address: Option<String>,
    /// Power state according to the cloud.
    pub power: Power,
    /// All labels, including those of others.
    pub labels: BTreeMap<String, String>,
    /// Ids of the networks to which the server is attached.
    pub networks: BTreeSet<u64>,
    /// Ids of the firewalls that are applied to the server.
    pub firewalls: BTreeSet<u64>,
    /// Id of the server's placement group.
    pub group: Option<u64>,
    /// Id of the image from which the server was created.
    pub image: Option<u64>,
    /// Ids of the cloud volumes that are attached to the server.
    pub volumes: Vec<u64>,
    /// Monthly price with the public IPv4 address, net.
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
    /// Any other status, for example `starting`, `stopping` or `migrating`.
    Changing,
}

/// State of Talos on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// The machine does not answer, so its state is unknown.
    Unreachable {
        /// Error of the last attempt to connect.
        why: String,
    },
    /// The machine shows a certificate that another authority signed.
    Foreign {
        /// Reason for which the connection was rejected.
        why: String,
    },
    /// The machine waits for its configuration.
    Maintenance,
    /// The machine has a configuration, and shows a certificate of this cluster.
    Configured {
        /// SHA-256 digest of the configuration.
        sha256: String,
        /// Version of Talos, for example `v1.13.9`.
        talos: String,
        /// Keys of the configuration. Empty if it is the declared one.
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
