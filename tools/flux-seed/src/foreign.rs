//! Fields that others added to our objects, and how to take them away. Pure.
//!
//! Kinds that are wholly ours are compared field by field, whoever set the field, and whatever name
//! its writer gave itself. For every other kind the API server's record of managers tells: fields
//! that defaulting and mutating admission add have no manager, and are left alone.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::diff::{Leaf, MANAGER, fields, leaves, managed};

/// Something in one of our objects that we did not put there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Foreign {
    /// The object.
    pub object: String,
    /// Where in it.
    pub path: String,
    /// Who.
    pub manager: String,
}

/// A field that is not declared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Extra {
    /// Where it is, for people: `spec.template.spec.containers[name=spy]`.
    pub(crate) path: String,
    /// Where it is, as a JSON pointer.
    pub(crate) pointer: String,
    /// Who added it.
    pub(crate) manager: String,
}

/// Defaults of the definitions that this program installs; a test compares them.
const DEFAULTS: [(&str, &str, &str); 1] = [("OCIRepository", "spec.provider", "generic")];

/// Fields that Kubernetes, its controllers and people add with good reason.
const ALLOWED: [(&str, &str); 4] = [
    // `kubectl rollout restart` (kubernetes/kubectl, pkg/polymorphichelpers/objectrestarter.go).
    ("Deployment", "spec.template.metadata.annotations.kubectl.kubernetes.io/restartedAt"),
    // A ServiceAccount's pull secrets and tokens: people and, before 1.24, the token controller.
    ("ServiceAccount", "imagePullSecrets"),
    ("ServiceAccount", "secrets"),
    // Written by the namespace controller when it lets a Namespace go.
    ("Namespace", "spec.finalizers"),
];

/// The fields of `live` that are not `declared`. Labels, annotations and status are for others to
/// write, but for the ones of a pod template.
pub(crate) fn extras(declared: &Value, live: &Value) -> Vec<Extra> {
    let kind = declared["kind"].as_str().unwrap_or_default();
    let mut found = if ["Secret", "OCIRepository", "Kustomization"].contains(&kind) {
        compared(kind, declared, live)
    } else {
        recorded(declared, live)
    };
    found.retain(|extra| {
        !ALLOWED.iter().any(|(of, path)| {
            let rest = extra.path.strip_prefix(path);
            *of == kind && rest.is_some_and(|it| it.is_empty() || it.starts_with(['.', '[']))
        })
    });
    found.sort();
    found.dedup_by(|a, b| a.pointer == b.pointer);
    found
}

/// Field by field.
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
        !DEFAULTS.iter().any(|(of, at, default)| *of == kind && at == path && *value == *default)
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
        // A value that is declared and differs is an update, and lists are declared as a whole.
        _ => {}
    }
}

/// An empty map, list or text says nothing, and `false` is the default of every flag here.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(of) => of.is_empty(),
        Value::Array(of) => of.is_empty(),
        Value::String(of) => of.is_empty(),
        Value::Bool(of) => !of,
        Value::Null => true,
        Value::Number(_) => false,
    }
}

/// Who owns what is at `pointer` of `live`, or something in it.
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

/// By the API server's record. Our own updates change only what is declared: what else our name has
/// in an update was written by somebody who took it.
fn recorded(declared: &Value, live: &Value) -> Vec<Extra> {
    let mut found = Vec::new();
    let others = managed(live).filter(|entry| {
        let ours = entry["manager"] == MANAGER && entry["operation"] == "Apply";
        !ours && entry["subresource"] != "status"
    });
    for entry in others {
        let manager = entry["manager"].as_str().unwrap_or("(unnamed)");
        for (key, of) in fields(&entry["fieldsV1"]) {
            if key == "f:metadata" || key == "f:status" {
                continue;
            }
            let top: Value = [(key.clone(), of.clone())].into_iter().collect::<Map<_, _>>().into();
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

/// The JSON patch that takes `extras` away from `live`, unless somebody changes it meanwhile.
pub(crate) fn removal(extras: &[Extra], live: &Value) -> Value {
    let mut pointers: Vec<_> = extras.iter().map(|extra| extra.pointer.as_str()).collect();
    // From the end of a list, so that the places of the others stay.
    pointers.sort_by_key(|pointer| std::cmp::Reverse(parts(pointer)));
    let version = &live["metadata"]["resourceVersion"];
    // The API server refuses a patch that names another version: 409.
    let head = json!({"op": "replace", "path": "/metadata/resourceVersion", "value": version});
    let removals = pointers.into_iter().map(|path| json!({"op": "remove", "path": path}));
    std::iter::once(head).chain(removals).collect()
}

/// The parts of a pointer, with numbers in the order of numbers.
fn parts(pointer: &str) -> Vec<(Option<usize>, &str)> {
    pointer.split('/').map(|part| (part.parse().ok(), part)).collect()
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests;
