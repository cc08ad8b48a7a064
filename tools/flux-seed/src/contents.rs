//! Contents of definitions and Namespaces that a removal must leave. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::desired::Desired;
use crate::graph::{Going, key};
use crate::object::Identity;
use crate::plan::ActualState;
use crate::scan::Scan;
use crate::spec::Component;

/// Adds the foreign contents of our definitions and of our Namespace to `actual`. Such a definition or
/// Namespace stays, because its deletion would delete these contents.
pub(crate) fn foreign(scan: &Scan, going: &Going, desired: &Desired, actual: &mut ActualState) {
    let ours: BTreeSet<_> =
        desired.objects.iter().map(|object| key(&Identity::of(object))).collect();
    let definitions: BTreeMap<_, _> =
        scan.kinds.iter().map(|kind| (kind.definition(), kind)).collect();
    let is_foreign = |id: &Identity| !ours.contains(&key(id)) && !going.contains_key(&key(id));
    // Without its controllers, a foreign object of Flux would keep its finalizer and never be deleted.
    let objects = scan.objects.iter().map(Identity::of);
    let of_flux: Vec<_> = objects
        .filter(|id| id.group().ends_with(".toolkit.fluxcd.io") && is_foreign(id))
        .map(|id| id.to_string())
        .collect();
    for (id, live) in actual {
        if desired.installation.contains(id) {
            live.holds.extend(of_flux.iter().cloned());
        }
        let is_in: Box<dyn Fn(&Value) -> bool> = match id.kind.as_str() {
            "CustomResourceDefinition" => {
                let Some(kind) = definitions.get(&id.name) else { continue };
                Box::new(move |object| {
                    object["kind"] == *kind.kind && object["apiVersion"] == *kind.api_version
                })
            }
            "Namespace" => {
                let silent = scan.silent.iter();
                live.holds.extend(silent.map(|api| format!("what {api} serves, which is silent")));
                let name = id.name.as_str();
                Box::new(move |object| {
                    object["metadata"]["namespace"] == name && !is_auto_created(object)
                })
            }
            _ => Box::new(|_| false),
        };
        let objects = scan.objects.iter().filter(|object| is_in(object)).map(Identity::of);
        live.holds.extend(objects.filter(is_foreign).map(|id| id.to_string()));
        live.holds.sort();
        live.holds.dedup();
    }
}

/// Whether Kubernetes creates and deletes an object with its Namespace or with its owner.
fn is_auto_created(object: &Value) -> bool {
    let owned =
        object["metadata"]["ownerReferences"].as_array().is_some_and(|owners| !owners.is_empty());
    let id = Identity::of(object);
    let always = [("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")];
    let elections =
        Component::ALL.into_iter().map(|component| format!("{component}-leader-election"));
    // Endpoints have the name of their Service and no owner.
    owned
        || always.contains(&(id.kind.as_str(), id.name.as_str()))
        || id.kind == "Endpoints"
        || id.kind == "Lease" && elections.into_iter().any(|election| election == id.name)
}
