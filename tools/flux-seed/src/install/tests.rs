//! Assembles the release again with kubectl's kustomize and renders it as upstream does.
//!
//! Set `FLUX_SEED_ASSEMBLE=1` to write `install/` instead of a comparison.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use documents::Deferred;
use serde_json::{Value, json};

use super::{Instance, objects, parts, render, tag};
use crate::object::Identity;
use crate::spec::{Component, Network, Version};

type Test<T = ()> = Result<T, Box<dyn Error>>;

const MODULES: [(&str, &str); 3] = [
    ("github.com/fluxcd/flux2/v2", "v2.9.5"),
    ("github.com/fluxcd/source-controller", "v1.9.6"),
    ("github.com/fluxcd/kustomize-controller", "v1.9.5"),
];

/// Downloads a Go module. Returns its folder and the entry for `inputs.json`.
fn module((path, version): (&str, &str)) -> Test<(PathBuf, Value)> {
    let mut go = Command::new("go");
    go.args(["mod", "download", "-json"]).arg(format!("{path}@{version}"));
    go.current_dir("/").env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local");
    let out = go.output()?;
    assert!(out.status.success(), "go mod download: {}", String::from_utf8_lossy(&out.stdout));
    let module: Value = serde_json::from_slice(&out.stdout)?;
    let dir = module["Dir"].as_str().ok_or("no Dir")?.into();
    Ok((dir, json!({"path": path, "version": version, "sum": module["Sum"]})))
}

fn kustomize(folder: &Path) -> Test<Vec<Value>> {
    let bin = std::env::var_os("LAB_BIN")
        .map_or("kubectl".into(), |folder| PathBuf::from(folder).join("kubectl"));
    let out = Command::new(bin).arg("kustomize").arg(folder).output()?;
    assert!(out.status.success(), "kubectl kustomize: {}", String::from_utf8_lossy(&out.stderr));
    Ok(serde_saphyr::from_multiple(std::str::from_utf8(&out.stdout)?)?)
}

/// Copies a folder. `cp` would copy the read-only mode of Go modules, and the copies are changed here.
fn copy(from: &Path, to: &Path) -> Test {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, to) = (entry?.path(), to.to_owned());
        let name = entry.file_name().ok_or("a name")?;
        if entry.is_dir() {
            copy(&entry, &to.join(name))?;
        } else {
            fs::write(to.join(name), fs::read(&entry)?)?;
        }
    }
    Ok(())
}

/// Returns a folder with the files that kustomize would download from the releases of each controller.
fn inputs() -> Test<(tempfile::TempDir, Value)> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    let mut modules = Vec::new();
    for (index, source) in MODULES.into_iter().enumerate() {
        let (dir, module) = module(source)?;
        modules.push(module);
        if index == 0 {
            copy(&dir.join("manifests"), at)?;
            continue;
        }
        let name = source.0.rsplit('/').next().ok_or("a name")?;
        copy(&dir.join("config/crd"), &at.join(name).join("crd"))?;
        copy(&dir.join("config/manager"), &at.join(name).join("manager"))?;
        let base = at.join("bases").join(name).join("kustomization.yaml");
        let lines = fs::read_to_string(&base)?;
        let lines = lines.lines().map(|line| match line {
            _ if line.ends_with(".crds.yaml") => format!("- ../../{name}/crd"),
            _ if line.ends_with(".deployment.yaml") => format!("- ../../{name}/manager"),
            _ => line.to_owned(),
        });
        fs::write(&base, lines.collect::<Vec<_>>().join("\n"))?;
    }
    Ok((folder, json!({"flux": "2.9.5", "modules": modules})))
}

#[test]
#[ignore = "needs Go modules and the lab's kubectl: tasks/test"]
fn the_manifests_equal_those_that_kustomize_assembles_from_their_modules() -> Test {
    let (folder, modules) = inputs()?;
    let lines = |part: &str| -> Test<String> {
        let objects = kustomize(&folder.path().join(part))?;
        let lines: Vec<_> = objects.iter().map(ToString::to_string).collect();
        Ok(lines.join("\n") + "\n")
    };
    let assembled = [
        ("source-controller.jsonl", lines("bases/source-controller")?),
        ("kustomize-controller.jsonl", lines("bases/kustomize-controller")?),
        ("rbac.jsonl", lines("rbac")?),
        ("policies.jsonl", lines("policies")?),
        ("inputs.json", format!("{modules:#}\n")),
    ];
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/install/2.9.5");
    for (name, text) in assembled {
        if std::env::var_os("FLUX_SEED_ASSEMBLE").is_some() {
            fs::create_dir_all(&at)?;
            fs::write(at.join(name), text)?;
        } else {
            assert!(fs::read_to_string(at.join(name))? == text, "{name} differs");
        }
    }
    Ok(())
}

fn sorted(objects: Vec<Value>) -> BTreeMap<Identity, Value> {
    objects.into_iter().map(|object| (Identity::of(&object), object)).collect()
}

/// Upstream's templates (`pkg/manifestgen/install/templates.go`) with the values of this instance.
const INSTANCE: &str = r#"---
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: flux-system
transformers: [labels.yaml]
resources: [namespace.yaml, ../policies, roles, ../bases/source-controller, ../bases/kustomize-controller]
patches:
- path: node-selector.yaml
  target: {kind: Deployment}
- target: {group: apps, version: v1, kind: Deployment, name: source-controller}
  patch: |-
    - {op: replace, path: /spec/template/spec/containers/0/args/0, value: "--events-addr="}
    - {op: replace, path: /spec/template/spec/containers/0/args/1, value: "--watch-all-namespaces=true"}
    - {op: replace, path: /spec/template/spec/containers/0/args/2, value: "--log-level=info"}
    - {op: replace, path: /spec/template/spec/containers/0/args/6, value: "--storage-adv-addr=source-controller.$(RUNTIME_NAMESPACE).svc.cluster.local."}
- target: {group: apps, version: v1, kind: Deployment, name: kustomize-controller}
  patch: |-
    - {op: replace, path: /spec/template/spec/containers/0/args/0, value: "--events-addr="}
    - {op: replace, path: /spec/template/spec/containers/0/args/1, value: "--watch-all-namespaces=true"}
    - {op: replace, path: /spec/template/spec/containers/0/args/2, value: "--log-level=info"}
images:
- {name: fluxcd/source-controller, newName: registry.example.org/fluxcd/source-controller}
- {name: fluxcd/kustomize-controller, newName: registry.example.org/fluxcd/kustomize-controller}
"#;

const ROLES: &str = "---
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: flux-system
resources: [../../rbac]
nameSuffix: -flux-system
";

const NODE_SELECTOR: &str = "---
apiVersion: apps/v1
kind: Deployment
metadata: {name: all}
spec: {template: {spec: {nodeSelector: {kubernetes.io/os: linux}, imagePullSecrets: [{name: pull}]}}}
";

const LABELS: &str = r#"---
apiVersion: builtin
kind: LabelTransformer
metadata: {name: labels}
labels:
  app.kubernetes.io/instance: flux-system
  app.kubernetes.io/version: "v2.9.5"
  app.kubernetes.io/part-of: flux
fieldSpecs:
  - {path: metadata/labels, create: true}
  - {kind: Deployment, path: spec/template/metadata/labels, create: true}
"#;

const NAMESPACE: &str = "---
apiVersion: v1
kind: Namespace
metadata:
  name: flux-system
  labels: {pod-security.kubernetes.io/warn: restricted, pod-security.kubernetes.io/warn-version: latest}
";

#[test]
#[ignore = "needs Go modules and the lab's kubectl: tasks/test"]
fn render_equals_upstreams_templates_except_for_the_documented_changes() -> Test {
    let (folder, _) = inputs()?;
    let at = folder.path().join("instance");
    fs::create_dir_all(at.join("roles"))?;
    for (name, text) in [
        ("kustomization.yaml", INSTANCE),
        ("roles/kustomization.yaml", ROLES),
        ("node-selector.yaml", NODE_SELECTOR),
        ("labels.yaml", LABELS),
        ("namespace.yaml", NAMESPACE),
    ] {
        fs::write(at.join(name), text)?;
    }
    let mut theirs = sorted(kustomize(&at)?);
    // flux-seed leaves out one object and adds one flag and the period of a probe.
    let left_out =
        theirs.keys().find(|id| id.name == "allow-webhooks").cloned().ok_or("a policy")?;
    theirs.remove(&left_out);
    for (id, object) in theirs.iter_mut().filter(|(id, _)| id.kind == "Deployment") {
        let manager =
            object.pointer_mut("/spec/template/spec/containers/0").ok_or("a container")?;
        manager["readinessProbe"]["periodSeconds"] = 2.into();
        if id.name == "kustomize-controller" {
            super::append(&mut manager["args"], ["--no-remote-bases=true".into()]);
        }
    }

    let version = Version::V2_9_5;
    let image =
        |component| format!("registry.example.org/fluxcd/{component}:{}", tag(version, component));
    let images = Component::all()
        .into_iter()
        .map(|component| (component, Deferred::Value(image(component))))
        .collect();
    let instance =
        Instance { version, network: Network::Pod, images: &images, pull_secret: Some("pull") };
    let ours = sorted(render(&instance));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (id, object) in &theirs {
        assert_eq!(&ours[id], object, "{id}");
    }
    assert_eq!(ours.len(), 21);
    Ok(())
}

#[test]
fn host_network_uses_each_port_once_and_listens_only_on_loopback() {
    let version = Version::V2_9_5;
    let images =
        Component::all().into_iter().map(|component| (component, Deferred::AfterApply)).collect();
    let objects =
        render(&Instance { version, network: Network::Host, images: &images, pull_secret: None });
    let strategies = objects.iter().filter_map(|object| object.pointer("/spec/strategy/type"));
    assert_eq!(strategies.collect::<Vec<_>>(), ["Recreate", "Recreate"]);
    let pods = objects.iter().filter_map(|object| object.pointer("/spec/template/spec"));
    let containers: Vec<_> = pods.map(|pod| &pod["containers"][0]).collect();
    let mut ports: Vec<_> = containers
        .iter()
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .filter_map(|port| port["containerPort"].as_u64())
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [9790, 9791, 9792, 9793, 9794]);
    for arg in
        containers.iter().flat_map(|container| container["args"].as_array().into_iter().flatten())
    {
        let arg = arg.as_str().unwrap_or_default();
        if let Some((_, address)) = arg.split_once("-addr=") {
            assert!(address.is_empty() || address.starts_with("127.0.0.1:"), "{arg}");
        }
    }
}

#[test]
fn every_line_of_the_release_is_an_object() {
    let parts = parts(Version::V2_9_5);
    for part in [parts.source_controller, parts.kustomize_controller, parts.rbac, parts.policies] {
        assert!(objects(part).all(|object| !Identity::of(&object).name.is_empty()));
    }
}

// hazard: Flux waits for a node that the cloud controller manager initialises, and this controller waits for Flux.
// class: A component that starts the others depends on one of them.
// members: taints of new nodes: not initialised, not ready, control plane
// now: both controllers tolerate these taints, and reach the API server and each other without Services
#[test]
fn host_network_tolerates_nodes_that_are_neither_ready_nor_initialised() {
    let version = Version::V2_9_5;
    let images =
        Component::all().into_iter().map(|component| (component, Deferred::AfterApply)).collect();
    let objects =
        render(&Instance { version, network: Network::Host, images: &images, pull_secret: None });
    let pods: Vec<_> =
        objects.iter().filter_map(|object| object.pointer("/spec/template/spec")).collect();
    assert_eq!(pods.len(), 2);
    for pod in pods {
        for key in [
            "node.cloudprovider.kubernetes.io/uninitialized",
            "node.kubernetes.io/not-ready",
            "node-role.kubernetes.io/control-plane",
        ] {
            // Without `effect`, a toleration is for every effect of the taint.
            let toleration = json!({"key": key, "operator": "Exists"});
            let tolerations = pod["tolerations"].as_array().expect("tolerations");
            assert!(tolerations.contains(&toleration), "{key}: {tolerations:?}");
        }
        let environment = pod["containers"][0]["env"].as_array().expect("variables");
        let host = json!({"name": "KUBERNETES_SERVICE_HOST", "value": "127.0.0.1"});
        assert!(environment.contains(&host), "{environment:?}");
    }
}
