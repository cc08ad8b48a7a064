use serde_json::json;

use super::*;
use crate::clients::cluster::served::ServedKind;

/// A cluster of objects. The UID of each is `KIND NAMESPACE/NAME`.
struct Cluster(ClusterFacts);

impl Cluster {
    fn new() -> Self {
        let kind = |api_version: &str, kind: &str, plural: &str, namespaced| ServedKind {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            namespaced,
        };
        let kinds = vec![
            kind("v1", "Namespace", "namespaces", false),
            kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims", true),
            kind("v1", "ConfigMap", "configmaps", true),
            kind("example.org/v1", "Database", "databases", true),
        ];
        Self(ClusterFacts { scan: Scan { kinds, ..Scan::default() }, ..ClusterFacts::default() })
    }

    /// Adds an object to the scan and to the list of its kind.
    fn add(&mut self, mut object: Value) -> Value {
        let id = Identity::of(&object);
        object["metadata"]["uid"] = id.to_string().into();
        let list = match id.kind.as_str() {
            "PersistentVolumeClaim" => &mut self.0.claims,
            "PersistentVolume" => &mut self.0.volumes,
            "StatefulSet" => &mut self.0.stateful_sets,
            "Kustomization" => &mut self.0.kustomizations,
            "HelmRelease" => &mut self.0.releases,
            "Pod" => &mut self.0.pods,
            _ => &mut self.0.services,
        };
        list.push(object.clone());
        self.0.scan.objects.push(object.clone());
        object
    }

    fn claim(&mut self, namespace: &str, name: &str, more: Value) -> Value {
        let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace}, "spec": {"volumeName": name}});
        merge(&mut claim, more);
        self.add(claim)
    }

    /// Returns the names of the claims that are lost when `roots` are deleted.
    fn lost(&self, roots: &[&Value]) -> Vec<String> {
        let graph = Graph::new(&self.0);
        let roots = roots.iter().map(|root| (Identity::of(root), Because::Delivered)).collect();
        let going = graph.closure(roots);
        graph.lost(&going).into_iter().map(|doomed| doomed.id.name.clone()).collect()
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn object(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

fn owned_by(owner: &Value) -> Value {
    json!({"metadata": {"ownerReferences": [{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"],
        "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "controller": true,
    }]}})
}

fn labels(name: &str) -> Value {
    json!({"metadata": {"labels": {
        "kustomize.toolkit.fluxcd.io/name": name,
        "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
    }}})
}

// hazard: A claim that no inventory lists is deleted with its owner or its Namespace.
// class: One deletion causes others, and only the first is checked.
// members: Namespace, owner, definition, StatefulSet, Helm release, volume, twin volume, nested Kustomization
// now: one refusal for each claim, with the object whose deletion causes its loss
#[test]
fn a_claim_is_lost_with_its_namespace_owner_definition_set_release_volume_or_kustomization() {
    let mut cluster = Cluster::new();
    let namespace = cluster.add(object("v1", "Namespace", None, "a"));
    cluster.claim("a", "in-namespace", json!({}));

    let map = cluster.add(object("v1", "ConfigMap", Some("b"), "owner"));
    let middle = object("v1", "ConfigMap", Some("b"), "middle");
    let mut middle_owned = middle;
    merge(&mut middle_owned, owned_by(&map));
    let middle = cluster.add(middle_owned);
    cluster.claim("b", "owned", owned_by(&middle));

    let definition = cluster.add(object(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        None,
        "databases.example.org",
    ));
    let database = cluster.add(object("example.org/v1", "Database", Some("b"), "db"));
    cluster.claim("b", "of-resource", owned_by(&database));

    let mut set = object("apps/v1", "StatefulSet", Some("b"), "db");
    set["spec"] = json!({
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
    });
    let set = cluster.add(set);
    cluster.claim("b", "data-db-0", json!({}));
    cluster.claim("b", "data-db-other", json!({}));
    cluster.claim("c", "data-db-1", json!({}));

    let mut release = object("helm.toolkit.fluxcd.io/v2", "HelmRelease", Some("b"), "chart");
    release["spec"] = json!({"targetNamespace": "b"});
    let release = cluster.add(release);
    let helm = json!({"metadata": {"annotations": {
        "meta.helm.sh/release-name": "b-chart", "meta.helm.sh/release-namespace": "b"}}});
    cluster.claim("b", "of-chart", helm);

    let mut volume = object("v1", "PersistentVolume", None, "disk");
    volume["spec"] = json!({"csi": {"driver": "d", "volumeHandle": "1"}});
    let volume = cluster.add(volume);
    cluster.claim("b", "disk", json!({}));
    let mut twin = object("v1", "PersistentVolume", None, "twin");
    twin["spec"] = json!({"csi": {"driver": "d", "volumeHandle": "1"}});
    cluster.add(twin);
    cluster.claim("b", "twin", json!({}));

    let mut nested = object("kustomize.toolkit.fluxcd.io/v1", "Kustomization", Some("b"), "apps");
    nested["spec"] = json!({"prune": true, "suspend": true});
    nested["status"] =
        json!({"inventory": {"entries": [{"id": "b_listed__PersistentVolumeClaim", "v": "v1"}]}});
    let nested = cluster.add(nested);
    let of_nested = json!({"metadata": {"labels": {
        "kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "b"}}});
    cluster.claim("b", "listed", of_nested);

    cluster.claim("b", "alone", json!({}));
    for (root, expected) in [
        (&namespace, vec!["in-namespace"]),
        (&map, vec!["owned"]),
        (&definition, vec!["of-resource"]),
        (&set, vec!["data-db-0"]),
        (&release, vec!["of-chart"]),
        (&volume, vec!["disk", "twin"]),
        (&nested, vec!["listed"]),
    ] {
        assert_eq!(cluster.lost(&[root]), expected, "{}", Identity::of(root));
    }
}

#[test]
fn lost_leaves_out_a_retained_claim_and_an_ephemeral_one() {
    let mut cluster = Cluster::new();
    let mut set = object("apps/v1", "StatefulSet", Some("b"), "db");
    set["spec"] = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}}]});
    let set = cluster.add(set);
    cluster.claim("b", "data-db-0", json!({}));
    let mut pod = object("v1", "Pod", Some("b"), "p");
    pod["spec"] = json!({"volumes": [{"name": "scratch", "ephemeral": {}}]});
    let pod = cluster.add(pod);
    cluster.claim("b", "p-scratch", owned_by(&pod));
    assert_eq!(cluster.lost(&[&set, &pod]), [] as [&str; 0]);
}

#[test]
fn delivered_finds_objects_in_the_inventory_and_by_their_labels() {
    let mut cluster = Cluster::new();
    let managed = |manager: &str| json!({"metadata": {"managedFields": [{"manager": manager, "operation": "Apply"}]}});
    let mut listed = labels("prod");
    cluster.claim("b", "listed", listed.clone());
    merge(&mut listed, managed("kustomize-controller"));
    cluster.claim("b", "stray", listed.clone());
    let mut copied = labels("prod");
    merge(&mut copied, managed("kubectl"));
    cluster.claim("b", "copied", copied);
    merge(
        &mut listed,
        json!({"metadata": {"annotations": {"kustomize.toolkit.fluxcd.io/prune": "Disabled"}}}),
    );
    cluster.claim("b", "kept", listed.clone());
    merge(
        &mut listed,
        json!({"metadata": {"labels": {"kustomize.toolkit.fluxcd.io/name": "other"}}}),
    );
    cluster.claim("b", "other", listed);
    let kustomization = json!({
        "metadata": {"name": "prod", "namespace": "flux-system"}, "spec": {"prune": true},
        "status": {"inventory": {"entries": [
            {"id": "b_listed__PersistentVolumeClaim", "v": "v1"},
            {"id": "b_kept__PersistentVolumeClaim", "v": "v1"},
            {"id": "b_gone__PersistentVolumeClaim", "v": "v1"},
        ]}},
    });
    let names = |prune| {
        let graph = Graph::new(&cluster.0);
        graph.delivered(&kustomization, prune).into_iter().map(|id| id.name).collect::<Vec<_>>()
    };
    assert_eq!(names(true), ["listed", "stray"]);
    assert_eq!(names(false), [] as [&str; 0]);
}

#[test]
fn a_claim_is_lost_when_the_api_of_its_owner_does_not_answer() {
    let mut cluster = Cluster::new();
    let owner = json!({"apiVersion": "silent.example.org/v1", "kind": "Thing",
        "metadata": {"name": "x", "uid": "unknown"}});
    cluster.claim("b", "data", owned_by(&owner));
    assert_eq!(cluster.lost(&[]), [] as [&str; 0]);
    cluster.0.scan.silent.push("silent.example.org/v1".to_owned());
    assert_eq!(cluster.lost(&[]), ["data"]);
}

#[test]
fn closure_ends_when_two_objects_own_each_other() {
    let mut cluster = Cluster::new();
    let a = object("v1", "ConfigMap", Some("b"), "a");
    let mut b = object("v1", "ConfigMap", Some("b"), "b");
    merge(&mut b, json!({"metadata": {"ownerReferences": [{"uid": "ConfigMap b/a"}]}}));
    let mut a = a;
    merge(&mut a, json!({"metadata": {"ownerReferences": [{"uid": "ConfigMap b/b"}]}}));
    let a = cluster.add(a);
    cluster.add(b);
    cluster.claim(
        "b",
        "data",
        json!({"metadata": {"ownerReferences": [{"uid": "ConfigMap b/b"}]}}),
    );
    assert_eq!(cluster.lost(&[&a]), ["data"]);
}
