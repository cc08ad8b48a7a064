//! Law of drift: every foreign change is planned and repaired, and a repaired cluster needs no
//! step.

use std::collections::{BTreeMap, BTreeSet};

use super::laws::{
    CONTROL, OURS, WORKER, after, configured, desired, found as shared, member, recorded, resource,
    server, take,
};
use super::*;
use crate::config::Keys;

/// Foreign change, and the step that repairs it.
struct Foreign {
    what: &'static str,
    change: fn(&mut ActualState),
    /// Parts of the step's text, separated by `|`.
    repaired: &'static str,
}

fn control(actual: &mut ActualState) -> &mut Server {
    actual.servers.get_mut(CONTROL).expect("the control plane")
}

fn found(actual: &mut ActualState, kind: Kind) -> &mut ObservedResource {
    let mut resources = actual.resources.iter_mut();
    resources.find(|(thing, _)| thing.kind == kind).expect("the thing").1
}

fn balancer(actual: &mut ActualState) -> &mut Balancer {
    match &mut found(actual, Kind::LoadBalancer).spec {
        ResourceSpec::LoadBalancer(balancer) => balancer,
        _ => unreachable!("a load balancer has this spec"),
    }
}

/// Every foreign change that the API allows and that harms a declared cluster.
const FOREIGN: &[Foreign] = &[
    Foreign {
        what: "a server is powered off",
        change: |actual| control(actual).power = Power::Off,
        repaired: "power on server c-p-1",
    },
    Foreign {
        what: "a server is detached from the network",
        change: |actual| control(actual).networks.clear(),
        repaired: "attach server c-p-1 to the network",
    },
    Foreign {
        what: "the firewall is detached from a server",
        change: |actual| control(actual).firewalls = [5].into(),
        repaired: "apply the firewall to server c-p-1",
    },
    Foreign {
        what: "a server leaves its placement group",
        change: |actual| control(actual).group = None,
        repaired: "placement group c",
    },
    Foreign {
        what: "the label of the role is removed",
        change: |actual| {
            control(actual).labels.remove("holistic/role");
            control(actual).role = None;
        },
        repaired: "restore the labels of server c-p-1",
    },
    Foreign {
        what: "the label of the role is changed",
        change: |actual| {
            control(actual).labels.insert("holistic/role".to_owned(), "worker".to_owned());
            control(actual).role = Some(Role::Worker);
        },
        repaired: "restore the labels of server c-p-1",
    },
    Foreign {
        what: "the label of the pool is changed",
        change: |actual| {
            control(actual).labels.insert("holistic/pool".to_owned(), "q".to_owned());
        },
        repaired: "restore the labels of server c-p-1",
    },
    Foreign {
        what: "a removal was given up",
        change: |actual| {
            control(actual).labels.insert("holistic/removing".to_owned(), "true".to_owned());
            actual.cordoned.insert(CONTROL.to_owned());
        },
        repaired: "uncordon node c-p-1",
    },
    Foreign {
        what: "firewall rules are changed",
        change: |actual| found(actual, Kind::Firewall).spec = ResourceSpec::Firewall(Vec::new()),
        repaired: "change firewall c: rules",
    },
    Foreign {
        what: "the subnet is deleted",
        change: |actual| {
            let range = "10.0.0.0/16".to_owned();
            found(actual, Kind::Network).spec = ResourceSpec::Network { range, nodes: Vec::new() };
        },
        repaired: "change network c: subnet",
    },
    Foreign {
        what: "a destroy was given up",
        change: |actual| {
            found(actual, Kind::Network)
                .labels
                .insert("holistic/destroying".to_owned(), "1".to_owned());
        },
        repaired: "change network c|labels",
    },
    Foreign {
        what: "the Primary IP is set to be deleted with its load balancer",
        change: |actual| {
            found(actual, Kind::PrimaryIp).spec = ResourceSpec::PrimaryIp { auto_delete: true };
        },
        repaired: "change primary IP c: auto delete: true → false",
    },
    Foreign {
        what: "the load balancer is detached from the network",
        change: |actual| found(actual, Kind::LoadBalancer).networks.clear(),
        repaired: "change load balancer c|network",
    },
    Foreign {
        what: "the load balancer loses its public interface",
        change: |actual| balancer(actual).public = false,
        repaired: "change load balancer c|public interface",
    },
    Foreign {
        what: "the load balancer loses its service",
        change: |actual| balancer(actual).services.clear(),
        repaired: "change load balancer c|services",
    },
    Foreign {
        what: "the load balancer has another service",
        change: |actual| {
            let other = BalancerService { listen: 22, ..BalancerService::kubernetes() };
            balancer(actual).services.insert(other);
        },
        repaired: "change load balancer c|services",
    },
    Foreign {
        what: "the load balancer loses its targets",
        change: |actual| balancer(actual).targets.clear(),
        repaired: "change load balancer c|targets",
    },
    Foreign {
        what: "the load balancer has another target",
        change: |actual| {
            let servers = TargetSelector::Address("192.0.2.1".to_owned());
            balancer(actual).targets.insert(Target { servers, private: false });
        },
        repaired: "change load balancer c|targets",
    },
];

fn kinds() -> BTreeSet<usize> {
    (0..FOREIGN.len()).collect()
}

/// Returns a declared cluster of one control plane and one worker, and a world that contains all of
/// it.
fn configured_world() -> (DesiredState, ActualState) {
    let desired = desired(&[(CONTROL, Role::Controlplane), (WORKER, Role::Worker)]);
    let there = |(name, machine): (&String, &Machine)| {
        let number = if name == CONTROL { 1 } else { 2 };
        (name.clone(), server(number, machine.role, true, configured(OURS)))
    };
    let resources = desired.resources.iter();
    let actual = ActualState {
        resources: resources
            .map(|(named, spec)| (named.clone(), shared(true, named.kind, spec.clone())))
            .chain([(resource(Kind::Network), recorded("begun-1"))])
            .collect(),
        servers: desired.machines.iter().map(there).collect(),
        etcd: Etcd::Members(vec![member(CONTROL, 11)]),
        nodes: desired.machines.keys().cloned().collect(),
        cordoned: BTreeSet::new(),
        images: Images::default(),
    };
    (desired, actual)
}

/// Runs `law` on every foreign change alone, on every pair, and on all at once.
fn for_all(law: impl Fn(&DesiredState, &ActualState, &[&Foreign])) {
    let (desired, actual) = configured_world();
    assert_eq!(plan(&desired, &actual), [], "the world without drift rests");
    let pairs = kinds().into_iter().flat_map(|one| kinds().into_iter().map(move |two| [one, two]));
    let sets = pairs.map(BTreeSet::from).chain([kinds()]);
    for set in sets {
        let foreign: Vec<_> = set.iter().map(|index| &FOREIGN[*index]).collect();
        let mut drifted = actual.clone();
        for foreign in &foreign {
            (foreign.change)(&mut drifted);
        }
        law(&desired, &drifted, &foreign);
    }
}

// hazard: A firewall is detached or a load balancer emptied, and plan and verify see nothing.
// class: Only what was declared last is compared.
// members: server without network, powered off, labels, placement group, subnet, services, targets
// now: a named step, `plan --check` exits 3, `apply` repairs it
#[test]
fn every_foreign_change_is_planned_and_repaired_once() {
    for_all(|desired, drifted, foreign| {
        let what: Vec<_> = foreign.iter().map(|foreign| foreign.what).collect();
        assert_eq!(conflicts(desired, drifted), [], "{what:?}");
        let steps = plan(desired, drifted);
        let texts: Vec<_> = steps.iter().map(ToString::to_string).collect();
        for foreign in foreign {
            let parts = foreign.repaired.split('|');
            let seen = texts.iter().any(|text| parts.clone().all(|part| text.contains(part)));
            assert!(seen, "{}: {texts:?}", foreign.what);
        }
        let repaired = take(desired, drifted, &steps);
        assert_eq!(plan(desired, &repaired), [], "{what:?}");
    });
}

#[test]
fn plan_cloud_plans_the_same_repairs_without_asking_machines() {
    for_all(|desired, drifted, foreign| {
        let (mut declared, mut cloud) = (desired.clone(), drifted.clone());
        for machine in declared.machines.values_mut() {
            machine.configuration = Deferred::AfterApply;
            machine.keys = Keys::new();
        }
        for server in cloud.servers.values_mut() {
            server.node = Node::Unreachable { why: "not asked".to_owned() };
        }
        (cloud.etcd, cloud.nodes, cloud.cordoned) =
            (Etcd::Unknown, BTreeSet::new(), BTreeSet::new());
        let what: Vec<_> = foreign.iter().map(|foreign| foreign.what).collect();
        let needs_a_node = |step: &Step| matches!(step, Step::Uncordon { .. });
        let mut steps = plan(desired, drifted);
        steps.retain(|step| !needs_a_node(step));
        assert_eq!(plan_cloud(&declared, &cloud), steps, "{what:?}");
    });
}

#[test]
fn repairs_continue_after_an_interruption_at_any_step() {
    for_all(|desired, drifted, _| {
        let mut actual = drifted.clone();
        // `apply` plans again after every stage, and after every start.
        for _ in 0..40 {
            let Some(step) = plan(desired, &actual).into_iter().min_by_key(Step::stage) else {
                break;
            };
            actual = after(desired, actual, &step);
        }
        assert_eq!(plan(desired, &actual), []);
    });
}

#[test]
fn a_running_server_is_restarted_last_and_only_for_its_placement_group() {
    for_all(|desired, drifted, _| {
        let steps = plan(desired, drifted);
        let restarts = steps.iter().filter(|step| step.stage() == Stage::Restarts);
        for step in restarts {
            assert!(matches!(step, Step::JoinGroup { restarts: true, .. }), "{step}");
            assert!(drifted.servers[CONTROL].group.is_none(), "{step}");
        }
    });
}

#[test]
fn plan_leaves_labels_and_subnets_of_others_unchanged() {
    let (desired, mut actual) = configured_world();
    let labels = BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
    control(&mut actual).labels.extend(labels);
    let subnets = vec!["10.0.1.0/24".to_owned(), "10.0.9.0/24".to_owned()];
    let range = "10.0.0.0/16".to_owned();
    found(&mut actual, Kind::Network).spec = ResourceSpec::Network { range, nodes: subnets };
    assert_eq!(conflicts(&desired, &actual), []);
    assert_eq!(plan(&desired, &actual), []);
}

#[test]
fn a_network_with_another_subnet_is_a_conflict() {
    let (desired, mut actual) = configured_world();
    let (range, nodes) = ("10.0.0.0/16".to_owned(), vec!["10.0.9.0/24".to_owned()]);
    found(&mut actual, Kind::Network).spec = ResourceSpec::Network { range, nodes };
    assert_eq!(conflicts(&desired, &actual).len(), 1);
}

#[test]
fn a_role_that_the_document_changes_is_a_conflict_and_not_drift() {
    let (mut desired, actual) = configured_world();
    let machine = desired.machines.get_mut(CONTROL).expect("the machine");
    machine.role = Role::Worker;
    machine.configuration = Deferred::Value("that of a worker".to_owned());
    assert!(!conflicts(&desired, &actual).is_empty());
}

// hazard: A control plane that lost its role label is removed without leaving etcd.
// class: Trust in one label.
// members: a changed label
// now: it leaves etcd first
#[test]
fn a_control_plane_without_its_label_still_leaves_etcd_before_it_is_removed() {
    let (mut desired, mut actual) = configured_world();
    desired.machines.remove(CONTROL);
    control(&mut actual).role = None;
    let leaves = plan(&desired, &actual).into_iter().any(
        |step| matches!(step, Step::RemoveServer { name, leave: true, .. } if name == CONTROL),
    );
    assert!(leaves);
}

#[test]
fn a_load_balancer_without_a_primary_ip_of_ours_keeps_its_address() {
    let (desired, mut actual) = configured_world();
    actual.resources.remove(&resource(Kind::PrimaryIp));
    assert_eq!(plan(&desired, &actual), [], "an address cannot be assigned to it any more");
    actual.resources.remove(&resource(Kind::LoadBalancer));
    let steps: Vec<_> = plan(&desired, &actual).iter().map(ToString::to_string).collect();
    assert_eq!(steps, ["create primary IP c", "create load balancer c"]);
}

#[test]
fn the_laws_cover_at_least_ten_kinds_of_drift() {
    let kinds: BTreeSet<_> = FOREIGN.iter().map(|foreign| foreign.repaired).collect();
    assert!(kinds.len() >= 10, "{kinds:?}");
}
