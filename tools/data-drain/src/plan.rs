//! The steps of a drain and of its removal: pure functions of values.

use crate::step::Step;

/// One source, as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceState {
    /// The claim (`default/data`) or the repository (`forge web`).
    pub(crate) source: String,
    pub(crate) is_claim: bool,
    /// Node that has to be recorded on the claim before its pod is stopped; absent when it is recorded
    /// or does not matter.
    pub(crate) node: Option<NodeChange>,
    /// The workload that has to be stopped before the source is copied.
    pub(crate) workload: Option<At>,
}

/// A change of the annotation that says on which node the data of a claim is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeChange {
    /// Present value.
    pub(crate) from: Option<String>,
    /// Observed node.
    pub(crate) to: String,
}

/// A workload, as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At {
    /// Namespace, kind and name, for example `default deployment/web`.
    pub(crate) name: String,
    /// Number of replicas in its spec.
    pub(crate) replicas: u32,
    /// Number of replicas before a drain stopped it; absent when no drain did.
    pub(crate) stopped: Option<u32>,
}

/// Everything from which a plan is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActualState {
    pub(crate) found: Vec<SourceState>,
    /// The hold on the claims; [`Hold::Needless`] when no source is a claim.
    pub(crate) hold: Hold,
    /// Whether the store has a receipt for exactly this state.
    pub(crate) receipted: bool,
    /// Whether the hold contains the digest of that receipt.
    pub(crate) recorded: bool,
}

/// The policies that keep pods off the claims, as observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// No source is a claim.
    Needless,
    /// No object of the hold exists.
    Absent,
    /// Some objects of the hold are missing or changed.
    Broken,
    /// The hold is complete.
    Active,
}

/// Returns the steps to a world in which no pod writes, and a receipt proves that everything is copied.
pub(crate) fn plan(actual: &ActualState) -> Vec<Step> {
    let stops: Vec<_> = workloads(actual).into_iter().filter_map(stop).collect();
    let claims = claims(actual);
    let hold = matches!(actual.hold, Hold::Absent | Hold::Broken).then_some(Step::Hold { claims });
    let record = (actual.hold != Hold::Needless).then_some(Step::Record { claims });
    if actual.receipted && stops.is_empty() && hold.is_none() {
        return record.filter(|_| !actual.recorded).into_iter().collect();
    }
    // Once the pod of a claim is gone, only the annotation tells where a node-local volume is.
    let nodes = actual.found.iter().filter_map(record_node);
    let copies = actual.found.iter().map(|found| Step::Copy { source: found.source.clone() });
    let sign = Step::Sign { sources: actual.found.len() };
    nodes.chain(stops).chain(hold).chain(copies).chain([sign]).chain(record).collect()
}

/// Returns the steps to a world in which everything runs that a drain stopped, and pods may mount the
/// claims.
pub(crate) fn plan_destroy(actual: &ActualState) -> Vec<Step> {
    let is_held = matches!(actual.hold, Hold::Active | Hold::Broken);
    let thaw = is_held.then(|| Step::Thaw { claims: claims(actual) });
    let start = |at: &At| {
        let (workload, from, to) = (at.name.clone(), at.replicas, at.stopped?);
        Some(Step::Start { workload, from, to })
    };
    thaw.into_iter().chain(workloads(actual).into_iter().filter_map(start).rev()).collect()
}

/// Returns how many of the first steps are executed before the next observation: those of one stage.
///
/// Copies and the signature are one stage, because a copy is worth nothing without the proof that its
/// source did not change until the signature.
pub(crate) fn batch(steps: &[Step]) -> usize {
    let first = steps.first().map(stage);
    steps.iter().take_while(|step| Some(stage(step)) == first).count()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Stop,
    Hold,
    Copy,
    Record,
    Undo,
}

fn stage(step: &Step) -> Stage {
    match step {
        Step::RecordNode { .. } | Step::Stop { .. } => Stage::Stop,
        Step::Hold { .. } => Stage::Hold,
        Step::Copy { .. } | Step::Sign { .. } => Stage::Copy,
        Step::Record { .. } => Stage::Record,
        Step::Thaw { .. } | Step::Start { .. } => Stage::Undo,
    }
}

fn claims(actual: &ActualState) -> usize {
    actual.found.iter().filter(|found| found.is_claim).count()
}

fn record_node(found: &SourceState) -> Option<Step> {
    let NodeChange { from, to } = found.node.clone()?;
    Some(Step::RecordNode { claim: found.source.clone(), from, to })
}

fn stop(at: &At) -> Option<Step> {
    let stop = Step::Stop { workload: at.name.clone(), from: at.replicas };
    // Flux would start a workload again that no drain has stopped.
    (at.replicas > 0 || at.stopped.is_none()).then_some(stop)
}

/// Returns each workload once, because two claims may be of one workload.
fn workloads(actual: &ActualState) -> Vec<&At> {
    let mut all: Vec<&At> = Vec::new();
    for at in actual.found.iter().filter_map(|found| found.workload.as_ref()) {
        if !all.iter().any(|other| other.name == at.name) {
            all.push(at);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every world of two claims, of one workload or of two, and a repository.
    fn worlds() -> Vec<ActualState> {
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
                let found = |source: &str, is_claim, workload: &Option<At>| SourceState {
                    source: source.to_owned(),
                    is_claim,
                    node: None,
                    workload: workload.clone(),
                };
                let forge = vec![found("forge", false, &None)];
                let mut all = vec![found("a", true, one), found("b", true, two)];
                // The node of a workload that runs is not recorded yet.
                all[0].node = one
                    .as_ref()
                    .filter(|at| at.replicas > 0)
                    .map(|_| NodeChange { from: None, to: "node-a".to_owned() });
                all.extend(forge.clone());
                for hold in [Hold::Absent, Hold::Broken, Hold::Active] {
                    for (receipted, recorded) in [(false, false), (true, false), (true, true)] {
                        worlds.push(ActualState { found: all.clone(), hold, receipted, recorded });
                    }
                }
                worlds.push(ActualState {
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
    fn take(steps: &[Step], before: &ActualState) -> ActualState {
        let mut actual = before.clone();
        for step in steps {
            let named = |name: &str| {
                let name = name.to_owned();
                move |at: &&mut At| at.name == name
            };
            if let Step::RecordNode { claim, .. } = step {
                let named = actual.found.iter_mut().find(|found| found.source == *claim);
                let found = named.expect("a step names a source");
                assert!(
                    found.workload.as_ref().is_some_and(|at| at.replicas > 0),
                    "a pod tells it"
                );
                found.node = None;
            }
            let all = actual.found.iter_mut().filter_map(|found| found.workload.as_mut());
            match step {
                Step::RecordNode { .. } => {}
                Step::Stop { workload, from } => {
                    for at in all.filter(named(workload)) {
                        assert_eq!(at.replicas, *from, "the step says what is there");
                        at.stopped = Some(at.stopped.unwrap_or(at.replicas).max(at.replicas));
                        at.replicas = 0;
                        // The generation of the workload changes.
                        (actual.receipted, actual.recorded) = (false, false);
                    }
                }
                Step::Hold { .. } => {
                    assert!(all.into_iter().all(|at| at.replicas == 0), "pods would be cut off");
                    // The new hold has another UID or generation.
                    (actual.hold, actual.receipted, actual.recorded) = (Hold::Active, false, false);
                }
                Step::Copy { .. } => {
                    assert!(all.into_iter().all(|at| at.replicas == 0), "a pod writes meanwhile");
                    assert!(matches!(actual.hold, Hold::Active | Hold::Needless), "a pod could");
                }
                Step::Sign { .. } => (actual.receipted, actual.recorded) = (true, false),
                Step::Record { .. } => {
                    assert!(actual.receipted, "a deletion needs the receipt");
                    actual.recorded = true;
                }
                Step::Thaw { .. } => {
                    (actual.hold, actual.receipted) = (Hold::Absent, false);
                    actual.recorded = false;
                }
                Step::Start { workload, from, to } => {
                    assert!(
                        matches!(actual.hold, Hold::Absent | Hold::Needless),
                        "it cannot start"
                    );
                    for at in all.filter(named(workload)) {
                        assert_eq!(at.replicas, *from, "the step says what is there");
                        at.replicas = *to;
                        at.stopped = None;
                    }
                }
            }
        }
        actual
    }

    #[test]
    fn a_plan_reaches_a_receipt_with_nothing_running_and_then_rests() {
        for before in worlds() {
            let after = take(&plan(&before), &before);
            assert!(after.receipted, "{before:?}");
            assert!(workloads(&after).iter().all(|at| at.replicas == 0 && at.stopped.is_some()));
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
            let copied = steps.iter().filter(|step| matches!(step, Step::Copy { .. })).count();
            assert_eq!(copied, before.found.len());
        }
    }

    /// Executes the plan as the engine does, one batch between two observations.
    fn executed(plan: impl Fn(&ActualState) -> Vec<Step>, before: &ActualState) -> Vec<Step> {
        let (mut actual, mut executed) = (before.clone(), Vec::new());
        loop {
            let steps = plan(&actual);
            let batch = &steps[..batch(&steps)];
            if batch.is_empty() {
                return executed;
            }
            actual = take(batch, &actual);
            executed.extend_from_slice(batch);
        }
    }

    #[test]
    fn apply_executes_the_steps_of_the_first_plan_in_their_order() {
        for before in worlds() {
            assert_eq!(executed(plan, &before), plan(&before), "{before:?}");
            assert_eq!(executed(plan_destroy, &before), plan_destroy(&before), "{before:?}");
        }
    }

    #[test]
    fn copies_are_signed_before_the_next_observation() {
        for before in worlds() {
            let steps = plan(&before);
            let Some(copy) = steps.iter().position(|step| matches!(step, Step::Copy { .. })) else {
                continue;
            };
            let left = &steps[copy..];
            let last = left[..batch(left)].last();
            assert!(matches!(last, Some(Step::Sign { .. })), "{left:?}");
        }
    }
}
