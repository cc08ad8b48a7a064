//! etcd starts once, over every small world of control planes and over every order of events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use contract::labels::ETCD;
use documents::Deferred;

use super::*;
use crate::config::Keys;
use crate::model::Start;
use crate::money::Money;
use crate::spec::FirstContact;

const NAMES: [&str; 3] = ["c-p-1", "c-p-2", "c-p-3"];
/// Control plane that is no longer declared.
const EXTRA: &str = "c-p-4";

/// Observable state of a control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shows {
    Absent,
    Maintenance,
    Unreachable,
    Foreign,
    /// The label was lost, so the server is not known to be a control plane.
    NoRole,
    /// The service is booting: `Starting` or `Waiting`.
    Waiting,
    PreparingEmpty,
    PreparingWithData,
    Running,
    /// etcd runs, and its member knows no leader.
    Leaderless,
}

const ALL: [Shows; 10] = [
    Shows::Absent,
    Shows::Maintenance,
    Shows::Unreachable,
    Shows::Foreign,
    Shows::NoRole,
    Shows::Waiting,
    Shows::PreparingEmpty,
    Shows::PreparingWithData,
    Shows::Running,
    Shows::Leaderless,
];

impl Shows {
    fn server(self, id: u64) -> Option<Server> {
        let why = String::new();
        let node = match self {
            Self::Absent => return None,
            Self::Maintenance => Node::Maintenance,
            Self::Unreachable | Self::NoRole => Node::Unreachable { why },
            Self::Foreign => Node::Foreign { why },
            Self::Waiting
            | Self::PreparingEmpty
            | Self::PreparingWithData
            | Self::Running
            | Self::Leaderless => {
                let (sha256, talos) = ("declared".to_owned(), "v1.13.9".to_owned());
                Node::Configured { sha256, talos, keys: Keys::new() }
            }
        };
        Some(Server {
            id,
            ours: true,
            role: (self != Self::NoRole).then_some(Role::Controlplane),
            r#type: "cax11".to_owned(),
            location: "fsn1".to_owned(),
            address: None,
            power: crate::plan::Power::On,
            labels: machine().relabel(&BTreeMap::new()),
            networks: BTreeSet::from([9]),
            firewalls: BTreeSet::new(),
            group: None,
            image: None,
            volumes: Vec::new(),
            monthly: Money::default(),
            node,
        })
    }

    /// Returns the report about etcd that [`crate::clients::talos`] derives from this state.
    fn report(self) -> Etcd {
        match self {
            Self::PreparingEmpty => Etcd::Absent,
            Self::Running => {
                Etcd::Members(vec![Member { hostname: "x".to_owned(), id: 1, learner: false }])
            }
            Self::Leaderless => Etcd::Leaderless { members: 1 },
            _ => Etcd::Unknown,
        }
    }
}

fn machine() -> Machine {
    let group = SharedResource { kind: Kind::PlacementGroup, name: "c-p".to_owned() };
    Machine {
        role: Role::Controlplane,
        pool: "p".to_owned(),
        r#type: "cax11".to_owned(),
        locations: vec!["fsn1".to_owned()],
        group,
        configuration: Deferred::Value("declared".to_owned()),
        keys: Keys::new(),
        talos: "v1.13.9".to_owned(),
        monthly: None,
    }
}

fn desired(count: usize, incarnation: u16) -> DesiredState {
    let machines = NAMES[..count].iter().map(|name| ((*name).to_owned(), machine()));
    DesiredState {
        cluster: "c".to_owned(),
        incarnation,
        first_contact: FirstContact::TrustOnFirstUse,
        resources: BTreeMap::from([(network(), spec())]),
        prices: BTreeMap::new(),
        machines: machines.collect(),
        image: None,
    }
}

fn network() -> SharedResource {
    SharedResource { kind: Kind::Network, name: "c".to_owned() }
}

fn spec() -> ResourceSpec {
    ResourceSpec::Network { range: "10.0.0.0/16".to_owned(), nodes: vec!["10.0.1.0/24".to_owned()] }
}

fn actual(shown: &[(&str, u64, Shows)], label: Option<&str>) -> ActualState {
    let servers =
        shown.iter().filter_map(|(name, id, shows)| Some(((*name).to_owned(), shows.server(*id)?)));
    let servers: BTreeMap<_, _> = servers.collect();
    let reports: BTreeMap<_, _> =
        shown.iter().map(|(name, _, shows)| (*name, shows.report())).collect();
    let etcd = Etcd::merge(&servers, |name| reports.get(name));
    let labels = label.map(|value| (ETCD.to_owned(), value.to_owned()));
    let found = ObservedResource {
        id: 9,
        ours: true,
        labels: labels.into_iter().collect(),
        networks: BTreeSet::new(),
        spec: spec(),
        address: None,
        location: None,
        monthly: Money::default(),
    };
    ActualState {
        resources: BTreeMap::from([(network(), found)]),
        servers,
        etcd,
        nodes: BTreeSet::new(),
        cordoned: BTreeSet::new(),
        images: Images::default(),
    }
}

/// Returns the machine on which the next stage of the plan starts etcd.
fn starts_next(desired: &DesiredState, actual: &ActualState) -> Option<String> {
    let steps = plan(desired, actual);
    steps[..batch(&steps)].iter().find_map(|step| match step {
        Step::Bootstrap { name } => Some(name.clone()),
        _ => None,
    })
}

/// Runs `law` on worlds with one or three control planes and one that is no longer declared, with
/// each record and two incarnations.
fn for_all(law: impl Fn(&DesiredState, &ActualState, &[Shows], Shows)) {
    let labels = [
        None,
        Some("never"),
        Some("starting-1-1"),
        Some("starting-1-3"),
        Some("starting-1-8"),
        Some("begun-1"),
        Some("begun-2"),
        Some("nonsense"),
    ];
    let singles = ALL.map(|shows| vec![shows]).to_vec();
    // Each combination occurs once. The order matters to the record alone, which names the first
    // and the last control plane.
    let triples = ALL
        .iter()
        .flat_map(|a| ALL.iter().flat_map(move |b| ALL.iter().map(move |c| vec![*a, *b, *c])));
    let triples = triples.filter(|shown| shown.is_sorted());
    let extras = [
        Shows::Absent,
        Shows::Maintenance,
        Shows::Unreachable,
        Shows::PreparingEmpty,
        Shows::PreparingWithData,
    ];
    for controls in singles.into_iter().chain(triples) {
        for extra in extras {
            let named = NAMES.iter().zip(1..).zip(&controls);
            let mut shown: Vec<_> = named.map(|((name, id), shows)| (*name, id, *shows)).collect();
            shown.push((EXTRA, 4, extra));
            for label in labels {
                for incarnation in [1, 2] {
                    law(
                        &desired(controls.len(), incarnation),
                        &actual(&shown, label),
                        &controls,
                        extra,
                    );
                }
            }
        }
    }
}

// hazard: A second etcd is started beside members with data that are still booting: two clusters
// answer at one endpoint.
// class: Absence is taken for proof.
// members: a lost role label, a machine without an address, a refused look, a directory listed
// before the volume is mounted
// now: no bootstrap is planned; `apply` waits and the machine rejoins
#[test]
fn etcd_starts_only_if_every_control_plane_proves_that_it_has_no_data() {
    for_all(|desired, actual, controls, extra| {
        let steps = plan(desired, actual);
        let starts = steps.iter().filter(|step| matches!(step, Step::Bootstrap { .. })).count();
        assert!(starts <= 1, "{steps:?}");
        let all_empty = controls.iter().all(|shows| *shows == Shows::PreparingEmpty);
        let harmless = matches!(extra, Shows::Absent | Shows::Maintenance | Shows::PreparingEmpty);
        let next = starts_next(desired, actual);
        if let Some(name) = &next {
            assert!(all_empty && harmless, "{actual:?}");
            let server = actual.servers.get(name).map(|server| server.id);
            assert!(actual.history().allows_bootstrap(desired.incarnation, server), "{actual:?}");
        }
        for name in NAMES {
            let proven = actual.proves_no_etcd(desired, name);
            assert!(!proven || next.as_deref() == Some(name), "{name} {actual:?}");
        }
        if all_empty && harmless && actual.history() == History::Never {
            assert_eq!(next.as_deref(), Some(NAMES[0]), "an empty cluster starts");
        }
    });
}

// hazard: The only control plane loses its disk, and `apply` makes an empty new cluster without a
// question.
// class: A lost world looks like a new one.
// members: a network made anew under servers, a label edited by hand, all servers deleted
// now: exit 100: restore, destroy, or raise `spec.incarnation`
#[test]
fn a_started_cluster_that_lost_every_disk_is_a_conflict() {
    for_all(|desired, actual, controls, extra| {
        let gone = |shows: &Shows| {
            matches!(shows, Shows::Absent | Shows::Maintenance | Shows::PreparingEmpty)
        };
        let found = conflicts(desired, actual);
        let found = found.iter().any(|conflict| matches!(conflict, Conflict::StartedBefore { .. }));
        let lost = controls.iter().all(gone) && gone(&extra);
        let ids = controls.iter().zip(1..);
        let allowed = ids
            .map(|(shows, id)| (*shows != Shows::Absent).then_some(id))
            .any(|id| actual.history().allows_bootstrap(desired.incarnation, id));
        assert_eq!(found, lost && !allowed, "{actual:?}");
    });
}

// hazard: A control plane that does not answer is counted as one without data.
// class: Silence is taken for absence.
// members: machines in maintenance beside silent ones, foreign machines
// now: no bootstrap is planned while one is silent
#[test]
fn unreachable_machines_never_count_as_empty() {
    for_all(|desired, actual, controls, extra| {
        let hides = |shows: &Shows| {
            matches!(
                shows,
                Shows::Unreachable
                    | Shows::Foreign
                    | Shows::NoRole
                    | Shows::Waiting
                    | Shows::PreparingWithData
                    | Shows::Leaderless
            )
        };
        if controls.iter().any(hides) || hides(&extra) {
            assert_ne!(actual.etcd, Etcd::Absent);
            assert_eq!(Start::decide(desired, actual), Start::Nowhere);
        }
    });
}

// hazard: Two of three control planes are deleted. `apply` makes new ones and waits for ever, because without a
// quorum etcd accepts no member.
// class: A wait for what cannot happen.
// members: a crash of etcd, a host name that does not resolve
// now: a conflict, in `plan` and before anything is created
#[test]
fn quorum_is_lost_only_when_no_machine_with_further_data_can_come_back() {
    let lost = |desired: &DesiredState, actual: &ActualState| {
        let is_lost = |conflict: &Conflict| matches!(conflict, Conflict::QuorumLost { .. });
        conflicts(desired, actual).iter().any(is_lost)
    };
    let found = std::cell::Cell::new(0);
    for_all(|desired, actual, controls, extra| {
        let all = || controls.iter().chain([&extra]);
        let leaderless = all().filter(|shows| **shows == Shows::Leaderless).count();
        let may_return = |shows: &&Shows| {
            !matches!(
                shows,
                Shows::Absent | Shows::Maintenance | Shows::PreparingEmpty | Shows::Leaderless
            )
        };
        let is_lost = leaderless > 0
            && leaderless <= desired.machines.len() / 2
            && all().find(may_return).is_none();
        assert_eq!(lost(desired, actual), is_lost, "{controls:?} {extra:?}");
        if is_lost {
            found.set(found.get() + 1);
            assert_eq!(Start::decide(desired, actual), Start::Nowhere);
            assert!(actual.keeps_workers_waiting().is_some());
        }
    });
    assert!(found.get() > 0, "no world has lost its quorum");
}

/// Everything that decides about the next step, and the real contents of the disks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct State {
    /// For each control plane: whether its disk has data of etcd, and whether it has booted far
    /// enough to report that.
    disks: [(bool, bool); 3],
    ids: [u64; 3],
    label: String,
    /// Declared value of `spec.incarnation`.
    declared: u16,
    /// Incarnations of which a run has observed members.
    seen: BTreeSet<u16>,
}

impl State {
    fn actual(&self) -> ActualState {
        let shown: Vec<_> = (0..3)
            .map(|number| {
                let shows = match self.disks[number] {
                    (_, false) => Shows::Waiting,
                    (true, true) => Shows::Running,
                    (false, true) => Shows::PreparingEmpty,
                };
                (NAMES[number], self.ids[number], shows)
            })
            .collect();
        actual(&shown, Some(&self.label))
    }

    /// Returns the worlds after one write of a run that may be killed right after it: the record,
    /// the request, or the record of members.
    fn writes(&self) -> Vec<Self> {
        let (desired, actual) = (desired(3, self.declared), self.actual());
        let mut after = Vec::new();
        let mut steps = plan(&desired, &actual);
        steps.truncate(batch(&steps));
        for step in steps {
            match step {
                Step::Bootstrap { name } if actual.proves_no_etcd(&desired, &name) => {
                    assert!(self.disks.iter().all(|(data, _)| !data), "beside data: {self:?}");
                    assert!(!self.seen.contains(&self.declared), "a second time: {self:?}");
                    let number = NAMES.iter().position(|other| *other == name).expect("declared");
                    let (incarnation, server) = (self.declared, self.ids[number]);
                    let label = History::Starting { incarnation, server }.to_string();
                    let recorded = Self { label, ..self.clone() };
                    let mut started = recorded.clone();
                    started.disks[number].0 = true;
                    after.extend([recorded, started]);
                }
                Step::RecordStart { incarnation } => {
                    let mut seen = self.seen.clone();
                    seen.insert(incarnation);
                    let label = History::Begun { incarnation }.to_string();
                    after.push(Self { label, seen, ..self.clone() });
                }
                _ => {}
            }
        }
        after
    }

    /// Returns the worlds after one event that no run caused.
    fn happens(&self) -> Vec<Self> {
        let mut after = Vec::new();
        for number in 0..3 {
            let mut slow = self.clone();
            slow.disks[number].1 = !slow.disks[number].1;
            let mut emptied = self.clone();
            emptied.disks[number].0 = false;
            let mut replaced = emptied.clone();
            replaced.ids[number] = 10 + number as u64;
            let mut joined = self.clone();
            joined.disks[number].0 |= self.disks.contains(&(true, true));
            after.extend([slow, emptied, replaced, joined]);
        }
        if self.declared == 1 && self.seen.contains(&1) {
            after.push(Self { declared: 2, ..self.clone() });
        }
        after
    }
}

// hazard: A run is killed between the record and the bootstrap request, and the next one starts
// etcd elsewhere.
// class: An interrupted write is repeated blindly.
// members: a replaced server, a raised number, lost disks in any order
// now: the next run goes on at the same server, or ends with 100
#[test]
fn no_order_of_kills_losses_and_slow_boots_starts_etcd_twice_or_beside_data() {
    let first = State {
        disks: [(false, true); 3],
        ids: [1, 2, 3],
        label: "never".to_owned(),
        declared: 1,
        seen: BTreeSet::new(),
    };
    let (mut known, mut open) = (BTreeSet::from([first.clone()]), VecDeque::from([first]));
    let mut second = false;
    while let Some(state) = open.pop_front() {
        second |= state.seen.contains(&2);
        for next in state.writes().into_iter().chain(state.happens()) {
            if known.insert(next.clone()) {
                open.push_back(next);
            }
        }
    }
    assert!(second, "a declared second incarnation is reached");
    assert!(known.len() > 1_000, "{} states", known.len());
}
