//! The delivered objects, objects that people and controllers add, and the claims that must never be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use contract::gate::HoldObject;
use contract::{ClaimSource, Copied, Drained, Hold, Pack, Projects, Receipt, Source, phase_key};
use documents::Stream;
use serde_json::{Value, json};

use crate::lab::{self, Lab, Published, Test, status, until};

/// The files of an artifact.
pub(crate) type Artifact = BTreeMap<String, Value>;

#[expect(clippy::needless_pass_by_value, reason = "callers pass a literal")]
pub(crate) fn object(
    api_version: &str,
    kind: &str,
    namespace: &str,
    name: &str,
    more: Value,
) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    for (key, value) in more.as_object().into_iter().flatten() {
        match value.as_object().filter(|_| key == "metadata") {
            Some(fields) => {
                for (key, value) in fields {
                    object["metadata"][key] = value.clone();
                }
            }
            None => object[key] = value.clone(),
        }
    }
    object
}

pub(crate) fn claim(namespace: &str, name: &str, volume: &str, more: Value) -> Value {
    let spec = json!({
        "accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": volume,
        "resources": {"requests": {"storage": "1Gi"}},
    });
    let mut claim = object("v1", "PersistentVolumeClaim", namespace, name, more);
    claim["spec"] = spec;
    claim
}

/// Returns a volume that is reserved for a claim.
fn volume(name: &str, namespace: &str, claim: &str, handle: &str) -> Value {
    object(
        "v1",
        "PersistentVolume",
        "",
        name,
        json!({"spec": {
            "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
            "csi": {"driver": "lab.example.org", "volumeHandle": handle},
            "claimRef": {"namespace": namespace, "name": claim},
        }}),
    )
}

fn kustomization(name: &str) -> Value {
    object(
        "kustomize.toolkit.fluxcd.io/v1",
        "Kustomization",
        "flux-system",
        name,
        json!({"spec": {
            "interval": "1h", "path": format!("./{name}"), "prune": true,
            "sourceRef": {"kind": "OCIRepository", "name": "prod"},
        }}),
    )
}

fn definition(group: &str, kind: &str, plural: &str, version: &str) -> Value {
    let name = format!("{plural}.{group}");
    object(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "",
        &name,
        json!({"spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": version, "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        }}),
    )
}

pub(crate) fn set(replicas: u32) -> Value {
    object(
        "apps/v1",
        "StatefulSet",
        "default",
        "db",
        json!({"spec": {
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
            "replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{
                "name": "db", "image": "db", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteMany"], "storageClassName": "",
                "resources": {"requests": {"storage": "1Gi"}}}}],
        }}),
    )
}

/// Returns a workload whose manifest does not pin its image.
fn web() -> Value {
    object(
        "apps/v1",
        "Deployment",
        "default",
        "web",
        json!({"spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]}},
        }}),
    )
}

/// Returns the files of the first artifact.
pub(crate) fn artifact() -> Artifact {
    let helm = object(
        "helm.toolkit.fluxcd.io/v2",
        "HelmRelease",
        "default",
        "chart",
        json!({"spec": {"values": 1}}),
    );
    let balancer = object(
        "v1",
        "Service",
        "default",
        "lb",
        json!({
            "metadata": {"finalizers": ["service.kubernetes.io/load-balancer-cleanup"]},
            "spec": {"type": "LoadBalancer", "selector": {"app": "db"}, "ports": [{"port": 80}]},
        }),
    );
    [
        ("root/team.yaml", object("v1", "Namespace", "", "team", json!({}))),
        ("root/empty.yaml", object("v1", "Namespace", "", "empty", json!({}))),
        ("root/direct.yaml", claim("default", "direct", "direct", json!({}))),
        ("root/set.yaml", set(2)),
        ("root/owner.yaml", object("v1", "ConfigMap", "default", "owner", json!({}))),
        ("root/nested.yaml", kustomization("nested")),
        ("root/paused.yaml", kustomization("paused")),
        ("root/definition.yaml", definition("example.org", "Database", "databases", "v1")),
        (
            "root/helm.yaml",
            definition("helm.toolkit.fluxcd.io", "HelmRelease", "helmreleases", "v2"),
        ),
        ("root/chart.yaml", helm),
        ("root/disk.yaml", volume("disk", "default", "on-delivered", "disk")),
        ("root/released.yaml", volume("released", "default", "old", "released")),
        ("root/lb.yaml", balancer),
        ("nested/claim.yaml", claim("default", "nested", "nested", json!({}))),
        ("nested/web.yaml", web()),
        ("paused/claim.yaml", claim("default", "paused", "paused", json!({}))),
    ]
    .into_iter()
    .map(|(name, object)| (name.to_owned(), object))
    .collect()
}

/// Claims that `destroy` would delete.
pub(crate) const AT_RISK: [&str; 13] = [
    "default/chained",
    "default/data-db-0",
    "default/data-db-1",
    "default/direct",
    "default/nested",
    "default/of-chart",
    "default/of-database",
    "default/old",
    "default/on-delivered",
    "default/owned",
    "default/paused",
    "default/twin",
    "team/by-hand",
];

pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) documents: Vec<Value>,
    /// UID of every claim that must never be lost.
    pub(crate) claims: BTreeMap<String, String>,
    pub(crate) ways: usize,
}

impl Scene {
    pub(crate) fn start() -> Test<Self> {
        let mut lab = Lab::start()?;
        lab.play();
        let files = texts(&artifact());
        let published = lab.publish(&borrowed(&files), "cosign")?;
        let mut documents = lab.documents(&published, &published)?;
        change(&mut documents, "/spec/path", &json!("./root"));
        for (name, namespace, claim) in [
            ("direct", "default", "direct"),
            ("db-0", "default", "data-db-0"),
            ("db-1", "default", "data-db-1"),
            ("nested", "default", "nested"),
            ("paused", "default", "paused"),
            ("by-hand", "team", "by-hand"),
            ("owned", "default", "owned"),
            ("chained", "default", "chained"),
            ("of-database", "default", "of-database"),
            ("of-chart", "default", "of-chart"),
        ] {
            lab.by_hand(&volume(name, namespace, claim, name))?;
        }
        // A second volume with the same storage.
        lab.by_hand(&volume("twin", "default", "twin", "disk"))?;
        lab.flux_seed("apply", &documents).success();
        let mut scene = Self { lab, documents, claims: BTreeMap::new(), ways: 0 };
        scene.by_hand()?;
        Ok(scene)
    }

    /// Creates the objects that people and controllers add to a delivery.
    fn by_hand(&mut self) -> Test {
        let lab = &self.lab;
        let owner = |api_version: &str, kind: &str, name: &str, live: &Value| {
            json!({"metadata": {"ownerReferences": [{"apiVersion": api_version, "kind": kind,
                "name": name, "uid": live["metadata"]["uid"]}]}})
        };
        let of_map = owner("v1", "ConfigMap", "owner", &lab.get("configmap owner"));
        lab.by_hand(&object("v1", "ConfigMap", "default", "middle", of_map.clone()))?;
        let of_middle = owner("v1", "ConfigMap", "middle", &lab.get("configmap middle"));
        lab.by_hand(&object("example.org/v1", "Database", "default", "main", json!({})))?;
        let of_database = owner("example.org/v1", "Database", "main", &lab.get("database main"));
        let of_chart = json!({"metadata": {"annotations": {
            "meta.helm.sh/release-name": "chart", "meta.helm.sh/release-namespace": "default"}}});
        for (namespace, name, volume, more) in [
            ("team", "by-hand", "by-hand", json!({})),
            ("default", "owned", "owned", of_map),
            ("default", "chained", "chained", of_middle),
            ("default", "of-database", "of-database", of_database),
            ("default", "of-chart", "of-chart", of_chart),
            ("default", "on-delivered", "disk", json!({})),
            ("default", "twin", "twin", json!({})),
            ("default", "old", "released", json!({})),
        ] {
            lab.by_hand(&claim(namespace, name, volume, more))?;
        }
        let bound = |name: &str| lab.get(&format!("pv {name}"))["status"]["phase"] == "Bound";
        for name in [
            "direct",
            "db-0",
            "db-1",
            "nested",
            "paused",
            "by-hand",
            "owned",
            "chained",
            "of-database",
            "of-chart",
            "disk",
            "twin",
            "released",
        ] {
            until(name, || bound(name))?;
        }
        lab.kubectl("delete pvc old")?;
        until("a released volume", || lab.get("pv released")["status"]["phase"] == "Released")?;
        lab.kubectl("-n flux-system patch kustomization paused --type=merge -p {\"spec\":{\"suspend\":true}}")?;
        for claim in lab.get("pvc -A")["items"].as_array().into_iter().flatten() {
            let text =
                |field: &str| claim["metadata"][field].as_str().unwrap_or_default().to_owned();
            self.claims.insert(format!("{}/{}", text("namespace"), text("name")), text("uid"));
        }
        assert_eq!(
            self.claims.len(),
            12,
            "twelve claims; the volume `released` remembers a thirteenth"
        );
        Ok(())
    }

    /// Asserts that no claim was deleted or is being deleted.
    pub(crate) fn none_is_lost(&self, what: &str) {
        let live = self.lab.get("pvc -A");
        let live = live["items"].as_array().cloned().unwrap_or_default();
        for (name, uid) in &self.claims {
            let there = live.iter().find(|claim| claim["metadata"]["uid"] == uid.as_str());
            let there = there.unwrap_or_else(|| panic!("{what}: {name} was deleted"));
            assert!(
                there["metadata"]["deletionTimestamp"].is_null(),
                "{what}: {name} is being deleted"
            );
        }
        assert_eq!(self.lab.get("pv released")["status"]["phase"], "Released", "{what}");
    }

    /// Asserts that `verb` is refused for exactly these claims and that no claim is lost. Returns the reasons
    /// by claim.
    pub(crate) fn refused(
        &mut self,
        what: &str,
        verb: &str,
        documents: &[Value],
        claims: &[&str],
    ) -> Test<BTreeMap<String, String>> {
        let run = self.lab.flux_seed(verb, documents).code(111);
        let status = status(&run)?;
        assert_eq!(status["conditions"][0]["reason"], "NotDrained", "{what}: {status}");
        let refusals = status["refusals"].as_array().cloned().unwrap_or_default();
        let text =
            |refusal: &Value, field: &str| refusal[field].as_str().unwrap_or_default().to_owned();
        let found: BTreeMap<_, _> = refusals
            .iter()
            .map(|refusal| (text(refusal, "object"), text(refusal, "reason")))
            .collect();
        let names: BTreeSet<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, claims.iter().copied().collect(), "{what}: {refusals:?}");
        assert!(refusals.iter().all(|refusal| !text(refusal, "message").is_empty()), "{what}");
        self.none_is_lost(what);
        self.ways += 1;
        Ok(found)
    }

    /// Returns the documents with the next artifact. The artifact is not signed, because `apply` stops before
    /// Flux verifies a signature.
    pub(crate) fn with(&self, edit: impl FnOnce(&mut Artifact)) -> Test<Vec<Value>> {
        let mut files = artifact();
        edit(&mut files);
        let pushed = self.lab.push("zabronax/deployments:2", &borrowed(&texts(&files)))?;
        Ok(self.naming(&pushed))
    }

    pub(crate) fn naming(&self, artifact: &Published) -> Vec<Value> {
        let mut documents = self.documents.clone();
        for document in
            documents.iter_mut().filter(|document| document["metadata"]["name"] == "deployments")
        {
            document["status"]["observed"]["reference"] = artifact.reference.as_str().into();
            document["status"]["observed"]["digest"] = artifact.digest.as_str().into();
        }
        documents
    }

    /// Returns a Drain whose receipt names the claim `default/direct`.
    pub(crate) fn drain(&self, edit: impl FnOnce(&mut Receipt)) -> Test<Value> {
        let live = self.lab.get("pvc direct");
        let text = |object: &Value, field: &str| {
            object["metadata"][field].as_str().unwrap_or_default().to_owned()
        };
        let held = |line: &str| {
            let live = self.lab.get(line);
            let generation = live["metadata"]["generation"].as_i64().unwrap_or_default();
            HoldObject { name: text(&live, "name"), uid: text(&live, "uid"), generation }
        };
        let pack = || Pack { object: "packs/0".to_owned(), sha256: "00".repeat(32), bytes: 1 };
        let source = ClaimSource {
            claim: "default/direct".to_owned(),
            uid: text(&live, "uid"),
            volume: "direct".to_owned(),
            stopped: None,
            hold: Some(Hold {
                policy: held("validatingadmissionpolicy hold"),
                binding: held("validatingadmissionpolicybinding hold"),
            }),
        };
        let mut receipt = Receipt {
            project: "holistic".to_owned(),
            drain: "prod".to_owned(),
            cluster: Drained {
                name: "prod".to_owned(),
                uid: text(&self.lab.get("ns kube-system"), "uid"),
            },
            run: "11".repeat(32),
            bucket: "drain".to_owned(),
            recipients: Vec::new(),
            sources: vec![Copied {
                from: Source::Claim(source),
                fingerprint: "22".repeat(32),
                bytes: 1,
                entries: 1,
                not_kept: Vec::new(),
                packs: vec![pack()],
                manifest: pack(),
            }],
        };
        edit(&mut receipt);
        // The same root from a file, because this process has no variable `ROOT`.
        let file = self.lab.path("root");
        fs::write(&file, lab::ROOT)?;
        let mut project = self.documents[0].clone();
        project["spec"]["root"] = json!({"file": file});
        fs::write(self.lab.path("project.json"), project.to_string())?;
        let mut stream = Stream::read(&[self.lab.path("project.json")]);
        let projects = Projects::read(&mut stream);
        let envelope = receipt.sign(&phase_key(projects.get("holistic")?, "data-drain")?)?;
        Ok(json!({
            "apiVersion": "holistic/v1alpha1", "kind": "Drain", "metadata": {"name": "prod"},
            "spec": {"cluster": "prod", "sources": [{"claim": "default/direct"}]},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "reason": "Drained", "message": ""}],
                "evidence": [{"type": "receipt", "envelope": envelope}],
            },
        }))
    }
}

pub(crate) fn source(receipt: &mut Receipt) -> &mut ClaimSource {
    match &mut receipt.sources[0].from {
        Source::Claim(source) => source,
        Source::Forge { .. } => unreachable!("the source is a claim"),
    }
}

pub(crate) fn texts(files: &Artifact) -> Vec<(String, String)> {
    files.iter().map(|(name, object)| (name.clone(), object.to_string())).collect()
}

pub(crate) fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
    files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect()
}

/// Sets a field of the Delivery.
pub(crate) fn change(documents: &mut [Value], pointer: &str, value: &Value) {
    for document in documents.iter_mut().filter(|document| document["kind"] == "Delivery") {
        let (above, last) = pointer.rsplit_once('/').unwrap_or_default();
        if let Some(above) = document.pointer_mut(above) {
            above[last] = value.clone();
        }
    }
}
