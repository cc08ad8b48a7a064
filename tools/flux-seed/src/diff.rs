//! What differs? An object as declared against the object that is there, without asking the API
//! server to try: so a second `apply` only reads.
//!
//! The server adds defaults, so what is declared need only be *in* what is there. What we no
//! longer declare and still own, and what others have added, `metadata.managedFields` tells.

use serde_json::Value;

/// Under which the API server keeps what is ours.
pub(crate) const MANAGER: &str = "flux-seed";

/// The paths at which `live` is not what is `declared`. A declared null is not known yet, and
/// differs from everything.
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
    for entry in managed(live).filter(|it| it["manager"] == MANAGER && it["operation"] == "Apply") {
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
        // The server drops what is empty.
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

/// Items are matched by name where the server does so, else by place.
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
        compare(item, theirs.iter().find(|it| it[key] == item[key]), &path, paths);
    }
}

/// By what the server tells the items of a list apart; in the kinds that we declare.
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

/// Whether these are two ways to write one amount: the server writes `1000m` as `1`,
/// and `1000` as `1k`.
fn quantities(declared: &Value, live: &Value, path: &str) -> bool {
    let amounts = ["limits.", "requests.", "hard."].iter().any(|it| path.contains(it));
    let amount = |it: &Value| match it {
        Value::String(text) => milli(text),
        _ => it.as_i64().and_then(|it| it.checked_mul(1000)),
    };
    amounts && amount(declared).is_some() && amount(declared) == amount(live)
}

fn milli(text: &str) -> Option<i64> {
    let digits = text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len());
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

/// A field of an object: for people, for a JSON patch, and what is declared there.
pub(crate) struct Leaf<'a> {
    pub(crate) path: String,
    /// A JSON pointer into the live object (RFC 6901); `None` if nothing is there.
    pub(crate) pointer: Option<String>,
    pub(crate) declared: Option<&'a Value>,
    pub(crate) live: Option<&'a Value>,
}

impl<'a> Leaf<'a> {
    /// An object as a whole.
    pub(crate) fn root(declared: &'a Value, live: &'a Value) -> Self {
        let (declared, live) = (Some(declared), Some(live));
        Self { path: String::new(), pointer: Some(String::new()), declared, live }
    }

    /// The field below that `key` of a field set names: `f:NAME`, `k:{…}` or `v:…`
    /// (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/>).
    fn below(&self, key: &str) -> Option<Self> {
        let (kind, rest) = key.split_once(':')?;
        let at = |part: &str| self.pointer.as_ref().map(|pointer| format!("{pointer}/{part}"));
        match kind {
            "f" => {
                let dot = if self.path.is_empty() { "" } else { "." };
                let live = self.live.and_then(|of| of.get(rest));
                let part = rest.replace('~', "~0").replace('/', "~1");
                Some(Self {
                    path: format!("{}{dot}{rest}", self.path),
                    pointer: live.and_then(|_| at(&part)),
                    declared: self.declared.and_then(|of| of.get(rest)),
                    live,
                })
            }
            "k" | "v" => {
                let wanted: Value = serde_json::from_str(rest).unwrap_or_default();
                let is_it = |item: &Value| match kind {
                    // A key that is not declared has the server's default.
                    "k" => fields(&wanted)
                        .all(|(name, value)| item.get(name).is_none_or(|has| has == value)),
                    _ => *item == wanted,
                };
                let items =
                    |of: Option<&'a Value>| of.and_then(Value::as_array).into_iter().flatten();
                let index = items(self.live).position(is_it);
                let named = match kind {
                    "k" => fields(&wanted)
                        .map(|(name, value)| format!("{name}={}", plain(value)))
                        .collect::<Vec<_>>()
                        .join(","),
                    _ => plain(&wanted),
                };
                Some(Self {
                    path: format!("{}[{named}]", self.path),
                    pointer: index.and_then(|index| at(&index.to_string())),
                    declared: items(self.declared).find(|item| is_it(item)),
                    live: index.and_then(|index| items(self.live).nth(index)),
                })
            }
            _ => None,
        }
    }
}

/// Calls `each` with every leaf of a field set. An item of a list that is not declared is one leaf,
/// whatever it holds.
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

/// Whether `live` says that we have applied it.
pub(crate) fn is_managed(live: &Value) -> bool {
    managed(live).any(|it| it["manager"] == MANAGER && it["operation"] == "Apply")
}

/// Who else has written it, for people.
pub(crate) fn managers(live: &Value) -> String {
    let mut names: Vec<_> = managed(live).filter_map(|it| it["manager"].as_str()).collect();
    names.dedup();
    if names.is_empty() { "somebody".to_owned() } else { names.join(", ") }
}

/// Whether a controller such as the `HorizontalPodAutoscaler` has set the number of replicas; a person
/// who does so is another manager.
fn is_scaled_by_controller(live: &Value) -> bool {
    managed(live).any(|entry| {
        entry["manager"] == "kube-controller-manager" && entry["subresource"] == "scale"
    }) && live["spec"]["replicas"].as_i64().is_some_and(|replicas| replicas > 0)
}

pub(crate) fn managed(live: &Value) -> impl Iterator<Item = &Value> {
    live["metadata"]["managedFields"].as_array().into_iter().flatten()
}

pub(crate) fn fields(of: &Value) -> impl Iterator<Item = (&String, &Value)> {
    of.as_object().into_iter().flatten()
}

fn plain(of: &Value) -> String {
    of.as_str().map_or_else(|| of.to_string(), str::to_owned)
}

fn is_empty(of: &Value) -> bool {
    match of {
        Value::Object(it) => it.is_empty(),
        Value::Array(it) => it.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A Deployment as the server would return it, with what `others` did to it.
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

    fn container(of: &mut Value) -> &mut Value {
        &mut of["spec"]["template"]["spec"]["containers"][0]
    }

    #[test]
    fn what_the_server_adds_is_no_difference() {
        assert_eq!(changed(&declared(), &live(|_| ())), [] as [&str; 0]);
    }

    #[test]
    fn every_change_of_what_is_declared_is_told_with_its_path() {
        let at = "spec.template.spec.containers[name=manager]";
        for (path, edit) in [
            (
                "spec.replicas".to_owned(),
                (|it| it["spec"]["replicas"] = 3.into()) as fn(&mut Value),
            ),
            ("metadata.labels.app".to_owned(), |it| it["metadata"]["labels"]["app"] = "b".into()),
            (format!("{at}.image"), |it| container(it)["image"] = "y".into()),
            (format!("{at}.args"), |it| container(it)["args"] = json!(["--one"])),
            (format!("{at}.args[1]"), |it| container(it)["args"][1] = "--three".into()),
            (format!("{at}.env[name=A]"), |it| container(it)["env"] = json!([{"name": "B"}])),
            (format!("{at}.resources.limits.cpu"), |it| {
                container(it)["resources"]["limits"]["cpu"] = "2".into();
            }),
            (at.to_owned(), |it| container(it)["name"] = "other".into()),
        ] {
            assert_eq!(changed(&declared(), &live(edit)), [path]);
        }
    }

    #[test]
    fn what_is_no_longer_declared_and_still_ours_is_a_difference() {
        let mut declared = declared();
        container(&mut declared)["env"] = json!([]);
        let at = "spec.template.spec.containers[name=manager].env[name=A]";
        assert_eq!(changed(&declared, &live(|_| ())), [at]);
    }

    #[test]
    fn what_is_not_known_yet_is_a_difference() {
        let mut declared = declared();
        container(&mut declared)["image"] = Value::Null;
        let at = "spec.template.spec.containers[name=manager].image (known after apply)";
        assert_eq!(changed(&declared, &live(|_| ())), [at]);
    }
}
