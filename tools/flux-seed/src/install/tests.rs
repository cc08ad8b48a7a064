//! Kustomize, inside kubectl, assembles the release again, and renders it as upstream does.
//!
//! Set `FLUX_SEED_ASSEMBLE=1` to write `install/` instead of comparing it.

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

/// A module of Go, as the proxy serves it and go.sum knows it.
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
        .map_or("kubectl".into(), |it| PathBuf::from(it).join("kubectl"));
    let out = Command::new(bin).arg("kustomize").arg(folder).output()?;
    assert!(out.status.success(), "kubectl kustomize: {}", String::from_utf8_lossy(&out.stderr));
    Ok(serde_saphyr::from_multiple(std::str::from_utf8(&out.stdout)?)?)
}

/// Modules are read-only: so would be what `cp` made of them.
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

/// A folder in which kustomize finds what it would fetch from the releases of each controller.
fn inputs() -> Test<(tempfile::TempDir, Value)> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    let mut modules = Vec::new();
    for (index, of) in MODULES.into_iter().enumerate() {
        let (dir, module) = module(of)?;
        modules.push(module);
        if index == 0 {
            copy(&dir.join("manifests"), at)?;
            continue;
        }
        let name = of.0.rsplit('/').next().ok_or("a name")?;
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
#[ignore = "asks Go for modules, and the lab's kubectl to assemble them: tasks/test"]
fn the_manifests_are_what_their_modules_assemble() -> Test {
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
    objects.into_iter().map(|it| (Identity::of(&it), it)).collect()
}

/// Upstream's own templates (`pkg/manifestgen/install/templates.go`), filled in by hand.
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
#[ignore = "asks Go for modules, and the lab's kubectl to assemble them: tasks/test"]
fn an_instance_is_what_upstream_would_have_rendered() -> Test {
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
    // The one object that we leave out, and the one flag and the period that we add.
    let left_out =
        theirs.keys().find(|it| it.name == "allow-webhooks").cloned().ok_or("a policy")?;
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
    let image = |it| format!("registry.example.org/fluxcd/{it}:{}", tag(version, it));
    let images = Component::all().into_iter().map(|it| (it, Deferred::Value(image(it)))).collect();
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
fn on_the_host_no_port_is_taken_twice_and_nothing_listens_for_the_network() {
    let version = Version::V2_9_5;
    let images = Component::all().into_iter().map(|it| (it, Deferred::AfterApply)).collect();
    let objects =
        render(&Instance { version, network: Network::Host, images: &images, pull_secret: None });
    let strategies = objects.iter().filter_map(|it| it.pointer("/spec/strategy/type"));
    assert_eq!(strategies.collect::<Vec<_>>(), ["Recreate", "Recreate"]);
    let pods = objects.iter().filter_map(|it| it.pointer("/spec/template/spec"));
    let containers: Vec<_> = pods.map(|it| &it["containers"][0]).collect();
    let mut ports: Vec<_> = containers
        .iter()
        .flat_map(|it| it["ports"].as_array().into_iter().flatten())
        .filter_map(|it| it["containerPort"].as_u64())
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [9790, 9791, 9792, 9793, 9794]);
    for arg in containers.iter().flat_map(|it| it["args"].as_array().into_iter().flatten()) {
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
        assert!(objects(part).all(|it| !Identity::of(&it).name.is_empty()));
    }
}
