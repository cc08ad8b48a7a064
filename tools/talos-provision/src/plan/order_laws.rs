//! Laws of the order of steps, over every small world: a run executes what its first plan shows.

use super::laws::{for_all, take};
use super::*;

/// Returns the steps that a run executes: the first of each plan, until a plan is empty.
fn executed(
    before: &ActualState,
    plan: impl Fn(&ActualState) -> Vec<Step>,
    batch: impl Fn(&[Step]) -> usize,
    take: impl Fn(&ActualState, &[Step]) -> ActualState,
) -> Vec<Step> {
    let (mut actual, mut executed) = (before.clone(), Vec::new());
    for _ in 0..40 {
        let steps = plan(&actual);
        if steps.is_empty() {
            return executed;
        }
        let count = batch(&steps);
        assert!(count > 0, "{steps:?}");
        actual = take(&actual, &steps[..count]);
        executed.extend_from_slice(&steps[..count]);
    }
    panic!("the plan never becomes empty: {executed:?}");
}

#[test]
fn apply_executes_exactly_the_steps_of_the_first_plan_in_their_order() {
    for_all(|desired, before| {
        if !conflicts(desired, before).is_empty() {
            return;
        }
        let take = |actual: &ActualState, steps: &[Step]| take(desired, actual, steps);
        let steps = executed(before, |actual| plan(desired, actual), batch, take);
        assert_eq!(steps, plan(desired, before));
    });
}

#[test]
fn destroy_executes_exactly_the_steps_of_the_first_plan_in_their_order() {
    for_all(|desired, before| {
        let take = |actual: &ActualState, steps: &[Step]| take(desired, actual, steps);
        let steps = executed(before, plan_destroy, batch_destroy, take);
        assert_eq!(steps, plan_destroy(before));
    });
}

#[test]
fn undeclared_resources_are_removed_last() {
    for_all(|desired, before| {
        let stages: Vec<_> = plan(desired, before).iter().map(Step::stage).collect();
        let first =
            stages.iter().position(|stage| *stage == Stage::Removal).unwrap_or(stages.len());
        assert!(stages[first..].iter().all(|stage| *stage == Stage::Removal), "{stages:?}");
    });
}

#[test]
fn plan_destroy_removes_all_our_resources_and_is_then_empty() {
    for_all(|desired, before| {
        let steps = plan_destroy(before);
        let actual = take(desired, before, &steps);
        assert!(actual.servers.values().all(|server| !server.ours), "reaches");
        assert!(actual.resources.values().all(|resource| !resource.ours), "reaches");
        assert_eq!(plan_destroy(&actual), [], "rests");
        for (name, server) in before.servers.iter().filter(|(_, server)| !server.ours) {
            assert_eq!(actual.servers.get(name), Some(server), "leaves alone");
        }
        for (resource, found) in before.resources.iter().filter(|(_, found)| !found.ours) {
            assert_eq!(actual.resources.get(resource), Some(found), "leaves alone");
        }
        let machines = steps.iter().take_while(|step| !matches!(step, Step::Remove { .. })).count();
        assert!(
            steps[machines..].iter().all(|step| matches!(step, Step::Remove { .. })),
            "in order"
        );
    });
}
