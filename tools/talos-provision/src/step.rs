//! Steps of a plan, as data and as sentences.

use std::fmt;

use documents::{Deferred, Effect};
use schemars::JsonSchema;
use serde::Serialize;

use crate::change::Change;
use crate::model::{Family, Kind};
use crate::money::{Money, Rate};
use crate::spec::Role;

/// One change of the cloud, of a machine, of etcd or of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// A resource that the machines share does not exist.
    Create {
        /// Kind of the resource, for example `network`.
        kind: Kind,
        /// Name of the resource, for example `prod`.
        name: String,
        /// Monthly price, net, for example `5.39`. Absent for what is free of charge.
        #[serde(skip_serializing_if = "Option::is_none")]
        monthly: Option<Money>,
    },
    /// A resource that the machines share differs from the declared one.
    Update {
        /// Kind of the resource, for example `firewall`.
        kind: Kind,
        /// Name of the resource, for example `prod`.
        name: String,
        /// Parts that differ, with old and new value.
        changes: Vec<Change>,
    },
    /// A server lost a label of ours, or still carries the label of a removal that was given up.
    SetLabels {
        /// Name of the server, for example `prod-work-1`.
        name: String,
        /// Id of the server.
        id: u64,
        /// Labels that differ, for example `holistic/role=worker`; `none` when no label goes.
        from: String,
        /// Labels that take their place, for example `holistic/role=controlplane`.
        to: String,
    },
    /// A server is not attached to the network.
    AttachNetwork {
        /// Name of the server, for example `prod-work-1`.
        name: String,
        /// Id of the server.
        id: u64,
    },
    /// The firewall is not applied to a server.
    AttachFirewall {
        /// Name of the server, for example `prod-work-1`.
        name: String,
        /// Id of the server.
        id: u64,
    },
    /// A server is not in its placement group.
    JoinGroup {
        /// Name of the server, for example `prod-work-1`.
        name: String,
        /// Id of the server.
        id: u64,
        /// Name of the placement group, for example `prod-work`.
        group: String,
        /// Whether the server runs, so that it is shut down and started again: only a server that is
        /// off can join a group.
        restarts: bool,
    },
    /// A server is powered off.
    PowerOn {
        /// Name of the server, for example `prod-work-1`.
        name: String,
        /// Id of the server.
        id: u64,
    },
    /// No image of the declared Talos version and schematic exists for an architecture that a new
    /// machine has. A temporary server writes the image, and is deleted afterwards.
    CreateImage {
        /// Version of Talos, for example `v1.13.9`.
        talos: String,
        /// Id of the schematic: 64 characters of lower-case hex.
        schematic: String,
        /// Hetzner's name of the architecture: `x86` or `arm`.
        architecture: String,
        /// Server type of the temporary server, for example `cx23`.
        r#type: String,
        /// Locations in the order in which they are tried, for example `fsn1`.
        locations: Vec<String>,
        /// Price of the temporary server for an hour in euros, net, for example `0.0048`.
        #[serde(skip_serializing_if = "Option::is_none")]
        hourly: Option<Rate>,
        /// Price of a gigabyte of the image for a month in euros, net, for example `0.0110`.
        #[serde(skip_serializing_if = "Option::is_none")]
        gigabyte_monthly: Option<Rate>,
    },
    /// A temporary server exists, and no image is needed from it.
    RemoveBuilder {
        /// Name of the server, for example `prod-image-x86`.
        name: String,
        /// Id of the server.
        id: u64,
    },
    /// An image of this cluster is not declared, and no server was created from it; or the whole cluster
    /// is destroyed.
    RemoveImage {
        /// Id of the image.
        id: u64,
        /// Version of Talos, for example `v1.13.9`.
        talos: String,
        /// First 32 characters of the schematic's id.
        schematic: String,
        /// Hetzner's name of the architecture: `x86` or `arm`.
        architecture: String,
    },
    /// etcd has a member whose machine is gone.
    RemoveMember {
        /// Name of the member's machine, for example `prod-control-2`.
        hostname: String,
        /// Member id in hex, as etcd's own tools show it.
        id: String,
    },
    /// A declared machine does not exist.
    CreateServer {
        /// Name of the server, for example `prod-work-1`.
        name: String,
        /// Role of the machine.
        role: Role,
        /// Hetzner's server type, for example `cax11`.
        r#type: String,
        /// Locations in the order in which they are tried, for example `fsn1`.
        locations: Vec<String>,
        /// Monthly price in the first location with a public IPv4 address, net, for example `3.79`. Absent
        /// if the price list has none.
        #[serde(skip_serializing_if = "Option::is_none")]
        monthly: Option<Money>,
    },
    /// A machine waits for its configuration, has another one, or does not answer. `apply` waits for
    /// a machine that does not answer, and sends the configuration if the machine lacks it.
    Configure {
        /// Name of the machine, for example `prod-work-1`.
        name: String,
        /// Role of the machine.
        role: Role,
        /// SHA-256 digest of the machine's configuration. Absent while that is unknown or the machine
        /// has none.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// SHA-256 digest of the declared configuration.
        sha256: Deferred<String>,
        /// Whether the machine works for this cluster already.
        alive: bool,
    },
    /// etcd was never started. A record on the network comes first, so that no later run starts etcd
    /// on another machine.
    Bootstrap {
        /// Name of the control plane on which etcd starts, for example `prod-control-1`.
        name: String,
    },
    /// etcd has members, and the network does not record that yet.
    RecordStart {
        /// Value of `spec.incarnation` that is used up.
        incarnation: u16,
    },
    /// A machine is declared whose node this program cordoned, because a removal was given up.
    Uncordon {
        /// Name of the node, for example `prod-work-2`.
        name: String,
    },
    /// A server is no longer declared, or the whole cluster is destroyed.
    RemoveServer {
        /// Name of the server, for example `prod-work-2`.
        name: String,
        /// Id of the server.
        id: u64,
        /// Whether the node is cordoned, its pods are evicted and their volumes detached first.
        drain: bool,
        /// Whether the machine leaves etcd first.
        leave: bool,
        /// Monthly price, net, for example `3.29`.
        monthly: Money,
    },
    /// Kubernetes has a node without a machine.
    ForgetNode {
        /// Name of the node, for example `prod-work-2`.
        name: String,
        /// Whether a machine of this name is created again. Then the node goes first, because
        /// otherwise the state of the lost machine would count for the new one.
        recreated: bool,
    },
    /// The whole cluster is about to be destroyed. The record lets a later `destroy` continue, although
    /// no control plane may answer any more.
    RecordDestroy {
        /// Number of control planes that exist.
        control_planes: usize,
    },
    /// A shared resource is no longer declared, or the whole cluster is destroyed.
    Remove {
        /// Kind of the resource, for example `placementGroup`.
        kind: Kind,
        /// Name of the resource, for example `prod-work`.
        name: String,
        /// Monthly price, net; 0.00 for what is free of charge.
        monthly: Money,
    },
}

/// Group of steps that are executed together. The world is observed again before the next stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Shared resources.
    Resources,
    /// Servers that others changed.
    Repairs,
    /// Members of etcd and nodes of Kubernetes that are lost.
    Members,
    /// Images of Talos, from which servers are created.
    Images,
    /// New servers.
    Servers,
    /// Configurations of new control planes.
    Configurations,
    /// Start of etcd. It comes before the configurations of workers, because a worker gets its
    /// certificate from a control plane that it may find through Kubernetes alone.
    Bootstrap,
    /// Configurations of machines that work, one machine at a time. They come before those of new workers,
    /// because a change may be the correction without which etcd does not start.
    Changes,
    /// Configurations of new workers.
    Workers,
    /// Restarts of servers, one server at a time.
    Restarts,
    /// Removal of what is no longer declared.
    Removal,
}

impl Step {
    /// Returns the stage in which the step is executed.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Create { .. } | Self::Update { .. } => Stage::Resources,
            Self::SetLabels { .. }
            | Self::AttachNetwork { .. }
            | Self::AttachFirewall { .. }
            | Self::JoinGroup { restarts: false, .. }
            | Self::PowerOn { .. } => Stage::Repairs,
            Self::JoinGroup { restarts: true, .. } => Stage::Restarts,
            Self::RemoveMember { .. }
            | Self::ForgetNode { recreated: true, .. }
            | Self::Uncordon { .. } => Stage::Members,
            Self::CreateImage { .. } | Self::RemoveBuilder { .. } => Stage::Images,
            Self::CreateServer { .. } => Stage::Servers,
            Self::Configure { alive: true, .. } => Stage::Changes,
            Self::Configure { role: Role::Controlplane, .. } => Stage::Configurations,
            Self::Configure { role: Role::Worker, .. } => Stage::Workers,
            Self::Bootstrap { .. } | Self::RecordStart { .. } => Stage::Bootstrap,
            Self::RemoveServer { .. }
            | Self::ForgetNode { recreated: false, .. }
            | Self::RecordDestroy { .. }
            | Self::Remove { .. }
            | Self::RemoveImage { .. } => Stage::Removal,
        }
    }

    /// Returns the families of cloud resources that may differ after the step.
    pub(crate) fn changed_families(&self) -> Vec<Family> {
        match self {
            // A load balancer takes the Primary IP, whose location its creation may change.
            Self::Create { kind: Kind::LoadBalancer, .. }
            | Self::Remove { kind: Kind::LoadBalancer, .. } => {
                [Kind::LoadBalancer, Kind::PrimaryIp].map(Family::Shared).into()
            }
            Self::Create { kind, .. } | Self::Update { kind, .. } | Self::Remove { kind, .. } => {
                vec![Family::Shared(*kind)]
            }
            Self::RecordStart { .. } | Self::RecordDestroy { .. } => {
                vec![Family::Shared(Kind::Network)]
            }
            // Another run may have created servers, or started etcd, since the plan was made.
            Self::Bootstrap { .. } => vec![Family::Servers, Family::Shared(Kind::Network)],
            Self::CreateImage { .. } => vec![Family::Servers, Family::Images],
            Self::RemoveImage { .. } => vec![Family::Images],
            Self::SetLabels { .. }
            | Self::AttachNetwork { .. }
            | Self::AttachFirewall { .. }
            | Self::JoinGroup { .. }
            | Self::PowerOn { .. }
            | Self::RemoveBuilder { .. }
            | Self::CreateServer { .. }
            | Self::RemoveServer { .. } => vec![Family::Servers],
            Self::RemoveMember { .. }
            | Self::Configure { .. }
            | Self::Uncordon { .. }
            | Self::ForgetNode { .. } => Vec::new(),
        }
    }
}

/// Returns the number of the first of `steps` that are executed before the next observation.
/// `steps` are those of [`crate::plan::plan`].
#[must_use]
pub fn batch(steps: &[Step]) -> usize {
    let Some(stage) = steps.first().map(Step::stage) else { return 0 };
    let end = steps.iter().position(|step| step.stage() != stage).unwrap_or(steps.len());
    match stage {
        // One machine at a time: the others must be healthy before the next one is touched. The start
        // of etcd is recorded only once an observation has shown its members.
        Stage::Changes | Stage::Restarts | Stage::Bootstrap => 1,
        Stage::Removal => {
            let removes = |step: &Step| matches!(step, Step::RemoveServer { .. });
            steps.iter().position(removes).map_or(end, |index| index + 1)
        }
        _ => end,
    }
}

/// Returns the number of the first of `steps` that are executed before the next observation.
/// `steps` are those of [`crate::plan::plan_destroy`]: all servers go at once, the shared resources after
/// them.
#[must_use]
pub fn batch_destroy(steps: &[Step]) -> usize {
    let is_shared = |step: &Step| matches!(step, Step::Remove { .. } | Step::RemoveImage { .. });
    match steps.iter().position(is_shared) {
        Some(0) | None => steps.len(),
        Some(servers) => servers,
    }
}

/// Returns the monthly cost after `steps`, if the cost was `before`.
pub(crate) fn cost_after(before: Money, steps: &[Step]) -> Money {
    steps.iter().fold(before, |cost, step| match step {
        Step::Create { monthly, .. } | Step::CreateServer { monthly, .. } => {
            cost + monthly.unwrap_or_default()
        }
        Step::RemoveServer { monthly, .. } | Step::Remove { monthly, .. } => cost - *monthly,
        _ => cost,
    })
}

impl documents::Step for Step {
    fn effect(&self) -> Effect {
        match self {
            Self::Create { .. } | Self::CreateServer { .. } | Self::CreateImage { .. } => {
                Effect::Create
            }
            Self::RemoveMember { .. }
            | Self::RemoveBuilder { .. }
            | Self::RemoveImage { .. }
            | Self::RemoveServer { .. }
            | Self::ForgetNode { .. }
            | Self::Remove { .. } => Effect::Remove,
            Self::Update { .. }
            | Self::SetLabels { .. }
            | Self::AttachNetwork { .. }
            | Self::AttachFirewall { .. }
            | Self::JoinGroup { .. }
            | Self::PowerOn { .. }
            | Self::Configure { .. }
            | Self::Bootstrap { .. }
            | Self::RecordStart { .. }
            | Self::Uncordon { .. }
            | Self::RecordDestroy { .. } => Effect::Change,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { kind, name, monthly } => {
                write!(f, "create {kind} {name}{}", price(*monthly))
            }
            Self::Update { kind, name, changes } => {
                let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
                write!(f, "change {kind} {name}: {}", changes.join("; "))
            }
            Self::SetLabels { name, from, to, .. } => {
                write!(f, "restore the labels of server {name}: {from} → {to}")
            }
            Self::AttachNetwork { name, .. } => write!(f, "attach server {name} to the network"),
            Self::AttachFirewall { name, .. } => write!(f, "apply the firewall to server {name}"),
            Self::JoinGroup { name, group, restarts: true, .. } => {
                write!(f, "restart server {name} to put it into placement group {group}")
            }
            Self::JoinGroup { name, group, .. } => {
                write!(f, "put server {name} into placement group {group}")
            }
            Self::PowerOn { name, .. } => write!(f, "power on server {name}: off → on"),
            Self::CreateImage { talos, schematic, architecture, r#type, locations, .. } => {
                let (schematic, locations) = (short_id(schematic), locations.join(" or "));
                write!(
                    f,
                    "create image of Talos {talos} for {architecture}, schematic {schematic}, on a \
                     temporary server {type} in {locations}{}",
                    self.image_price()
                )
            }
            Self::RemoveBuilder { name, .. } => write!(f, "delete temporary server {name}"),
            Self::RemoveImage { id, talos, schematic, architecture } => {
                let schematic = short_id(schematic);
                write!(
                    f,
                    "delete image {id} of Talos {talos} for {architecture}, schematic {schematic}"
                )
            }
            Self::RemoveMember { hostname, id } => {
                write!(f, "remove etcd member {hostname} ({id})")
            }
            Self::CreateServer { name, r#type, locations, monthly, .. } => {
                let locations = locations.join(" or ");
                write!(f, "create server {name}: {type} in {locations}{}", price(*monthly))
            }
            Self::Configure { name, role, from, sha256, .. } => match (from, sha256) {
                (Some(from), Deferred::Value(to)) => {
                    let (from, to) = (short(from), short(to));
                    write!(f, "change the configuration of {name}: {from} → {to}")
                }
                (_, Deferred::Value(to)) => {
                    write!(f, "configure {name} as {}: {}", role.as_str(), short(to))
                }
                (_, Deferred::AfterApply) => write!(f, "configure {name} as {}", role.as_str()),
            },
            Self::Bootstrap { name } => write!(f, "bootstrap etcd on {name}"),
            Self::RecordStart { incarnation } => {
                write!(f, "record on the network that etcd was started: incarnation {incarnation}")
            }
            Self::Uncordon { name } => write!(f, "uncordon node {name}"),
            Self::RemoveServer { name, drain: true, leave, .. } => {
                let leave = if *leave { ", take it out of etcd" } else { "" };
                write!(f, "drain server {name}{leave} and delete it")
            }
            Self::RemoveServer { name, .. } => write!(f, "delete server {name}"),
            Self::ForgetNode { name, .. } => write!(f, "delete node {name} from Kubernetes"),
            Self::RecordDestroy { control_planes } => {
                write!(
                    f,
                    "record on the network that {control_planes} control planes are destroyed"
                )
            }
            Self::Remove { kind, name, .. } => write!(f, "delete {kind} {name}"),
        }
    }
}

impl Step {
    /// Returns the prices of an image as the end of a sentence.
    fn image_price(&self) -> String {
        let Self::CreateImage { hourly, gigabyte_monthly, .. } = self else { return String::new() };
        let hourly = hourly.map(|price| format!(", {price} EUR per hour"));
        let stored = gigabyte_monthly.map(|price| format!(", then {price} EUR per GB and month"));
        format!("{}{}", hourly.unwrap_or_default(), stored.unwrap_or_default())
    }
}

/// Returns the beginning of a schematic's id.
fn short_id(schematic: &str) -> &str {
    schematic.get(..12).unwrap_or(schematic)
}

/// Returns the price as the end of a sentence.
fn price(monthly: Option<Money>) -> String {
    monthly.map_or_else(String::new, |monthly| format!(", {} per month", monthly.with_currency()))
}

/// Returns the beginning of a digest, which is enough for people to compare two.
fn short(sha256: &str) -> String {
    format!("sha256:{}", sha256.get(..12).unwrap_or(sha256))
}
