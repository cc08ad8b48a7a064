use serde_json::json;

use super::*;
use crate::graph::{key, uid};

const LABELS: [&str; 2] =
    ["kustomize.toolkit.fluxcd.io/name", "kustomize.toolkit.fluxcd.io/namespace"];

/// Returns the facts of a cluster with `objects`, each with the name of the Kustomization that delivered
/// it. The name is empty for an object that was created by hand.
fn facts(objects: &[(&str, Value)]) -> ClusterFacts {
    let mut facts = ClusterFacts::default();
    for (by, object) in objects {
        let mut object = object.clone();
        let id = Identity::of(&object);
        object["metadata"]["uid"] = id.to_string().into();
        if !by.is_empty() {
            object["metadata"]["labels"] = json!({LABELS[0]: by, LABELS[1]: "flux-system"});
            object["metadata"]["managedFields"] = json!([{"manager": "kustomize-controller", "operation": "Apply",
                "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
        }
        match id.kind.as_str() {
            "PersistentVolumeClaim" => facts.claims.push(object.clone()),
            "StatefulSet" => facts.stateful_sets.push(object.clone()),
            "Kustomization" => facts.kustomizations.push(object.clone()),
            "HelmRelease" => facts.releases.push(object.clone()),
            _ => {}
        }
        facts.scan.objects.push(object);
    }
    facts
}

fn claim(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "n"}, "spec": {"accessModes": ["ReadWriteOnce"]}})
}

fn set(replicas: Option<i64>, when_scaled: &str) -> Value {
    let mut set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "n"},
        "spec": {"persistentVolumeClaimRetentionPolicy": {"whenScaled": when_scaled},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}});
    if let Some(replicas) = replicas {
        set["spec"]["replicas"] = replicas.into();
    }
    set
}

fn kustomization(name: &str) -> Value {
    json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
        "metadata": {"name": name, "namespace": "flux-system"},
        "spec": {"prune": true, "path": if name == "prod" { "./" } else { "./nested" },
            "sourceRef": {"kind": "OCIRepository", "name": "prod"}}})
}

/// Returns the claims that are lost when an artifact with `files` is applied next.
fn lost(live: &[(&str, Value)], files: Result<&[(&str, Value)], &str>) -> Vec<String> {
    let facts = facts(live);
    let files = files.map(|all| {
        all.iter()
            .map(|(name, object)| ((*name).to_owned(), object.to_string().into_bytes()))
            .collect()
    });
    let files = files.map_err(str::to_owned);
    let root = kustomization("prod");
    let next = Next { kustomization: &root, files: files.as_ref().map_err(Clone::clone) };
    let going = of_apply(&facts, &root, &next);
    Graph::new(&facts).lost(&going).into_iter().map(|doomed| doomed.id.name.clone()).collect()
}

#[test]
fn a_claim_is_lost_when_the_artifact_drops_renames_or_moves_it() {
    let live = [("prod", claim("data"))];
    assert_eq!(lost(&live, Ok(&[("a.yaml", claim("data"))])), [] as [&str; 0]);
    assert_eq!(lost(&live, Ok(&[("a.yaml", claim("renamed"))])), ["data"]);
    assert_eq!(lost(&live, Ok(&[])), ["data"]);
    let mut moved = claim("data");
    moved["metadata"]["namespace"] = "other".into();
    assert_eq!(lost(&live, Ok(&[("a.yaml", moved)])), ["data"]);
    // A file that is not below the path is not built.
    assert_eq!(
        lost(
            &live,
            Ok(&[("kustomization.yaml", json!({"resources": []})), ("a.yaml", claim("data"))])
        ),
        ["data"]
    );
}

#[test]
fn a_claim_is_lost_when_the_artifact_drops_its_namespace() {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    let live = [("prod", namespace.clone()), ("", claim("by-hand"))];
    assert_eq!(lost(&live, Ok(&[("a.yaml", namespace)])), [] as [&str; 0]);
    assert_eq!(lost(&live, Ok(&[])), ["by-hand"]);
}

#[test]
fn a_claim_is_lost_when_its_set_scales_down_under_when_scaled_delete() {
    let live = |replicas| {
        [("prod", set(replicas, "Delete")), ("", claim("data-db-0")), ("", claim("data-db-1"))]
    };
    let next = |replicas, policy: &str| [("a.yaml", set(replicas, policy))];
    assert_eq!(lost(&live(Some(2)), Ok(&next(Some(2), "Delete"))), [] as [&str; 0]);
    assert_eq!(lost(&live(Some(2)), Ok(&next(Some(1), "Delete"))), ["data-db-1"]);
    assert_eq!(lost(&live(Some(2)), Ok(&next(Some(0), "Retain"))), ["data-db-0", "data-db-1"]);
    // Flux has set the field, so that its removal brings back the default of 1.
    assert_eq!(lost(&live(Some(2)), Ok(&next(None, "Delete"))), ["data-db-1"]);
    let retained = [("prod", set(Some(2), "Retain")), ("", claim("data-db-1"))];
    assert_eq!(lost(&retained, Ok(&next(Some(1), "Retain"))), [] as [&str; 0]);
    assert_eq!(
        lost(&retained, Ok(&next(Some(1), "Delete"))),
        ["data-db-1"],
        "the policy comes with the scale"
    );
    // A patch may set any number.
    let patched = [
        (
            "kustomization.yaml",
            json!({"resources": ["a.yaml"], "patches": [{"patch": "spec: {}"}]}),
        ),
        ("a.yaml", set(Some(2), "Delete")),
    ];
    assert_eq!(lost(&live(Some(2)), Ok(&patched)), ["data-db-0", "data-db-1"]);
}

#[test]
fn a_claim_of_a_nested_kustomization_is_lost_with_it_or_when_its_folder_drops_the_claim() {
    let live = [("prod", kustomization("apps")), ("apps", claim("data"))];
    let kept = [
        ("apps.yaml", kustomization("apps")),
        ("nested/kustomization.yaml", json!({"resources": ["a.yaml"]})),
        ("nested/a.yaml", claim("data")),
    ];
    assert_eq!(
        lost(&live, Ok(&kept[..2])),
        ["data"],
        "the nested file is missing, so that its objects are unknown"
    );
    let dropped = [
        ("apps.yaml", kustomization("apps")),
        ("nested/kustomization.yaml", json!({"resources": []})),
    ];
    assert_eq!(lost(&live, Ok(&dropped)), ["data"]);
    assert_eq!(lost(&live, Ok(&[])), ["data"]);
    // Without a kustomization at the root, the root build would include the nested folder as well.
    let mut root = kept.to_vec();
    root.push(("kustomization.yaml", json!({"resources": ["apps.yaml"]})));
    assert_eq!(lost(&live, Ok(&root)), [] as [&str; 0]);
}

// hazard: An artifact that cannot be evaluated is applied, and Flux prunes a claim that was not checked.
// class: An unknown state is treated as empty.
// members: registry away, blob missing, kustomize features that rename, patches that delete, a .sourceignore, substituted names, charts
// now: every claim in any inventory is refused by name: `what Flux prunes cannot be determined`, with the reason
#[test]
fn every_delivered_claim_is_lost_when_the_artifact_cannot_be_read() {
    let live = [
        ("prod", claim("data")),
        ("prod", kustomization("apps")),
        ("apps", claim("nested")),
        ("", claim("alone")),
    ];
    assert_eq!(lost(&live, Err("the registry is away")), ["data", "nested"]);
    let broken = [
        ("kustomization.yaml", json!({"namePrefix": "x-", "resources": ["a.yaml"]})),
        ("a.yaml", claim("data")),
    ];
    assert_eq!(lost(&live, Ok(&broken)), ["data", "nested"]);
}

#[test]
fn a_claim_stays_when_flux_must_keep_it_and_is_lost_when_force_replaces_it() {
    let mut kept = claim("kept");
    kept["metadata"]["annotations"] = json!({"kustomize.toolkit.fluxcd.io/prune": "disabled"});
    assert_eq!(lost(&[("prod", kept)], Ok(&[])), [] as [&str; 0]);
    let mut forced = claim("data");
    forced["metadata"]["annotations"] = json!({"kustomize.toolkit.fluxcd.io/force": "enabled"});
    assert_eq!(
        lost(&[("prod", claim("data"))], Ok(&[("a.yaml", forced.clone())])),
        [] as [&str; 0]
    );
    forced["spec"]["accessModes"] = json!(["ReadWriteMany"]);
    assert_eq!(lost(&[("prod", claim("data"))], Ok(&[("a.yaml", forced)])), ["data"]);
}

#[test]
fn of_apply_returns_only_existing_objects_with_their_uids() {
    let live =
        [("prod", claim("data")), ("prod", kustomization("apps")), ("apps", claim("nested"))];
    let facts = facts(&live);
    let root = kustomization("prod");
    let files = Files::new();
    let going = of_apply(&facts, &root, &Next { kustomization: &root, files: Ok(&files) });
    for object in &facts.scan.objects {
        let doomed = &going[&key(&Identity::of(object))];
        assert_eq!(doomed.uid, uid(object));
    }
}
