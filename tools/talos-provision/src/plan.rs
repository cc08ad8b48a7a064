//! Plans: pure functions from declared and observed state to steps.
//!
//! **Invariant:** a machine that does not answer is neither made again nor removed from etcd.

mod conflict;
mod drift;
#[cfg(test)]
mod drift_laws;
pub(crate) mod image;
#[cfg(test)]
mod image_laws;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod order_laws;
#[cfg(test)]
mod start_laws;

pub use conflict::{Conflict, conflicts};

pub use crate::change::{Change, Part};
pub use crate::model::{
    ActualState, Balancer, BalancerService, BuilderOffer, DesiredImage, DesiredState, Etcd, Family,
    History, ImageBuilder, ImageIdentity, Images, Kind, Machine, Member, Need, Node,
    ObservedResource, OwnImage, Power, ResourceSpec, Rule, Server, SharedResource, Target,
    TargetSelector,
};
pub(crate) use crate::step::cost_after;
pub use crate::step::{Stage, Step, batch, batch_destroy};

use documents::Deferred;

use crate::labels;
use crate::model::Start;
use crate::spec::Role;

/// Returns the steps from `actual` to the declared state. Undeclared resources go last.
#[must_use]
pub fn plan(desired: &DesiredState, actual: &ActualState) -> Vec<Step> {
    let mut steps = Vec::new();
    for (resource, spec) in &desired.resources {
        match actual.resources.get(resource) {
            None if resource.kind == Kind::PrimaryIp && actual.id(Kind::LoadBalancer).is_some() => {
                // A Primary IP can be assigned only when a load balancer is created (hcloud-go
                // v2.52.0), so a load balancer that exists keeps the address that it has.
            }
            None => steps.push(Step::Create {
                kind: resource.kind,
                name: resource.name.clone(),
                monthly: desired.prices.get(resource).copied(),
            }),
            Some(found) if found.ours => {
                let changes = drift::changes(spec, found, actual);
                if !changes.is_empty() {
                    steps.push(Step::Update {
                        kind: resource.kind,
                        name: resource.name.clone(),
                        changes,
                    });
                }
            }
            Some(_) => {}
        }
    }
    for (name, machine) in &desired.machines {
        if let Some(server) = actual.servers.get(name).filter(|server| server.ours) {
            steps.extend(drift::repairs((name, machine), server, desired, actual));
        }
    }
    steps.extend(
        stale(desired, actual).map(|member| Step::RemoveMember {
            hostname: member.hostname.clone(),
            id: member.hex(),
        }),
    );
    let lost = |name: &String| !actual.servers.contains_key(name);
    let forget =
        |recreated| move |name: &String| Step::ForgetNode { name: name.clone(), recreated };
    let ours = |name: &&String| actual.servers.get(*name).is_some_and(|server| server.ours);
    let cordoned =
        desired.machines.keys().filter(ours).filter(|name| actual.cordoned.contains(*name));
    steps.extend(cordoned.map(|name| Step::Uncordon { name: name.clone() }));
    let recreated =
        desired.machines.keys().filter(|name| lost(name) && actual.nodes.contains(*name));
    steps.extend(recreated.map(forget(true)));
    steps.extend(image::steps(desired, actual));
    for (name, machine) in &desired.machines {
        if lost(name) {
            steps.push(Step::CreateServer {
                name: name.clone(),
                role: machine.role,
                r#type: machine.r#type.clone(),
                locations: machine.locations.clone(),
                monthly: machine.monthly,
            });
        }
    }
    steps.extend(in_order(desired).filter_map(|(name, machine)| configure(name, machine, actual)));
    if let Start::On(name) = Start::decide(desired, actual) {
        steps.push(Step::Bootstrap { name: name.to_owned() });
        steps.push(Step::RecordStart { incarnation: desired.incarnation });
    }
    if let Some(incarnation) = actual.due_record(desired) {
        steps.push(Step::RecordStart { incarnation });
    }
    steps.extend(surplus(desired, actual).map(|(name, server)| Step::RemoveServer {
        name: name.clone(),
        id: server.id,
        drain: true,
        leave: server.node.is_configured() && is_member(actual, name, server),
        monthly: server.monthly,
    }));
    steps.extend(forgotten(desired, actual).map(forget(false)));
    let undeclared = |(resource, found): &(&SharedResource, &ObservedResource)| {
        found.ours && !desired.resources.contains_key(*resource)
    };
    let resources = actual.resources.iter().rev().filter(undeclared);
    steps.extend(resources.map(remove));
    steps.sort_by_key(Step::stage); // stable: within a stage the order stays
    steps
}

/// Returns the steps of [`plan`] that the cloud alone shows. `actual` was observed without asking a machine or
/// Kubernetes, so steps that depend on their answers are left out: configurations of machines that are
/// there, members of etcd, and nodes.
#[must_use]
pub fn plan_cloud(desired: &DesiredState, actual: &ActualState) -> Vec<Step> {
    let is_there = |name: &String| actual.servers.contains_key(name);
    let shows = |step: &Step| match step {
        Step::Create { .. }
        | Step::Update { .. }
        | Step::SetLabels { .. }
        | Step::AttachNetwork { .. }
        | Step::AttachFirewall { .. }
        | Step::JoinGroup { .. }
        | Step::PowerOn { .. }
        | Step::CreateServer { .. }
        | Step::RemoveServer { .. }
        | Step::CreateImage { .. }
        | Step::RemoveBuilder { .. }
        | Step::RemoveImage { .. }
        | Step::Remove { .. } => true,
        Step::Configure { name, .. } => !is_there(name),
        Step::RemoveMember { .. }
        | Step::Bootstrap { .. }
        | Step::RecordStart { .. }
        | Step::Uncordon { .. }
        | Step::RecordDestroy { .. }
        | Step::ForgetNode { .. } => false,
    };
    plan(desired, actual).into_iter().filter(shows).collect()
}

/// Returns the steps that remove everything that [`plan`] created, in the reverse order. Control planes
/// go first among the servers: once one of them is gone, the data gate has been passed, and without
/// them no new data can be written.
#[must_use]
pub fn plan_destroy(actual: &ActualState) -> Vec<Step> {
    let servers = actual.servers.iter().rev().filter(|(_, server)| server.ours);
    let controls = |(_, server): &(&String, &Server)| server.role == Some(Role::Controlplane);
    let (controls, others): (Vec<_>, Vec<_>) = servers.partition(controls);
    let servers = controls.into_iter().chain(others).map(|(name, server)| Step::RemoveServer {
        name: name.clone(),
        id: server.id,
        // The whole cluster is being destroyed, so pods and etcd's quorum no longer matter.
        drain: false,
        leave: false,
        monthly: server.monthly,
    });
    let resources = actual.resources.iter().rev().filter(|(_, found)| found.ours);
    // A temporary server uses the firewall. Images go last: while one exists, it proves that the token
    // is of the right project.
    let servers = servers.chain(image::destroy_builders(actual));
    let resources = resources.map(remove).chain(image::destroy_images(actual));
    record_destroy(actual).into_iter().chain(servers).chain(resources).collect()
}

/// Returns the record that lets a later run continue. A cluster that never began needs none, and a
/// `destroy` that continues keeps the number with which it began.
fn record_destroy(actual: &ActualState) -> Option<Step> {
    let is_ours = |(resource, found): &(&SharedResource, &ObservedResource)| {
        resource.kind == Kind::Network && found.ours
    };
    let (_, network) = actual.resources.iter().find(is_ours)?;
    if !actual.has_begun() || !actual.servers.values().any(|server| server.ours) {
        return None;
    }
    let control_planes = actual.control_planes();
    let recorded = labels::destroyed_from(&network.labels);
    let is_recorded = recorded.is_some_and(|before| before >= control_planes);
    (!is_recorded).then_some(Step::RecordDestroy { control_planes })
}

fn remove((resource, found): (&SharedResource, &ObservedResource)) -> Step {
    Step::Remove { kind: resource.kind, name: resource.name.clone(), monthly: found.monthly }
}

/// Returns the machines, control planes first, because the others need them.
fn in_order(desired: &DesiredState) -> impl Iterator<Item = (&String, &Machine)> {
    let with_role = |role| desired.machines.iter().filter(move |(_, machine)| machine.role == role);
    with_role(Role::Controlplane).chain(with_role(Role::Worker))
}

fn configure(name: &str, machine: &Machine, actual: &ActualState) -> Option<Step> {
    let node = match actual.servers.get(name) {
        Some(server) if server.ours => Some(&server.node),
        Some(_) => return None,
        None => None,
    };
    let alive = match node {
        Some(Node::Configured { sha256, .. }) if machine.configuration.value() == Some(sha256) => {
            return None;
        }
        Some(Node::Foreign { .. }) => return None, // an obstacle
        Some(Node::Configured { .. }) => true,
        None | Some(Node::Maintenance | Node::Unreachable { .. }) => false,
    };
    let from = match node {
        Some(Node::Configured { sha256, .. }) => Some(sha256.clone()),
        _ => None,
    };
    let (name, sha256) = (name.to_owned(), machine.configuration.clone());
    Some(Step::Configure { name, role: machine.role, from, sha256, alive })
}

/// Returns members of etcd whose machine is gone, or was created again and has no configuration yet.
fn stale<'a>(
    desired: &'a DesiredState,
    actual: &'a ActualState,
) -> impl Iterator<Item = &'a Member> {
    let members = match &actual.etcd {
        Etcd::Members(members) => members.as_slice(),
        Etcd::Absent | Etcd::Unknown | Etcd::Leaderless { .. } => &[],
    };
    members.iter().filter(|member| match actual.servers.get(&member.hostname) {
        None => desired.is_name_of_ours(&member.hostname),
        Some(server) => server.ours && server.node == Node::Maintenance,
    })
}

/// Whether a server may be a member of etcd. The list of members counts beside the label, because a
/// label may be lost.
fn is_member(actual: &ActualState, name: &str, server: &Server) -> bool {
    let Etcd::Members(members) = &actual.etcd else {
        return server.role == Some(Role::Controlplane);
    };
    server.role == Some(Role::Controlplane) || members.iter().any(|member| member.hostname == name)
}

/// Returns servers that this document created and no longer declares.
fn surplus<'a>(
    desired: &'a DesiredState,
    actual: &'a ActualState,
) -> impl Iterator<Item = (&'a String, &'a Server)> {
    let servers = actual.servers.iter();
    servers.filter(|(name, server)| server.ours && !desired.machines.contains_key(*name))
}

/// Returns nodes of Kubernetes whose machine is not declared and will not exist once the steps before
/// are executed.
fn forgotten<'a>(
    desired: &'a DesiredState,
    actual: &'a ActualState,
) -> impl Iterator<Item = &'a String> {
    actual.nodes.iter().filter(|name| {
        let stays = actual.servers.get(*name).is_some_and(|server| !server.ours);
        desired.is_name_of_ours(name) && !desired.machines.contains_key(*name) && !stays
    })
}

impl ActualState {
    /// Returns the number of control planes that carry our labels.
    pub(crate) fn control_planes(&self) -> usize {
        let servers = self.servers.values().filter(|server| server.ours);
        servers.filter(|server| server.role == Some(Role::Controlplane)).count()
    }
}

impl DesiredState {
    /// Whether a machine of this cluster can be called `name`.
    fn is_name_of_ours(&self, name: &str) -> bool {
        let rest = name.strip_prefix(&self.cluster).and_then(|rest| rest.strip_prefix('-'));
        let number = rest.and_then(|rest| rest.rsplit_once('-')).map(|(_, number)| number);
        number.is_some_and(|number| number.parse::<u8>().is_ok())
    }

    /// Whether all configurations are known.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.machines.values().all(|machine| machine.configuration != Deferred::AfterApply)
    }
}
