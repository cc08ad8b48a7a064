//! Strategic merge patches with Talos's semantics: maps are merged, scalars are replaced, and lists
//! are appended.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::decode::{self, Document};
use super::scalar::Leaf;
use super::schema::{self, Merge, Shape};
use super::yaml::{self, At, Mistake, Node};

/// Patch: a list of documents, each of which is merged into the document with the same kind and
/// name.
#[derive(Clone, Debug, Default)]
pub struct Patch(Vec<Document>);

/// Key of the directive that removes the map which contains the directive.
pub(super) const DIRECTIVE: &str = "$patch";

impl Patch {
    /// Parses a patch strictly. A field or a value that Talos would not decode is an error at this
    /// point, before any machine is changed.
    ///
    /// # Errors
    ///
    /// Returns every mistake with its position. A value is never quoted, because it may be secret.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let nodes = yaml::read(text).map_err(|mistake| vec![mistake])?;
        if let Some(at) = nodes.iter().find_map(json6902) {
            return Err(vec![at]);
        }
        let mut mistakes = Vec::new();
        let mut documents = Vec::new();
        let mut identities = BTreeSet::new();
        for node in &nodes {
            let Some(document) = decode::document(node, &mut mistakes) else { continue };
            let twice = !identities.insert(name_of(&document.value));
            if twice && !is_delete(&document.value) {
                mistakes.push(Mistake::new(
                    node.at,
                    "another document of this file has the same kind and name: write both as one document",
                ));
            }
            documents.push(document);
        }
        if documents.is_empty() && mistakes.is_empty() {
            mistakes.push(Mistake::new(At { line: 1, column: 1 }, "the file has no document"));
        }
        if mistakes.is_empty() { Ok(Self(documents)) } else { Err(mistakes) }
    }

    /// Returns a patch of this program, whose fields need no validation.
    pub(crate) fn from_documents(documents: Vec<Value>) -> Self {
        let document = |value| Document { value, positions: BTreeMap::new() };
        Self(documents.into_iter().map(document).collect())
    }

    /// Returns the position of the value in `document` to which `path` leads, or of the nearest value around it, with
    /// the number of its steps. `None` means that this patch has no part in the document.
    pub(crate) fn position(&self, document: &Value, path: &str) -> Option<(usize, At)> {
        let same = |patch: &&Document| identity(&patch.value) == identity(document);
        let places = self.0.iter().filter(same).filter_map(|patch| patch.nearest(document, path));
        places.max_by_key(|(steps, _)| *steps)
    }

    /// Merges this patch into `documents`.
    ///
    /// # Errors
    ///
    /// Names the field that does not fit.
    pub(crate) fn apply(&self, mut documents: Vec<Value>) -> Result<Vec<Value>, Mistake> {
        for Document { value: patch, positions } in &self.0 {
            let refused = |(path, message): (String, String)| {
                let mut around = path.as_str();
                let at = loop {
                    match (positions.get(around), around.rsplit_once('/')) {
                        (Some(at), _) => break *at,
                        (None, Some((parent, _))) => around = parent,
                        (None, None) => break At::default(),
                    }
                };
                Mistake::new(at, format!("{path} {message}"))
            };
            let like = documents.iter().position(|document| identity(document) == identity(patch));
            if is_delete(patch) {
                if identity(patch).0.is_none() {
                    let message = "the v1alpha1 document itself cannot be deleted".to_owned();
                    return Err(refused((String::new(), message)));
                }
                if let Some(like) = like {
                    documents.remove(like);
                }
                continue;
            }
            let shape = schema::for_kind(patch["kind"].as_str());
            let shape =
                shape.ok_or_else(|| refused(("/kind".to_owned(), "is unknown".to_owned())))?;
            let mut patch = patch.clone();
            match like {
                Some(like) => {
                    delete(&mut documents[like], &mut patch, shape, "").map_err(refused)?;
                    let left = documents[like].take();
                    documents[like] = merge(left, patch, shape, false, "").map_err(refused)?;
                }
                None => documents.push(patch),
            }
        }
        let normal = |document| normal(document).map_err(|why| Mistake::new(At::default(), why));
        documents.into_iter().map(normal).collect()
    }
}

impl Document {
    /// Returns the number of steps from the root and the position of the deepest value on the way along `path` that
    /// this patch sets. Items of lists are compared by value, because their index changes when lists are joined.
    fn nearest(&self, merged: &Value, path: &str) -> Option<(usize, At)> {
        let (mut mine, mut theirs) = (&self.value, merged);
        let (mut pointer, mut steps) = (String::new(), 0);
        for key in path.split('/').skip(1) {
            let key = &key.replace("~1", "/").replace("~0", "~");
            let Some(next) = theirs.pointer(&format!("/{}", escaped(key))) else { break };
            theirs = next;
            let key = match mine {
                Value::Array(items) => {
                    let same = items.iter().position(|item| contains(theirs, item));
                    let Some(index) = same else { break };
                    index.to_string()
                }
                _ => key.clone(),
            };
            let Some(next) = mine.pointer(&format!("/{}", escaped(&key))) else { break };
            mine = next;
            pointer = format!("{pointer}/{key}");
            steps += 1;
        }
        Some((steps, *self.positions.get(&pointer)?))
    }
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Returns whether `whole` has every value of `part`.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part.iter().all(|(key, part)| {
            part.is_null() || whole.get(key).is_some_and(|whole| contains(whole, part))
        }),
        (Value::Array(whole), Value::Array(part)) => {
            part.iter().all(|part| whole.iter().any(|whole| contains(whole, part)))
        }
        _ => whole == part,
    }
}

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
    let text = |key: &str| document[key].as_str().filter(|text| !text.is_empty());
    (text("kind"), text("kind").and(text("apiVersion")), text("kind").and(text("name")))
}

fn name_of(document: &Value) -> (String, String) {
    let (kind, _, name) = identity(document);
    (kind.unwrap_or_default().to_owned(), name.unwrap_or_default().to_owned())
}

fn is_delete(value: &Value) -> bool {
    value[DIRECTIVE] == "delete"
}

/// Returns the error for a JSON6902 patch, with the same change as a strategic merge patch.
fn json6902(node: &Node) -> Option<Mistake> {
    let yaml::Data::List(operations) = &node.data else { return None };
    let mut strategic = Value::Object(Map::new());
    for operation in operations {
        let Some(path) = operation.get("path").and_then(Node::text) else { continue };
        let leaf = match operation.get("op").and_then(Node::text) {
            Some("remove") => serde_json::json!({DIRECTIVE: "delete"}),
            _ => Value::String("…".to_owned()), // the value may be a secret
        };
        let steps = path.trim_start_matches('/').split('/');
        let steps: Vec<_> = steps.map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
        put(&mut strategic, &steps, leaf);
    }
    let strategic = crate::emit::document(&strategic);
    let strategic: Vec<_> = strategic.lines().map(|line| format!("  {line}")).collect();
    let message = format!(
        "JSON6902 patches do not work on configurations of more than one document, and all \
         configurations are: write a strategic merge patch\n{}",
        strategic.join("\n")
    );
    Some(Mistake::new(node.at, message))
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

/// Path of a value and the reason why it does not fit.
type Refusal = (String, String);

/// Executes the deletions in `right` on `left`, and removes them from `right`. Talos executes
/// deletions before it merges. The deletion of a field that is not set changes nothing, but every other path must
/// exist.
fn delete(left: &mut Value, right: &mut Value, shape: &Shape, path: &str) -> Result<(), Refusal> {
    let nothing = |path: &str| (path.to_owned(), "cannot be deleted: it does not exist".to_owned());
    match (left, right) {
        (left, Value::Object(entries)) => {
            let mut deleted = Vec::new();
            for (key, right) in entries.iter_mut() {
                let path = format!("{path}/{key}");
                let inner = inner(shape, key);
                if is_delete(right) {
                    let map = left.as_object_mut().ok_or_else(|| nothing(&path))?;
                    if map.shift_remove(key).is_none() && !matches!(shape, Shape::Struct(_)) {
                        return Err(nothing(&path));
                    }
                    deleted.push(key.clone());
                } else if let Some(left) = left.get_mut(key) {
                    delete(left, right, inner, &path)?;
                } else if has_delete(right) {
                    return Err(nothing(&path));
                }
            }
            entries.retain(|key, _| !deleted.contains(key));
        }
        (Value::Array(left), Value::Array(items)) => {
            for item in items.iter().filter(|item| is_delete(item)) {
                let by = item.as_object().into_iter().flatten().find(|(key, _)| *key != DIRECTIVE);
                let by = by.ok_or_else(|| {
                    (path.to_owned(), "has an item to delete that no key names".to_owned())
                })?;
                let index = left.iter().position(|item| item.get(by.0) == Some(by.1));
                left.remove(index.ok_or_else(|| nothing(path))?);
            }
            items.retain(|item| !is_delete(item));
            if items.iter().any(has_delete) {
                let why = "has a deletion below an item, which is not possible".to_owned();
                return Err((path.to_owned(), why));
            }
        }
        (_, Value::Array(items)) if items.iter().any(has_delete) => return Err(nothing(path)),
        _ => {}
    }
    Ok(())
}

/// Returns the shape of a value in a map.
fn inner<'a>(shape: &'a Shape, key: &str) -> &'a Shape {
    let field = match shape {
        Shape::Struct(fields) => {
            fields.iter().find(|field| field.name == key).map(|field| &field.shape)
        }
        Shape::Map(inner) => Some(&**inner),
        Shape::Any(_) | Shape::List(..) | Shape::Leaf(_) => None,
    };
    field.unwrap_or(&FREE)
}

const FREE: Shape = Shape::Any(Merge::Join);

fn has_delete(value: &Value) -> bool {
    is_delete(value)
        || match value {
            Value::Object(map) => map.values().any(has_delete),
            Value::Array(items) => items.iter().any(has_delete),
            _ => false,
        }
}

/// Merges `right` into `left`. A zero of `right` replaces only a value behind a `pointer`.
fn merge(
    left: Value,
    right: Value,
    shape: &Shape,
    pointer: bool,
    path: &str,
) -> Result<Value, Refusal> {
    match (left, right, shape) {
        (left, Value::Null, _) => Ok(left),
        // Talos replaces the list of one flag in `extraArgs` as a whole.
        (Value::Null, right, _) | (_, right, Shape::Leaf(Leaf::Argument)) => Ok(right),
        (left, right, Shape::Any(Merge::Replace) | Shape::List(_, Merge::Replace)) => {
            let absent = matches!(&right, Value::Object(map) if map.is_empty());
            Ok(if absent { left } else { right })
        }
        (Value::Object(left), Value::Object(right), shape) => {
            merge_maps(left, right, shape, path).map(Value::Object)
        }
        (Value::Array(left), Value::Array(right), Shape::List(inner, Merge::By(keys))) => {
            merge_keyed(left, right, (inner, keys), path).map(Value::Array)
        }
        (Value::Array(mut left), Value::Array(right), Shape::List(_, Merge::ReplaceBy(key))) => {
            for item in right {
                match left.iter().position(|other| other.get(key) == item.get(key)) {
                    Some(index) => left[index] = item,
                    None => left.push(item),
                }
            }
            Ok(Value::Array(left))
        }
        (Value::Array(mut left), Value::Array(right), _) => {
            left.extend(right);
            Ok(Value::Array(left))
        }
        (left, right, Shape::Any(_)) if kind_of(&left) != kind_of(&right) => {
            Err((path.to_owned(), "has another type in the patch".to_owned()))
        }
        (left, right, _) if is_zero(&right) && !pointer => Ok(left),
        (_, right, _) => Ok(right),
    }
}

/// Returns the type that a value in a free-form map has in Go.
fn kind_of(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(number) if number.is_f64() => 2,
        Value::Number(_) => 3,
        Value::String(_) => 4,
        Value::Array(_) => 5,
        Value::Object(_) => 6,
    }
}

/// Returns whether `value` is an empty string or zero. As in Talos, a patch cannot set an existing
/// field to such a value.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty() || text == "0s",
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

fn merge_maps(
    mut left: Map<String, Value>,
    right: Map<String, Value>,
    shape: &Shape,
    path: &str,
) -> Result<Map<String, Value>, Refusal> {
    for (key, right) in right {
        let pointer = matches!(shape, Shape::Struct(fields)
            if fields.iter().any(|field| field.name == key && field.pointer));
        let path = format!("{path}/{key}");
        let before = left.get_mut(&key).map_or(Value::Null, Value::take);
        left.insert(key.clone(), merge(before, right, inner(shape, &key), pointer, &path)?);
    }
    Ok(left)
}

fn merge_keyed(
    mut left: Vec<Value>,
    right: Vec<Value>,
    (inner, keys): (&Shape, &[String]),
    path: &str,
) -> Result<Vec<Value>, Refusal> {
    for item in right {
        let key = keys.iter().find(|key| item.get(key.as_str()).is_some());
        let same = |other: &Value| key.is_some_and(|key| other.get(key) == item.get(key));
        match left.iter().position(same) {
            Some(index) => left[index] = merge(left[index].take(), item, inner, false, path)?,
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
        let text = |mistakes: Vec<Mistake>| mistakes[0].message.clone();
        let patch = Patch::parse(patch).map_err(text)?;
        let documents = patch.apply(left).map_err(|mistake| mistake.message)?;
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
        let unset = patched(LEFT, "machine: {time: {$patch: delete}}").expect("an unset field");
        assert_eq!(unset, patched(LEFT, "machine: {}").expect("nothing changes"));
        let absent = patched(LEFT, "machine: {sysctls: {y: {$patch: delete}}}");
        assert_eq!(
            absent,
            Err("/machine/sysctls/y cannot be deleted: it does not exist".to_owned())
        );
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
        let errors = Patch::parse("machine: {kubelet: {extraArg: {}}}").expect_err("a typo");
        let message = "/machine/kubelet/extraArg is not a field that Talos knows";
        assert_eq!(errors, [Mistake::new(At { line: 1, column: 21 }, message)]);
    }

    #[test]
    fn parsing_rejects_a_json_patch_and_shows_a_strategic_patch_without_values() {
        let patch = "- {op: add, path: /machine/network/hostname, value: hunter2}\n- {op: remove, path: /cluster/proxy}";
        let error = Patch::parse(patch).expect_err("JSON6902").remove(0).message;
        assert!(error.contains("strategic merge patch"), "{error}");
        assert!(error.contains("hostname: …") && error.contains("$patch: delete"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
