use reasons::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::error;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use schemars::JsonSchema;
use serde::Deserialize;

use super::*;
use crate::context::Dependency;
use crate::step::tests::Change;
use crate::{Condition, Exit, Status, Stream};
use crate::{Declared, Derived};

/// The declared servers, with their sizes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fleet {
    servers: BTreeMap<String, u8>,
}

impl Kind for Fleet {
    const KIND: &'static str = "Fleet";
    type Observed = ();
    type Evidence = ();
    type Step = Change;
}

/// Fault of the simulated cloud at the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Refused,
    Outage,
    LostResponse,
    NoEffect,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[derive(Debug)]
enum Failure {
    Cloud(Fault),
    Engine(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cloud(fault) => fault.fmt(f),
            Self::Engine(error) => error.fmt(f),
        }
    }
}

impl error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl Diagnostic for Failure {
    fn reason(&self) -> Reason {
        Reason::Rejected
    }

    fn help(&self) -> Option<String> {
        None
    }

    fn exit(&self) -> Exit {
        Exit::Temporary
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Cloud(Fault::Outage))
    }

    fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Cloud(Fault::LostResponse))
    }
}

/// A simulated cloud, whose fields the tests set and read.
#[derive(Default)]
struct Cloud {
    servers: BTreeMap<String, u8>,
    foreign: BTreeSet<String>,
    executed: Vec<Change>,
    write_faults: Vec<Fault>,
    /// Faults of the next observations, the last one first; `None` succeeds.
    read_faults: Vec<Option<Fault>>,
    /// Number of observations in which the cloud is still busy.
    busy: usize,
    busy_after_round: usize,
    /// Steps that one round executes; 0 for all.
    batch: usize,
    authorized: Vec<usize>,
    /// Faults of the next verifications, the last one first.
    verify_faults: Vec<Fault>,
    verified: usize,
}

struct Simulation(Mutex<Cloud>);

impl Simulation {
    fn with<T>(&self, act: impl FnOnce(&mut Cloud) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Program for Simulation {
    type Kind = Fleet;
    type Error = Failure;
    type Session<'a> = BTreeMap<String, u8>;
    type Observation = BTreeMap<String, u8>;
    type StepContext = ();
    const POLL: Duration = Duration::ZERO;

    fn dependencies(_: &Declared<Fleet>) -> Vec<Dependency> {
        Vec::new()
    }

    fn open<'a>(
        &'a self,
        context: &Context<'a, Fleet>,
        _: Intent,
    ) -> Result<Opened<Self::Session<'a>, StatusOf<Fleet>>, Failure> {
        Ok(Opened::Session(context.document.spec.servers.clone()))
    }

    fn observe(&self, _: &Self::Session<'_>, (): &()) -> Result<Self::Observation, Failure> {
        self.with(|cloud| match cloud.read_faults.pop().flatten() {
            Some(fault) => Err(Failure::Cloud(fault)),
            None => Ok(cloud.servers.clone()),
        })
    }

    fn plan(
        &self,
        declared: &Self::Session<'_>,
        observed: &Self::Observation,
        intent: Intent,
    ) -> Plan<Change> {
        let conflicts = self.with(|cloud| {
            let taken = cloud.foreign.iter().filter(|name| declared.contains_key(*name));
            let conflict = |name: &String| Conflict {
                message: format!("server {name} belongs to another project"),
                help: "rename it".to_owned(),
            };
            taken.map(conflict).collect()
        });
        let none = BTreeMap::new();
        let declared = if intent.is_removal() { &none } else { declared };
        let changed = declared.iter().filter_map(|(name, to)| match observed.get(name) {
            None => Some(Change::Create { name: name.clone() }),
            Some(from) if from != to => {
                Some(Change::Resize { name: name.clone(), from: *from, to: *to })
            }
            Some(_) => None,
        });
        let removed = observed.keys().filter(|name| !declared.contains_key(*name));
        let removed = removed.map(|name| Change::Remove { name: name.clone() });
        Plan { steps: changed.chain(removed).collect(), conflicts }
    }

    fn authorize(
        &self,
        _: &Self::Session<'_>,
        _: &Self::Observation,
        steps: &[Change],
        (): &mut (),
        _: &WritePermit,
    ) -> Result<(), Failure> {
        self.with(|cloud| cloud.authorized.push(steps.len()));
        Ok(())
    }

    fn next(
        &self,
        _: &Self::Session<'_>,
        _: &Self::Observation,
        steps: &[Change],
    ) -> Result<Next, Failure> {
        Ok(self.with(|cloud| {
            let busy = cloud.busy;
            cloud.busy = busy.saturating_sub(1);
            match (busy, steps.len(), cloud.batch) {
                (1.., ..) => Next::Wait { reason: "the cloud is busy".to_owned() },
                (0, 0, _) => Next::Finish,
                (0, all, 0) => Next::Execute { count: all },
                (0, _, count) => Next::Execute { count },
            }
        }))
    }

    fn execute(
        &self,
        declared: &Self::Session<'_>,
        _: &Self::Observation,
        step: &Change,
        (): &mut (),
        _: &WritePermit,
    ) -> Result<String, Failure> {
        self.with(|cloud| {
            let fault = cloud.write_faults.pop();
            if fault == Some(Fault::Refused) {
                return Err(Failure::Cloud(Fault::Refused));
            }
            cloud.executed.push(step.clone());
            cloud.busy = cloud.busy_after_round;
            let servers = &mut cloud.servers;
            match step {
                _ if fault == Some(Fault::NoEffect) => {}
                Change::Create { name } => {
                    servers.insert(name.clone(), declared[name]);
                }
                Change::Resize { name, to, .. } => {
                    servers.insert(name.clone(), *to);
                }
                Change::Remove { name } => {
                    servers.remove(name);
                }
            }
            match fault {
                Some(Fault::LostResponse) => Err(Failure::Cloud(Fault::LostResponse)),
                _ => Ok(String::new()),
            }
        })
    }

    fn time_limit(&self, _: &Self::Session<'_>) -> Duration {
        Duration::from_secs(20)
    }

    fn status(
        &self,
        _: &Self::Session<'_>,
        _: &Self::Observation,
        steps: Vec<Change>,
        _: Intent,
    ) -> Result<StatusOf<Fleet>, Failure> {
        Ok(Status::planned(None, steps))
    }

    fn verify(
        &self,
        _: &Self::Session<'_>,
        _: &Self::Observation,
        steps: Vec<Change>,
    ) -> Result<StatusOf<Fleet>, Failure> {
        let fault = self.with(|cloud| {
            cloud.verified += 1;
            cloud.verify_faults.pop()
        });
        if let Some(fault) = fault {
            return Err(Failure::Cloud(fault));
        }
        let is_proven = steps.is_empty();
        Ok(Status::new(Condition::ready(is_proven, Reason::AsDeclared, "compared")))
    }

    fn derive(&self, _: &Context<'_, Fleet>) -> Result<Vec<Derived>, Failure> {
        Ok(Vec::new())
    }
}

/// Every state of two servers: absent, or with one of two sizes.
fn worlds() -> Vec<BTreeMap<String, u8>> {
    let mut worlds = vec![BTreeMap::new()];
    for name in ["a", "b"] {
        let larger = |size: u8| {
            worlds.iter().cloned().map(move |mut world: BTreeMap<String, u8>| {
                world.insert(name.to_owned(), size);
                world
            })
        };
        let larger: Vec<_> = larger(1).chain(larger(2)).collect();
        worlds.extend(larger);
    }
    worlds
}

/// Runs one verb for the declared servers, and returns its steps (left over) or its error.
fn run_on(
    cloud: Cloud,
    declared: &BTreeMap<String, u8>,
    intent: Intent,
) -> (Result<Vec<Change>, Failure>, Cloud) {
    let text = serde_json::json!({
        "apiVersion": "holistic/v1alpha1", "kind": "Fleet", "metadata": {"name": "prod"},
        "spec": {"servers": declared},
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("fleet.yaml");
    std::fs::write(&file, text.to_string()).expect("a file");
    let mut stream = Stream::read(&[file]);
    let documents = stream.documents_of::<Fleet>();
    let simulation = Simulation(Mutex::new(cloud));
    let context = Context { document: &documents[0], stream: &stream };
    let result = run(&simulation, &context, intent);
    let result = result.map(|status| status.plan.unwrap_or_default());
    (result, simulation.0.into_inner().expect("no panic"))
}

#[test]
fn apply_executes_the_steps_that_plan_shows_in_every_world_and_batch_size() {
    for before in worlds() {
        for declared in worlds() {
            for (shows, executes) in
                [(Intent::Plan, Intent::Apply), (Intent::PlanDestroy, Intent::Destroy)]
            {
                let cloud = || Cloud { servers: before.clone(), ..Cloud::default() };
                let (planned, untouched) = run_on(cloud(), &declared, shows);
                let planned = planned.expect("a plan");
                assert_eq!(untouched.executed, [], "a plan executes nothing");
                for batch in [0, 1, 2] {
                    let cloud = Cloud { batch, busy_after_round: 1, ..cloud() };
                    let (left, after) = run_on(cloud, &declared, executes);
                    assert_eq!(left.expect("converges"), []);
                    assert_eq!(after.executed, planned, "batches of {batch}");
                    let goal = if executes == Intent::Apply { &declared } else { &worlds()[0] };
                    assert_eq!(&after.servers, goal);
                }
            }
        }
    }
}

fn two_servers() -> BTreeMap<String, u8> {
    [("a".to_owned(), 1), ("b".to_owned(), 1)].into()
}

#[test]
fn every_round_is_authorized_with_all_steps_that_are_left() {
    let cloud = Cloud { batch: 1, ..Cloud::default() };
    let (_, after) = run_on(cloud, &two_servers(), Intent::Apply);
    assert_eq!(after.authorized, [2, 1]);
}

#[test]
fn outage_ends_the_run_at_the_first_observation_only() {
    let cloud = Cloud { read_faults: vec![Some(Fault::Outage)], ..Cloud::default() };
    let (end, after) = run_on(cloud, &two_servers(), Intent::Apply);
    assert!(matches!(end, Err(Failure::Cloud(Fault::Outage))), "{end:?}");
    assert_eq!(after.executed, []);

    let read_faults = [vec![Some(Fault::Outage); 3], vec![None]].concat();
    let (left, after) =
        run_on(Cloud { read_faults, ..Cloud::default() }, &two_servers(), Intent::Apply);
    assert_eq!(left.expect("an outage of three observations ends"), []);
    assert_eq!((after.executed.len(), after.read_faults.len()), (2, 0));

    let read_faults = vec![Some(Fault::Refused), None];
    let (end, _) = run_on(Cloud { read_faults, ..Cloud::default() }, &two_servers(), Intent::Apply);
    assert!(matches!(end, Err(Failure::Cloud(Fault::Refused))), "no retry can help: {end:?}");
}

#[test]
fn lost_response_is_observed_again_and_a_refusal_ends_the_run() {
    let cloud = Cloud { write_faults: vec![Fault::LostResponse], ..Cloud::default() };
    let (left, after) = run_on(cloud, &two_servers(), Intent::Apply);
    assert_eq!(left.expect("converges"), []);
    assert_eq!(after.executed.len(), 2, "a step that took effect is not repeated");

    let cloud = Cloud { write_faults: vec![Fault::Refused], ..Cloud::default() };
    let (end, after) = run_on(cloud, &two_servers(), Intent::Apply);
    assert!(matches!(end, Err(Failure::Cloud(Fault::Refused))), "{end:?}");
    assert_eq!(after.executed, []);
}

#[test]
fn step_without_effect_is_executed_three_times_and_then_reported() {
    for (times, converges) in [(2, true), (3, false)] {
        let cloud = Cloud { write_faults: vec![Fault::NoEffect; times], ..Cloud::default() };
        let declared = BTreeMap::from([("a".to_owned(), 1)]);
        let (end, after) = run_on(cloud, &declared, Intent::Apply);
        assert_eq!(after.executed.len(), 3);
        match end {
            Ok(left) => assert!(converges && left.is_empty()),
            Err(Failure::Engine(Error::NoProgress { steps })) => {
                assert!(!converges);
                assert_eq!(steps, ["create server a"]);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn conflict_stops_plan_and_apply_before_anything_is_executed() {
    for intent in [Intent::Plan, Intent::Apply, Intent::Destroy, Intent::Verify] {
        let foreign = BTreeSet::from(["b".to_owned()]);
        let (end, after) = run_on(Cloud { foreign, ..Cloud::default() }, &two_servers(), intent);
        let Err(Failure::Engine(error)) = end else { panic!("{intent:?}") };
        assert_eq!(error.to_string(), "server b belongs to another project");
        assert_eq!(error.help().as_deref(), Some("rename it"));
        assert_eq!(after.executed, []);
    }
}

#[test]
fn verify_is_repeated_while_a_proof_is_incomplete_and_ends_when_it_fails() {
    let proven = |verify_faults: Vec<Fault>| {
        let cloud = Cloud { verify_faults, ..Cloud::default() };
        let (end, after) = run_on(cloud, &BTreeMap::new(), Intent::Verify);
        (end.is_ok(), after.verified)
    };
    assert_eq!(proven(vec![]), (true, 1));
    assert_eq!(proven(vec![Fault::Outage, Fault::Outage]), (true, 3), "an incomplete proof");
    assert_eq!(proven(vec![Fault::Outage, Fault::Refused]), (false, 1), "a failed proof");
    assert_eq!(proven(vec![Fault::Refused, Fault::Outage]), (false, 2), "failed after a wait");
}
