//! The steps from an observation to the declared state, and what to do next. Pure functions.

use std::collections::{BTreeMap, BTreeSet};

use documents::{Conflict, Next, Plan, Reason, Refusal};
use serde_json::Value;

use crate::diff;
use crate::error::FOREIGN_HELP;
use crate::foreign::{self, Extra};
use crate::keeper::keeper;
use crate::object::{Identity, Stage, order};
use crate::step::Step;

/// Objects of a cluster that a Delivery can declare or has created.
pub(crate) type ActualState = BTreeMap<Identity, LiveObject>;

/// An object that exists.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LiveObject {
    pub(crate) object: Value,
    pub(crate) owner: Owner,
    /// The declared object as the API server would store it; `None` if no field differs, or if the API
    /// server would reject it.
    pub(crate) admitted: Option<Value>,
    /// Foreign objects because of which the object stays: those of a kind, those in a Namespace, and
    /// those of Flux that need its controllers.
    pub(crate) holds: Vec<String>,
    /// Reason why its controller has not acted on it yet; `None` when it has.
    pub(crate) not_ready_reason: Option<String>,
}

impl LiveObject {
    /// Whether the object is being deleted.
    pub(crate) fn is_terminating(&self) -> bool {
        self.object["metadata"]["deletionTimestamp"].is_string()
    }
}

/// The creator of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This Delivery: the object has our label, and the API server names us as a manager.
    Ours,
    /// This program, according to the API server's managers, but the label is missing.
    Unmarked,
    /// Another program or a person.
    Foreign,
    /// Another program that installed Flux. The document lets `apply` take the object over.
    Adoptable,
    /// Another program that installed Flux. The object is a controller that cannot run beside the
    /// declared ones.
    Unselected,
}

/// Returns the steps from `actual` to the `declared` objects, and the foreign objects in their way.
pub(crate) fn plan(declared: &[Value], actual: &ActualState) -> Plan<Step> {
    let (mut steps, mut conflicts) = (Vec::new(), Vec::new());
    for object in declared {
        let id = Identity::of(object);
        // An object that is being deleted does not count as there.
        match actual.get(&id).filter(|live| !live.is_terminating()) {
            None => steps.push(Step::Create { object: id }),
            Some(live) if live.owner == Owner::Foreign => {
                conflicts.push(conflict(in_the_way(&id, &live.object)));
            }
            Some(live) if live.owner == Owner::Adoptable => {
                let from = diff::managers(&live.object);
                steps.push(Step::Adopt { object: id.clone(), from });
                steps.extend(removed_fields(&id, object, live));
            }
            Some(live) => steps.extend(changes(&id, object, live)),
        }
    }
    let ids: BTreeSet<Identity> = declared.iter().map(Identity::of).collect();
    // Definitions and Namespaces hold objects of other owners. Only `destroy` removes them.
    let (controllers, others): (Vec<_>, Vec<_>) =
        removable(actual, &[Owner::Ours, Owner::Adoptable], |id| {
            !holds_contents(id) && !ids.contains(id)
        })
        .into_iter()
        .partition(|step| step.object().kind == "Deployment");
    // A controller that is declared no more ends before the others begin, because its pod may hold the
    // ports of a new one, so that the new pod could not be scheduled. Definitions come before that:
    // nothing has ended when they are rejected.
    let begin = steps.iter().position(|step| step.stage() == Stage::Rest).unwrap_or(steps.len());
    steps.splice(begin..begin, controllers);
    steps.extend(others);
    // The Kustomization acts on a new artifact by itself. Asked before that, it would act on the old one.
    let changes_source =
        |step: &Step| step.object().kind == "OCIRepository" && !matches!(step, Step::Remove { .. });
    if steps.iter().any(changes_source) {
        steps.retain(|step| {
            !(matches!(step, Step::Reconcile { .. }) && step.object().kind == "Kustomization")
        });
    }
    conflicts.extend(unselected(actual).map(|(_, message)| conflict(message)));
    Plan { steps, conflicts }
}

fn conflict(message: String) -> Conflict {
    Conflict { message, help: FOREIGN_HELP.to_owned() }
}

fn in_the_way(id: &Identity, live: &Value) -> String {
    match keeper(live) {
        Some(keeper) => format!("{id}, which {keeper} keeps applying, is in the way"),
        None => format!("{id}, made by {}, is in the way", diff::managers(live)),
    }
}

/// Returns the controllers that cannot run beside the declared ones, each with a sentence.
fn unselected(actual: &ActualState) -> impl Iterator<Item = (&Identity, String)> {
    let live = actual.iter().filter(|(_, live)| live.owner == Owner::Unselected);
    live.map(|(id, live)| {
        let by = diff::managers(&live.object);
        (id, format!("{id}, made by {by}, is not in `flux.components` and cannot run beside them"))
    })
}

/// Returns the conflicts of [`plan`] for a status.
pub(crate) fn refusals(declared: &[Value], actual: &ActualState) -> Vec<Refusal> {
    let refusal = |object: &Value| {
        let id = Identity::of(object);
        let live = actual.get(&id).filter(|live| live.owner == Owner::Foreign);
        let live = live.filter(|live| !live.is_terminating())?;
        let (object, reason) = (id.to_string(), Reason::Conflict);
        Some(Refusal { object, reason, message: in_the_way(&id, &live.object) })
    };
    let refused = |(id, message): (&Identity, String)| Refusal {
        object: id.to_string(),
        reason: Reason::Conflict,
        message,
    };
    declared.iter().filter_map(refusal).chain(unselected(actual).map(refused)).collect()
}

/// Returns the steps for one object that exists.
fn changes(id: &Identity, declared: &Value, live: &LiveObject) -> Vec<Step> {
    let mut steps = Vec::new();
    // A field that admission rewrites differs from its declaration after every apply.
    let changed = diff::changed(live.admitted.as_ref().unwrap_or(declared), &live.object);
    if !changed.is_empty() {
        steps.push(Step::Update { object: id.clone(), changed });
    }
    steps.extend(removed_fields(id, declared, live));
    if steps.is_empty()
        && let Some(because) = live.not_ready_reason.clone()
    {
        steps.push(Step::Reconcile { object: id.clone(), because });
    }
    steps
}

fn removed_fields(id: &Identity, declared: &Value, live: &LiveObject) -> Option<Step> {
    let extras = foreign::extras(declared, &live.object);
    let named = |extra: &Extra| format!("{}, added by {}", extra.path, extra.manager);
    let fields: Vec<_> = extras.iter().map(named).collect();
    (!fields.is_empty()).then(|| Step::RemoveFields { object: id.clone(), fields })
}

/// Whether other objects are deleted with the object, because they are inside it or instances of it.
fn holds_contents(id: &Identity) -> bool {
    ["CustomResourceDefinition", "Namespace"].contains(&id.kind.as_str())
}

/// Decides how many of the first steps of [`plan`] are executed before the next observation: those of
/// one stage. `touched` are the objects on which this run executed a step. A controller that was asked in
/// this run is waited for, because it reports its work a moment later.
pub(crate) fn next(steps: &[Step], actual: &ActualState, touched: &BTreeSet<Identity>) -> Next {
    let Some(first) = steps.first() else { return Next::Finish };
    // The contents of a Namespace that is being deleted are deleted with it.
    if let Some((id, live)) = actual.iter().find(|(_, live)| live.is_terminating()) {
        return Next::Wait { reason: still_there(id, &live.object) };
    }
    let is_asked =
        |step: &Step| matches!(step, Step::Reconcile { .. }) && touched.contains(step.object());
    if steps.iter().all(is_asked) {
        let reasons: Vec<_> = steps.iter().map(ToString::to_string).collect();
        return Next::Wait { reason: reasons.join("; ") };
    }
    Next::Execute { count: steps.iter().take_while(|step| step.stage() == first.stage()).count() }
}

/// Returns a sentence for people about an object that is not deleted yet.
pub(crate) fn still_there(id: &Identity, live: &Value) -> String {
    let finalizers = live["metadata"]["finalizers"].as_array();
    let finalizers: Vec<_> = finalizers.into_iter().flatten().filter_map(Value::as_str).collect();
    if finalizers.is_empty() {
        format!("{id} is still there")
    } else {
        format!("{id} is still there, held by its finalizers {}", finalizers.join(", "))
    }
}

/// Returns the steps that remove what [`plan`] created, in the reverse order.
pub(crate) fn plan_destroy(actual: &ActualState) -> Vec<Step> {
    removable(actual, &[Owner::Ours], |_| true)
}

fn removable(
    actual: &ActualState,
    owners: &[Owner],
    which: impl Fn(&Identity) -> bool,
) -> Vec<Step> {
    let ours = |live: &LiveObject| owners.contains(&live.owner) && live.holds.is_empty();
    let ids = actual.iter().filter(|(id, live)| ours(live) && which(id)).map(|(id, _)| id);
    let mut ids: Vec<_> = ids.collect();
    ids.sort_by_key(|id| std::cmp::Reverse(order(id)));
    let remove = |id: &Identity| Step::Remove { object: id.clone(), dependents: Vec::new() };
    ids.into_iter().map(remove).collect()
}

/// Returns the objects that stay after [`plan_destroy`], each with the reason.
pub(crate) fn kept(actual: &ActualState) -> Vec<String> {
    let keep = |(object, live): (&Identity, &LiveObject)| match live.owner {
        Owner::Ours if live.holds.is_empty() => None,
        Owner::Ours => {
            let verb = if holds_contents(object) { "holds" } else { "is needed by" };
            Some(format!("{object} ({verb} {})", live.holds.join(", ")))
        }
        Owner::Unmarked => Some(format!("{object} (lacks our label)")),
        Owner::Foreign | Owner::Adoptable | Owner::Unselected => {
            Some(format!("{object} (made by {})", diff::managers(&live.object)))
        }
    };
    actual.iter().filter_map(keep).collect()
}

#[cfg(test)]
mod tests;
