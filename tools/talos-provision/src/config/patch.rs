//! Strategic merge patches with Talos's semantics: maps are merged, scalars are replaced, and lists
//! are appended.

use serde_json::{Map, Value};

use super::schema::{self, Merge, Shape};

/// Patch: a list of documents, each of which is merged into the document with the same kind and
/// name.
#[derive(Clone, Debug, Default)]
pub struct Patch(Vec<Value>);

/// Key of the directive that removes the map which contains the directive.
const DIRECTIVE: &str = "$patch";

impl Patch {
    /// Parses a patch strictly. A field that Talos does not know is an error at this point, before
    /// any machine is changed.
    ///
    /// # Errors
    ///
    /// Names the wrong field and a correct form. A value is never quoted, because it may be secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let options = serde_saphyr::options! { with_snippet: false };
        let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
            .map_err(|_| "not YAML".to_owned())?;
        for document in &documents {
            check(document)?;
        }
        Ok(Self(documents))
    }

    /// Returns a patch of this program, whose fields need no validation.
    pub(crate) fn from_documents(documents: Vec<Value>) -> Self {
        Self(documents)
    }

    /// Merges this patch into `documents`.
    ///
    /// # Errors
    ///
    /// Names the field that does not fit.
    pub(crate) fn apply(&self, mut documents: Vec<Value>) -> Result<Vec<Value>, String> {
        for patch in &self.0 {
            let like = documents.iter().position(|document| identity(document) == identity(patch));
            if is_delete(patch) {
                if identity(patch).0.is_none() {
                    return Err("the v1alpha1 document itself cannot be deleted".to_owned());
                }
                if let Some(like) = like {
                    documents.remove(like);
                }
                continue;
            }
            let shape = schema::for_kind(patch["kind"].as_str());
            let mut patch = patch.clone();
            match like {
                Some(like) => {
                    delete(&mut documents[like], &mut patch, "")?;
                    let left = documents[like].take();
                    documents[like] = merge(left, patch, shape.unwrap_or(&FREE), "")?;
                }
                None => documents.push(patch),
            }
        }
        documents.into_iter().map(normal).collect()
    }
}

const FREE: Shape = Shape::Any(Merge::Join);

/// Returns the document with its fields in Talos's order.
pub(crate) fn normal(document: Value) -> Result<Value, String> {
    match schema::for_kind(document["kind"].as_str()) {
        Some(shape) => schema::normal(document, shape, ""),
        None => Ok(document), // a kind that this version does not know
    }
}

/// Returns `kind`, `apiVersion` and `name`: a patch applies to the document in which all three are
/// the same.
fn identity(document: &Value) -> (Option<&str>, Option<&str>, Option<&str>) {
    let text = |key: &str| document[key].as_str();
    (text("kind"), text("kind").and(text("apiVersion")), text("kind").and(text("name")))
}

fn is_delete(value: &Value) -> bool {
    value[DIRECTIVE] == "delete"
}

fn check(document: &Value) -> Result<(), String> {
    match document {
        Value::Array(operations) => Err(json6902(operations)),
        Value::Object(_) => {
            let Some(shape) = schema::for_kind(document["kind"].as_str()) else {
                return Ok(());
            };
            schema::normal(without_directives(document.clone()), shape, "").map(|_| ())
        }
        Value::Null => Ok(()),
        _ => Err("not a patch: a patch is a map".to_owned()),
    }
}

fn without_directives(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let entries =
                map.into_iter().filter(|(key, value)| key != DIRECTIVE && !is_delete(value));
            Value::Object(entries.map(|(key, value)| (key, without_directives(value))).collect())
        }
        Value::Array(items) => {
            items.into_iter().filter(|item| !is_delete(item)).map(without_directives).collect()
        }
        leaf => leaf,
    }
}

/// Returns the error for a JSON6902 patch, with the same change as a strategic merge patch.
fn json6902(operations: &[Value]) -> String {
    let mut strategic = Value::Object(Map::new());
    for operation in operations {
        let Some(path) = operation["path"].as_str() else { continue };
        let leaf = match operation["op"].as_str() {
            Some("remove") => serde_json::json!({DIRECTIVE: "delete"}),
            _ => Value::String("…".to_owned()), // the value may be a secret
        };
        let steps = path.trim_start_matches('/').split('/');
        let steps: Vec<_> = steps.map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
        put(&mut strategic, &steps, leaf);
    }
    let strategic = crate::emit::document(&strategic);
    let strategic: Vec<_> = strategic.lines().map(|line| format!("  {line}")).collect();
    format!(
        "JSON6902 patches do not work on configurations of more than one document, and all \
         configurations are: write a strategic merge patch\n{}",
        strategic.join("\n")
    )
}

fn put(into: &mut Value, steps: &[String], leaf: Value) {
    match steps {
        [] => *into = leaf,
        [step, rest @ ..] if step == "-" || step.parse::<usize>().is_ok() => {
            let mut item = Value::Object(Map::new());
            put(&mut item, rest, leaf);
            *into = Value::Array(vec![item]);
        }
        [step, rest @ ..] => {
            if !into.is_object() {
                *into = Value::Object(Map::new());
            }
            if let Some(map) = into.as_object_mut() {
                put(map.entry(step.clone()).or_insert(Value::Null), rest, leaf);
            }
        }
    }
}

/// Executes the deletions in `right` on `left`, and removes them from `right`. Talos executes
/// deletions before it merges.
fn delete(left: &mut Value, right: &mut Value, path: &str) -> Result<(), String> {
    let nothing = |path: &str| format!("{path} cannot be deleted: it does not exist");
    match (left, right) {
        (left, Value::Object(entries)) => {
            let mut deleted = Vec::new();
            for (key, right) in entries.iter_mut() {
                let path = format!("{path}/{key}");
                if is_delete(right) {
                    let map = left.as_object_mut().ok_or_else(|| nothing(&path))?;
                    map.shift_remove(key).ok_or_else(|| nothing(&path))?;
                    deleted.push(key.clone());
                } else if let Some(left) = left.get_mut(key) {
                    delete(left, right, &path)?;
                } else if has_delete(right) {
                    return Err(nothing(&path));
                }
            }
            entries.retain(|key, _| !deleted.contains(key));
        }
        (Value::Array(left), Value::Array(items)) => {
            for item in items.iter().filter(|item| is_delete(item)) {
                let by = item.as_object().into_iter().flatten().find(|(key, _)| *key != DIRECTIVE);
                let by = by.ok_or_else(|| format!("{path}: no key names the item to delete"))?;
                let index = left.iter().position(|item| item.get(by.0) == Some(by.1));
                left.remove(index.ok_or_else(|| nothing(path))?);
            }
            items.retain(|item| !is_delete(item));
            if items.iter().any(has_delete) {
                return Err(format!("{path}: a deletion below an item of a list is not possible"));
            }
        }
        _ => {}
    }
    Ok(())
}

fn has_delete(value: &Value) -> bool {
    is_delete(value)
        || match value {
            Value::Object(map) => map.values().any(has_delete),
            Value::Array(items) => items.iter().any(has_delete),
            _ => false,
        }
}

fn merge(left: Value, right: Value, shape: &Shape, path: &str) -> Result<Value, String> {
    match (left, right, shape) {
        (left, Value::Null, _) => Ok(left),
        (Value::Null, right, _)
        | (_, right, Shape::Any(Merge::Replace) | Shape::List(_, Merge::Replace)) => Ok(right),
        (Value::Object(left), Value::Object(right), shape) => {
            merge_maps(left, right, shape, path).map(Value::Object)
        }
        (Value::Array(left), Value::Array(right), Shape::List(inner, Merge::By(keys))) => {
            merge_keyed(left, right, (inner, keys), path).map(Value::Array)
        }
        (Value::Array(mut left), Value::Array(right), _) => {
            left.extend(right);
            Ok(Value::Array(left))
        }
        (left, right, Shape::Any(_))
            if left.is_object() != right.is_object() || left.is_array() != right.is_array() =>
        {
            Err(format!("{path} has another type in the patch"))
        }
        (left, right, _) if is_zero(&right) => Ok(left),
        (_, right, _) => Ok(right),
    }
}

/// Returns whether `value` is an empty string or zero. As in Talos, a patch cannot set an existing
/// field to such a value.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

fn merge_maps(
    mut left: Map<String, Value>,
    right: Map<String, Value>,
    shape: &Shape,
    path: &str,
) -> Result<Map<String, Value>, String> {
    for (key, right) in right {
        let inner = match shape {
            Shape::Struct(fields) => {
                fields.iter().find(|field| field.name == key).map(|field| &field.shape)
            }
            // Talos replaces the list of one flag in `extraArgs` as a whole.
            Shape::Map(inner) if **inner == FREE => Some(&Shape::Any(Merge::Replace)),
            Shape::Map(inner) => Some(&**inner),
            Shape::Any(_) | Shape::List(..) | Shape::Scalar => None,
        };
        let path = format!("{path}/{key}");
        let before = left.get_mut(&key).map_or(Value::Null, Value::take);
        left.insert(key, merge(before, right, inner.unwrap_or(&FREE), &path)?);
    }
    Ok(left)
}

fn merge_keyed(
    mut left: Vec<Value>,
    right: Vec<Value>,
    (inner, keys): (&Shape, &[String]),
    path: &str,
) -> Result<Vec<Value>, String> {
    for item in right {
        let key = keys.iter().find(|key| item.get(key.as_str()).is_some());
        let same = |other: &Value| key.is_some_and(|key| other.get(key) == item.get(key));
        match left.iter().position(same) {
            Some(index) => left[index] = merge(left[index].take(), item, inner, path)?,
            None => left.push(item),
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(left: &str, patch: &str) -> Result<String, String> {
        let left: Vec<Value> = serde_saphyr::from_multiple(left).expect("valid YAML");
        let documents = Patch::parse(patch)?.apply(left)?;
        Ok(crate::emit::documents(&documents))
    }

    const LEFT: &str = "version: v1alpha1\nmachine: {type: worker, certSANs: [a], sysctls: {x: '1'}}\n\
        cluster: {controlPlane: {endpoint: e}, network: {dnsDomain: d, podSubnets: [p], serviceSubnets: [s]}}\n\
        ---\napiVersion: v1alpha1\nkind: HostnameConfig\nauto: stable\n";

    #[test]
    fn a_patch_merges_maps_replaces_scalars_and_subnets_and_appends_to_lists() {
        let patch = "machine: {certSANs: [b], sysctls: {z: '2'}, type: controlplane}\n\
            cluster: {network: {podSubnets: [q]}}";
        let text = patched(LEFT, patch).expect("the patch fits");
        assert!(text.contains("    certSANs:\n        - a\n        - b\n"), "{text}");
        assert!(text.contains("    sysctls:\n        x: \"1\"\n        z: \"2\"\n"), "{text}");
        assert!(text.contains("type: controlplane"), "{text}");
        assert!(text.contains("podSubnets:\n            - q\n"), "{text}");
    }

    #[test]
    fn a_patch_can_delete_a_map_an_item_and_a_document() {
        let patch = "machine: {sysctls: {$patch: delete}}\n---\napiVersion: v1alpha1\nkind: HostnameConfig\n$patch: delete\n";
        let text = patched(LEFT, patch).expect("the patch fits");
        assert!(!text.contains("sysctls") && !text.contains("Hostname"), "{text}");
        let twice = patched(LEFT, "machine: {time: {$patch: delete}}");
        assert_eq!(twice, Err("/machine/time cannot be deleted: it does not exist".to_owned()));
    }

    #[test]
    fn a_patch_appends_a_document_of_another_kind() {
        let text = patched(LEFT, "apiVersion: v1alpha1\nkind: KubeSpanConfig\nenabled: true\n");
        assert!(
            text.expect("the patch fits")
                .ends_with("---\napiVersion: v1alpha1\nkind: KubeSpanConfig\nenabled: true\n")
        );
    }

    #[test]
    fn parsing_rejects_a_field_that_talos_does_not_know() {
        let error = Patch::parse("machine: {kubelet: {extraArg: {}}}").expect_err("a typo");
        assert_eq!(error, "/machine/kubelet/extraArg is not a field that Talos knows");
    }

    #[test]
    fn parsing_rejects_a_json_patch_and_shows_a_strategic_patch_without_values() {
        let patch = "- {op: add, path: /machine/network/hostname, value: hunter2}\n- {op: remove, path: /cluster/proxy}";
        let error = Patch::parse(patch).expect_err("JSON6902");
        assert!(error.contains("strategic merge patch"), "{error}");
        assert!(error.contains("hostname: …") && error.contains("$patch: delete"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
