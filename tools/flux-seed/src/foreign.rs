//! Fields that other writers added to our objects, and the patch that removes them. Pure.
//!
//! Some kinds are compared field by field, because this program declares every field and a writer may
//! choose any manager name. For every other kind the managed fields decide: a field that defaulting
//! or mutating admission adds has no manager and stays.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::diff::{Leaf, MANAGER, fields, leaves, managed};

/// A field in one of our objects that another writer added.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Foreign {
    /// Object with the field, for example `Kustomization flux-system/prod`.
    pub object: String,
    /// Path of the field, for example `spec.patches`.
    pub path: String,
    /// Field manager that added the field, for example `kubectl-patch`.
    pub manager: String,
}

/// A field that is not declared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Extra {
    /// Path for people, for example `spec.template.spec.containers[name=spy]`.
    pub(crate) path: String,
    /// JSON pointer into the live object (RFC 6901).
    pub(crate) pointer: String,
    /// Field manager that added the field.
    pub(crate) manager: String,
}

/// Defaults in the definitions that this program installs. A test compares them with the definitions.
const DEFAULTS: [(&str, &str, &str); 1] = [("OCIRepository", "spec.provider", "generic")];

/// Fields that Kubernetes, its controllers and people may add.
const ALLOWED: [(&str, &str); 4] = [
    // `kubectl rollout restart` (kubernetes/kubectl, pkg/polymorphichelpers/objectrestarter.go).
    ("Deployment", "spec.template.metadata.annotations.kubectl.kubernetes.io/restartedAt"),
    // Pull secrets and tokens of a ServiceAccount are added by people and, before Kubernetes 1.24, by
    // the token controller.
    ("ServiceAccount", "imagePullSecrets"),
    ("ServiceAccount", "secrets"),
    // The namespace controller writes this field when it deletes a Namespace.
    ("Namespace", "spec.finalizers"),
];

/// Returns the fields of `live` that are not `declared`. Other writers may change labels, annotations
/// and status of an object, but not labels and annotations in a pod template.
pub(crate) fn extras(declared: &Value, live: &Value) -> Vec<Extra> {
    let kind = declared["kind"].as_str().unwrap_or_default();
    let mut found = if ["Secret", "OCIRepository", "Kustomization"].contains(&kind) {
        compared(kind, declared, live)
    } else {
        recorded(declared, live)
    };
    found.retain(|extra| {
        !ALLOWED.iter().any(|(allowed_kind, path)| {
            let rest = extra.path.strip_prefix(path);
            *allowed_kind == kind
                && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    });
    found.sort();
    found.dedup_by(|a, b| a.pointer == b.pointer);
    found
}

/// Compares every field, without regard to the managed fields.
fn compared(kind: &str, declared: &Value, live: &Value) -> Vec<Extra> {
    let mut found = Vec::new();
    for (key, value) in fields(live) {
        if ["apiVersion", "kind", "metadata", "status"].contains(&key.as_str()) {
            continue;
        }
        let at = (key.clone(), format!("/{}", escaped(key)));
        below(declared.get(key), value, at, &mut found);
    }
    found.retain(|(path, _, value)| {
        !DEFAULTS.iter().any(|(default_kind, at, default)| {
            *default_kind == kind && at == path && *value == *default
        })
    });
    let named = |(path, pointer, _): (String, String, Value)| {
        let manager = manager_of(declared, live, &pointer);
        Extra { path, pointer, manager }
    };
    found.into_iter().map(named).collect()
}

type Found = Vec<(String, String, Value)>;

fn below(
    declared: Option<&Value>,
    live: &Value,
    (path, pointer): (String, String),
    found: &mut Found,
) {
    match (declared, live) {
        (Some(Value::Object(ours)), Value::Object(theirs)) => {
            for (key, value) in theirs {
                let at = (format!("{path}.{key}"), format!("{pointer}/{}", escaped(key)));
                below(ours.get(key), value, at, found);
            }
        }
        (None, live) if !is_empty(live) => found.push((path, pointer, live.clone())),
        // A declared value that differs is an update (see `diff`), and lists are declared as a whole.
        _ => {}
    }
}

/// Whether the value has no effect. `false` is the default of every flag in these kinds.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(flag) => !flag,
        Value::Null => true,
        Value::Number(_) => false,
    }
}

/// Returns the field manager of the value at `pointer`, or of a part of that value.
fn manager_of(declared: &Value, live: &Value, pointer: &str) -> String {
    let mut owner = None;
    for entry in managed(live) {
        let mut all = |leaf: &Leaf<'_>| {
            let at = leaf.pointer.as_deref().unwrap_or_default();
            let inside = |a: &str, b: &str| {
                a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            if inside(at, pointer) || inside(pointer, at) && !at.is_empty() {
                owner = entry["manager"].as_str().map(str::to_owned);
            }
        };
        leaves(&entry["fieldsV1"], &Leaf::root(declared, live), &mut all);
    }
    owner.unwrap_or_else(|| "(unnamed)".to_owned())
}

/// Finds the added fields in the managed fields. This program adds fields only by server-side apply,
/// so an `Update` under its name comes from another writer.
fn recorded(declared: &Value, live: &Value) -> Vec<Extra> {
    let mut found = Vec::new();
    let others = managed(live).filter(|entry| {
        let ours = entry["manager"] == MANAGER && entry["operation"] == "Apply";
        !ours && entry["subresource"] != "status"
    });
    for entry in others {
        let manager = entry["manager"].as_str().unwrap_or("(unnamed)");
        for (key, set) in fields(&entry["fieldsV1"]) {
            if key == "f:metadata" || key == "f:status" {
                continue;
            }
            let top: Value = [(key.clone(), set.clone())].into_iter().collect::<Map<_, _>>().into();
            leaves(&top, &Leaf::root(declared, live), &mut |leaf| {
                if let (None, Some(pointer)) = (leaf.declared, &leaf.pointer) {
                    found.push(Extra {
                        path: leaf.path.clone(),
                        pointer: pointer.clone(),
                        manager: manager.to_owned(),
                    });
                }
            });
        }
    }
    found
}

/// Returns the JSON patch that removes `extras` from `live`. The patch fails with 409 if the object
/// has changed since it was read.
pub(crate) fn removal(extras: &[Extra], live: &Value) -> Value {
    let mut pointers: Vec<_> = extras.iter().map(|extra| extra.pointer.as_str()).collect();
    // Remove from the end of a list, so that the indices of the other items stay valid.
    pointers.sort_by_key(|pointer| std::cmp::Reverse(parts(pointer)));
    let version = &live["metadata"]["resourceVersion"];
    // The API server answers 409 to a patch with an outdated resourceVersion.
    let head = json!({"op": "replace", "path": "/metadata/resourceVersion", "value": version});
    let removals = pointers.into_iter().map(|path| json!({"op": "remove", "path": path}));
    std::iter::once(head).chain(removals).collect()
}

/// Splits a pointer into sort keys: indices sort as numbers, so that 10 comes after 9.
fn parts(pointer: &str) -> Vec<(Option<usize>, &str)> {
    pointer.split('/').map(|part| (part.parse().ok(), part)).collect()
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests;
