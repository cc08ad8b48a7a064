//! Computes every object that a deletion removes. Pure: takes the live objects of a cluster and returns
//! the deleted ones.
//!
//! One deletion causes others: an owner deletes its dependents, a Namespace its contents, a
//! `CustomResourceDefinition` its objects, a Kustomization its inventory, a `HelmRelease` its release, a
//! `StatefulSet` the claims that its retention policy names, and a claim its volume. No inventory lists
//! all of them, so that this file computes them from the live objects.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use contract::labels::REPLICAS;
use serde_json::Value;

use crate::kstatus::text;
use crate::object::Identity;
use crate::scan::Scan;

/// The live objects of a cluster.
#[derive(Debug, Default)]
pub(crate) struct ClusterFacts {
    /// Metadata of every object.
    pub(crate) scan: Scan,
    pub(crate) kustomizations: Vec<Value>,
    pub(crate) releases: Vec<Value>,
    pub(crate) stateful_sets: Vec<Value>,
    pub(crate) services: Vec<Value>,
    pub(crate) claims: Vec<Value>,
    pub(crate) volumes: Vec<Value>,
    pub(crate) pods: Vec<Value>,
}

/// Group, kind, namespace and name of an object, without the version of its API.
pub(crate) type Key = (String, String, String, String);

pub(crate) fn key(id: &Identity) -> Key {
    let namespace = id.namespace.clone().unwrap_or_default();
    (id.group().to_owned(), id.kind.clone(), namespace, id.name.clone())
}

/// Cause of a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Because {
    /// A Kustomization applied the object.
    Delivered,
    /// The next artifact no longer contains the object.
    Dropped,
    /// The next artifact scales the `StatefulSet` down, and its policy is `whenScaled: Delete`.
    Scaled(Identity),
    /// The artifact that is about to be applied cannot be evaluated.
    Undetermined(String),
    /// This program installed the object.
    Installed,
    /// An earlier run of `destroy` recorded the object for deletion.
    Recorded,
    /// Its owner is deleted (`metadata.ownerReferences`).
    Owner(Identity),
    /// Its Namespace is deleted.
    Namespace(String),
    /// The `CustomResourceDefinition` of its kind is deleted.
    Definition(String),
    /// The Helm release that created the object is deleted.
    Release(Identity),
    /// The `StatefulSet` is deleted, and its policy is `whenDeleted: Delete`.
    StatefulSet(Identity),
    /// Its volume is deleted, or another volume with the same storage.
    Volume(String),
}

impl Because {
    /// Whether an object is deleted earlier for this reason than for `other`: with its owner, before its
    /// Namespace or the definition of its kind. The order of the roots must not decide.
    fn is_nearer(&self, other: &Self) -> bool {
        matches!(self, Self::Owner(_) | Self::StatefulSet(_))
            && matches!(other, Self::Namespace(_) | Self::Definition(_))
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivered => f.write_str("this Delivery applied it"),
            Self::Dropped => f.write_str("the artifact no longer contains it"),
            Self::Scaled(id) => write!(f, "{id} scales down, whenScaled: Delete"),
            Self::Undetermined(why) => write!(f, "what Flux prunes cannot be determined: {why}"),
            Self::Installed => f.write_str("this program installed it"),
            Self::Recorded => f.write_str("an earlier run began to remove it"),
            Self::Owner(id) => write!(f, "its owner {id} is deleted"),
            Self::Namespace(name) => write!(f, "its Namespace {name} is deleted"),
            Self::Definition(name) => write!(f, "the definition {name} of its kind is deleted"),
            Self::Release(id) => write!(f, "{id} created it and is deleted"),
            Self::StatefulSet(id) => write!(f, "{id} is deleted, whenDeleted: Delete"),
            Self::Volume(name) => write!(f, "its volume {name} is deleted"),
        }
    }
}

/// An object that a deletion removes, or whose data it removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doomed {
    pub(crate) id: Identity,
    pub(crate) uid: String,
    pub(crate) because: Because,
}

impl Doomed {
    /// Whether this program deletes the object itself. Kubernetes, Helm or Flux deletes any other object
    /// in consequence.
    pub(crate) fn is_direct(&self) -> bool {
        matches!(self.because, Because::Delivered | Because::Installed | Because::Recorded)
    }

    /// Whether the object itself is deleted for certain. A claim whose volume is deleted loses its data
    /// and stays. Helm may keep an object of a release. An undetermined deletion may not happen.
    pub(crate) fn is_removed(&self) -> bool {
        !matches!(self.because, Because::Volume(_) | Because::Release(_) | Because::Undetermined(_))
    }

    pub(crate) fn is_claim(&self) -> bool {
        self.id.kind == "PersistentVolumeClaim" && self.id.group().is_empty()
    }
}

pub(crate) type Going = BTreeMap<Key, Doomed>;

/// Indices over the objects of a cluster, one for each way in which a deletion spreads.
pub(crate) struct Graph<'a> {
    facts: &'a ClusterFacts,
    /// Whether the deletion of a Kustomization or a `HelmRelease` deletes what it has applied.
    uninstalls: bool,
    by_key: HashMap<Key, &'a Value>,
    by_owner: HashMap<&'a str, Vec<&'a Value>>,
    by_namespace: HashMap<&'a str, Vec<&'a Value>>,
    by_definition: HashMap<String, Vec<&'a Value>>,
}

impl<'a> Graph<'a> {
    pub(crate) fn new(facts: &'a ClusterFacts) -> Self {
        let mut definitions = HashMap::new();
        for kind in &facts.scan.kinds {
            let group = kind.api_version.split_once('/').map_or("", |(group, _)| group);
            definitions.insert((group.to_owned(), kind.kind.clone()), kind.definition());
        }
        let mut graph = Self {
            facts,
            uninstalls: true,
            by_key: HashMap::new(),
            by_owner: HashMap::new(),
            by_namespace: HashMap::new(),
            by_definition: HashMap::new(),
        };
        for object in &facts.scan.objects {
            let id = Identity::of(object);
            if let Some(namespace) = object["metadata"]["namespace"].as_str() {
                graph.by_namespace.entry(namespace).or_default().push(object);
            }
            for owner in list(&object["metadata"]["ownerReferences"]) {
                graph.by_owner.entry(text(owner, "uid")).or_default().push(object);
            }
            if let Some(name) = definitions.get(&(id.group().to_owned(), id.kind.clone())) {
                graph.by_definition.entry(name.clone()).or_default().push(object);
            }
            graph.by_key.insert(key(&id), object);
        }
        graph
    }

    /// Returns the graph of a cluster whose Kustomizations and Helm releases are suspended. Flux then
    /// deletes them and leaves what they have applied
    /// (<https://fluxcd.io/flux/components/kustomize/kustomizations/#suspend>).
    pub(crate) fn suspended(self) -> Self {
        Self { uninstalls: false, ..self }
    }

    pub(crate) fn find(&self, id: &Identity) -> Option<&'a Value> {
        self.by_key.get(&key(id)).copied()
    }

    /// Returns everything that is deleted with `roots`. Roots that do not exist are left out.
    pub(crate) fn closure(&self, roots: Vec<(Identity, Because)>) -> Going {
        let mut going = Going::new();
        let mut next = roots;
        while let Some((id, because)) = next.pop() {
            let Some(object) = self.find(&id) else { continue };
            let known = going.get(&key(&id));
            // A direct deletion has precedence over an indirect one of the same object.
            let direct = Doomed { id: Identity::of(object), uid: uid(object), because };
            match known {
                Some(known) if known.is_direct() => continue,
                Some(known) if !direct.is_direct() && !direct.because.is_nearer(&known.because) => {
                    continue;
                }
                Some(_) => {
                    going.insert(key(&id), direct);
                    continue;
                }
                None => {}
            }
            self.dependents(&direct.id, object, &mut next);
            going.insert(key(&id), direct);
        }
        self.orphaned_by_silence(&mut going);
        going
    }

    /// Adds to `next` the objects that the deletion of `object` removes.
    fn dependents(&self, id: &Identity, object: &'a Value, next: &mut Vec<(Identity, Because)>) {
        let mut add = |objects: Option<&Vec<&Value>>, because: Because| {
            let objects = objects.into_iter().flatten();
            next.extend(objects.map(|object| (Identity::of(object), because.clone())));
        };
        add(self.by_owner.get(uid(object).as_str()), Because::Owner(id.clone()));
        match (id.group(), id.kind.as_str()) {
            ("", "Namespace") => {
                add(self.by_namespace.get(id.name.as_str()), Because::Namespace(id.name.clone()));
            }
            ("apiextensions.k8s.io", "CustomResourceDefinition") => {
                add(self.by_definition.get(&id.name), Because::Definition(id.name.clone()));
            }
            ("apps", "StatefulSet") => {
                let set = full(&self.facts.stateful_sets, id);
                let deletes = set.is_some_and(|set| retention(set, "whenDeleted"));
                let claims = set.filter(|_| deletes).map(|set| self.claims_of(set, 0));
                let because = Because::StatefulSet(id.clone());
                next.extend(claims.into_iter().flatten().map(|claim| (claim, because.clone())));
            }
            ("kustomize.toolkit.fluxcd.io", "Kustomization") if self.uninstalls => {
                let full = full(&self.facts.kustomizations, id);
                let pruned = full.map(|full| self.delivered(full, prunes(full)));
                let pruned = pruned.into_iter().flatten();
                next.extend(pruned.map(|id| (id, Because::Delivered)));
            }
            ("helm.toolkit.fluxcd.io", "HelmRelease") if self.uninstalls => {
                let full = full(&self.facts.releases, id);
                let created = full.map(|full| self.released(full)).into_iter().flatten();
                next.extend(created.map(|created| (created, Because::Release(id.clone()))));
            }
            ("", "PersistentVolumeClaim") => {
                let claim = full(&self.facts.claims, id);
                let volume = claim.map(|claim| text(&claim["spec"], "volumeName"));
                let volume = self.facts.volumes.iter().find(|live| {
                    volume.is_some_and(|name| !name.is_empty() && live["metadata"]["name"] == name)
                        && live["spec"]["persistentVolumeReclaimPolicy"] != "Retain"
                });
                next.extend(
                    volume.map(|volume| (Identity::of(volume), Because::Owner(id.clone()))),
                );
            }
            ("", "PersistentVolume") => next.extend(self.claims_on(&id.name)),
            _ => {}
        }
    }

    /// Returns the objects that `kustomization` has applied and that its deletion prunes by Flux's
    /// rules. Objects that are not in the inventory yet are found by their labels.
    pub(crate) fn delivered(&self, kustomization: &Value, prune: bool) -> Vec<Identity> {
        if !prune || !kustomization["spec"]["kubeConfig"].is_null() {
            return Vec::new();
        }
        let metadata = &kustomization["metadata"];
        let (name, namespace) = (text(metadata, "name"), text(metadata, "namespace"));
        let listed = inventory(kustomization).filter_map(|id| self.find(&id));
        let listed = listed.filter(|object| is_of(object, name, namespace));
        let stray =
            self.facts.scan.objects.iter().filter(|object| is_applied_by(object, name, namespace));
        let all = listed.chain(stray).filter(|object| !is_kept(object));
        all.map(Identity::of).collect()
    }

    /// Returns the objects that Helm has created for `release`. Helm annotates each of them
    /// (<https://helm.sh/docs/chart_best_practices/labels/>, `meta.helm.sh/release-name`).
    pub(crate) fn released(&self, release: &Value) -> Vec<Identity> {
        let (metadata, spec) = (&release["metadata"], &release["spec"]);
        let target = match text(spec, "targetNamespace") {
            "" => text(metadata, "namespace"),
            target => target,
        };
        let name = match (text(spec, "releaseName"), text(spec, "targetNamespace")) {
            ("", "") => text(metadata, "name").to_owned(),
            // helm-controller: `[<target-namespace>-]<name>`.
            ("", target) => format!("{target}-{}", text(metadata, "name")),
            (name, _) => name.to_owned(),
        };
        let created = self.facts.scan.objects.iter().filter(|object| {
            let annotations = &object["metadata"]["annotations"];
            text(annotations, "meta.helm.sh/release-name") == name
                && text(annotations, "meta.helm.sh/release-namespace") == target
        });
        let listed = inventory(release).filter(|id| self.find(id).is_some());
        created.map(Identity::of).chain(listed).collect()
    }

    /// Returns the claims of `set` with the ordinal `from` or a higher one.
    pub(crate) fn claims_of(&self, set: &Value, from: i64) -> Vec<Identity> {
        let (name, namespace) =
            (text(&set["metadata"], "name"), text(&set["metadata"], "namespace"));
        let templates: Vec<_> = list(&set["spec"]["volumeClaimTemplates"])
            .map(|template| format!("{}-{name}-", text(&template["metadata"], "name")))
            .collect();
        let ordinal = |claim: &Value| {
            let claim = text(&claim["metadata"], "name");
            templates.iter().find_map(|prefix| claim.strip_prefix(prefix)?.parse::<i64>().ok())
        };
        let claims = self.facts.claims.iter().filter(|claim| {
            claim["metadata"]["namespace"] == namespace
                && ordinal(claim).is_some_and(|ordinal| ordinal >= from)
        });
        claims.map(Identity::of).collect()
    }

    /// Returns the claims whose data is on the volume `name` or on another volume with the same storage.
    fn claims_on(&self, name: &str) -> Vec<(Identity, Because)> {
        let volumes = &self.facts.volumes;
        let Some(volume) = volumes.iter().find(|volume| volume["metadata"]["name"] == name) else {
            return Vec::new();
        };
        let storage = storage(volume);
        let same = volumes.iter().filter(|other| {
            other["metadata"]["name"] == name
                || storage.is_some() && self::storage(other) == storage
        });
        let claim = |volume: &Value| {
            let reference = &volume["spec"]["claimRef"];
            let claim = self.facts.claims.iter().find(|claim| {
                let uid = &claim["metadata"]["uid"];
                let bound = claim["spec"]["volumeName"] == volume["metadata"]["name"];
                bound || uid.is_string() && *uid == reference["uid"]
            })?;
            Some((Identity::of(claim), Because::Volume(name.to_owned())))
        };
        same.filter_map(claim).collect()
    }

    /// Adds every claim whose owner belongs to an API that does not answer, because that owner may be
    /// deleted, too.
    fn orphaned_by_silence(&self, going: &mut Going) {
        for claim in &self.facts.claims {
            let id = Identity::of(claim);
            for owner in list(&claim["metadata"]["ownerReferences"]) {
                let api_version = text(owner, "apiVersion");
                if self.facts.scan.silent.iter().any(|silent| silent == api_version) {
                    let because = Because::Undetermined(format!("{api_version} does not answer"));
                    let doomed = Doomed { id: id.clone(), uid: uid(claim), because };
                    going.entry(key(&id)).or_insert(doomed);
                }
            }
        }
    }

    /// Returns the claims of `going` whose data would be lost. The claim of a generic ephemeral volume
    /// is left out, because it belongs to one pod and is deleted with it at every rollout
    /// (<https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#generic-ephemeral-volumes>).
    pub(crate) fn lost<'b>(&self, going: &'b Going) -> Vec<&'b Doomed> {
        // Decide by the name `POD-VOLUME`: the owner is not enough, because a StatefulSet that scales
        // down also makes a pod the owner of a claim.
        let is_ephemeral = |doomed: &Doomed| {
            self.facts.pods.iter().any(|pod| {
                let name = text(&pod["metadata"], "name");
                pod["metadata"]["namespace"].as_str() == doomed.id.namespace.as_deref()
                    && list(&pod["spec"]["volumes"]).any(|volume| {
                        volume["ephemeral"].is_object()
                            && format!("{name}-{}", text(volume, "name")) == doomed.id.name
                    })
            })
        };
        going.values().filter(|doomed| doomed.is_claim() && !is_ephemeral(doomed)).collect()
    }
}

/// Returns the Kustomizations of `going` that deliver to another cluster, whose objects are not visible
/// from here.
pub(crate) fn remote(facts: &ClusterFacts, going: &Going) -> Vec<String> {
    let remote = facts.kustomizations.iter().filter(|live| !live["spec"]["kubeConfig"].is_null());
    let ids = remote.map(Identity::of).filter(|id| going.contains_key(&key(id)));
    ids.map(|id| id.to_string()).collect()
}

/// Whether the deletion of `kustomization` prunes the objects that it has applied
/// (<https://fluxcd.io/flux/components/kustomize/kustomizations/#deletion-policy>). A suspended
/// Kustomization prunes nothing, but counts here: this program deletes its objects itself.
pub(crate) fn prunes(kustomization: &Value) -> bool {
    match text(&kustomization["spec"], "deletionPolicy") {
        "Orphan" => false,
        "Delete" | "WaitForTermination" => true,
        _ => kustomization["spec"]["prune"] == true,
    }
}

/// Returns the objects in the inventory of a Kustomization or `HelmRelease`.
pub(crate) fn inventory(object: &Value) -> impl Iterator<Item = Identity> + '_ {
    list(&object["status"]["inventory"]["entries"])
        .filter_map(|entry| Identity::of_entry(text(entry, "id"), text(entry, "v")))
}

/// Whether `object` carries the labels of the Kustomization.
pub(crate) fn is_of(object: &Value, name: &str, namespace: &str) -> bool {
    let labels = &object["metadata"]["labels"];
    text(labels, "kustomize.toolkit.fluxcd.io/name") == name
        && text(labels, "kustomize.toolkit.fluxcd.io/namespace") == namespace
}

/// Whether the Kustomization has applied `object`. Its labels alone prove nothing, because controllers
/// and people copy them: the managed fields must name kustomize-controller, too.
pub(crate) fn is_applied_by(object: &Value, name: &str, namespace: &str) -> bool {
    is_of(object, name, namespace)
        && list(&object["metadata"]["managedFields"]).any(|entry| {
            entry["manager"] == "kustomize-controller" && entry["operation"] == "Apply"
        })
}

/// Whether a label or annotation tells Flux to leave `object` alone, in any case of letters. data-drain
/// sets the same annotation on a workload that it stops, and such a workload is not exempt.
pub(crate) fn is_kept(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let says = |key: &str, value: &str| {
        let key = format!("kustomize.toolkit.fluxcd.io/{key}");
        [&metadata["labels"], &metadata["annotations"]]
            .into_iter()
            .any(|marks| text(marks, &key).eq_ignore_ascii_case(value))
    };
    let stopped = metadata["annotations"][REPLICAS].is_string();
    says("prune", "disabled")
        || (says("reconcile", "disabled") || says("ssa", "Ignore")) && !stopped
}

/// Whether `set` deletes its claims. `when` is `whenDeleted` or `whenScaled`.
pub(crate) fn retention(set: &Value, when: &str) -> bool {
    set["spec"]["persistentVolumeClaimRetentionPolicy"][when] == "Delete"
}

/// Returns a key of the storage behind a volume. Two volumes with the same key share their data.
fn storage(volume: &Value) -> Option<Value> {
    let spec = &volume["spec"];
    let csi = &spec["csi"];
    if csi.is_object() {
        return Some(serde_json::json!([csi["driver"], csi["volumeHandle"]]));
    }
    ["nfs", "hostPath", "local", "iscsi", "fc", "cephfs", "rbd"]
        .into_iter()
        .find(|kind| spec[kind].is_object())
        .map(|kind| serde_json::json!([kind, spec[kind], spec["nodeAffinity"]]))
}

fn full<'a>(objects: &'a [Value], id: &Identity) -> Option<&'a Value> {
    objects.iter().find(|object| Identity::of(object).is_same(id))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(crate) fn uid(object: &Value) -> String {
    text(&object["metadata"], "uid").to_owned()
}

#[cfg(test)]
mod tests;
