//! The removal of what was delivered and installed: what is deleted, and in which order.
//!
//! Flux is suspended and never resumed: resuming applies the artifact once more, which would start
//! what a person has stopped. Its inventory is deleted here, in an order in which each controller
//! still runs when its objects go.

use std::collections::{BTreeMap, BTreeSet};

use documents::Next;
use serde_json::{Value, json};

use crate::Error;
use crate::clients::cluster::Reader;
use crate::contents;
use crate::desired::Desired;
use crate::graph::{
    Because, ClusterFacts, Doomed, Going, Graph, Key, is_applied_by, is_kept, is_of, key,
};
use crate::object::{Identity, order};
use crate::observe::{Look, ObservedObjects, observe};
use crate::plan::{kept, plan_destroy, still_there};
use crate::record::Record;
use crate::spec::{Delivery, OnDestroy};
use crate::step::Step;

/// Delivered objects that a removal deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of them.
    All,
    /// Only objects of Flux, so that Flux can be removed and the workloads keep running.
    Flux,
    /// None, because the Delivery has `prune: false`.
    Nothing,
}

impl Extent {
    pub(crate) fn of(spec: &Delivery) -> Self {
        match (spec.on_destroy, spec.prune) {
            (OnDestroy::Detach, _) => Self::Flux,
            (OnDestroy::Delete, true) => Self::All,
            (OnDestroy::Delete, false) => Self::Nothing,
        }
    }
}

/// Observation of everything that a removal deletes, and of what it leaves.
pub(crate) struct Sunset {
    /// `metadata.name` of the Delivery.
    name: String,
    /// The Kustomization of the Delivery.
    kustomization: Identity,
    pub(crate) facts: ClusterFacts,
    pub(crate) seen: ObservedObjects,
    pub(crate) record: Record,
    /// Everything that is deleted.
    pub(crate) going: Going,
    /// Objects of the Delivery that stay, each with the reason.
    pub(crate) stays: Vec<String>,
    extent: Extent,
}

impl Sunset {
    /// Reads every object of the cluster.
    pub(crate) fn observe(
        reader: &Reader,
        name: &str,
        desired: &Desired,
        extent: Extent,
    ) -> Result<Self, Error> {
        let facts = ClusterFacts::read(reader)?;
        let record = Record::read(reader, name)?;
        let seen = observe(reader, name, desired, Look::Removal)?;
        Ok(Self::new(name, desired, extent, (facts, record, seen)))
    }

    /// Computes from one observation what is deleted.
    fn new(
        name: &str,
        desired: &Desired,
        extent: Extent,
        (facts, record, mut seen): (ClusterFacts, Record, ObservedObjects),
    ) -> Self {
        let mut graph = Graph::new(&facts);
        let delivered = delivered(&facts, &graph, desired, extent);
        if extent == Extent::Flux {
            graph = graph.suspended();
            seen.actual.retain(|id, _| !desired.is_of_workload(id));
        }
        let roots = || delivered.iter().map(|id| (id.clone(), Because::Delivered));
        let first = record.closure(&graph, roots().collect());
        // Foreign contents are known only after the deleted objects are.
        contents::foreign(&facts.scan, &first, desired, &mut seen.actual);
        let installed = plan_destroy(&seen.actual).into_iter().map(|step| step.object().clone());
        let installed = installed.map(|id| (id, Because::Installed));
        let going = record.closure(&graph, roots().chain(installed).collect());
        let mut stays = stays(&facts, desired, &going, extent);
        stays.extend(kept(&seen.actual));
        for api in &facts.scan.silent {
            stays.push(format!("what {api} serves (its server does not answer)"));
        }
        let (name, kustomization) = (name.to_owned(), desired.kustomization.clone());
        Self { name, kustomization, facts, seen, record, going, stays, extent }
    }

    /// Returns the steps of the removal, in their order.
    pub(crate) fn steps(&self) -> Vec<Step> {
        self.batches().into_iter().flatten().collect()
    }

    /// Decides how many of the first [`Self::steps`] are executed before the next observation: those of
    /// the first batch, which must be deleted before the next batch begins.
    pub(crate) fn next(&self, steps: &[Step]) -> Next {
        match (steps, self.removed().next()) {
            ([], _) => Next::Finish,
            // The record is deleted only when everything in it is.
            ([Step::RemoveRecord { .. }], Some(doomed)) => {
                let id = key(&doomed.id);
                let mut objects = self.facts.scan.objects.iter();
                let live = objects.find(|object| key(&Identity::of(object)) == id);
                Next::Wait { reason: still_there(&doomed.id, live.unwrap_or(&Value::Null)) }
            }
            _ => Next::Execute { count: self.batches().first().map_or(0, Vec::len) },
        }
    }

    /// Returns the objects that Kubernetes deletes when `root` is deleted.
    pub(crate) fn dependents(&self, root: &Identity) -> Vec<&Doomed> {
        self.all_dependents().remove(&key(root)).unwrap_or_default()
    }

    /// Whether this program installed the object itself. Flux delivered the others.
    pub(crate) fn is_installed(&self, id: &Identity) -> bool {
        self.seen.actual.contains_key(id)
    }

    /// Returns the objects that are deleted, by us or by Kubernetes.
    fn removed(&self) -> impl Iterator<Item = &Doomed> {
        self.going.values().filter(|doomed| doomed.is_removed())
    }

    /// Returns the steps in batches. The objects of one batch, and those that go with them, are deleted
    /// before the next batch begins.
    fn batches(&self) -> Vec<Vec<Step>> {
        let is_done = self.removed().next().is_none();
        if is_done && self.record.is_empty() {
            return Vec::new();
        }
        let remove_record = Step::RemoveRecord { object: Record::identity(&self.name) };
        if is_done {
            return vec![vec![remove_record]];
        }
        let dependents = self.all_dependents();
        let remove = |object: &Identity| {
            let dependents = dependents.get(&key(object)).into_iter().flatten();
            let dependents = dependents.map(|doomed| doomed.id.to_string()).collect();
            Step::Remove { object: object.clone(), dependents }
        };
        let installed = plan_destroy(&self.seen.actual);
        let ours: BTreeSet<_> = installed.iter().map(|step| key(step.object())).collect();
        let batch = |wave: Vec<&Doomed>| {
            let delivered = wave.into_iter().filter(|doomed| !ours.contains(&key(&doomed.id)));
            delivered.map(|doomed| remove(&doomed.id)).collect()
        };
        let mut batches = self.suspensions();
        batches.extend(self.waves().into_iter().map(batch));
        let installed = installed.chunk_by(|a, b| rank(a.object()) == rank(b.object()));
        batches.extend(
            installed.map(|batch| batch.iter().map(|step| remove(step.object())).collect()),
        );
        batches.push(vec![remove_record]);
        batches.retain(|batch| !batch.is_empty());
        batches
    }

    /// Returns the suspensions of the Kustomization of the Delivery and of every one that it delivered,
    /// so that nothing is applied or pruned any more. The first one alone: an apply that it has begun
    /// would set the fields of the others back.
    fn suspensions(&self) -> Vec<Vec<Step>> {
        // The uninstallation of a release deletes its objects, unless the release is suspended.
        let releases = self.facts.releases.iter().filter(|_| self.extent == Extent::Flux);
        let live = self.facts.kustomizations.iter().chain(releases);
        let running = live.filter(|live| live["spec"]["suspend"] != true).map(Identity::of);
        let (first, others): (Vec<_>, Vec<_>) = running
            .filter(|id| id.is_same(&self.kustomization) || self.going.contains_key(&key(id)))
            .partition(|id| id.is_same(&self.kustomization));
        let suspend =
            |ids: Vec<Identity>| ids.into_iter().map(|object| Step::Suspend { object }).collect();
        vec![suspend(first), suspend(others)]
    }

    /// Returns the deleted objects that are not deleted by us, by the object whose deletion takes them.
    fn all_dependents(&self) -> BTreeMap<Key, Vec<&Doomed>> {
        let mut dependents: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for doomed in self.removed().filter(|doomed| !doomed.is_direct()) {
            dependents.entry(key(&self.root(doomed).id)).or_default().push(doomed);
        }
        dependents
    }

    /// Returns the object whose deletion by us deletes `doomed`.
    fn root<'a>(&'a self, doomed: &'a Doomed) -> &'a Doomed {
        let cluster_wide = |group: &str, kind: &str, name: &str| {
            (group.to_owned(), kind.to_owned(), String::new(), name.to_owned())
        };
        let mut root = doomed;
        // Owners may own one another.
        for _ in 0..self.going.len() {
            let above = match &root.because {
                Because::Owner(id) | Because::StatefulSet(id) => self.going.get(&key(id)),
                Because::Namespace(name) => self.going.get(&cluster_wide("", "Namespace", name)),
                Because::Definition(name) => {
                    let (group, kind) = ("apiextensions.k8s.io", "CustomResourceDefinition");
                    self.going.get(&cluster_wide(group, kind, name))
                }
                _ => None,
            };
            match above {
                Some(above) => root = above,
                None => break,
            }
        }
        root
    }

    /// Returns the delivered objects that we delete ourselves, in waves. The objects of one wave are
    /// deleted before the next one begins.
    fn waves(&self) -> Vec<Vec<&Doomed>> {
        let mut users = self.facts.claim_users();
        // Owners of claims are deleted with the users of claims, before the storage's controllers.
        let claims = self.going.values().filter(|doomed| doomed.is_claim());
        users.extend(claims.map(|claim| self.root(claim).uid.clone()));
        let direct = |doomed: &&Doomed| {
            matches!(doomed.because, Because::Delivered | Because::Recorded)
                && !self.seen.actual.contains_key(&doomed.id)
        };
        let mut waves: Vec<Vec<&Doomed>> = vec![Vec::new(); WAVES];
        for doomed in self.going.values().filter(direct) {
            waves[wave(doomed, &self.facts, &users, &self.going)].push(doomed);
        }
        for wave in &mut waves {
            wave.sort_by(|a, b| order(&b.id).cmp(&order(&a.id)));
        }
        waves
    }
}

/// Returns the batch in which an installed object is removed. The controllers still run when the objects
/// go that they hold by finalizers, and a Namespace and the definitions are removed with their contents.
fn rank(id: &Identity) -> usize {
    match id.kind.as_str() {
        "Kustomization" => 0,
        "OCIRepository" => 1,
        "Namespace" => 3,
        "CustomResourceDefinition" => 4,
        _ => 2,
    }
}

const WAVES: usize = 9;
const VOLUMES: usize = 4;

/// Returns the wave of an object. Its controller must still run then, and its users must be deleted.
fn wave(doomed: &Doomed, facts: &ClusterFacts, users: &BTreeSet<String>, going: &Going) -> usize {
    let id = &doomed.id;
    let is_balancer = || {
        facts.services.iter().any(|service| {
            Identity::of(service).is_same(id) && service["spec"]["type"] == "LoadBalancer"
        })
    };
    match (id.group(), id.kind.as_str()) {
        // The cloud's controller removes its load balancers, so it must not be deleted before them.
        ("networking.k8s.io" | "extensions", "Ingress") => 0,
        ("", "Service") if is_balancer() => 0,
        ("gateway.networking.k8s.io", kind) if kind != "GatewayClass" => 0,
        (group, _) if group.ends_with(".toolkit.fluxcd.io") && id.kind == "HelmRelease" => 1,
        // Flux's sources and Kustomizations are suspended, and their contents are deleted by now.
        (group, _) if group.ends_with(".toolkit.fluxcd.io") => 6,
        // A webhook without its server would deny every later deletion.
        ("admissionregistration.k8s.io" | "apiregistration.k8s.io", _) => 5,
        // Claims that are deleted with the Namespace need the storage's controllers.
        ("", "Namespace")
            if going.values().any(|claim| {
                claim.is_claim() && claim.because == Because::Namespace(id.name.clone())
            }) =>
        {
            VOLUMES
        }
        ("", "Namespace") => 7,
        ("apiextensions.k8s.io", _) => 8,
        ("", "PersistentVolumeClaim") => 3,
        ("", "PersistentVolume") => VOLUMES,
        _ if users.contains(&doomed.uid) => 2,
        _ if facts.scan.is_defined(id) => 1,
        _ => 6,
    }
}

/// Returns the objects that the Delivery has applied and that are deleted with it.
fn delivered(
    facts: &ClusterFacts,
    graph: &Graph<'_>,
    desired: &Desired,
    extent: Extent,
) -> Vec<Identity> {
    let absent = json!({"metadata": {
        "name": desired.kustomization.name, "namespace": desired.kustomization.namespace,
    }});
    let live = facts.kustomizations.iter();
    let live = live.into_iter().find(|live| Identity::of(live).is_same(&desired.kustomization));
    // Without a Kustomization, the labels of the objects identify them.
    let ours =
        |id: &Identity| desired.objects.iter().any(|object| Identity::of(object).is_same(id));
    let mut all = graph.delivered(live.unwrap_or(&absent), extent != Extent::Nothing);
    all.retain(|id| !ours(id));
    if extent == Extent::Flux {
        // Kustomizations of the artifact may have applied other objects of Flux.
        let going = graph.closure(all.into_iter().map(|id| (id, Because::Delivered)).collect());
        let ids = going.into_values().map(|doomed| doomed.id);
        all = ids.filter(|id| id.group().ends_with(".toolkit.fluxcd.io")).collect();
    }
    all
}

/// Returns the objects that the Delivery has applied and that stay, each with the reason.
fn stays(facts: &ClusterFacts, desired: &Desired, going: &Going, extent: Extent) -> Vec<String> {
    let name = desired.kustomization.name.as_str();
    let namespace = desired.kustomization.namespace.as_deref().unwrap_or_default();
    let mut stays = Vec::new();
    for object in facts.scan.objects.iter().filter(|object| is_of(object, name, namespace)) {
        let id = Identity::of(object);
        let owned = object["metadata"]["ownerReferences"].is_array() || id.kind == "Endpoints";
        let ours = || desired.objects.iter().any(|object| Identity::of(object).is_same(&id));
        if owned || going.contains_key(&key(&id)) || ours() {
            continue;
        }
        let why = if is_kept(object) {
            "Flux was told to leave it"
        } else if extent == Extent::Flux {
            "the Delivery says `onDestroy: detach`"
        } else if extent == Extent::Nothing {
            "the Delivery says `prune: false`"
        } else if is_applied_by(object, name, namespace) {
            "its Kustomization was told to orphan it"
        } else {
            "it has the Delivery's labels, and Flux did not apply it"
        };
        stays.push(format!("{id} ({why})"));
    }
    stays
}

#[cfg(test)]
mod tests;
