//! Compares a declared object with the live object. The comparison needs no dry run on the API server,
//! so that a second `apply` only reads.
//!
//! The server adds defaults, so every declared field must be in the live object but not the reverse.
//! `metadata.managedFields` shows fields that we own and no longer declare, and fields that others
//! have added.

use serde_json::Value;

/// Field manager of this program in server-side apply.
pub(crate) const MANAGER: &str = "flux-seed";

/// Returns the paths at which `live` differs from `declared`. A declared null is a value that is
/// known after apply, so it differs from every value.
pub(crate) fn changed(declared: &Value, live: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    for (key, value) in fields(declared) {
        match key.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                for key in ["labels", "annotations"] {
                    differ(
                        &value[key],
                        &live["metadata"][key],
                        &format!("metadata.{key}"),
                        &mut paths,
                    );
                }
            }
            _ => compare(value, live.get(key), key, &mut paths),
        }
    }
    for entry in
        managed(live).filter(|entry| entry["manager"] == MANAGER && entry["operation"] == "Apply")
    {
        leaves(&entry["fieldsV1"], &Leaf::root(declared, live), &mut |leaf| {
            if leaf.declared.is_none() {
                paths.push(leaf.path.clone());
            }
        });
    }
    if is_scaled_by_controller(live) {
        paths.retain(|path| path != "spec.replicas");
    }
    paths.sort();
    paths.dedup();
    paths
}

fn differ(declared: &Value, live: &Value, path: &str, paths: &mut Vec<String>) {
    for (key, value) in fields(declared) {
        compare(value, live.get(key), &format!("{path}.{key}"), paths);
    }
}

fn compare(declared: &Value, live: Option<&Value>, path: &str, paths: &mut Vec<String>) {
    let Some(live) = live else {
        // The server drops empty maps and lists.
        if !is_empty(declared) {
            paths.push(path.to_owned());
        }
        return;
    };
    match (declared, live) {
        (Value::Object(_), Value::Object(_)) => differ(declared, live, path, paths),
        (Value::Array(ours), Value::Array(theirs)) => lists(ours, theirs, path, paths),
        _ if declared.is_null() => paths.push(format!("{path} (known after apply)")),
        _ if declared == live || quantities(declared, live, path) => {}
        _ => paths.push(path.to_owned()),
    }
}

/// Matches items by their merge key where the server does so, otherwise by index.
fn lists(ours: &[Value], theirs: &[Value], path: &str, paths: &mut Vec<String>) {
    let Some(key) = merge_key(path) else {
        if ours.len() == theirs.len() {
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                compare(ours, Some(theirs), &format!("{path}[{index}]"), paths);
            }
        } else {
            paths.push(path.to_owned());
        }
        return;
    };
    for item in ours {
        let path = format!("{path}[{key}={}]", plain(&item[key]));
        compare(item, theirs.iter().find(|live| live[key] == item[key]), &path, paths);
    }
}

/// Returns the merge key of a list in the kinds that this program declares.
fn merge_key(path: &str) -> Option<&'static str> {
    if !path.starts_with("spec.template.") && !path.starts_with("spec.ports") {
        return None;
    }
    match path.rsplit('.').next().unwrap_or_default() {
        "containers" | "initContainers" | "env" | "volumes" | "imagePullSecrets" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        "ports" if path.starts_with("spec.ports") => Some("port"),
        "ports" => Some("containerPort"),
        _ => None,
    }
}

/// Whether both values are the same quantity. The server writes `1000m` as `1` and `1000` as `1k`.
fn quantities(declared: &Value, live: &Value, path: &str) -> bool {
    let amounts = ["limits.", "requests.", "hard."].iter().any(|name| path.contains(name));
    let amount = |value: &Value| match value {
        Value::String(text) => milli(text),
        _ => value.as_i64().and_then(|number| number.checked_mul(1000)),
    };
    amounts && amount(declared).is_some() && amount(declared) == amount(live)
}

fn milli(text: &str) -> Option<i64> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: i64 = match unit {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(scale)
}

/// A field in the declared and in the live object.
pub(crate) struct Leaf<'a> {
    /// Path for people, for example `spec.template.spec.containers[name=manager].image`.
    pub(crate) path: String,
    /// JSON pointer into the live object (RFC 6901); `None` if the field does not exist.
    pub(crate) pointer: Option<String>,
    pub(crate) declared: Option<&'a Value>,
    pub(crate) live: Option<&'a Value>,
}

impl<'a> Leaf<'a> {
    /// Returns the leaf of a whole object.
    pub(crate) fn root(declared: &'a Value, live: &'a Value) -> Self {
        let (declared, live) = (Some(declared), Some(live));
        Self { path: String::new(), pointer: Some(String::new()), declared, live }
    }

    /// Returns the child field that `key` of a field set names: `f:NAME`, `k:{…}` or `v:…`
    /// (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/>).
    fn below(&self, key: &str) -> Option<Self> {
        let (kind, rest) = key.split_once(':')?;
        let at = |part: &str| self.pointer.as_ref().map(|pointer| format!("{pointer}/{part}"));
        match kind {
            "f" => {
                let dot = if self.path.is_empty() { "" } else { "." };
                let live = self.live.and_then(|live| live.get(rest));
                let part = rest.replace('~', "~0").replace('/', "~1");
                Some(Self {
                    path: format!("{}{dot}{rest}", self.path),
                    pointer: live.and_then(|_| at(&part)),
                    declared: self.declared.and_then(|declared| declared.get(rest)),
                    live,
                })
            }
            "k" | "v" => {
                let desired: Value = serde_json::from_str(rest).unwrap_or_default();
                let matches = |item: &Value| match kind {
                    // A key that the item omits has the server's default.
                    "k" => fields(&desired)
                        .all(|(name, value)| item.get(name).is_none_or(|has| has == value)),
                    _ => *item == desired,
                };
                let items =
                    |list: Option<&'a Value>| list.and_then(Value::as_array).into_iter().flatten();
                let index = items(self.live).position(matches);
                let named = match kind {
                    "k" => fields(&desired)
                        .map(|(name, value)| format!("{name}={}", plain(value)))
                        .collect::<Vec<_>>()
                        .join(","),
                    _ => plain(&desired),
                };
                Some(Self {
                    path: format!("{}[{named}]", self.path),
                    pointer: index.and_then(|index| at(&index.to_string())),
                    declared: items(self.declared).find(|item| matches(item)),
                    live: index.and_then(|index| items(self.live).nth(index)),
                })
            }
            _ => None,
        }
    }
}

/// Calls `each` with every leaf of a field set. A list item that is not declared is one leaf with
/// everything in it.
pub(crate) fn leaves<'a>(set: &Value, at: &Leaf<'a>, each: &mut dyn FnMut(&Leaf<'a>)) {
    for (key, below) in fields(set) {
        let Some(leaf) = at.below(key) else { continue };
        if fields(below).next().is_none() || key.starts_with("k:") && leaf.declared.is_none() {
            each(&leaf);
        } else {
            leaves(below, &leaf, each);
        }
    }
}

/// Whether this program has applied `live`, according to its managed fields.
pub(crate) fn is_managed(live: &Value) -> bool {
    managed(live).any(|entry| entry["manager"] == MANAGER && entry["operation"] == "Apply")
}

/// Names the managers of an object, for example `kubectl, helm`. Controllers that write the status alone
/// are left out.
pub(crate) fn managers(live: &Value) -> String {
    let entries = managed(live).filter(|entry| entry["subresource"] != "status");
    let mut names: Vec<_> = entries.filter_map(|entry| entry["manager"].as_str()).collect();
    names.dedup();
    if names.is_empty() { "an unknown manager".to_owned() } else { names.join(", ") }
}

/// Whether a controller such as the `HorizontalPodAutoscaler` has set the number of replicas. A person
/// who scales by hand appears as another manager.
fn is_scaled_by_controller(live: &Value) -> bool {
    managed(live).any(|entry| {
        entry["manager"] == "kube-controller-manager" && entry["subresource"] == "scale"
    }) && live["spec"]["replicas"].as_i64().is_some_and(|replicas| replicas > 0)
}

pub(crate) fn managed(live: &Value) -> impl Iterator<Item = &Value> {
    live["metadata"]["managedFields"].as_array().into_iter().flatten()
}

pub(crate) fn fields(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether a value in the object is known only after apply.
pub(crate) fn has_unknown(object: &Value) -> bool {
    match object {
        Value::Null => true,
        Value::Array(values) => values.iter().any(has_unknown),
        Value::Object(fields) => fields.values().any(has_unknown),
        _ => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns a Deployment as the server would return it, changed by `edit`.
    fn live(edit: impl FnOnce(&mut Value)) -> Value {
        let mut live = declared();
        live["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] =
            "1".into();
        live["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst".into();
        live["metadata"]["resourceVersion"] = "7".into();
        live["metadata"]["managedFields"] = json!([{"manager": MANAGER, "operation": "Apply", "fieldsV1": {
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
                "k:{\"name\":\"manager\"}": {".": {}, "f:name": {}, "f:args": {}, "f:image": {}, "f:env": {
                    "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}},
                    "f:resources": {"f:limits": {"f:cpu": {}}}}}}}},
        }}]);
        edit(&mut live);
        live
    }

    fn declared() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "namespace": "b", "labels": {"app": "a"}},
            "spec": {"replicas": 1, "template": {"spec": {"volumes": [], "containers": [
                {"name": "manager", "image": "x@sha256:1", "args": ["--one", "--two"],
                 "env": [{"name": "A", "value": "1"}], "resources": {"limits": {"cpu": "1000m"}}}]}}}})
    }

    fn container(deployment: &mut Value) -> &mut Value {
        &mut deployment["spec"]["template"]["spec"]["containers"][0]
    }

    #[test]
    fn changed_ignores_fields_that_the_server_adds() {
        assert_eq!(changed(&declared(), &live(|_| ())), [] as [&str; 0]);
    }

    #[test]
    fn changed_names_the_path_of_every_declared_field_that_differs() {
        let at = "spec.template.spec.containers[name=manager]";
        for (path, edit) in [
            (
                "spec.replicas".to_owned(),
                (|live| live["spec"]["replicas"] = 3.into()) as fn(&mut Value),
            ),
            ("metadata.labels.app".to_owned(), |live| {
                live["metadata"]["labels"]["app"] = "b".into();
            }),
            (format!("{at}.image"), |live| container(live)["image"] = "y".into()),
            (format!("{at}.args"), |live| container(live)["args"] = json!(["--one"])),
            (format!("{at}.args[1]"), |live| container(live)["args"][1] = "--three".into()),
            (format!("{at}.env[name=A]"), |live| container(live)["env"] = json!([{"name": "B"}])),
            (format!("{at}.resources.limits.cpu"), |live| {
                container(live)["resources"]["limits"]["cpu"] = "2".into();
            }),
            (at.to_owned(), |live| container(live)["name"] = "other".into()),
        ] {
            assert_eq!(changed(&declared(), &live(edit)), [path]);
        }
    }

    #[test]
    fn changed_reports_a_field_that_we_own_and_no_longer_declare() {
        let mut declared = declared();
        container(&mut declared)["env"] = json!([]);
        let at = "spec.template.spec.containers[name=manager].env[name=A]";
        assert_eq!(changed(&declared, &live(|_| ())), [at]);
    }

    #[test]
    fn changed_reports_a_value_that_is_known_after_apply() {
        let mut declared = declared();
        container(&mut declared)["image"] = Value::Null;
        let at = "spec.template.spec.containers[name=manager].image (known after apply)";
        assert_eq!(changed(&declared, &live(|_| ())), [at]);
    }
}
