//! What will change: pure functions, data in, data out.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// One source, as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// As the document names it.
    pub(crate) source: String,
    pub(crate) is_claim: bool,
    /// What has to be stopped before it can be copied, if anything.
    pub(crate) workload: Option<At>,
}

/// A workload, as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At {
    /// `namespace kind/name`.
    pub(crate) name: String,
    /// How many replicas it is to have.
    pub(crate) replicas: u32,
    /// How many it had before a drain stopped it; `None` if none did.
    pub(crate) stopped: Option<u32>,
}

/// All that a plan is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct World {
    pub(crate) found: Vec<Found>,
    /// The hold on the claims; [`Hold::Needless`] if no source is a claim.
    pub(crate) hold: Hold,
    /// Whether the store has a receipt for exactly this state.
    pub(crate) receipted: bool,
    /// Whether the hold's parameter is the digest of that receipt.
    pub(crate) recorded: bool,
}

/// What keeps pods off the claims, as it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nothing has to be held.
    Needless,
    /// No object of it is there.
    Absent,
    /// Some of it is there, or it is not as it should be.
    Broken,
    /// It is as it should be.
    Active,
}

/// One change. Says what it makes true, and from what, so that a reader can object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// It still writes.
    Stop {
        /// What: its namespace, kind and name.
        workload: String,
        /// How many replicas it has.
        replicas: u32,
    },
    /// Pods could still mount the claims, or delete them.
    Hold {
        /// The number of claims.
        claims: usize,
    },
    /// No receipt says that it was copied as it is now.
    Copy {
        /// What.
        source: String,
    },
    /// Everything has been copied and read back.
    Sign {
        /// How many sources the receipt is for.
        sources: usize,
    },
    /// The hold does not know the receipt yet, so nothing may be deleted.
    Record {
        /// The number of claims.
        claims: usize,
    },
    /// The hold keeps every pod off the claims.
    Thaw {
        /// The number of claims.
        claims: usize,
    },
    /// A drain has stopped it.
    Start {
        /// What: its namespace, kind and name.
        workload: String,
        /// How many replicas it had.
        replicas: u32,
    },
}

/// The steps to a world in which no pod writes, and a receipt says that everything was copied.
pub(crate) fn plan(world: &World) -> Vec<Step> {
    let stops: Vec<_> = workloads(world).into_iter().filter_map(stop).collect();
    let claims = claims(world);
    let hold = matches!(world.hold, Hold::Absent | Hold::Broken).then_some(Step::Hold { claims });
    let record = (world.hold != Hold::Needless).then_some(Step::Record { claims });
    if world.receipted && stops.is_empty() && hold.is_none() {
        return record.filter(|_| !world.recorded).into_iter().collect();
    }
    let copies = world.found.iter().map(|found| Step::Copy { source: found.source.clone() });
    let sign = Step::Sign { sources: world.found.len() };
    stops.into_iter().chain(hold).chain(copies).chain([sign]).chain(record).collect()
}

/// The steps to a world in which everything runs that a drain has stopped, and may mount its
/// claims.
pub(crate) fn plan_destroy(world: &World) -> Vec<Step> {
    let held = matches!(world.hold, Hold::Active | Hold::Broken);
    let thaw = held.then(|| Step::Thaw { claims: claims(world) });
    let start = |at: &At| {
        let replicas = at.stopped?;
        Some(Step::Start { workload: at.name.clone(), replicas })
    };
    thaw.into_iter().chain(workloads(world).into_iter().filter_map(start).rev()).collect()
}

fn claims(world: &World) -> usize {
    world.found.iter().filter(|found| found.is_claim).count()
}

fn stop(at: &At) -> Option<Step> {
    let stop = Step::Stop { workload: at.name.clone(), replicas: at.replicas };
    // One that a drain has not stopped would be started again by whoever declares it.
    (at.replicas > 0 || at.stopped.is_none()).then_some(stop)
}

/// Each once: two claims may be of one workload.
fn workloads(world: &World) -> Vec<&At> {
    let mut all: Vec<&At> = Vec::new();
    for at in world.found.iter().filter_map(|it| it.workload.as_ref()) {
        if !all.iter().any(|it| it.name == at.name) {
            all.push(at);
        }
    }
    all
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop { workload, replicas } => write!(f, "stop {workload} ({replicas} replicas)"),
            Self::Copy { source } => write!(f, "copy {source}"),
            Self::Hold { claims } => write!(f, "hold {claims} claims: no pod may mount them"),
            Self::Record { claims } => {
                write!(f, "let {claims} claims be deleted with the receipt")
            }
            Self::Thaw { claims } => write!(f, "let pods mount {claims} claims again"),
            Self::Sign { sources } => write!(f, "sign a receipt for {sources} sources"),
            Self::Start { workload, replicas } => {
                write!(f, "start {workload} ({replicas} replicas)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every world of two claims, of one workload or of two, and a repository.
    fn worlds() -> Vec<World> {
        let mut states = vec![None];
        for name in ["default deployment/a", "default deployment/b"] {
            for replicas in [0, 1, 3] {
                for stopped in [None, Some(0), Some(2)] {
                    states.push(Some(At { name: name.to_owned(), replicas, stopped }));
                }
            }
        }
        let mut worlds = Vec::new();
        for one in &states {
            for two in &states {
                let differ = |a: &At, b: &At| a.name == b.name && a != b;
                if one.as_ref().zip(two.as_ref()).is_some_and(|(a, b)| differ(a, b)) {
                    continue; // one workload is found in one state
                }
                let found = |source: &str, is_claim, workload: &Option<At>| Found {
                    source: source.to_owned(),
                    is_claim,
                    workload: workload.clone(),
                };
                let forge = vec![found("forge", false, &None)];
                let all = [vec![found("a", true, one), found("b", true, two)], forge.clone()];
                let all = all.concat();
                for hold in [Hold::Absent, Hold::Broken, Hold::Active] {
                    for (receipted, recorded) in [(false, false), (true, false), (true, true)] {
                        worlds.push(World { found: all.clone(), hold, receipted, recorded });
                    }
                }
                worlds.push(World {
                    found: forge,
                    hold: Hold::Needless,
                    receipted: false,
                    recorded: false,
                });
            }
        }
        worlds
    }

    /// The world after `steps`.
    fn take(steps: &[Step], before: &World) -> World {
        let mut world = before.clone();
        for step in steps {
            let named = |name: &str| {
                let name = name.to_owned();
                move |it: &&mut At| it.name == name
            };
            let all = world.found.iter_mut().filter_map(|it| it.workload.as_mut());
            match step {
                Step::Stop { workload, replicas } => {
                    for at in all.filter(named(workload)) {
                        assert_eq!(at.replicas, *replicas, "what it says is so");
                        at.stopped = Some(at.stopped.unwrap_or(at.replicas).max(at.replicas));
                        at.replicas = 0;
                        world.receipted = false; // its generation has changed
                    }
                }
                Step::Hold { .. } => {
                    assert!(all.into_iter().all(|at| at.replicas == 0), "pods would be cut off");
                    // It has another UID, or another generation.
                    (world.hold, world.receipted, world.recorded) = (Hold::Active, false, false);
                }
                Step::Copy { .. } => {
                    assert!(all.into_iter().all(|at| at.replicas == 0), "a pod writes meanwhile");
                    assert!(matches!(world.hold, Hold::Active | Hold::Needless), "a pod could");
                }
                Step::Sign { .. } => world.receipted = true,
                Step::Record { .. } => {
                    assert!(world.receipted, "a deletion needs the receipt");
                    world.recorded = true;
                }
                Step::Thaw { .. } => {
                    (world.hold, world.receipted) = (Hold::Absent, false);
                    world.recorded = false;
                }
                Step::Start { workload, replicas } => {
                    assert!(matches!(world.hold, Hold::Absent | Hold::Needless), "it cannot start");
                    for at in all.filter(named(workload)) {
                        at.replicas = *replicas;
                        at.stopped = None;
                    }
                }
            }
        }
        world
    }

    #[test]
    fn a_plan_reaches_a_receipt_with_nothing_running_and_then_rests() {
        for before in worlds() {
            let after = take(&plan(&before), &before);
            assert!(after.receipted, "{before:?}");
            assert!(workloads(&after).iter().all(|it| it.replicas == 0 && it.stopped.is_some()));
            assert_eq!(plan(&after), [], "rests: {before:?}");
        }
    }

    #[test]
    fn undoing_starts_what_a_drain_has_stopped_and_nothing_else_and_then_rests() {
        for before in worlds() {
            let after = take(&plan_destroy(&before), &before);
            assert_eq!(plan_destroy(&after), [], "rests: {before:?}");
            for (was, is) in workloads(&before).into_iter().zip(workloads(&after)) {
                match was.stopped {
                    Some(replicas) => assert_eq!(is.replicas, replicas),
                    None => assert_eq!(was, is, "leaves alone"),
                }
            }
        }
    }

    #[test]
    fn nothing_is_signed_before_everything_is_copied() {
        for before in worlds() {
            let steps = plan(&before);
            let Some(sign) = steps.iter().position(|step| matches!(step, Step::Sign { .. })) else {
                continue;
            };
            let after = &steps[sign + 1..];
            assert!(after.iter().all(|step| matches!(step, Step::Record { .. })), "{after:?}");
            let copied = steps.iter().filter(|it| matches!(it, Step::Copy { .. })).count();
            assert_eq!(copied, before.found.len());
        }
    }
}
