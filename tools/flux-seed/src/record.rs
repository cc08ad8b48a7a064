//! What a `destroy` has begun to remove, kept in the cluster until the removal is complete.
//!
//! The inventory of a Kustomization is deleted with the Kustomization, so that a second run could not
//! know what the first one waited for. The record is written to `kube-system`, which no delivery
//! deletes, before the first deletion, and removed after everything in it is gone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Error;
use crate::cluster::{Reader, Writer};
use crate::graph::{Because, Going};
use crate::object::Identity;
use crate::wanted::LABEL;

const NAMESPACE: &str = "kube-system";
/// Marks the `ConfigMaps` of a record.
const KIND: &str = "flux-seed.holistic/record";
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
}

/// A record as it is in the cluster.
pub(crate) struct Record {
    maps: Vec<Value>,
    /// What has to go: identities with the UIDs that they had.
    pub(crate) entries: Vec<(Identity, String)>,
}

impl Record {
    /// The record of the Delivery called `name`; an empty one if no removal has begun.
    pub(crate) fn read(reader: &Reader, name: &str) -> Result<Self, Error> {
        let label = format!("{}%3D{name}", LABEL.replace('/', "%2F"));
        let mut maps = reader.labelled("v1", "ConfigMap", Some(NAMESPACE), &label)?;
        maps.retain(|map| map["metadata"]["labels"][KIND] == "true");
        let mut entries = Vec::new();
        for map in &maps {
            let id = Identity::of(map);
            let garbled = |_| Error::Garbled { request: format!("get {id}") };
            let text = map["data"]["objects"].as_str().unwrap_or_default();
            let list: Vec<Entry> = serde_json::from_str(text).map_err(garbled)?;
            entries.extend(list.into_iter().map(|entry| {
                let Entry { api_version, kind, namespace, name, uid } = entry;
                (Identity { api_version, kind, namespace, name }, uid)
            }));
        }
        Ok(Self { maps, entries })
    }

    /// Writes that all of `going` has to go, beside what an earlier run has written.
    pub(crate) fn add(&self, writer: &Writer, name: &str, going: &Going) -> Result<(), Error> {
        let mut all: BTreeMap<String, Entry> = BTreeMap::new();
        let earlier = self.entries.iter().map(|(id, uid)| (id, uid));
        let now = going.values().filter(|doomed| doomed.is_removed());
        let now = now.map(|doomed| (&doomed.id, &doomed.uid));
        for (id, uid) in earlier.chain(now) {
            let Identity { api_version, kind, namespace, name } = id.clone();
            let entry = Entry { api_version, kind, namespace, name, uid: uid.clone() };
            all.insert(uid.clone(), entry);
        }
        let all: Vec<_> = all.into_values().collect();
        if all.is_empty() {
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
                    "labels": {LABEL: name, KIND: "true"},
                },
                "data": {"objects": objects},
            });
            writer.apply(&map)?;
        }
        Ok(())
    }

    /// The entries that are still there, given what the cluster holds.
    pub(crate) fn roots(
        &self,
        find: impl Fn(&Identity) -> Option<String>,
    ) -> Vec<(Identity, Because)> {
        let there = self.entries.iter().filter(|(id, uid)| find(id).as_ref() == Some(uid));
        there.map(|(id, _)| (id.clone(), Because::Recorded)).collect()
    }

    /// Removes the record, since everything in it is gone.
    pub(crate) fn remove(reader: &Reader, writer: &Writer, name: &str) -> Result<(), Error> {
        Self::read(reader, name)?.maps.iter().try_for_each(|map| writer.delete(map))
    }
}
