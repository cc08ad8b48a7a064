//! What will change: pure functions, data in, data out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::diff;
use crate::foreign::{self, Extra};
use crate::object::{Identity, order};

/// What a cluster holds of all that a Delivery can speak of.
pub(crate) type World = BTreeMap<Identity, Live>;

/// An object that is there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Live {
    pub(crate) object: Value,
    pub(crate) owner: Owner,
    /// What others keep in it: objects of a kind, objects in a namespace. It stays for them.
    pub(crate) holds: Vec<String>,
    /// Why Flux has not done yet what it was told in it; `None` when it has.
    pub(crate) not_ready_reason: Option<String>,
}

impl Live {
    /// Whether the object is being deleted.
    pub(crate) fn is_terminating(&self) -> bool {
        self.object["metadata"]["deletionTimestamp"].is_string()
    }
}

/// Who has made an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This Delivery: it carries our label, and the API server has our name in its records.
    Ours,
    /// We, by those records; but our label is gone.
    Unmarked,
    /// Somebody else.
    Foreign,
}

/// One change. Says what it makes true, and from what, so that a reader can object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// Nothing of that name is there.
    Create {
        /// Which.
        object: Identity,
    },
    /// It is there and differs.
    Update {
        /// Which.
        object: Identity,
        /// Where it differs. Never with a value, which may be secret.
        changed: Vec<String>,
    },
    /// Others have added fields to it, which are removed.
    RemoveFields {
        /// Which.
        object: Identity,
        /// The fields, each as `spec.patches, added by kubectl-patch`. Never with a value.
        fields: Vec<String>,
    },
    /// It is as declared, and Flux has yet to act on it.
    Reconcile {
        /// Which.
        object: Identity,
        /// What it says of itself.
        because: String,
    },
    /// Somebody else has made it: nothing is changed before it is gone.
    Blocked {
        /// Which.
        object: Identity,
        /// Who has made it.
        made_by: String,
    },
    /// It is there, and was made by the document, which goes or declares it no longer.
    Remove {
        /// Which.
        object: Identity,
    },
}

/// The steps from `world` to one in which all that is `wanted` is there and acted upon.
pub(crate) fn plan(wanted: &[Value], world: &World) -> Vec<Step> {
    let step = |declared: &Value| {
        let object = Identity::of(declared);
        // An object that is being deleted does not count as there.
        let Some(live) = world.get(&object).filter(|live| !live.is_terminating()) else {
            return vec![Step::Create { object }];
        };
        if live.owner == Owner::Foreign {
            let made_by = diff::managers(&live.object);
            return vec![Step::Blocked { object, made_by }];
        }
        let mut steps = Vec::new();
        let changed = diff::changed(declared, &live.object);
        if !changed.is_empty() {
            steps.push(Step::Update { object: object.clone(), changed });
        }
        let extras = foreign::extras(declared, &live.object);
        if !extras.is_empty() {
            let named = |extra: &Extra| format!("{}, added by {}", extra.path, extra.manager);
            let fields = extras.iter().map(named).collect();
            steps.push(Step::RemoveFields { object: object.clone(), fields });
        }
        if steps.is_empty()
            && let Some(because) = live.not_ready_reason.clone()
        {
            steps.push(Step::Reconcile { object, because });
        }
        steps
    };
    let declared: BTreeSet<Identity> = wanted.iter().map(Identity::of).collect();
    let stale = removable(world, |id| {
        // These hold what others made: they go with everything else, or not at all.
        let holds = id.kind == "CustomResourceDefinition" || id.kind == "Namespace";
        !holds && !declared.contains(id)
    });
    wanted.iter().flat_map(step).chain(stale).collect()
}

/// The steps that take away what [`plan`] made, in the reverse order.
pub(crate) fn plan_destroy(world: &World) -> Vec<Step> {
    removable(world, |_| true)
}

fn removable(world: &World, which: impl Fn(&Identity) -> bool) -> Vec<Step> {
    let ours = |live: &Live| live.owner == Owner::Ours && live.holds.is_empty();
    let ids = world.iter().filter(|(id, live)| ours(live) && which(id)).map(|(id, _)| id);
    let mut ids: Vec<_> = ids.collect();
    ids.sort_by_key(|id| std::cmp::Reverse(order(id)));
    ids.into_iter().map(|id| Step::Remove { object: id.clone() }).collect()
}

/// What is there and stays when [`undo`] is done, and why.
pub(crate) fn kept(world: &World) -> Vec<String> {
    let keep = |(object, live): (&Identity, &Live)| match live.owner {
        Owner::Ours if live.holds.is_empty() => None,
        Owner::Ours => Some(format!("{object} (holds {})", live.holds.join(", "))),
        Owner::Unmarked => Some(format!("{object} (lacks our label)")),
        Owner::Foreign => Some(format!("{object} (made by {})", diff::managers(&live.object))),
    };
    world.iter().filter_map(keep).collect()
}

impl Step {
    /// What it is about.
    pub(crate) fn object(&self) -> &Identity {
        match self {
            Self::Create { object }
            | Self::Update { object, .. }
            | Self::RemoveFields { object, .. }
            | Self::Reconcile { object, .. }
            | Self::Blocked { object, .. }
            | Self::Remove { object } => object,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { object } => write!(f, "create {object}"),
            Self::Update { object, changed } => {
                write!(f, "update {object}: {}", changed.join(", "))
            }
            Self::RemoveFields { object, fields } => {
                write!(f, "remove from {object}: {}", fields.join("; "))
            }
            Self::Reconcile { object, because } => write!(f, "reconcile {object}: {because}"),
            Self::Blocked { object, made_by } => {
                write!(f, "blocked by {object}, made by {made_by}")
            }
            Self::Remove { object } => write!(f, "remove {object}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn declared(name: &str, value: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": name}, "spec": {"a": value}})
    }

    /// Every state in which an object can be, absent among them.
    fn states(name: &str) -> Vec<Option<Live>> {
        let mut states = vec![None];
        for owner in [Owner::Ours, Owner::Unmarked, Owner::Foreign] {
            for value in ["new", "old"] {
                for holds in [vec![], vec!["Thing other".to_owned()]] {
                    for not_ready_reason in [None, Some("not ready".to_owned())] {
                        let object = declared(name, value);
                        states.push(Some(Live {
                            object,
                            owner,
                            holds: holds.clone(),
                            not_ready_reason,
                        }));
                    }
                }
            }
        }
        states
    }

    /// Runs `law` on every pair of a declaration and a world of the objects `a`, `b` and, which is
    /// never declared and somebody else's, `c`.
    fn for_all(law: impl Fn(&[Value], &World)) {
        let (a, b) = (declared("a", "new"), declared("b", "new"));
        for wanted in [vec![], vec![a.clone()], vec![a.clone(), b.clone()], vec![a, b].split_off(1)]
        {
            for a in states("a") {
                for b in states("b") {
                    let others =
                        Live { owner: Owner::Foreign, ..states("c")[1].clone().expect("there") };
                    let there = [a.clone(), b, Some(others)].into_iter().flatten();
                    law(&wanted, &there.map(|it| (Identity::of(&it.object), it)).collect());
                }
            }
        }
    }

    /// The world after `steps`, as an API server and Flux would leave it.
    fn take(steps: &[Step], wanted: &[Value], before: &World) -> World {
        let mut world = before.clone();
        for step in steps {
            let id = step.object().clone();
            let declared = wanted.iter().find(|it| Identity::of(it) == id);
            match step {
                Step::Create { .. }
                | Step::Update { .. }
                | Step::RemoveFields { .. }
                | Step::Reconcile { .. } => {
                    let object = declared.expect("only what is declared is made").clone();
                    let holds = world.get(&id).map(|it| it.holds.clone()).unwrap_or_default();
                    world.insert(
                        id,
                        Live { object, owner: Owner::Ours, holds, not_ready_reason: None },
                    );
                }
                Step::Blocked { .. } => {}
                Step::Remove { .. } => {
                    world.remove(&id);
                }
            }
        }
        world
    }

    #[test]
    fn a_plan_reaches_what_is_declared_then_rests_and_leaves_the_rest_alone() {
        for_all(|wanted, before| {
            let steps = plan(wanted, before);
            let after = take(&steps, wanted, before);
            for declared in wanted {
                let live = &after[&Identity::of(declared)];
                if live.owner != Owner::Foreign {
                    assert_eq!(diff::changed(declared, &live.object), [] as [&str; 0], "reaches");
                    assert_eq!(live.not_ready_reason, None, "reaches");
                }
            }
            let left = plan(wanted, &after);
            assert!(left.iter().all(|it| matches!(it, Step::Blocked { .. })), "rests: {left:?}");
            for (id, live) in before {
                let is_declared = wanted.iter().any(|it| Identity::of(it) == *id);
                if !is_declared && live.owner == Owner::Ours && live.holds.is_empty() {
                    assert_eq!(after.get(id), None, "removes what is no longer declared");
                } else if live.owner == Owner::Foreign || !is_declared {
                    assert_eq!(after.get(id), Some(live), "leaves alone");
                }
            }
        });
    }

    #[test]
    fn undoing_reaches_absence_then_rests_and_leaves_alone_what_others_made_or_need() {
        for_all(|wanted, before| {
            let after = take(&plan_destroy(before), wanted, before);
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
        let mut wanted = declared("a", "new");
        let world = take(&plan(&[wanted.clone()], &World::new()), &[wanted.clone()], &World::new());
        wanted["spec"]["a"] = Value::Null;
        assert_eq!(plan(&[wanted], &world).len(), 1);
    }

    #[test]
    fn undoing_goes_the_way_of_the_plan_backwards() {
        let wanted = [declared("a", "new"), declared("b", "new")];
        let steps = plan(&wanted, &World::new());
        let world = take(&steps, &wanted, &World::new());
        let (mut made, removed) = (steps, plan_destroy(&world));
        made.reverse();
        let ids = |of: &[Step]| of.iter().map(|it| it.object().clone()).collect::<Vec<_>>();
        assert_eq!(ids(&made), ids(&removed));
    }
}
