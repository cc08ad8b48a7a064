//! Computes what an `apply` deletes, from the live inventories and the next artifact. Pure.

use serde_json::Value;

use crate::archive::Files;
use crate::build::{self, Build};
use crate::diff;
use crate::graph::{Because, ClusterFacts, Going, Graph, retention};
use crate::kstatus::text;
use crate::object::Identity;

/// Maximum depth of Kustomizations that deliver one another.
const DEPTH_MAX: usize = 16;

/// Next state of a Kustomization.
pub(crate) struct Next<'a> {
    /// The Kustomization as it will be declared.
    pub(crate) kustomization: &'a Value,
    /// Files of the artifact, or the reason why they cannot be read.
    pub(crate) files: Result<&'a Files, String>,
}

/// Returns everything that is deleted when Flux applies `next` in place of `live`. An object whose fate
/// cannot be determined counts as deleted.
pub(crate) fn of_apply(facts: &ClusterFacts, live: &Value, next: &Next<'_>) -> Going {
    let graph = Graph::new(facts);
    let mut roots = Vec::new();
    compare(&graph, facts, live, next, 0, &mut roots);
    graph.closure(roots)
}

type Roots = Vec<(Identity, Because)>;

fn compare(
    graph: &Graph<'_>,
    facts: &ClusterFacts,
    live: &Value,
    next: &Next<'_>,
    depth: usize,
    roots: &mut Roots,
) {
    let spec = &next.kustomization["spec"];
    let delivered = graph.delivered(live, true);
    let outcome = match &next.files {
        _ if depth > DEPTH_MAX => {
            Err(format!("Kustomizations deliver one another more than {DEPTH_MAX} levels deep"))
        }
        Ok(files) => build::of_kustomization(files, spec),
        Err(why) => Err(why.clone()),
    };
    let build = match outcome {
        Ok(build) => build,
        Err(why) => {
            let all = delivered.into_iter();
            roots.extend(all.map(|id| (id, Because::Undetermined(why.clone()))));
            return;
        }
    };
    // `spec.deletionPolicy` applies only to the deletion of a Kustomization, not to its next apply.
    let prunes = [next.kustomization, live].iter().any(|object| object["spec"]["prune"] == true);
    for id in delivered {
        match build.find(&id) {
            None if prunes && build.may_generate(&id) => {
                let why = format!("{} are generated", id.kind);
                roots.push((id, Because::Undetermined(why)));
            }
            None if prunes => roots.push((id, Because::Dropped)),
            None => {}
            Some(object) => retained(graph, facts, (&id, object, &build), next, depth, roots),
        }
    }
}

/// Adds the deletions that a change of `object` causes, although `object` itself stays.
fn retained(
    graph: &Graph<'_>,
    facts: &ClusterFacts,
    (id, object, build): (&Identity, &Value, &Build),
    next: &Next<'_>,
    depth: usize,
    roots: &mut Roots,
) {
    let full =
        |objects: &'_ [Value]| objects.iter().find(|live| Identity::of(live).is_same(id)).cloned();
    let forced = next.kustomization["spec"]["force"] == true
        || text(&object["metadata"]["annotations"], "kustomize.toolkit.fluxcd.io/force")
            .eq_ignore_ascii_case("enabled");
    let undetermined = |why: &str| (id.clone(), Because::Undetermined(format!("{id}: {why}")));
    match (id.group(), id.kind.as_str()) {
        ("apps", "StatefulSet") => {
            let Some(live) = full(&facts.stateful_sets) else { return };
            if forced {
                roots.push(undetermined(
                    "`force` makes Flux replace the object when an immutable field changes",
                ));
            }
            let deletes = retention(&live, "whenScaled") || retention(object, "whenScaled");
            if !deletes {
                return;
            }
            let start = live["spec"]["ordinals"]["start"].as_i64().unwrap_or(0);
            let replicas = match object["spec"]["replicas"].as_i64() {
                _ if build.inexact => 0,
                Some(replicas) => replicas,
                // Without the field, the live value stays, unless Flux has set it before. Then server-side
                // apply removes the field, and the default of 1 follows.
                None if !owns_replicas(&live) => return,
                None => 1,
            };
            let claims = graph.claims_of(&live, start.saturating_add(replicas));
            roots.extend(claims.into_iter().map(|claim| (claim, Because::Scaled(id.clone()))));
        }
        ("", "PersistentVolumeClaim" | "PersistentVolume" | "Namespace") if forced => {
            let live = match id.kind.as_str() {
                "PersistentVolumeClaim" => full(&facts.claims),
                "PersistentVolume" => full(&facts.volumes),
                _ => None,
            };
            if live.is_some_and(|live| !diff::changed(&spec_of(object), &live).is_empty()) {
                roots.push(undetermined(
                    "`force` makes Flux replace the object when an immutable field changes",
                ));
            }
        }
        ("kustomize.toolkit.fluxcd.io", "Kustomization") => {
            let Some(live) = full(&facts.kustomizations) else { return };
            if !object["spec"]["kubeConfig"].is_null() {
                roots.push(undetermined("this Kustomization delivers to another cluster"));
                return;
            }
            let source = |kustomization: &Value| {
                let source = &kustomization["spec"]["sourceRef"];
                let namespace = source["namespace"]
                    .as_str()
                    .or(kustomization["metadata"]["namespace"].as_str());
                format!("{} {}/{}", source["kind"], namespace.unwrap_or_default(), source["name"])
            };
            // A Kustomization with another source does not depend on this artifact.
            if source(object) == source(next.kustomization) && source(&live) == source(object) {
                let files = next.files.clone();
                let next = Next { kustomization: object, files };
                compare(graph, facts, &live, &next, depth + 1, roots);
            } else if build.inexact || !diff::changed(&spec_of(object), &live).is_empty() {
                let files = Err(format!("{id} changes, and builds from another source"));
                let next = Next { kustomization: object, files };
                compare(graph, facts, &live, &next, depth + 1, roots);
            }
        }
        ("helm.toolkit.fluxcd.io", "HelmRelease") => {
            let Some(live) = full(&facts.releases) else { return };
            if build.inexact || !diff::changed(&spec_of(object), &live).is_empty() {
                let why = format!("{id} changes, and only Helm knows what it prunes");
                let released = graph.released(&live).into_iter();
                roots.extend(released.map(|object| (object, Because::Undetermined(why.clone()))));
            }
        }
        _ => {}
    }
}

/// Returns the object without its metadata and status.
fn spec_of(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|field, _| field == "spec" || field == "apiVersion" || field == "kind");
    }
    object
}

fn owns_replicas(set: &Value) -> bool {
    let entries = set["metadata"]["managedFields"].as_array();
    entries.into_iter().flatten().any(|entry| {
        entry["manager"] == "kustomize-controller"
            && !entry["fieldsV1"]["f:spec"]["f:replicas"].is_null()
    })
}

#[cfg(test)]
mod tests;
