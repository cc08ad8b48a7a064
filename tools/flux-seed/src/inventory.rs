//! Objects in the inventory of a Kustomization, and what Kustomizations among them deliver. Reads only.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::Error;
use crate::clients::cluster::{Answer, Reader};
use crate::kstatus::text;
use crate::lists::{Hidden, kinds_of, label, list, unless_hidden};
use crate::object::Identity;

/// Most Kustomizations that are read, because one may deliver others without end.
const NESTED_MAX: usize = 50;

/// Inventory of one Kustomization.
#[derive(Default)]
pub(crate) struct Inventory {
    /// Each entry with its object; `None` if the object does not exist.
    pub(crate) entries: Vec<(Identity, Option<Value>)>,
    /// Entries whose API does not answer.
    pub(crate) silent: Vec<Identity>,
    /// Entries that the caller, a reader, is not allowed to see.
    pub(crate) hidden: BTreeSet<Hidden>,
}

/// A Kustomization that another one delivers.
pub(crate) struct Nested {
    pub(crate) id: Identity,
    pub(crate) kustomization: Value,
    pub(crate) inventory: Inventory,
}

/// Reads the Kustomizations among `entries`, and those that they deliver. `root` delivers `entries`.
///
/// Left out are suspended Kustomizations, because a person has stopped them, and those that deliver to
/// another cluster.
pub(crate) fn nested(
    reader: &Reader,
    root: &Identity,
    entries: &[(Identity, Option<Value>)],
) -> Result<Vec<Nested>, Error> {
    let mut known = BTreeSet::from([root.clone()]);
    let mut next: Vec<_> = entries.iter().filter_map(kustomization).collect();
    let mut all = Vec::new();
    while let Some((id, kustomization)) = next.pop() {
        if !known.insert(id.clone()) || all.len() == NESTED_MAX {
            continue;
        }
        let inventory = read(reader, &kustomization)?;
        next.extend(inventory.entries.iter().filter_map(self::kustomization));
        all.push(Nested { id, kustomization, inventory });
    }
    Ok(all)
}

/// Returns the entry if it is a Kustomization that is at work in this cluster.
fn kustomization((id, object): &(Identity, Option<Value>)) -> Option<(Identity, Value)> {
    let is_kustomization =
        id.kind == "Kustomization" && id.group() == "kustomize.toolkit.fluxcd.io";
    let object = object.as_ref().filter(|_| is_kustomization)?;
    let is_at_work = object["spec"]["suspend"] != true && object["spec"]["kubeConfig"].is_null();
    is_at_work.then(|| (id.clone(), object.clone()))
}

/// Reads every object in the inventory of `kustomization`. Flux labels each object that it applies
/// (<https://fluxcd.io/flux/components/kustomize/kustomizations/#garbage-collection>).
pub(crate) fn read(reader: &Reader, kustomization: &Value) -> Result<Inventory, Error> {
    let mut inventory = Inventory::default();
    let entries = kustomization["status"]["inventory"]["entries"].as_array();
    let entries = entries.into_iter().flatten();
    let ids = entries.map(|entry| Identity::of_entry(text(entry, "id"), text(entry, "v")));
    let garbled = || Error::Garbled { request: "get the inventory".to_owned() };
    let mut ids: Vec<_> = ids.collect::<Option<_>>().ok_or_else(garbled)?;
    ids.sort();
    let of_kind = |id: &Identity| {
        let is_same =
            |other: &&Identity| (&other.api_version, &other.kind) == (&id.api_version, &id.kind);
        ids.iter().filter(is_same).count()
    };
    let several: Vec<_> = ids.iter().filter(|id| of_kind(id) > 1).cloned().collect();
    let name = label("kustomize.toolkit.fluxcd.io/name", text(&kustomization["metadata"], "name"));
    // Objects of a kind that a reader may not list are read by their names, too.
    let mut live = list(reader, &kinds_of(&several), &name, &mut BTreeSet::new())?;
    let absent: Vec<_> = ids.iter().filter(|id| !live.contains_key(id)).collect();
    let answers = reader.each(absent.iter(), |reader, id| reader.get_unless_silent(id));
    for (id, answer) in absent.into_iter().zip(answers) {
        match unless_hidden(reader, answer, Hidden::Object(id.clone()), &mut inventory.hidden)? {
            Some(Answer::Object(object)) => live.extend(object.map(|object| (id.clone(), object))),
            Some(Answer::Silent) => inventory.silent.push(id.clone()),
            None => {}
        }
    }
    for id in ids {
        let is_seen = !inventory.hidden.contains(&Hidden::Object(id.clone()));
        if is_seen && !inventory.silent.contains(&id) {
            let object = live.remove(&id);
            inventory.entries.push((id, object));
        }
    }
    Ok(inventory)
}
