//! Record of the objects that a `destroy` deletes, kept in the cluster until all are deleted.
//!
//! The inventory of a Kustomization is deleted with the Kustomization, so that a second run could not
//! know what the first run waited for. The record is written before the first deletion, to
//! `kube-system`, which no delivery deletes. It is deleted last.

use std::collections::BTreeMap;

use contract::labels::{DELIVERY, DELIVERY_RECORD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Error;
use crate::clients::cluster::{Reader, Writer};
use crate::graph::{Because, Going, Graph, is_kept, key, uid};
use crate::object::Identity;

const NAMESPACE: &str = "kube-system";
/// A `ConfigMap` may hold 1 MiB (<https://kubernetes.io/docs/concepts/configuration/configmap/>); an
/// entry has at most 1 kB.
const ENTRIES_MAX: usize = 900;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    api_version: String,
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    uid: String,
    /// Whether `destroy` deletes the object itself. Any other object is deleted with its owner, its
    /// Namespace or the definition of its kind.
    #[serde(default)]
    direct: bool,
}

/// A recorded object that `destroy` must delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) id: Identity,
    /// UID of the recorded object. A newer object of the same name has another one.
    pub(crate) uid: String,
    /// Whether `destroy` deletes the object itself.
    pub(crate) is_direct: bool,
}

/// Record in the cluster.
#[derive(Clone)]
pub(crate) struct Record {
    maps: Vec<Value>,
    pub(crate) entries: Vec<Recorded>,
}

impl Record {
    /// Reads the record of the Delivery `name`. The record is empty if no removal has begun.
    pub(crate) fn read(reader: &Reader, name: &str) -> Result<Self, Error> {
        let label = format!("{}%3D{name}", DELIVERY.replace('/', "%2F"));
        let mut maps = reader.labelled("v1", "ConfigMap", Some(NAMESPACE), &label)?;
        maps.retain(|map| map["metadata"]["labels"][DELIVERY_RECORD] == "true");
        let mut entries = Vec::new();
        for map in &maps {
            let id = Identity::of(map);
            let garbled = |_| Error::Garbled { request: format!("get {id}") };
            let text = map["data"]["objects"].as_str().unwrap_or_default();
            let list: Vec<Entry> = serde_json::from_str(text).map_err(garbled)?;
            entries.extend(list.into_iter().map(|entry| {
                let Entry { api_version, kind, namespace, name, uid, direct } = entry;
                let id = Identity { api_version, kind, namespace, name };
                Recorded { id, uid, is_direct: direct }
            }));
        }
        Ok(Self { maps, entries })
    }

    /// Returns the first `ConfigMap` of the record of the Delivery called `name`.
    pub(crate) fn identity(name: &str) -> Identity {
        Identity {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            namespace: Some(NAMESPACE.to_owned()),
            name: format!("flux-seed-{name}-0"),
        }
    }

    /// Whether there is no record.
    pub(crate) fn is_empty(&self) -> bool {
        self.maps.is_empty()
    }

    /// Adds `going` to the record.
    pub(crate) fn add(&self, writer: &Writer, name: &str, going: &Going) -> Result<(), Error> {
        let all = self.with(going).into_iter().map(|Recorded { id, uid, is_direct }| {
            let Identity { api_version, kind, namespace, name } = id;
            Entry { api_version, kind, namespace, name, uid, direct: is_direct }
        });
        let all: Vec<_> = all.collect();
        if all.len() == self.entries.len() {
            return Ok(());
        }
        for (index, chunk) in all.chunks(ENTRIES_MAX).enumerate() {
            let objects = serde_json::to_string(chunk).unwrap_or_default();
            let map = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": format!("flux-seed-{name}-{index}"),
                    "namespace": NAMESPACE,
                    "labels": {DELIVERY: name, DELIVERY_RECORD: "true"},
                },
                "data": {"objects": objects},
            });
            writer.apply(&map)?;
        }
        Ok(())
    }

    /// Merges `going` with the entries. An entry of an earlier run has precedence, because the owner of
    /// its object may no longer exist.
    fn with(&self, going: &Going) -> Vec<Recorded> {
        let now = going.values().filter(|doomed| doomed.is_removed()).map(|doomed| Recorded {
            id: doomed.id.clone(),
            uid: doomed.uid.clone(),
            is_direct: doomed.is_direct(),
        });
        let all = now.chain(self.entries.iter().cloned());
        let all: BTreeMap<_, _> = all.map(|entry| (entry.uid.clone(), entry)).collect();
        all.into_values().collect()
    }

    /// Returns everything that is deleted with `roots` and with the recorded objects that still exist.
    /// An indirect entry becomes a root only if no other deletion reaches it: a pod that is deleted
    /// before its Deployment would be created again.
    pub(crate) fn closure(&self, graph: &Graph<'_>, roots: Vec<(Identity, Because)>) -> Going {
        // An object that a person told Flux to leave after the first run stays.
        let is_there = |entry: &&Recorded| {
            graph.find(&entry.id).is_some_and(|live| uid(live) == entry.uid && !is_kept(live))
        };
        let (direct, indirect): (Vec<_>, Vec<_>) =
            self.entries.iter().filter(is_there).partition(|entry| entry.is_direct);
        let root = |entry: &Recorded| (entry.id.clone(), Because::Recorded);
        let mut roots = roots;
        roots.extend(direct.into_iter().map(root));
        let going = graph.closure(roots.clone());
        let before = roots.len();
        let alone = indirect.into_iter().filter(|entry| !going.contains_key(&key(&entry.id)));
        roots.extend(alone.map(root));
        if roots.len() == before { going } else { graph.closure(roots) }
    }

    /// Returns the record as [`Self::add`] leaves it.
    #[cfg(test)]
    pub(crate) fn after_add(&self, going: &Going) -> Self {
        Self { maps: vec![Value::Null], entries: self.with(going) }
    }

    /// Returns the record of a Delivery whose removal has not begun.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { maps: Vec::new(), entries: Vec::new() }
    }

    /// Deletes the record. Call this after every recorded object is deleted.
    pub(crate) fn remove(reader: &Reader, writer: &Writer, name: &str) -> Result<(), Error> {
        Self::read(reader, name)?.maps.iter().try_for_each(|map| writer.delete(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::ClusterFacts;
    use crate::scan::Scan;

    fn object(kind: &str, namespace: Option<&str>, name: &str, owner: Option<&str>) -> Value {
        let owners: Vec<_> = owner.map(|uid| json!({"uid": uid})).into_iter().collect();
        json!({"apiVersion": "v1", "kind": kind, "metadata": {
            "name": name, "namespace": namespace, "uid": name, "ownerReferences": owners,
        }})
    }

    // hazard: `destroy` is interrupted, and the next run deletes pods whose Deployment is still there.
    // class: A second run knows less about an object than the first run did.
    // members: pods of a Deployment, objects that a Namespace creates by itself, objects without their owner
    // now: an object that is deleted with its owner is awaited, and deleted directly only if its owner no longer exists
    #[test]
    fn next_run_deletes_an_object_directly_only_if_the_first_run_did_or_its_owner_no_longer_exists()
    {
        let all = [
            object("Namespace", None, "system", None),
            object("Deployment", Some("system"), "controller", None),
            object("ReplicaSet", Some("system"), "set", Some("controller")),
            object("Pod", Some("system"), "pod", Some("set")),
            object("ConfigMap", Some("system"), "kube-root-ca.crt", None),
            object("Deployment", Some("apps"), "greeter", None),
            object("ReplicaSet", Some("apps"), "greeter-set", Some("greeter")),
        ];
        // Whether another deletion reaches an indirect object, given the names of the remaining objects.
        let is_led = |name: &str, there: &[String]| {
            let has = |name: &str| there.iter().any(|other| other == name);
            match name {
                "set" => has("system") || has("controller"),
                "pod" => has("system") || has("set") && has("controller"),
                "kube-root-ca.crt" => has("system"),
                "greeter-set" => has("greeter"),
                _ => false,
            }
        };
        let roots = [
            ("system", Because::Installed),
            ("controller", Because::Installed),
            ("greeter", Because::Delivered),
        ];
        let name =
            |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let facts = |objects: Vec<Value>| ClusterFacts {
            scan: Scan { objects, ..Scan::default() },
            ..ClusterFacts::default()
        };
        let roots_in = |objects: &[Value]| {
            let found = |(root, because): &(&str, Because)| {
                let object = objects.iter().find(|object| name(object) == *root)?;
                Some((Identity::of(object), because.clone()))
            };
            roots.iter().filter_map(found).collect::<Vec<_>>()
        };
        let nothing = Record { maps: Vec::new(), entries: Vec::new() };
        let before = facts(all.to_vec());
        let going = nothing.closure(&Graph::new(&before), roots_in(&all));
        assert_eq!(going.len(), all.len());
        let record = Record { maps: Vec::new(), entries: nothing.with(&going) };

        for left in 0..1_u32 << all.len() {
            let there: Vec<_> = all
                .iter()
                .enumerate()
                .filter(|(index, _)| left & (1 << index) != 0)
                .map(|(_, object)| object.clone())
                .collect();
            let names: Vec<_> = there.iter().map(name).collect();
            let now = facts(there.clone());
            // The Kustomization is deleted, so that its objects are no longer known as delivered.
            let mut roots = roots_in(&there);
            roots.retain(|(_, because)| *because != Because::Delivered);
            let going = record.closure(&Graph::new(&now), roots);
            assert_eq!(going.len(), there.len(), "everything recorded still goes: {names:?}");
            for doomed in going.values() {
                assert_eq!(
                    doomed.is_direct(),
                    !is_led(&doomed.uid, &names),
                    "{}: {names:?}",
                    doomed.id
                );
            }
        }
    }
}
