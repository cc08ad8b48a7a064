use serde_json::json;

use super::*;
use crate::diff::changed;

/// Returns the declared object of a kind in the table below.
fn declared(kind: &str) -> Value {
    match kind {
        "Secret" => json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": "s", "labels": {"l": "1"}}, "data": {"cosign.pub": "QQ=="}}),
        "OCIRepository" => {
            json!({"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "OCIRepository",
            "metadata": {"name": "s", "labels": {"l": "1"}},
            "spec": {"interval": "60s", "url": "oci://x", "verify": {"provider": "cosign", "secretRef": {"name": "k"}}}})
        }
        "Kustomization" => {
            json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
            "metadata": {"name": "s", "labels": {"l": "1"}},
            "spec": {"prune": true, "suspend": false, "sourceRef": {"kind": "OCIRepository", "name": "s"}}})
        }
        "ClusterRoleBinding" => {
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "s", "labels": {"l": "1"}}, "roleRef": {"kind": "ClusterRole", "name": "r", "apiGroup": "x"},
            "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": "n"}]})
        }
        "ServiceAccount" => {
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s", "labels": {"l": "1"}}})
        }
        _ => {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "s", "labels": {"l": "1"}},
            "spec": {"replicas": 1, "template": {"metadata": {"labels": {"app": "s"}}, "spec": {
                "volumes": [{"name": "tmp", "emptyDir": {}}],
                "containers": [{"name": "manager", "image": "x@sha256:1", "args": ["--one"],
                    "env": [{"name": "A", "value": "1"}]}]}}}})
        }
    }
}

/// Returns the object that the API server stores after this program applies `declared`.
fn applied(declared: &Value) -> Value {
    let mut live = declared.clone();
    live["metadata"]["resourceVersion"] = "7".into();
    let mut set = fields_of(declared, "");
    set["f:metadata"] = json!({"f:labels": {"f:l": {}}});
    live["metadata"]["managedFields"] =
        json!([{"manager": MANAGER, "operation": "Apply", "fieldsV1": set}]);
    live
}

/// Returns the field set of everything in `value`, in the form of the API server for these kinds.
fn fields_of(value: &Value, path: &str) -> Value {
    let mut set = json!({});
    match value {
        Value::Object(all) => {
            for (key, below) in all {
                if !["apiVersion", "kind", "metadata"].contains(&key.as_str()) || !path.is_empty() {
                    set[format!("f:{key}")] = fields_of(below, key);
                }
            }
        }
        Value::Array(items)
            if ["containers", "initContainers", "env", "volumes"].contains(&path) =>
        {
            for item in items {
                set[format!("k:{}", json!({"name": item["name"]}))] = fields_of(item, "item");
            }
        }
        _ => {}
    }
    set
}

/// Writes `value` at `pointer` and records `manager` as the API server does.
fn write(live: &mut Value, pointer: &str, value: Value, manager: &str) {
    let mut at = live.as_object_mut().map(|_| ()).map(|()| &mut *live).expect("an object");
    let parts: Vec<_> =
        pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
    let (last, above) = parts.split_last().expect("a place");
    let mut keys = Vec::new();
    for part in above {
        if at.is_array() {
            let index: usize = part.parse().expect("a number");
            keys.push(format!("k:{}", json!({"name": at[index]["name"]})));
            at = &mut at[index];
        } else {
            keys.push(format!("f:{part}"));
            at = &mut at[part.as_str()];
        }
    }
    let mut set;
    if last == "-" || at.is_array() {
        set = json!({});
        set[format!("k:{}", json!({"name": value["name"]}))] = fields_of(&value, "item");
        at.as_array_mut().expect("a list").push(value);
    } else {
        if value.is_null() {
            at.as_object_mut().expect("an object").remove(last);
        } else {
            at[last.as_str()] = value.clone();
        }
        set = json!({});
        set[format!("f:{last}")] = fields_of(&value, last);
    }
    for key in keys.into_iter().rev() {
        let mut above = json!({});
        above[key] = set;
        set = above;
    }
    let entry = json!({"manager": manager, "operation": "Update", "fieldsV1": set});
    live["metadata"]["managedFields"].as_array_mut().expect("records").push(entry);
}

/// Applies a JSON patch of removals to `live`, as the API server does.
fn patched(live: &Value, patch: &Value) -> Value {
    let mut live = live.clone();
    for op in patch.as_array().expect("a patch").iter().filter(|op| op["op"] == "remove") {
        let (above, last) =
            op["path"].as_str().and_then(|path| path.rsplit_once('/')).expect("a path");
        let last = last.replace("~1", "/").replace("~0", "~");
        match live.pointer_mut(above).expect("an existing field") {
            Value::Array(items) => drop(items.remove(last.parse().expect("a number"))),
            parent => drop(
                parent
                    .as_object_mut()
                    .expect("an object")
                    .remove(&last)
                    .expect("an existing field"),
            ),
        }
    }
    live
}

const POD: &str = "/spec/template/spec";

#[test]
#[expect(clippy::too_many_lines, reason = "one table of edits")]
fn every_foreign_edit_is_drift_and_is_repaired_unless_the_field_is_exempt() {
    let container = format!("{POD}/containers/0");
    // Kind, JSON pointer, written value, and whether the write is drift.
    let table: Vec<(&str, String, Value, bool)> = vec![
        ("Secret", "/data/evil.pub".into(), json!("RQ=="), true),
        ("Secret", "/data/cosign.pub".into(), json!("RQ=="), true),
        ("Secret", "/data/cosign.pub".into(), Value::Null, true),
        ("Secret", "/immutable".into(), json!(true), true),
        ("Secret", "/immutable".into(), json!(false), false),
        ("OCIRepository", "/spec/url".into(), json!("oci://evil"), true),
        ("OCIRepository", "/spec/verify".into(), Value::Null, true),
        ("OCIRepository", "/spec/verify/matchOIDCIdentity".into(), json!([{"issuer": ".*"}]), true),
        ("OCIRepository", "/spec/verify/secretRef/name".into(), json!("evil"), true),
        ("OCIRepository", "/spec/insecure".into(), json!(true), true),
        ("OCIRepository", "/spec/ignore".into(), json!("*.yaml"), true),
        ("OCIRepository", "/spec/layerSelector".into(), json!({"mediaType": "x"}), true),
        ("OCIRepository", "/spec/provider".into(), json!("generic"), false),
        ("OCIRepository", "/spec/provider".into(), json!("aws"), true),
        ("OCIRepository", "/status/x".into(), json!("y"), false),
        ("Kustomization", "/spec/patches".into(), json!([{"patch": "x"}]), true),
        ("Kustomization", "/spec/images".into(), json!([{"name": "x"}]), true),
        ("Kustomization", "/spec/postBuild".into(), json!({"substitute": {"a": "b"}}), true),
        ("Kustomization", "/spec/kubeConfig".into(), json!({"secretRef": {"name": "x"}}), true),
        ("Kustomization", "/spec/targetNamespace".into(), json!("x"), true),
        ("Kustomization", "/spec/deletionPolicy".into(), json!("Orphan"), true),
        ("Kustomization", "/spec/suspend".into(), json!(true), true),
        ("Kustomization", "/spec/prune".into(), Value::Null, true),
        ("Kustomization", "/spec/force".into(), json!(false), false),
        (
            "Kustomization",
            "/metadata/annotations".into(),
            json!({"reconcile.fluxcd.io/requestedAt": "1"}),
            false,
        ),
        ("ClusterRoleBinding", "/subjects".into(), json!([{"kind": "User", "name": "evil"}]), true),
        ("ServiceAccount", "/imagePullSecrets".into(), json!([{"name": "x"}]), false),
        ("ServiceAccount", "/automountServiceAccountToken".into(), json!(false), true),
        ("Deployment", format!("{container}/args"), json!(["--one", "--two"]), true),
        ("Deployment", format!("{container}/args"), json!([]), true),
        ("Deployment", format!("{container}/image"), json!("y"), true),
        ("Deployment", format!("{container}/env/-"), json!({"name": "B", "value": "1"}), true),
        ("Deployment", format!("{container}/env/0/value"), json!("2"), true),
        ("Deployment", format!("{container}/envFrom"), json!([{"secretRef": {"name": "x"}}]), true),
        ("Deployment", format!("{container}/securityContext"), json!({"privileged": true}), true),
        ("Deployment", format!("{POD}/containers/-"), json!({"name": "spy", "image": "z"}), true),
        (
            "Deployment",
            format!("{POD}/initContainers"),
            json!([{"name": "spy", "image": "z"}]),
            true,
        ),
        (
            "Deployment",
            format!("{POD}/volumes/-"),
            json!({"name": "host", "hostPath": {"path": "/"}}),
            true,
        ),
        ("Deployment", format!("{POD}/hostPID"), json!(true), true),
        ("Deployment", format!("{POD}/serviceAccountName"), json!("other"), true),
        ("Deployment", "/spec/replicas".into(), json!(0), true),
        (
            "Deployment",
            "/spec/template/metadata/annotations".into(),
            json!({"kubectl.kubernetes.io/restartedAt": "2026-11-28T00:00:00Z"}),
            false,
        ),
        (
            "Deployment",
            "/spec/template/metadata/annotations".into(),
            json!({"sidecar.istio.io/inject": "true"}),
            true,
        ),
        (
            "Deployment",
            "/metadata/annotations".into(),
            json!({"deployment.kubernetes.io/revision": "2"}),
            false,
        ),
        ("Deployment", "/metadata/labels/l".into(), json!("2"), true),
        ("Deployment", "/metadata/labels/theirs".into(), json!("2"), false),
        ("Deployment", "/status/replicas".into(), json!(1), false),
    ];
    for (kind, pointer, value, is_drift) in table {
        // The name of the manager must not matter: a writer may even use ours.
        for manager in ["kubectl-patch", "kubectl-edit", MANAGER] {
            let declared = declared(kind);
            let mut live = applied(&declared);
            assert_eq!(changed(&declared, &live), [] as [&str; 0], "{kind}");
            assert_eq!(extras(&declared, &live), [], "{kind}");
            write(&mut live, &pointer, value.clone(), manager);
            let (differs, added) = (changed(&declared, &live), extras(&declared, &live));
            let what = format!("{kind} {pointer} = {value} by {manager}: {differs:?} {added:?}");
            assert_eq!(!differs.is_empty() || !added.is_empty(), is_drift, "{what}");
            for extra in &added {
                assert_eq!(extra.manager, manager, "{what}");
                assert!(!extra.path.contains("RQ=="), "no value: {what}");
            }
            // The removal and another apply repair every difference.
            let mut repaired = patched(&live, &removal(&added, &live));
            assert_eq!(extras(&declared, &repaired), [], "{what}");
            if !differs.is_empty() {
                merge(&mut repaired, &declared);
            }
            assert_eq!(changed(&declared, &repaired), [] as [&str; 0], "{what}");
        }
    }
}

/// Merges `declared` into `live` as server-side apply does. Lists of these kinds merge by name.
fn merge(live: &mut Value, declared: &Value) {
    match (live, declared) {
        (Value::Object(live), Value::Object(declared)) => {
            for (key, value) in declared {
                merge(live.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(live), Value::Array(declared))
            if declared
                .iter()
                .all(|entry| entry["name"].is_string() && entry["kind"].is_null()) =>
        {
            for item in declared {
                match live.iter_mut().find(|entry| entry["name"] == item["name"]) {
                    Some(found) => merge(found, item),
                    None => live.push(item.clone()),
                }
            }
        }
        (live, declared) => *live = declared.clone(),
    }
}

#[test]
fn replicas_are_drift_when_a_person_sets_them_and_not_when_an_autoscaler_does() {
    let declared = declared("Deployment");
    for (manager, replicas, is_drift) in [
        ("kube-controller-manager", 3, false),
        ("kube-controller-manager", 0, true),
        ("kubectl", 3, true),
    ] {
        let mut live = applied(&declared);
        live["spec"]["replicas"] = replicas.into();
        live["metadata"]["managedFields"].as_array_mut().expect("records").push(json!({
            "manager": manager, "operation": "Update", "subresource": "scale",
            "fieldsV1": {"f:spec": {"f:replicas": {}}},
        }));
        assert_eq!(!changed(&declared, &live).is_empty(), is_drift, "{manager} {replicas}");
        assert_eq!(extras(&declared, &live), [], "{manager} {replicas}");
    }
}

#[test]
fn extras_ignores_a_field_without_a_manager_because_admission_added_it() {
    let declared = declared("Deployment");
    let mut live = applied(&declared);
    live["spec"]["template"]["spec"]["containers"][0]["env"]
        .as_array_mut()
        .expect("a list")
        .push(json!({"name": "INJECTED", "value": "1"}));
    live["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst".into();
    assert_eq!(extras(&declared, &live), []);
}

#[test]
fn removal_starts_at_the_end_of_a_list_when_several_items_were_added() {
    let declared = declared("Deployment");
    let mut live = applied(&declared);
    for index in 0..12 {
        let item = json!({"name": format!("V{index}"), "value": "1"});
        write(&mut live, &format!("{POD}/containers/0/env/-"), item, "kubectl");
    }
    let added = extras(&declared, &live);
    assert_eq!(added.len(), 12);
    let patch = removal(&added, &live);
    assert_eq!(patch[0]["path"], "/metadata/resourceVersion");
    let repaired = patched(&live, &patch);
    assert_eq!(
        repaired["spec"]["template"]["spec"]["containers"][0]["env"],
        json!([{"name": "A", "value": "1"}])
    );
}

#[test]
fn defaults_equal_those_of_the_installed_definitions() {
    for (kind, path, default) in DEFAULTS {
        let lines = include_str!("../install/2.9.5/source-controller.jsonl");
        let definition = lines.lines().find_map(|line| {
            let object: Value = serde_json::from_str(line).ok()?;
            (object["spec"]["names"]["kind"] == kind).then_some(object)
        });
        let definition = definition.expect("a definition of the kind");
        let versions = definition["spec"]["versions"].as_array().expect("versions");
        for version in versions.iter().filter(|version| version["name"] == "v1") {
            let mut schema = &version["schema"]["openAPIV3Schema"];
            for part in path.split('.') {
                schema = &schema["properties"][part];
            }
            assert_eq!(schema["default"], default);
        }
    }
}

#[test]
fn comparison_does_not_panic_on_malformed_managed_fields() {
    let odd = [
        json!(null),
        json!(1),
        json!("x"),
        json!([]),
        json!([1, "x", null]),
        json!([{"fieldsV1": 3}]),
        json!([{"manager": 1, "fieldsV1": {"f:spec": 1}}]),
        json!([{"manager": "x", "fieldsV1": {"f:spec": {"k:": {}, "k:{": {}, "v:[": {}, "x": {}, "f:": {"i:0": {}}}}}]),
    ];
    for kind in ["Secret", "Kustomization", "Deployment"] {
        for records in &odd {
            for spec in [json!(null), json!([]), json!("x"), json!({"template": []})] {
                let mut live = applied(&declared(kind));
                live["spec"] = spec;
                live["metadata"]["managedFields"] = records.clone();
                let _ = changed(&declared(kind), &live);
                let _ = removal(&extras(&declared(kind), &live), &live);
            }
        }
    }
}
