//! How each step is taken.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use documents::Deferred;

use crate::Error;
use crate::hetzner::{Catalog, CloudState, Placement, Writer, interruptible_sleep};
use crate::kubernetes::{self, drain};
use crate::labels;
use crate::observe::Observation;
use crate::plan::{
    Change, Etcd, History, Kind, Machine, ResourceSpec, SharedResource, Stage, Step,
};
use crate::session::{Session, target};
use crate::spec::Role;
use crate::talos::{self, ConfigureRequest};

/// Longest that etcd may take to show a change, in seconds.
const ETCD_SECONDS_MAX: u64 = 300;

/// How often etcd may end by itself before its start counts as failed. Talos starts it again every
/// 5 s; one end may be a coincidence.
const CRASHES_MAX: usize = 3;

/// Takes `steps`, which are all of one stage.
pub(super) fn stage(
    session: &Session<'_>,
    now: &Observation,
    (view, stock): (&CloudState, &Catalog),
    stage: Stage,
    steps: &[Step],
) -> Result<(), Error> {
    match stage {
        Stage::Things => things(session, now, steps),
        Stage::Servers => {
            Writer::new(&session.ground.cloud).wait_deleted(&view.leaving)?;
            servers(session, now, stock, steps)
        }
        Stage::Configurations | Stage::Workers => configurations(session, now, view, steps),
        Stage::Changes => configurations(session, now, view, &steps[..1]),
        Stage::Restarts => {
            let taken = documents::step(session.name(), &steps[0]);
            repair(session, now, &steps[0])?;
            taken.done("");
            Ok(())
        }
        Stage::Repairs | Stage::Members | Stage::Bootstrap => each(session, now, view, steps),
        Stage::Removal => {
            // One machine at a time: the others must be healthy again before the next one goes.
            let removes = |step: &Step| matches!(step, Step::RemoveServer { .. });
            let end = steps.iter().position(removes).map_or(steps.len(), |index| index + 1);
            each(session, now, view, &steps[..end])
        }
    }
}

/// Takes `steps` one after the other.
fn each(
    session: &Session<'_>,
    now: &Observation,
    view: &CloudState,
    steps: &[Step],
) -> Result<(), Error> {
    steps.iter().try_for_each(|step| {
        documents::check_interrupt()?;
        let taken = documents::step(session.name(), step);
        let detail = one(session, now, view, step)?;
        taken.done(detail);
        Ok(())
    })
}

fn things(session: &Session<'_>, now: &Observation, steps: &[Step]) -> Result<(), Error> {
    let writer = Writer::new(&session.ground.cloud);
    let there = now.world.resources.iter().map(|(thing, found)| (thing.clone(), found.id));
    let mut ids: BTreeMap<SharedResource, u64> = there.collect();
    let spec = session.spec();
    let place = spec.pools.iter().find_map(|it| it.locations.first()).map_or("", String::as_str);
    for step in steps {
        documents::check_interrupt()?;
        let taken = documents::step(session.name(), step);
        match step {
            Step::Create { thing, .. } => {
                let network = ids.iter().find(|(it, _)| it.kind == Kind::Network).map(|it| *it.1);
                let shape = &now.wanted.resources[thing];
                let history = now.world.history();
                let id =
                    writer.create((thing, shape), history, &spec.network.zone, place, network)?;
                ids.insert(thing.clone(), id);
            }
            Step::Update { thing, changes } => {
                let network = ids.iter().find(|(it, _)| it.kind == Kind::Network).map(|it| *it.1);
                let (declared, found) = (&now.wanted.resources[thing], &now.world.resources[thing]);
                match (declared, &found.spec) {
                    (ResourceSpec::Firewall(rules), _) => writer.set_rules(found.id, rules)?,
                    (ResourceSpec::Network { nodes, .. }, _) => {
                        if changes.contains(&Change::Labels) {
                            let labels = labels::not_destroying(&found.labels);
                            writer.set_labels("networks", found.id, &labels)?;
                        }
                        for range in nodes.iter().filter(|_| changes.contains(&Change::Subnet)) {
                            writer.add_subnet(found.id, range, &spec.network.zone)?;
                        }
                    }
                    (
                        ResourceSpec::LoadBalancer(declared),
                        ResourceSpec::LoadBalancer(balancer),
                    ) => {
                        writer.set_balancer(found, (declared, balancer), network, changes)?;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        taken.done("");
    }
    Ok(())
}

/// All are ordered before any is waited for.
fn servers(
    session: &Session<'_>,
    now: &Observation,
    stock: &Catalog,
    steps: &[Step],
) -> Result<(), Error> {
    let cloud = &session.ground.cloud;
    let writer = Writer::new(cloud);
    let id =
        |kind: Kind| now.world.resources.iter().find(|(it, _)| it.kind == kind).map(|it| it.1.id);
    let lacks = |what: &str| Error::Unexpected { what: format!("there is no {what}") };
    let mut running = Vec::new();
    let ordered = documents::step(session.name(), format_args!("create {} machines", steps.len()));
    for step in steps {
        documents::check_interrupt()?;
        let Step::CreateServer { name, .. } = step else { continue };
        let machine = &now.wanted.machines[name];
        let image = stock.images.get(&machine.r#type).copied();
        let placement = Placement {
            image: image.ok_or_else(|| lacks("image"))?,
            network: id(Kind::Network).ok_or_else(|| lacks("network"))?,
            firewall: id(Kind::Firewall).ok_or_else(|| lacks("firewall"))?,
            group: now
                .world
                .resources
                .get(&machine.group)
                .ok_or_else(|| lacks("placement group"))?
                .id,
            machine,
        };
        running.extend(writer.create_server(name, &placement)?);
    }
    writer.wait(&running)?;
    ordered.done("");
    Ok(())
}

fn configurations(
    session: &Session<'_>,
    now: &Observation,
    view: &CloudState,
    steps: &[Step],
) -> Result<(), Error> {
    let Deferred::Value(endpoint) = &now.endpoint else {
        return Err(Error::Unexpected {
            what: "the load balancer has no public address".to_owned(),
        });
    };
    let order = |name: &String, machine: &Machine, alive: bool| {
        Ok(ConfigureRequest {
            target: target(view, name)?,
            configuration: session.configuration(name, machine, endpoint)?,
            alive,
            first_contact: now.wanted.first_contact,
        })
    };
    let orders = steps.iter().filter_map(|step| match step {
        Step::Configure { name, alive, .. } => {
            Some(order(name, &now.wanted.machines[name], *alive))
        }
        _ => None,
    });
    let orders = orders.collect::<Result<Vec<_>, Error>>()?;
    talos::Writer::new(&session.talos).configure(orders)
}

fn one(
    session: &Session<'_>,
    now: &Observation,
    view: &CloudState,
    step: &Step,
) -> Result<String, Error> {
    let writer = talos::Writer::new(&session.talos);
    match step {
        Step::RemoveMember { hostname, id } => {
            let id = u64::from_str_radix(id, 16).unwrap_or_default();
            writer.remove_member(&target(view, member(now, hostname)?)?, id)?;
            until(session, view, |it| !has_member(it, hostname))?;
            Ok("its machine is gone".to_owned())
        }
        Step::Bootstrap { name } => start_etcd(session, view, name),
        Step::RecordStart { incarnation } => {
            record(session, now, History::Begun { incarnation: *incarnation })?;
            Ok(String::new())
        }
        Step::RemoveServer { name, id, leave } => {
            evacuate(session, now, name)?;
            let cloud = Writer::new(&session.ground.cloud);
            let server = &now.world.servers[name];
            if server.role == Some(Role::Controlplane) {
                cloud.set_labels("servers", *id, &labels::removing(&server.labels))?;
            }
            if *leave && has_member(now, name) {
                writer.leave(&target(view, name)?)?;
                // Confirm with another member: the leaving member's own reply does not prove its
                // removal.
                until(session, view, |it| {
                    it.node_states
                        .iter()
                        .any(|(other, look)| other != name && releases_member(&look.etcd, name))
                })?;
            }
            cloud.wait(&cloud.remove_server(*id)?)?;
            Ok(String::new())
        }
        Step::Uncordon { name } => {
            let node = now.kubernetes.nodes.iter().find(|node| node.name == *name);
            let (Some(node), Deferred::Value(endpoint)) = (node, &now.endpoint) else {
                return Ok(String::new());
            };
            let reader = kubernetes::Reader::new(&session.pki, endpoint)?;
            let uncordoned = kubernetes::Writer::new(&reader).uncordon(node);
            uncordoned.map_err(|why| Error::KubernetesError { why })?;
            Ok(String::new())
        }
        Step::ForgetNode { name, .. } => {
            let Deferred::Value(endpoint) = &now.endpoint else { return Ok(String::new()) };
            let reader = kubernetes::Reader::new(&session.pki, endpoint)?;
            let forgotten = kubernetes::Writer::new(&reader).forget(name);
            forgotten.map_err(|why| Error::KubernetesError { why })?;
            Ok(String::new())
        }
        Step::Remove { thing } => {
            if let Some(found) = now.world.resources.get(thing) {
                Writer::new(&session.ground.cloud).remove(thing.kind, found.id)?;
            }
            Ok(String::new())
        }
        Step::SetLabels { .. }
        | Step::AttachNetwork { .. }
        | Step::AttachFirewall { .. }
        | Step::JoinGroup { .. }
        | Step::PowerOn { .. } => repair(session, now, step).map(|()| String::new()),
        Step::Create { .. }
        | Step::Update { .. }
        | Step::CreateServer { .. }
        | Step::Configure { .. } => unreachable!("they are of other stages"),
    }
}

/// Moves the pods off a machine. A machine that never joined has none.
fn evacuate(session: &Session<'_>, now: &Observation, name: &str) -> Result<(), Error> {
    if !now.world.has_begun() {
        return Ok(());
    }
    now.kubernetes.ready.clone().map_err(|why| Error::KubernetesError { why })?;
    let node = now.kubernetes.nodes.iter().find(|node| node.name == name);
    let (Some(node), Deferred::Value(endpoint)) = (node, &now.endpoint) else { return Ok(()) };
    let reader = kubernetes::Reader::new(&session.pki, endpoint)?;
    drain::drain(&reader, node, session.spec().removal)
}

/// Makes a server what it was when it was created.
fn repair(session: &Session<'_>, now: &Observation, step: &Step) -> Result<(), Error> {
    let writer = Writer::new(&session.ground.cloud);
    let lacks = |what: &str| Error::Unexpected { what: format!("there is no {what}") };
    let id = |kind: Kind| now.world.id(kind).ok_or_else(|| lacks(&kind.to_string()));
    match step {
        Step::SetLabels { name, id } => {
            let server = &now.world.servers[name];
            let labels = now.wanted.machines[name].relabel(&server.labels);
            writer.set_labels("servers", *id, &labels)
        }
        Step::AttachNetwork { name, id: server } => {
            // etcd and the other nodes know a machine by its address: it should get the same again.
            let node = now.kubernetes.nodes.iter().find(|node| node.name == *name);
            let address = node.and_then(|node| node.address.as_deref());
            writer.attach_network(*server, id(Kind::Network)?, address)
        }
        Step::AttachFirewall { id: server, .. } => {
            writer.attach_firewall(*server, id(Kind::Firewall)?)
        }
        Step::JoinGroup { name, .. } => {
            let group = now.world.resources.get(&now.wanted.machines[name].group);
            let group = group.ok_or_else(|| lacks("placement group"))?.id;
            writer.join_group(&now.world.servers[name], group)
        }
        Step::PowerOn { id, .. } => writer.power_on(*id),
        _ => Ok(()),
    }
}

/// Starts etcd on the control plane called `name`, at most once in the life of the cluster.
///
/// The record comes first: a run that is killed right after it is continued by the next one on the
/// same server, and by nothing on any other.
fn start_etcd(session: &Session<'_>, view: &CloudState, name: &str) -> Result<String, Error> {
    // Another run may have started etcd since the plan was made.
    let view = CloudState { resources: session.ground.see_ours()?.resources, ..view.clone() };
    let now = session.look(&view)?;
    let server = now.world.servers.get(name).map(|server| server.id);
    let (true, Some(server)) = (now.world.proves_no_etcd(&now.wanted, name), server) else {
        return Ok("not sent: the machines say something else than a moment ago".to_owned());
    };
    let incarnation = now.wanted.incarnation;
    record(session, &now, History::Starting { incarnation, server })?;
    talos::Writer::new(&session.talos).bootstrap(&target(&view, name)?)?;
    let mut crash = None;
    let started = until(session, &view, |now| {
        let crashes = now.node_states.values().filter_map(|look| look.crash.clone());
        crash = crashes.max_by_key(|crash| crash.times).filter(|crash| crash.times >= CRASHES_MAX);
        crash.is_some() || matches!(now.world.etcd, Etcd::Members(_))
    });
    match crash {
        Some(crash) => Err(Error::EtcdCrashes { name: name.to_owned(), event: crash.event }),
        None => started.map(|()| "etcd has members".to_owned()),
    }
}

/// Writes `history` on the cluster's network.
fn record(session: &Session<'_>, now: &Observation, history: History) -> Result<(), Error> {
    let mut things = now.world.resources.iter();
    let network = things.find(|(thing, found)| thing.kind == Kind::Network && found.ours);
    let network =
        network.ok_or_else(|| Error::Unexpected { what: "there is no network".to_owned() })?;
    Writer::new(&session.ground.cloud).record(network.1, history)
}

/// A control plane other than `but` that knows the members of etcd.
fn member<'a>(now: &'a Observation, but: &str) -> Result<&'a String, Error> {
    let knows = |it: &(&'a String, &'a talos::NodeState)| {
        it.0 != but && matches!(it.1.etcd, Etcd::Members(_))
    };
    let found = now.node_states.iter().find(knows).map(|it| it.0);
    found.ok_or_else(|| Error::Unhealthy { what: "no member of etcd answers".to_owned() })
}

fn has_member(now: &Observation, name: &str) -> bool {
    match &now.world.etcd {
        Etcd::Members(members) => members.iter().any(|it| it.hostname == name),
        Etcd::Absent | Etcd::Unknown => false,
    }
}

fn releases_member(etcd: &Etcd, name: &str) -> bool {
    matches!(etcd, Etcd::Members(members) if members.iter().all(|it| it.hostname != name))
}

/// Looks until `done`.
fn until(
    session: &Session<'_>,
    view: &CloudState,
    mut done: impl FnMut(&Observation) -> bool,
) -> Result<(), Error> {
    let began = Instant::now();
    while !done(&session.look(view)?) {
        if began.elapsed() > Duration::from_secs(ETCD_SECONDS_MAX) {
            return Err(Error::TimedOut { what: "etcd does not show the change".to_owned() });
        }
        interruptible_sleep(Duration::from_millis(500))?;
    }
    Ok(())
}
