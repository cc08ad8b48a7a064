//! Laws of a plan and of its reverse, over every small world.

use std::collections::{BTreeMap, BTreeSet};

use contract::labels::ETCD;
use documents::Deferred;

use super::*;
use crate::config::Keys;
use crate::money::Money;
use crate::spec::FirstContact;

pub(super) const OURS: &str = "the digest that is declared";
const OTHER: &str = "another digest";

pub(super) fn resource(kind: Kind) -> SharedResource {
    SharedResource { kind, name: "c".to_owned() }
}

fn machine(role: Role) -> Machine {
    Machine {
        role,
        pool: "p".to_owned(),
        r#type: "cax11".to_owned(),
        locations: vec!["fsn1".to_owned()],
        group: resource(Kind::PlacementGroup),
        configuration: Deferred::Value(OURS.to_owned()),
        keys: keys(OURS),
        talos: "v1.13.9".to_owned(),
        monthly: None,
    }
}

fn rules(port: u16) -> ResourceSpec {
    let (protocol, port) = ("tcp".to_owned(), Some(port.to_string()));
    ResourceSpec::Firewall(vec![Rule { protocol, port, sources: Vec::new() }])
}

fn balancer() -> Balancer {
    let servers = TargetSelector::Labels("role=controlplane".to_owned());
    Balancer {
        public: true,
        services: [BalancerService::kubernetes()].into(),
        targets: [Target { servers, private: true }].into(),
    }
}

fn network() -> ResourceSpec {
    ResourceSpec::Network { range: "10.0.0.0/16".to_owned(), nodes: vec!["10.0.1.0/24".to_owned()] }
}

/// Returns the id that the shared resource of this kind has in every world.
fn id(kind: Kind) -> u64 {
    90 + kind as u64
}

pub(super) fn desired(machines: &[(&str, Role)]) -> DesiredState {
    DesiredState {
        cluster: "c".to_owned(),
        incarnation: 1,
        first_contact: FirstContact::TrustOnFirstUse,
        resources: BTreeMap::from([
            (resource(Kind::Network), network()),
            (resource(Kind::Firewall), rules(1)),
            (resource(Kind::PrimaryIp), ResourceSpec::PrimaryIp { auto_delete: false }),
            (resource(Kind::LoadBalancer), ResourceSpec::LoadBalancer(balancer())),
            (resource(Kind::PlacementGroup), ResourceSpec::PlacementGroup),
        ]),
        prices: BTreeMap::new(),
        machines: machines.iter().map(|(name, role)| (name.to_string(), machine(*role))).collect(),
        image: None,
    }
}

/// Returns a server in the state in which it was created.
pub(super) fn server(id: u64, role: Role, ours: bool, node: Node) -> Server {
    Server {
        id,
        ours,
        role: ours.then_some(role),
        r#type: "cax11".to_owned(),
        location: "fsn1".to_owned(),
        address: None,
        power: Power::On,
        labels: machine(role).relabel(&BTreeMap::new()),
        networks: [self::id(Kind::Network)].into(),
        firewalls: [self::id(Kind::Firewall)].into(),
        group: Some(self::id(Kind::PlacementGroup)),
        image: None,
        volumes: Vec::new(),
        monthly: Money::default(),
        node,
    }
}

fn keys(secretbox: &str) -> Keys {
    Keys::from([("secretbox", secretbox.to_owned())])
}

pub(super) fn configured(sha256: &str) -> Node {
    let (sha256, talos) = (sha256.to_owned(), "v1.13.9".to_owned());
    Node::Configured { sha256, talos, keys: keys(OURS) }
}

/// Returns a machine that was configured before a key was changed in the declaration.
fn rekeyed() -> Node {
    let (sha256, talos) = (OTHER.to_owned(), "v1.13.9".to_owned());
    Node::Configured { sha256, talos, keys: keys(OTHER) }
}

fn silent() -> Node {
    Node::Unreachable { why: String::new() }
}

pub(super) fn found(ours: bool, kind: Kind, spec: ResourceSpec) -> ObservedResource {
    let networks = (kind == Kind::LoadBalancer).then(|| id(Kind::Network));
    ObservedResource {
        id: id(kind),
        ours,
        labels: BTreeMap::new(),
        spec,
        networks: networks.into_iter().collect(),
        address: None,
        location: None,
        monthly: Money::default(),
    }
}

/// Returns the cluster's network with this record about etcd.
pub(super) fn recorded(record: &str) -> ObservedResource {
    let labels = BTreeMap::from([(ETCD.to_owned(), record.to_owned())]);
    ObservedResource { labels, ..found(true, Kind::Network, network()) }
}

pub(super) fn member(hostname: &str, id: u64) -> Member {
    Member { hostname: hostname.to_owned(), id, learner: false }
}

/// Declared machines of the worlds below. `EXTRA` is not declared.
pub(super) const CONTROL: &str = "c-p-1";
pub(super) const WORKER: &str = "c-w-1";
const EXTRA: &str = "c-p-2";

fn servers(role: Role) -> Vec<Option<Server>> {
    let nodes = [configured(OURS), configured(OTHER), rekeyed(), Node::Maintenance, silent()];
    let ours = nodes.into_iter().map(|node| Some(server(1, role, true, node)));
    ours.chain([None, Some(server(2, role, false, silent()))]).collect()
}

/// Runs `law` on every pair of a declaration and a world.
pub(super) fn for_all(law: impl Fn(&DesiredState, &ActualState)) {
    use Role::{Controlplane, Worker};
    let declared = [
        desired(&[(CONTROL, Controlplane)]),
        desired(&[(CONTROL, Controlplane), (WORKER, Worker)]),
    ];
    let firewalls = [None, Some((true, 1)), Some((true, 2)), Some((false, 2))];
    let networks = [None, Some("never"), Some("begun-1")];
    let etcds = [
        Etcd::Absent,
        Etcd::Unknown,
        Etcd::Members(vec![member(CONTROL, 11)]),
        Etcd::Members(vec![member(CONTROL, 11), member(EXTRA, 12), member("foreign", 13)]),
    ];
    let extras = [
        None,
        Some(server(3, Controlplane, true, configured(OTHER))),
        Some(server(3, Worker, false, silent())),
    ];
    for desired in &declared {
        for control in servers(Controlplane) {
            for worker in servers(Worker) {
                for extra in &extras {
                    for (firewall, network) in firewalls
                        .iter()
                        .flat_map(|firewall| networks.map(|network| (*firewall, network)))
                    {
                        for etcd in &etcds {
                            let named = [(CONTROL, &control), (WORKER, &worker), (EXTRA, extra)];
                            let servers = named.into_iter().filter_map(|(name, server)| {
                                Some((name.to_owned(), server.clone()?))
                            });
                            let shown = firewall.map(|(ours, port)| {
                                let kind = Kind::Firewall;
                                (resource(kind), found(ours, kind, rules(port)))
                            });
                            let network =
                                network.map(|record| (resource(Kind::Network), recorded(record)));
                            let kind = Kind::PlacementGroup;
                            let group = || found(true, kind, ResourceSpec::PlacementGroup);
                            let undeclared =
                                (SharedResource { kind, name: "old".to_owned() }, group());
                            let groups = [(resource(kind), group()), undeclared];
                            let resources = shown.into_iter().chain(network).chain(groups);
                            let nodes = [CONTROL, EXTRA, "foreign"].map(str::to_owned);
                            let actual = ActualState {
                                resources: resources.collect(),
                                servers: servers.collect(),
                                etcd: etcd.clone(),
                                nodes: nodes.into(),
                                cordoned: BTreeSet::new(),
                                images: Images::default(),
                            };
                            law(desired, &attached_only_to_what_exists(actual));
                        }
                    }
                }
            }
        }
    }
}

/// Detaches servers from a network and a firewall that do not exist: one that is created again has
/// another id.
fn attached_only_to_what_exists(mut actual: ActualState) -> ActualState {
    let (network, firewall) = (actual.id(Kind::Network), actual.id(Kind::Firewall));
    for server in actual.servers.values_mut() {
        server.networks.retain(|id| Some(*id) == network);
        server.firewalls.retain(|id| Some(*id) == firewall);
    }
    actual
}

/// Returns the world after a successful `step`.
pub(super) fn after(desired: &DesiredState, mut actual: ActualState, step: &Step) -> ActualState {
    match step {
        Step::Create { kind: Kind::Network, .. } => {
            // Same label as in `hetzner::Writer::create`.
            let history = actual.history();
            let labelled = if history == History::Never { "never" } else { "" };
            actual.resources.insert(resource(Kind::Network), recorded(labelled));
        }
        Step::Create { kind, name, .. } | Step::Update { kind, name, .. } => {
            let resource = SharedResource { kind: *kind, name: name.clone() };
            let before = actual.resources.get(&resource).map(|found| found.labels.clone());
            let labels = crate::labels::not_destroying(&before.unwrap_or_default());
            let spec = desired.resources[&resource].clone();
            let found = ObservedResource { labels, ..found(true, *kind, spec) };
            actual.resources.insert(resource, found);
        }
        Step::SetLabels { name, .. } => {
            let (machine, server) = (&desired.machines[name], server_mut(&mut actual, name));
            server.labels = machine.relabel(&server.labels);
            server.role = Some(machine.role);
        }
        Step::AttachNetwork { name, .. } => {
            server_mut(&mut actual, name).networks.insert(id(Kind::Network));
        }
        Step::AttachFirewall { name, .. } => {
            server_mut(&mut actual, name).firewalls.insert(id(Kind::Firewall));
        }
        Step::JoinGroup { name, restarts, .. } => {
            let server = server_mut(&mut actual, name);
            assert_eq!(*restarts, server.power == Power::On, "only a server that is off can join");
            server.group = Some(id(Kind::PlacementGroup));
        }
        Step::PowerOn { name, .. } => server_mut(&mut actual, name).power = Power::On,
        Step::CreateImage { .. } | Step::RemoveBuilder { .. } | Step::RemoveImage { .. } => {}
        Step::Uncordon { name } => {
            actual.cordoned.remove(name);
        }
        Step::RecordStart { incarnation } => {
            actual
                .resources
                .insert(resource(Kind::Network), recorded(&format!("begun-{incarnation}")));
        }
        Step::RemoveMember { hostname, .. } => leave(&mut actual, hostname),
        Step::CreateServer { name, role, .. } => {
            actual.servers.insert(name.clone(), server(7, *role, true, Node::Maintenance));
        }
        Step::Configure { name, .. } => {
            let server = actual.servers.get_mut(name).expect("a server to configure");
            server.node = configured(OURS);
            actual.nodes.insert(name.clone());
            if let (Role::Controlplane, Etcd::Members(members)) =
                (desired.machines[name].role, &mut actual.etcd)
                && members.iter().all(|member| member.hostname != *name)
            {
                members.push(member(name, 17));
            }
        }
        Step::Bootstrap { name } => {
            assert!(
                actual.servers[name].node.is_configured(),
                "bootstrap needs a configured machine"
            );
            actual.etcd = Etcd::Members(vec![member(name, 17)]);
        }
        Step::RemoveServer { name, leave: leaves, .. } => {
            if *leaves {
                leave(&mut actual, name);
            }
            actual.servers.remove(name);
        }
        Step::ForgetNode { name, .. } => {
            actual.nodes.remove(name);
        }
        Step::RecordDestroy { control_planes } => {
            let network = actual.resources.get_mut(&resource(Kind::Network)).expect("the network");
            network.labels = crate::labels::destroying(&network.labels, *control_planes);
        }
        Step::Remove { kind, name, .. } => {
            actual.resources.remove(&SharedResource { kind: *kind, name: name.clone() });
        }
    }
    actual
}

fn server_mut<'a>(actual: &'a mut ActualState, name: &str) -> &'a mut Server {
    actual.servers.get_mut(name).expect("a server to repair")
}

fn leave(actual: &mut ActualState, hostname: &str) {
    if let Etcd::Members(members) = &mut actual.etcd {
        members.retain(|member| member.hostname != hostname);
    }
}

pub(super) fn take(desired: &DesiredState, before: &ActualState, steps: &[Step]) -> ActualState {
    steps.iter().fold(before.clone(), |actual, step| after(desired, actual, step))
}

#[test]
fn plan_reaches_the_declared_state_and_is_then_empty() {
    for_all(|desired, before| {
        if !conflicts(desired, before).is_empty() {
            return;
        }
        let mut actual = before.clone();
        // Removals and the start of etcd need a new observation, so plan again, as `apply` does.
        for _ in 0..4 {
            actual = take(desired, &actual, &plan(desired, &actual));
        }
        for (thing, spec) in &desired.resources {
            assert_eq!(actual.resources[thing].spec, *spec, "reaches");
        }
        for name in desired.machines.keys() {
            assert_eq!(actual.servers[name].node, configured(OURS), "reaches");
        }
        assert_ne!(actual.etcd, Etcd::Absent, "reaches");
        assert!(!actual.nodes.contains(EXTRA) || actual.servers.contains_key(EXTRA), "reaches");
        assert_eq!(plan(desired, &actual), [], "rests");
    });
}

#[test]
fn plan_changes_no_resource_of_others() {
    for_all(|desired, before| {
        for step in plan(desired, before) {
            let (servers, resources) = (&before.servers, &before.resources);
            match &step {
                Step::CreateServer { name, .. } => assert!(!servers.contains_key(name), "{step}"),
                Step::Configure { name, .. }
                | Step::Bootstrap { name }
                | Step::SetLabels { name, .. }
                | Step::AttachNetwork { name, .. }
                | Step::AttachFirewall { name, .. }
                | Step::JoinGroup { name, .. }
                | Step::PowerOn { name, .. }
                | Step::Uncordon { name } => {
                    assert!(servers.get(name).is_none_or(|server| server.ours), "{step}");
                }
                Step::RemoveServer { name, .. } => {
                    assert!(servers[name].ours && !desired.machines.contains_key(name), "{step}");
                }
                Step::Create { kind, name, .. } => {
                    let resource = SharedResource { kind: *kind, name: name.clone() };
                    assert!(!resources.contains_key(&resource), "{step}");
                }
                Step::Update { kind, name, .. } | Step::Remove { kind, name, .. } => {
                    let resource = SharedResource { kind: *kind, name: name.clone() };
                    assert!(resources[&resource].ours, "{step}");
                }
                Step::RecordDestroy { .. } => unreachable!("only `destroy` records it"),
                // `image_laws` has worlds with images.
                Step::CreateImage { .. }
                | Step::RemoveBuilder { .. }
                | Step::RemoveImage { .. } => {}
                Step::RecordStart { .. } => {
                    assert!(
                        resources.get(&resource(Kind::Network)).is_none_or(|network| network.ours)
                    );
                }
                Step::RemoveMember { hostname, .. } | Step::ForgetNode { name: hostname, .. } => {
                    assert_ne!(hostname, "foreign", "{step}");
                    assert!(servers.get(hostname).is_none_or(|server| server.ours), "{step}");
                }
            }
        }
    });
}

#[test]
fn plan_neither_recreates_nor_removes_a_machine_that_does_not_answer() {
    for_all(|desired, before| {
        let silent = before
            .servers
            .iter()
            .filter(|(_, server)| server.ours && matches!(server.node, Node::Unreachable { .. }));
        let silent: BTreeSet<_> = silent.map(|(name, _)| name).collect();
        for step in plan(desired, before) {
            match &step {
                Step::CreateServer { name, .. } | Step::RemoveMember { hostname: name, .. } => {
                    assert!(!silent.contains(name), "{step}");
                }
                _ => {}
            }
        }
    });
}

#[test]
fn a_changed_key_of_a_working_machine_is_a_conflict() {
    for_all(|desired, before| {
        let declared =
            before.servers.iter().filter(|(name, _)| desired.machines.contains_key(*name));
        let rekeyed: BTreeSet<_> = declared
            .filter(|(_, server)| server.node == rekeyed())
            .map(|(name, _)| name.clone())
            .collect();
        let refused =
            conflicts(desired, before).into_iter().filter_map(|conflict| match conflict {
                Conflict::Rekeyed { name, item: "secretbox" } => Some(name),
                _ => None,
            });
        assert_eq!(refused.collect::<BTreeSet<_>>(), rekeyed);
    });
}

// hazard: Every key of the cluster is sent to whatever answers at the address of a new machine.
// class: First contact is trusted silently.
// members: another certificate later in the same run
// now: exit 100 unless the document says `firstContact: trustOnFirstUse`; then the key is pinned
#[test]
fn a_machine_with_an_unknown_key_is_a_conflict_unless_the_document_allows_it() {
    for_all(|desired, before| {
        let desired = DesiredState { first_contact: FirstContact::Refuse, ..desired.clone() };
        let first = plan(&desired, before).into_iter().filter_map(|step| match step {
            Step::Configure { name, .. } => Some(name),
            _ => None,
        });
        let knows = |name: &String| {
            let server = before.servers.get(name);
            server.is_some_and(|server| server.node != Node::Maintenance)
        };
        let unknown: Vec<_> = first.filter(|name| !knows(name)).collect();
        let found = conflicts(&desired, before);
        let found = found.iter().any(|conflict| matches!(conflict, Conflict::FirstContact { .. }));
        assert_eq!(found, !unknown.is_empty(), "{unknown:?}");
    });
}

#[test]
fn a_lost_control_plane_leaves_etcd_before_it_is_created_again() {
    let desired = desired(&[
        (CONTROL, Role::Controlplane),
        (EXTRA, Role::Controlplane),
        ("c-p-3", Role::Controlplane),
    ]);
    let there = |id| server(id, Role::Controlplane, true, configured(OURS));
    let actual = ActualState {
        resources: desired
            .resources
            .iter()
            .map(|(thing, spec)| (thing.clone(), found(true, thing.kind, spec.clone())))
            .chain([(resource(Kind::Network), recorded("begun-1"))])
            .collect(),
        servers: BTreeMap::from([(CONTROL.to_owned(), there(1)), ("c-p-3".to_owned(), there(3))]),
        etcd: Etcd::Members(vec![member(CONTROL, 11), member(EXTRA, 12), member("c-p-3", 13)]),
        nodes: BTreeSet::from([EXTRA.to_owned()]),
        cordoned: BTreeSet::new(),
        images: Images::default(),
    };
    let steps: Vec<_> = plan(&desired, &actual).iter().map(ToString::to_string).collect();
    assert_eq!(
        steps,
        [
            "remove etcd member c-p-2 (c)",
            "delete node c-p-2 from Kubernetes",
            "create server c-p-2: cax11 in fsn1",
            "configure c-p-2 as controlplane: sha256:the digest t",
        ]
    );
}

#[test]
fn kubernetes_forgets_a_lost_machine_before_it_is_created_again() {
    for_all(|desired, before| {
        let mut actual = before.clone();
        for step in plan(desired, before) {
            if let Step::CreateServer { name, .. } = &step {
                let is_forgotten = !actual.nodes.contains(name);
                assert!(is_forgotten, "a recreated machine inherits the state of the old node");
            }
            if step.stage() < Stage::Servers || matches!(step, Step::CreateServer { .. }) {
                actual = after(desired, actual, &step);
            }
        }
    });
}
