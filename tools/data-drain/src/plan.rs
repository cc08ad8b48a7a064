//! What will change: pure functions, data in, data out.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// One source, as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// As the document names it.
    pub(crate) source: String,
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
    /// Whether a receipt for exactly this lies in the store.
    pub(crate) receipted: bool,
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
    /// A drain has stopped it.
    Start {
        /// What: its namespace, kind and name.
        workload: String,
        /// How many replicas it had.
        replicas: u32,
    },
}

/// The steps to a world in which nothing writes, and a receipt says that everything was copied.
pub(crate) fn plan(world: &World) -> Vec<Step> {
    let stops: Vec<_> = workloads(world).into_iter().filter_map(stop).collect();
    if world.receipted && stops.is_empty() {
        return Vec::new();
    }
    let copy = |it: &Found| Step::Copy { source: it.source.clone() };
    let copies = world.found.iter().map(copy);
    let sign = Step::Sign { sources: world.found.len() };
    stops.into_iter().chain(copies).chain([sign]).collect()
}

/// The steps to a world in which everything runs that a drain has stopped.
pub(crate) fn undo(world: &World) -> Vec<Step> {
    let start = |it: &At| {
        let replicas = it.stopped?;
        Some(Step::Start { workload: it.name.clone(), replicas })
    };
    workloads(world).into_iter().filter_map(start).rev().collect()
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
                for receipted in [false, true] {
                    let found = |source: &str, workload: &Option<At>| Found {
                        source: source.to_owned(),
                        workload: workload.clone(),
                    };
                    let found = vec![found("a", one), found("b", two), found("forge", &None)];
                    worlds.push(World { found, receipted });
                }
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
                Step::Copy { .. } => {
                    assert!(all.into_iter().all(|it| it.replicas == 0), "nothing writes meanwhile");
                }
                Step::Sign { .. } => world.receipted = true,
                Step::Start { workload, replicas } => {
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
            let after = take(&undo(&before), &before);
            assert_eq!(undo(&after), [], "rests: {before:?}");
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
            let Some(sign) = steps.iter().position(|it| matches!(it, Step::Sign { .. })) else {
                continue;
            };
            assert_eq!(sign, steps.len() - 1);
            let copied = steps.iter().filter(|it| matches!(it, Step::Copy { .. })).count();
            assert_eq!(copied, before.found.len());
        }
    }
}
