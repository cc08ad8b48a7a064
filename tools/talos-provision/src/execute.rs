//! Execution of steps. No other code makes writers.
//!
//! A run that was interrupted anywhere is continued by the next one, because every step observes what
//! an earlier run has done, or has no effect when it is repeated.

mod balancer;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use documents::{Deferred, WritePermit};

use crate::Error;
use crate::clients::hetzner::{ImageOrder, Placement, SharedPlacement, Writer};
use crate::clients::kubernetes::{self, drain};
use crate::clients::talos::{self, ConfigureRequest, Reboot, Target};
use crate::labels;
use crate::observe::{self, Observation};
use crate::plan::{
    Change, Etcd, Family, History, Kind, ObservedResource, Part, ResourceSpec, SharedResource, Step,
};
use crate::session::Session;
use crate::spec::Role;

/// Longest time that etcd may take to show that a member has left, in seconds.
const ETCD_SECONDS_MAX: u64 = 300;
/// Pause between two requests for the members of etcd.
const ETCD_POLL: Duration = Duration::from_millis(500);

/// Values that a step hands to later steps of the same run.
#[derive(Default)]
pub(crate) struct StepContext {
    /// Whether the data gate has judged the first plan of the run.
    pub(crate) is_authorized: bool,
    /// Ids of the shared resources that this run created.
    created: BTreeMap<SharedResource, u64>,
    /// Ids of actions of the cloud that run. `finish` waits for them.
    actions: Vec<u64>,
    /// Configurations of this round. `finish` sends them concurrently.
    requests: Vec<ConfigureRequest>,
    /// Control plane that was asked in this round to start etcd.
    starting: Option<Target>,
    /// Members that were removed from etcd in this round, with the control planes that must not list
    /// them any more.
    removed: Vec<(String, Vec<Target>)>,
    /// Machines that reboot to activate their configuration.
    reboots: Vec<Reboot>,
}

impl StepContext {
    /// Forgets what belongs to the previous round alone.
    pub(crate) fn begin_round(&mut self) {
        self.requests.clear();
        self.starting = None;
        self.removed.clear();
        self.reboots.clear();
    }
}

/// Executes one step, and returns a detail for people.
pub(crate) fn execute(
    session: &Session<'_>,
    now: &Observation,
    step: &Step,
    context: &mut StepContext,
    permit: &WritePermit,
) -> Result<String, Error> {
    session.forget(&step.changed_families());
    let cloud = Writer::new(&session.cloud, permit);
    match step {
        Step::Create { kind, name, .. } => {
            let resource = SharedResource { kind: *kind, name: name.clone() };
            create(session, now, &resource, context, &cloud)
        }
        Step::Update { kind, name, changes } => {
            let resource = SharedResource { kind: *kind, name: name.clone() };
            update(session, now, (&resource, changes), context, &cloud)
        }
        Step::SetLabels { name, id, .. } => {
            let server = &now.actual.servers[name];
            cloud.set_labels("servers", *id, &now.desired.machines[name].relabel(&server.labels))
        }
        Step::AttachNetwork { name, id } => {
            // etcd and the other nodes know a machine by its address, so it should keep the address.
            let node = now.kubernetes.nodes.iter().find(|node| node.name == *name);
            let address = node.and_then(|node| node.address.as_deref());
            cloud.attach_network(*id, id_of(now, Kind::Network)?, address)
        }
        Step::AttachFirewall { id, .. } => cloud.attach_firewall(*id, id_of(now, Kind::Firewall)?),
        Step::JoinGroup { name, .. } => {
            let group = now.actual.resources.get(&now.desired.machines[name].group);
            let group = group.ok_or_else(|| missing("placement group"))?.id;
            cloud.join_group(&now.actual.servers[name], group)
        }
        Step::PowerOn { id, .. } => cloud.power_on(*id),
        Step::CreateImage { architecture, .. } => create_image(session, now, architecture, &cloud),
        Step::RemoveBuilder { id, .. } => {
            context.actions.extend(cloud.remove_server(*id)?);
            return Ok("requested".to_owned());
        }
        Step::RemoveImage { id, .. } => cloud.remove_image(*id),
        Step::RemoveMember { hostname, id } => {
            remove_member(session, now, (hostname, id), context, permit)
        }
        Step::CreateServer { name, .. } => {
            let actions = cloud.create_server(name, &placement(now, name)?)?;
            context.actions.extend(actions);
            return Ok("requested".to_owned());
        }
        Step::Configure { name, alive, .. } => {
            context.requests.push(configure_request(session, now, name, *alive)?);
            return Ok("prepared".to_owned());
        }
        Step::Bootstrap { name } => return start_etcd(session, name, context, permit),
        Step::RecordStart { incarnation } => {
            cloud.record(network(now)?, History::Begun { incarnation: *incarnation })
        }
        Step::Uncordon { name } => uncordon(session, now, name, permit),
        Step::RemoveServer { name, id, drain, leave, .. } => {
            if *drain {
                drain_server(session, now, (name, *id), *leave, permit)?;
            }
            context.actions.extend(cloud.remove_server(*id)?);
            return Ok("requested".to_owned());
        }
        Step::ForgetNode { name, .. } => match &now.endpoint {
            Deferred::Value(endpoint) => {
                let reader = session.kubernetes(endpoint)?;
                kubernetes::Writer::new(&reader, permit).forget(name)
            }
            Deferred::AfterApply => Ok(()),
        },
        Step::RecordDestroy { control_planes } => {
            let network = network(now)?;
            let labels = labels::destroying(&network.labels, *control_planes);
            cloud.set_labels("networks", network.id, &labels)
        }
        Step::Remove { kind, name, .. } => {
            let resource = SharedResource { kind: *kind, name: name.clone() };
            match now.actual.resources.get(&resource) {
                Some(found) => cloud.remove(*kind, found.id),
                None => Ok(()),
            }
        }
    }?;
    Ok(String::new())
}

/// Waits for the actions of a round, and sends its configurations.
pub(crate) fn finish(
    session: &Session<'_>,
    context: &mut StepContext,
    permit: &WritePermit,
) -> Result<(), Error> {
    let actions = std::mem::take(&mut context.actions);
    if !actions.is_empty() {
        let running = documents::step(session.name(), "wait for the cloud");
        Writer::new(&session.cloud, permit).wait(&actions)?;
        running.done("");
    }
    let requests = std::mem::take(&mut context.requests);
    if !requests.is_empty() {
        let writer = talos::Writer::new(&session.keys()?.talos, permit);
        context.reboots = writer.configure(requests)?;
    }
    Ok(())
}

/// Returns what the steps of the round have yet to bring about on machines.
pub(crate) fn pending(
    session: &Session<'_>,
    context: &StepContext,
) -> Result<Option<String>, Error> {
    if let Some(target) = &context.starting {
        let states = session.keys()?.talos.observe(std::slice::from_ref(target))?;
        for (name, state) in states {
            if let Some(crash) = state.crash_loop() {
                return Err(Error::EtcdCrashes { name, event: crash.event.clone() });
            }
            if !matches!(state.etcd, Etcd::Members(_)) {
                return Ok(Some(format!("etcd on {name} has no members yet")));
            }
        }
    }
    for (hostname, targets) in &context.removed {
        let states = session.keys()?.talos.observe(targets)?;
        if states.values().any(|state| lists(&state.etcd, hostname)) {
            return Ok(Some(format!("etcd still lists the member {hostname}")));
        }
    }
    if context.reboots.is_empty() {
        Ok(None)
    } else {
        session.keys()?.talos.rebooting(&context.reboots)
    }
}

fn missing(what: &str) -> Error {
    Error::Unexpected { what: format!("there is no {what}") }
}

fn id_of(now: &Observation, kind: Kind) -> Result<u64, Error> {
    now.actual.id(kind).ok_or_else(|| missing(&kind.to_string()))
}

/// Returns the network of the cluster, which carries the records.
fn network(now: &Observation) -> Result<&ObservedResource, Error> {
    let is_ours = |(resource, found): &(&SharedResource, &ObservedResource)| {
        resource.kind == Kind::Network && found.ours
    };
    let network = now.actual.resources.iter().find(is_ours);
    network.map(|(_, found)| found).ok_or_else(|| missing("network"))
}

/// Returns the id of our only resource of this kind, which may have been created a moment ago.
fn id_so_far(now: &Observation, context: &StepContext, kind: Kind) -> Option<u64> {
    let created = || context.created.iter().find(|(resource, _)| resource.kind == kind);
    now.actual.id(kind).or_else(|| created().map(|(_, id)| *id))
}

fn create(
    session: &Session<'_>,
    now: &Observation,
    resource: &SharedResource,
    context: &mut StepContext,
    cloud: &Writer<'_>,
) -> Result<(), Error> {
    let placement = SharedPlacement {
        zone: &session.spec().network.zone,
        location: "",
        balancer_type: "",
        network: id_so_far(now, context, Kind::Network),
        address: id_so_far(now, context, Kind::PrimaryIp),
    };
    let id = match resource.kind {
        Kind::LoadBalancer => balancer::create(now, resource, context, cloud, placement)?,
        Kind::PrimaryIp => {
            let location = now.catalog.balancers.first().map_or("", |(location, _)| location);
            create_at(now, resource, cloud, &SharedPlacement { location, ..placement })?
        }
        Kind::PlacementGroup | Kind::Network | Kind::Firewall => {
            create_at(now, resource, cloud, &placement)?
        }
    };
    context.created.insert(resource.clone(), id);
    Ok(())
}

fn create_at(
    now: &Observation,
    resource: &SharedResource,
    cloud: &Writer<'_>,
    placement: &SharedPlacement<'_>,
) -> Result<u64, Error> {
    let spec = &now.desired.resources[resource];
    cloud.create((resource, spec), now.actual.history(), placement)
}

fn update(
    session: &Session<'_>,
    now: &Observation,
    (resource, changes): (&SharedResource, &[Change]),
    context: &StepContext,
    cloud: &Writer<'_>,
) -> Result<(), Error> {
    let parts: Vec<_> = changes.iter().map(|change| change.part).collect();
    let (declared, found) = (&now.desired.resources[resource], &now.actual.resources[resource]);
    match (declared, &found.spec) {
        (ResourceSpec::Firewall(rules), _) => cloud.set_rules(found.id, rules),
        (ResourceSpec::Network { nodes, .. }, _) => {
            if parts.contains(&Part::Labels) {
                let labels = labels::not_destroying(&found.labels);
                cloud.set_labels("networks", found.id, &labels)?;
            }
            for range in nodes.iter().filter(|_| parts.contains(&Part::Subnet)) {
                cloud.add_subnet(found.id, range, &session.spec().network.zone)?;
            }
            Ok(())
        }
        (ResourceSpec::LoadBalancer(declared), ResourceSpec::LoadBalancer(balancer)) => {
            let network = id_so_far(now, context, Kind::Network);
            cloud.set_balancer(found, (declared, balancer), network, &parts)
        }
        (ResourceSpec::PrimaryIp { auto_delete }, _) => {
            cloud.set_auto_delete(found.id, *auto_delete)
        }
        // A resource of another type is a conflict, and a placement group has nothing to change.
        (ResourceSpec::LoadBalancer(_) | ResourceSpec::PlacementGroup, _) => Ok(()),
    }
}

fn placement<'a>(now: &'a Observation, name: &str) -> Result<Placement<'a>, Error> {
    let machine = &now.desired.machines[name];
    let image = match &now.desired.image {
        None => now.catalog.images.get(&machine.r#type).copied(),
        Some(image) => {
            let architecture = now.catalog.architectures.get(&machine.r#type);
            architecture.and_then(|architecture| now.actual.images.find(image, architecture))
        }
    };
    let group = now.actual.resources.get(&machine.group);
    Ok(Placement {
        image: image.ok_or_else(|| missing("image"))?,
        network: id_of(now, Kind::Network)?,
        firewall: id_of(now, Kind::Firewall)?,
        group: group.ok_or_else(|| missing("placement group"))?.id,
        machine,
    })
}

fn create_image(
    session: &Session<'_>,
    now: &Observation,
    architecture: &str,
    cloud: &Writer<'_>,
) -> Result<(), Error> {
    let image = now.desired.image.as_ref().ok_or_else(|| missing("declared image"))?;
    let need = image.needs.get(architecture).ok_or_else(|| missing("server type"))?;
    let key = contract::phase_key(session.project, "talos-provision")?;
    cloud.create_image(&ImageOrder {
        cluster: session.name(),
        image,
        need,
        architecture,
        firewall: id_of(now, Kind::Firewall)?,
        key: &key,
    })
}

fn configure_request(
    session: &Session<'_>,
    now: &Observation,
    name: &str,
    alive: bool,
) -> Result<ConfigureRequest, Error> {
    let Deferred::Value(endpoint) = &now.endpoint else {
        return Err(missing("public address of the load balancer"));
    };
    Ok(ConfigureRequest {
        target: now.target(name)?,
        configuration: session.configuration(name, &now.desired.machines[name], endpoint)?,
        alive,
        first_contact: now.desired.first_contact,
        cni: session.spec().network.cni,
    })
}

fn remove_member(
    session: &Session<'_>,
    now: &Observation,
    (hostname, id): (&str, &str),
    context: &mut StepContext,
    permit: &WritePermit,
) -> Result<(), Error> {
    let others = now.node_states.iter().filter(|(name, _)| *name != hostname);
    let others = others.filter(|(_, state)| matches!(state.etcd, Etcd::Members(_)));
    let targets = others.map(|(name, _)| now.target(name)).collect::<Result<Vec<_>, _>>()?;
    let Some(member) = targets.first() else {
        let (what, why) = ("etcd".to_owned(), "no member answers".to_owned());
        return Err(Error::Unreachable { what, why });
    };
    let id = u64::from_str_radix(id, 16).unwrap_or_default();
    talos::Writer::new(&session.keys()?.talos, permit).remove_member(member, id)?;
    context.removed.push((hostname.to_owned(), targets));
    Ok(())
}

/// Starts etcd on the control plane called `name`, at most once in the life of the cluster.
///
/// The record comes first: a run that is killed right after it is continued by the next one on the
/// same server, and by no run on another server.
fn start_etcd(
    session: &Session<'_>,
    name: &str,
    context: &mut StepContext,
    permit: &WritePermit,
) -> Result<String, Error> {
    // Another run may have started etcd since the plan was made.
    let now = observe::observe(session)?;
    let server = now.actual.servers.get(name).map(|server| server.id);
    let (true, Some(server)) = (now.actual.proves_no_etcd(&now.desired, name), server) else {
        return Ok("not sent: the machines report something else than a moment ago".to_owned());
    };
    let starting = History::Starting { incarnation: now.desired.incarnation, server };
    session.forget(&[Family::Shared(Kind::Network)]);
    Writer::new(&session.cloud, permit).record(network(&now)?, starting)?;
    let target = now.target(name)?;
    talos::Writer::new(&session.keys()?.talos, permit).bootstrap(&target)?;
    context.starting = Some(target);
    Ok(String::new())
}

fn uncordon(
    session: &Session<'_>,
    now: &Observation,
    name: &str,
    permit: &WritePermit,
) -> Result<(), Error> {
    let node = now.kubernetes.nodes.iter().find(|node| node.name == *name);
    let (Some(node), Deferred::Value(endpoint)) = (node, &now.endpoint) else { return Ok(()) };
    let reader = session.kubernetes(endpoint)?;
    kubernetes::Writer::new(&reader, permit).uncordon(node)
}

/// Moves the pods off a server, and takes it out of the load balancer and out of etcd.
fn drain_server(
    session: &Session<'_>,
    now: &Observation,
    (name, id): (&str, u64),
    leave: bool,
    permit: &WritePermit,
) -> Result<(), Error> {
    evacuate(session, now, name, permit)?;
    let server = &now.actual.servers[name];
    if server.role == Some(Role::Controlplane) {
        let cloud = Writer::new(&session.cloud, permit);
        cloud.set_labels("servers", id, &labels::removing(&server.labels))?;
    }
    if leave && lists(&now.actual.etcd, name) {
        let talos = &session.keys()?.talos;
        talos::Writer::new(talos, permit).leave(&now.target(name)?)?;
        // Confirm with another member: the leaving member's own reply does not prove its removal.
        let others = now.node_states.keys().filter(|other| *other != name);
        let others = others.map(|other| now.target(other)).collect::<Result<Vec<_>, _>>()?;
        wait_released(talos, &others, name)?;
    }
    Ok(())
}

/// Evicts the pods of a machine. A machine that never joined has none.
fn evacuate(
    session: &Session<'_>,
    now: &Observation,
    name: &str,
    permit: &WritePermit,
) -> Result<(), Error> {
    if !now.actual.has_begun() {
        return Ok(());
    }
    now.kubernetes.ready.clone().map_err(|why| Error::KubernetesNotReady { why })?;
    let node = now.kubernetes.nodes.iter().find(|node| node.name == name);
    let (Some(node), Deferred::Value(endpoint)) = (node, &now.endpoint) else { return Ok(()) };
    let reader = session.kubernetes(endpoint)?;
    drain::drain(&kubernetes::Writer::new(&reader, permit), node, session.spec().removal)
}

/// Waits until one of `others` lists the members of etcd without `name`.
fn wait_released(talos: &talos::Reader, others: &[Target], name: &str) -> Result<(), Error> {
    let releases = |etcd: &Etcd| matches!(etcd, Etcd::Members(_)) && !lists(etcd, name);
    let began = Instant::now();
    while !talos.observe(others)?.values().any(|state| releases(&state.etcd)) {
        if began.elapsed() > Duration::from_secs(ETCD_SECONDS_MAX) {
            return Err(Error::TimedOut { what: format!("etcd still lists the member {name}") });
        }
        documents::pause(ETCD_POLL)?;
    }
    Ok(())
}

fn lists(etcd: &Etcd, name: &str) -> bool {
    match etcd {
        Etcd::Members(members) => members.iter().any(|member| member.hostname == name),
        Etcd::Absent | Etcd::Unknown | Etcd::Leaderless { .. } => false,
    }
}
