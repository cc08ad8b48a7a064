use serde_json::json;

use super::*;

fn declared(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": name}, "spec": {"a": value}})
}

/// Every state in which an object can be, absent among them.
fn states(name: &str) -> Vec<Option<LiveObject>> {
    let mut states = vec![None];
    for owner in [Owner::Ours, Owner::Unmarked, Owner::Foreign, Owner::Adoptable] {
        for value in ["new", "old"] {
            for holds in [vec![], vec!["Thing other".to_owned()]] {
                for not_ready_reason in [None, Some("not ready".to_owned())] {
                    let (object, holds) = (declared(name, value), holds.clone());
                    states.push(Some(LiveObject {
                        object,
                        owner,
                        admitted: None,
                        holds,
                        not_ready_reason,
                    }));
                }
            }
        }
    }
    states
}

/// Calls `law` with every pair of a declaration and a world of the objects `a`, `b` and `c`. The object
/// `c` is never declared and has another owner.
fn for_all(law: impl Fn(&[Value], &ActualState)) {
    let (a, b) = (declared("a", "new"), declared("b", "new"));
    for desired in [vec![], vec![a.clone()], vec![a.clone(), b.clone()], vec![b]] {
        for a in states("a") {
            for b in states("b") {
                let foreign =
                    LiveObject { owner: Owner::Foreign, ..states("c")[1].clone().expect("there") };
                let there = [a.clone(), b, Some(foreign)].into_iter().flatten();
                law(&desired, &there.map(|live| (Identity::of(&live.object), live)).collect());
            }
        }
    }
}

/// Returns the world after `steps`, as an API server and Flux would leave it.
fn execute(steps: &[Step], desired: &[Value], before: &ActualState) -> ActualState {
    let mut actual = before.clone();
    for step in steps {
        let id = step.object().clone();
        let declared = desired.iter().find(|object| Identity::of(object) == id);
        match step {
            Step::Create { .. }
            | Step::Adopt { .. }
            | Step::Update { .. }
            | Step::RemoveFields { .. }
            | Step::Reconcile { .. } => {
                let object = declared.expect("only declared objects are created").clone();
                let holds = actual.get(&id).map(|live| live.holds.clone()).unwrap_or_default();
                let (owner, not_ready_reason) = (Owner::Ours, None);
                actual.insert(
                    id.clone(),
                    LiveObject { object, owner, admitted: None, holds, not_ready_reason },
                );
                if id.kind == "OCIRepository" {
                    // The Kustomization acts on a new artifact by itself.
                    for (_, live) in actual.iter_mut().filter(|(id, _)| id.kind == "Kustomization")
                    {
                        live.not_ready_reason = None;
                    }
                }
            }
            Step::Remove { .. } => {
                actual.remove(&id);
            }
            Step::Suspend { .. } | Step::RemoveRecord { .. } => {
                unreachable!("steps of a removal with its record")
            }
        }
    }
    actual
}

#[test]
fn a_plan_reaches_what_is_declared_then_rests_and_leaves_the_rest_alone() {
    for_all(|desired, before| {
        let steps = plan(desired, before).steps;
        let after = execute(&steps, desired, before);
        for declared in desired {
            let live = &after[&Identity::of(declared)];
            if live.owner != Owner::Foreign {
                assert_eq!(diff::changed(declared, &live.object), [] as [&str; 0], "reaches");
                assert_eq!(live.not_ready_reason, None, "reaches");
            }
        }
        assert_eq!(plan(desired, &after).steps, [], "rests");
        for (id, live) in before {
            let is_declared = desired.iter().any(|object| Identity::of(object) == *id);
            let is_removable = [Owner::Ours, Owner::Adoptable].contains(&live.owner);
            if !is_declared && is_removable && live.holds.is_empty() {
                assert_eq!(after.get(id), None, "removes what is no longer declared");
            } else if live.owner == Owner::Foreign || !is_declared {
                assert_eq!(after.get(id), Some(live), "leaves alone");
            }
        }
    });
}

#[test]
fn every_declared_object_of_another_owner_is_a_conflict_and_no_other_object_is() {
    for_all(|desired, actual| {
        let is_foreign = |object: &&Value| {
            actual.get(&Identity::of(object)).is_some_and(|live| live.owner == Owner::Foreign)
        };
        let conflicts = plan(desired, actual).conflicts;
        assert_eq!(conflicts.len(), desired.iter().filter(is_foreign).count());
        let refusals = refusals(desired, actual).into_iter().map(|refusal| refusal.message);
        let conflicts = conflicts.into_iter().map(|conflict| conflict.message);
        assert_eq!(refusals.collect::<Vec<_>>(), conflicts.collect::<Vec<_>>());
    });
}

#[test]
fn undoing_reaches_absence_then_rests_and_leaves_alone_what_others_made_or_need() {
    for_all(|desired, before| {
        let after = execute(&plan_destroy(before), desired, before);
        assert_eq!(plan_destroy(&after), [], "rests");
        for live in after.values() {
            assert!(live.owner != Owner::Ours || !live.holds.is_empty(), "reaches");
        }
        for (id, live) in before {
            if live.owner != Owner::Ours || !live.holds.is_empty() {
                assert_eq!(after.get(id), Some(live), "leaves alone");
            }
        }
        assert_eq!(kept(&after).len(), after.len(), "and tells why");
    });
}

#[test]
fn a_value_that_is_not_known_yet_is_a_step_to_take() {
    let mut desired = declared("a", "new");
    let steps = plan(&[desired.clone()], &ActualState::new()).steps;
    let actual = execute(&steps, &[desired.clone()], &ActualState::new());
    desired["spec"]["a"] = Value::Null;
    assert_eq!(plan(&[desired], &actual).steps.len(), 1);
}

#[test]
fn undoing_goes_the_way_of_the_plan_backwards() {
    let desired = [declared("a", "new"), declared("b", "new")];
    let steps = plan(&desired, &ActualState::new()).steps;
    let actual = execute(&steps, &desired, &ActualState::new());
    let (mut made, removed) = (steps, plan_destroy(&actual));
    made.reverse();
    let ids = |steps: &[Step]| steps.iter().map(|step| step.object().clone()).collect::<Vec<_>>();
    assert_eq!(ids(&made), ids(&removed));
}

/// Returns one object of every stage, in the order in which they are applied, and two of the last.
fn staged(value: &str) -> Vec<Value> {
    let kinds = ["ClusterRole", "ClusterRoleBinding", "OCIRepository", "Kustomization"];
    let object = |kind: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}, "spec": {"a": value}});
    kinds.into_iter().map(object).collect()
}

/// Calls `law` with every world in which the objects of [`staged`] are absent, as declared, different or
/// not ready, and in which an object that is not declared is absent or there.
fn for_all_stages(law: impl Fn(&[Value], &ActualState)) {
    let desired = staged("new");
    for number in 0..4_usize.pow(4) * 2 {
        let mut actual = ActualState::new();
        let mut add = |object: Value, not_ready_reason: Option<String>| {
            let (id, owner, holds) = (Identity::of(&object), Owner::Ours, Vec::new());
            actual
                .insert(id, LiveObject { object, owner, admitted: None, holds, not_ready_reason });
        };
        for (place, object) in desired.iter().enumerate() {
            match number / 4_usize.pow(u32::try_from(place).expect("four objects")) % 4 {
                0 => {}
                1 => add(object.clone(), None),
                2 => add(staged("old")[place].clone(), Some("old".to_owned())),
                _ => add(object.clone(), Some("not ready".to_owned())),
            }
        }
        if number / 4_usize.pow(4) == 1 {
            add(declared("stale", "old"), None);
        }
        law(&desired, &actual);
    }
}

#[test]
fn apply_executes_the_steps_of_the_first_plan_in_their_order_stage_by_stage() {
    for_all_stages(|desired, before| {
        let planned = plan(desired, before).steps;
        let (mut actual, mut executed) = (before.clone(), Vec::new());
        let mut touched = BTreeSet::new();
        loop {
            let steps = plan(desired, &actual).steps;
            match next(&steps, &actual, &touched) {
                Next::Finish => break,
                Next::Wait { reason } => panic!("{reason}: {before:?}"),
                Next::Execute { count } => {
                    let batch = &steps[..count];
                    assert!(batch.iter().all(|step| step.stage() == batch[0].stage()));
                    touched.extend(batch.iter().map(|step| step.object().clone()));
                    actual = execute(batch, desired, &actual);
                    executed.extend_from_slice(batch);
                }
            }
        }
        assert_eq!(executed, planned, "{before:?}");
    });
}

#[test]
fn controller_that_is_no_longer_declared_is_removed_after_the_definitions_and_before_the_others() {
    let desired = staged("new");
    let object =
        |kind: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "old"}});
    let live = |kind: &str| {
        let (object, owner, holds) = (object(kind), Owner::Ours, Vec::new());
        let (admitted, not_ready_reason) = (None, None);
        (Identity::of(&object), LiveObject { object, owner, admitted, holds, not_ready_reason })
    };
    let actual = ["Deployment", "Service"].map(live).into();
    let steps = plan(&desired, &actual).steps;
    let texts: Vec<_> = steps.iter().map(ToString::to_string).collect();
    let expected = [
        "create ClusterRole a",
        "remove Deployment old",
        "create ClusterRoleBinding a",
        "create OCIRepository a",
        "create Kustomization a",
        "remove Service old",
    ];
    assert_eq!(texts, expected);
}

#[test]
fn apply_waits_for_an_object_that_is_being_deleted_and_for_a_controller_that_it_has_asked() {
    let desired = staged("new");
    let steps = plan(&desired, &ActualState::new()).steps;
    let mut actual = execute(&steps, &desired, &ActualState::new());
    let id = Identity::of(&desired[3]);
    let live = actual.get_mut(&id).expect("there");
    live.not_ready_reason = Some("Progressing".to_owned());
    let steps = plan(&desired, &actual).steps;
    assert_eq!(next(&steps, &actual, &BTreeSet::new()), Next::Execute { count: 1 });
    let asked = next(&steps, &actual, &BTreeSet::from([id.clone()]));
    let reason = "reconcile Kustomization a: Progressing".to_owned();
    assert_eq!(asked, Next::Wait { reason });
    let metadata = &mut actual.get_mut(&id).expect("there").object["metadata"];
    metadata["deletionTimestamp"] = "2026-11-01T00:00:00Z".into();
    metadata["finalizers"] = json!(["example.org/held"]);
    let steps = plan(&desired, &actual).steps;
    let reason =
        "Kustomization a is still there, held by its finalizers example.org/held".to_owned();
    assert_eq!(next(&steps, &actual, &BTreeSet::new()), Next::Wait { reason });
}
