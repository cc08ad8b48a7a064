//! What will change: pure functions, data in, data out.
//!
//! **Invariant:** a machine that does not answer is neither made again nor removed from etcd.

mod conflict;
mod drift;
#[cfg(test)]
mod drift_laws;
mod etcd;
mod history;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod start_laws;
mod step;
mod world;

pub use conflict::{Conflict, conflicts};
pub use drift::Change;
pub use etcd::{Etcd, Member};
pub use history::{ETCD_LABEL, History};
pub use step::{Stage, Step};
pub use world::{
    Balancer, BalancerService, Kind, Machine, Node, ObservedResource, Power, ResourceSpec, Rule,
    Server, SharedResource, Target, TargetSelector, Wanted, World,
};

use documents::Deferred;
use etcd::Start;

use crate::spec::Role;

/// The steps from `world` to one that holds `wanted`. What is no longer declared goes last.
#[must_use]
pub fn plan(wanted: &Wanted, world: &World) -> Vec<Step> {
    let mut steps = Vec::new();
    for (thing, shape) in &wanted.resources {
        match world.resources.get(thing) {
            None => steps.push(Step::Create {
                thing: thing.clone(),
                monthly: wanted.prices.get(thing).copied(),
            }),
            Some(found) if found.ours => {
                let changes = drift::changes(shape, found, world);
                if !changes.is_empty() {
                    steps.push(Step::Update { thing: thing.clone(), changes });
                }
            }
            Some(_) => {}
        }
    }
    for (name, machine) in &wanted.machines {
        if let Some(server) = world.servers.get(name).filter(|server| server.ours) {
            steps.extend(drift::repairs((name, machine), server, wanted, world));
        }
    }
    steps.extend(
        stale(wanted, world)
            .map(|it| Step::RemoveMember { hostname: it.hostname.clone(), id: it.hex() }),
    );
    let lost = |name: &String| !world.servers.contains_key(name);
    let forget =
        |recreated| move |name: &String| Step::ForgetNode { name: name.clone(), recreated };
    let ours = |name: &&String| world.servers.get(*name).is_some_and(|server| server.ours);
    let cordoned =
        wanted.machines.keys().filter(ours).filter(|name| world.cordoned.contains(*name));
    steps.extend(cordoned.map(|name| Step::Uncordon { name: name.clone() }));
    let recreated = wanted.machines.keys().filter(|it| lost(it) && world.nodes.contains(*it));
    steps.extend(recreated.map(forget(true)));
    for (name, machine) in &wanted.machines {
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
    steps.extend(in_order(wanted).filter_map(|(name, machine)| configure(name, machine, world)));
    if let Start::On(name) = Start::decide(wanted, world) {
        steps.push(Step::Bootstrap { name: name.to_owned() });
    }
    if let Some(incarnation) = world.due_record(wanted) {
        steps.push(Step::RecordStart { incarnation });
    }
    steps.extend(surplus(wanted, world).map(|(name, server)| Step::RemoveServer {
        name: name.clone(),
        id: server.id,
        leave: server.node.is_configured() && is_member(world, name, server),
    }));
    steps.extend(forgotten(wanted, world).map(forget(false)));
    let undeclared = |(thing, found): &(&SharedResource, &ObservedResource)| {
        found.ours && !wanted.resources.contains_key(*thing)
    };
    let things = world.resources.iter().rev().filter(undeclared);
    steps.extend(things.map(|(thing, _)| Step::Remove { thing: thing.clone() }));
    steps.sort_by_key(Step::stage); // stable: within a stage the order stays
    steps
}

/// The steps of [`plan`] that the cloud alone shows. `world` was observed without asking a machine or
/// Kubernetes, so steps that depend on their answers are left out: configurations of machines that are
/// there, members of etcd, and nodes.
#[must_use]
pub fn plan_cloud(wanted: &Wanted, world: &World) -> Vec<Step> {
    let is_there = |name: &String| world.servers.contains_key(name);
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
        | Step::Remove { .. } => true,
        Step::Configure { name, .. } => !is_there(name),
        Step::RemoveMember { .. }
        | Step::Bootstrap { .. }
        | Step::RecordStart { .. }
        | Step::Uncordon { .. }
        | Step::ForgetNode { .. } => false,
    };
    plan(wanted, world).into_iter().filter(shows).collect()
}

/// The steps that take away what [`plan`] made, in the reverse order; of the servers, control planes
/// first: once one of them is gone, the data gate has been passed, and without them no new data can
/// come.
#[must_use]
pub fn plan_destroy(world: &World) -> Vec<Step> {
    let servers = world.servers.iter().rev().filter(|(_, server)| server.ours);
    let controls = |it: &(&String, &Server)| it.1.role == Some(Role::Controlplane);
    let (controls, others): (Vec<_>, Vec<_>) = servers.partition(controls);
    let servers = controls.into_iter().chain(others).map(|(name, server)| Step::RemoveServer {
        name: name.clone(),
        id: server.id,
        leave: false, // the whole cluster is being destroyed, so etcd's quorum no longer matters
    });
    let things = world.resources.iter().rev().filter(|(_, found)| found.ours);
    servers.chain(things.map(|(thing, _)| Step::Remove { thing: thing.clone() })).collect()
}

/// Control planes first: the others need them.
fn in_order(wanted: &Wanted) -> impl Iterator<Item = (&String, &Machine)> {
    let of = |role| wanted.machines.iter().filter(move |(_, machine)| machine.role == role);
    of(Role::Controlplane).chain(of(Role::Worker))
}

fn configure(name: &str, machine: &Machine, world: &World) -> Option<Step> {
    let node = match world.servers.get(name) {
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
    let (name, sha256) = (name.to_owned(), machine.configuration.clone());
    Some(Step::Configure { name, role: machine.role, sha256, alive })
}

/// Members of etcd whose machine is gone, or has not been configured since it was made anew.
fn stale<'a>(wanted: &'a Wanted, world: &'a World) -> impl Iterator<Item = &'a Member> {
    let members = match &world.etcd {
        Etcd::Members(members) => members.as_slice(),
        Etcd::Absent | Etcd::Unknown => &[],
    };
    members.iter().filter(|member| match world.servers.get(&member.hostname) {
        None => wanted.is_name_of_ours(&member.hostname),
        Some(server) => server.ours && server.node == Node::Maintenance,
    })
}

/// Whether a server may be a member of etcd: by its label, or because etcd itself says so, since a
/// label may be lost.
fn is_member(world: &World, name: &str, server: &Server) -> bool {
    let Etcd::Members(members) = &world.etcd else {
        return server.role == Some(Role::Controlplane);
    };
    server.role == Some(Role::Controlplane) || members.iter().any(|it| it.hostname == name)
}

/// Servers that this document made and no longer declares.
fn surplus<'a>(
    wanted: &'a Wanted,
    world: &'a World,
) -> impl Iterator<Item = (&'a String, &'a Server)> {
    let servers = world.servers.iter();
    servers.filter(|(name, server)| server.ours && !wanted.machines.contains_key(*name))
}

/// Nodes that Kubernetes remembers and whose machine is neither there nor declared, nor will be
/// once the steps before have been taken.
fn forgotten<'a>(wanted: &'a Wanted, world: &'a World) -> impl Iterator<Item = &'a String> {
    world.nodes.iter().filter(|name| {
        let stays = world.servers.get(*name).is_some_and(|it| !it.ours);
        wanted.is_name_of_ours(name) && !wanted.machines.contains_key(*name) && !stays
    })
}

impl Wanted {
    /// Whether `name` is what a machine of this cluster would be called.
    fn is_name_of_ours(&self, name: &str) -> bool {
        let rest = name.strip_prefix(&self.cluster).and_then(|it| it.strip_prefix('-'));
        let number = rest.and_then(|it| it.rsplit_once('-')).map(|it| it.1);
        number.is_some_and(|it| it.parse::<u8>().is_ok())
    }

    /// Whether everything that configurations are made of is there.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.machines.values().all(|it| it.configuration != Deferred::AfterApply)
    }
}
