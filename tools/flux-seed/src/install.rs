//! What is Flux? The objects of one release, as its own modules assemble them, rendered for one
//! cluster.
//!
//! `install/2.9.5/` is generated: the test below assembles it again from the modules that
//! `inputs.json` names, with kustomize, and compares. What this file does after that is what
//! upstream's `pkg/manifestgen/install` does; kustomize is asked about that, too.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use documents::Deferred;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::object::NAMESPACE;
use crate::spec::{Component, Network, Version};

#[cfg(test)]
mod tests;

/// The parts of a release, each one object a line.
struct Parts {
    source_controller: &'static str,
    kustomize_controller: &'static str,
    rbac: &'static str,
    policies: &'static str,
    inputs: &'static str,
}

fn parts(version: Version) -> Parts {
    match version {
        Version::V2_9_5 => Parts {
            source_controller: include_str!("install/2.9.5/source-controller.jsonl"),
            kustomize_controller: include_str!("install/2.9.5/kustomize-controller.jsonl"),
            rbac: include_str!("install/2.9.5/rbac.jsonl"),
            policies: include_str!("install/2.9.5/policies.jsonl"),
            inputs: include_str!("install/2.9.5/inputs.json"),
        },
    }
}

impl Parts {
    fn component(&self, component: Component) -> &'static str {
        match component {
            Component::SourceController => self.source_controller,
            Component::KustomizeController => self.kustomize_controller,
        }
    }
}

fn objects(lines: &str) -> impl Iterator<Item = Value> {
    lines.lines().map(|it| serde_json::from_str(it).expect("the test has read it, too"))
}

/// The digest of a release's manifests and of the modules they were assembled from.
pub(crate) fn digest(version: Version) -> String {
    let Parts { source_controller, kustomize_controller, rbac, policies, inputs } = parts(version);
    let mut hash = Sha256::new();
    for part in [source_controller, kustomize_controller, rbac, policies, inputs] {
        hash.update(part);
    }
    format!("sha256:{}", HEXLOWER.encode(&hash.finalize()))
}

/// The tag that a release gives the image of `component`.
pub(crate) fn tag(version: Version, component: Component) -> String {
    let mut objects = objects(parts(version).component(component));
    let image = objects.find_map(|it| {
        it.pointer("/spec/template/spec/containers/0/image")?.as_str().map(str::to_owned)
    });
    let image = image.expect("each component has a Deployment");
    image.rsplit_once(':').map(|(_, tag)| tag.to_owned()).expect("kustomize has set the tag")
}

/// How one cluster wants it.
pub(crate) struct Instance<'a> {
    pub(crate) version: Version,
    pub(crate) network: Network,
    /// The whole reference of each component's image; a component that is not here is not
    /// installed.
    pub(crate) images: &'a BTreeMap<Component, Deferred<String>>,
    /// The Secret with which the kubelet pulls them.
    pub(crate) pull_secret: Option<&'a str>,
}

/// All objects of the installation.
pub(crate) fn render(instance: &Instance<'_>) -> Vec<Value> {
    let parts = parts(instance.version);
    let policies = objects(parts.policies).filter(|it| {
        // Without that controller, nothing listens for webhooks.
        it["metadata"]["name"] != "allow-webhooks"
    });
    let rbac = objects(parts.rbac).map(suffixed);
    let components = instance.images.iter().flat_map(|(&component, image)| {
        objects(parts.component(component)).map(move |mut object| {
            if object["kind"] == "Deployment" {
                deploy(&mut object, component, image, instance);
            }
            object
        })
    });
    let mut objects: Vec<_> = [namespace(instance.network)]
        .into_iter()
        .chain(policies)
        .chain(rbac)
        .chain(components)
        .collect();
    for object in &mut objects {
        let cluster_wide =
            ["Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"];
        if !cluster_wide.iter().any(|it| object["kind"] == *it) {
            object["metadata"]["namespace"] = NAMESPACE.into();
        }
        label(&mut object["metadata"]["labels"], instance.version);
        if object["kind"] == "Deployment" {
            label(&mut object["spec"]["template"]["metadata"]["labels"], instance.version);
        }
    }
    objects
}

fn namespace(network: Network) -> Value {
    let mut labels = json!({
        "pod-security.kubernetes.io/warn": "restricted",
        "pod-security.kubernetes.io/warn-version": "latest",
    });
    if network == Network::Host {
        // Talos enforces `baseline` everywhere, which refuses the network of the host.
        labels["pod-security.kubernetes.io/enforce"] = "privileged".into();
    }
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
}

/// Roles belong to the whole cluster: they carry the namespace in their names, as upstream's do.
fn suffixed(mut object: Value) -> Value {
    let suffixed = |name: &Value| format!("{}-{NAMESPACE}", name.as_str().unwrap_or_default());
    object["metadata"]["name"] = suffixed(&object["metadata"]["name"]).into();
    if object["roleRef"]["name"].is_string() && object["roleRef"]["name"] != "cluster-admin" {
        object["roleRef"]["name"] = suffixed(&object["roleRef"]["name"]).into();
    }
    if let Some(it) = object.as_object_mut() {
        it.retain(|_, value| !value.is_null());
    }
    object
}

fn label(labels: &mut Value, version: Version) {
    labels["app.kubernetes.io/instance"] = NAMESPACE.into();
    labels["app.kubernetes.io/version"] = format!("v{version}").into();
    labels["app.kubernetes.io/part-of"] = "flux".into();
}

fn deploy(
    object: &mut Value,
    component: Component,
    image: &Deferred<String>,
    instance: &Instance<'_>,
) {
    if instance.network == Network::Host {
        // A second pod would wait for the ports of the first, and the first for the second.
        object["spec"]["strategy"] = json!({"type": "Recreate"});
    }
    let pod = &mut object["spec"]["template"]["spec"];
    pod["nodeSelector"] = json!({"kubernetes.io/os": "linux"});
    if let Some(secret) = instance.pull_secret {
        pod["imagePullSecrets"] = json!([{"name": secret}]);
    }
    let manager = &mut pod["containers"][0];
    // What is not known yet is null; nothing is applied that holds one.
    manager["image"] = image.value().map_or(Value::Null, |it| it.as_str().into());
    // There is no notification-controller to which events could go.
    manager["args"][0] = "--events-addr=".into();
    manager["args"][1] = "--watch-all-namespaces=true".into();
    if component == Component::KustomizeController {
        // What is delivered is what was attested, and not what it points to elsewhere.
        append(&mut manager["args"], ["--no-remote-bases=true".into()]);
    }
    // Upstream's is Kubernetes' default of ten, and the first look mostly comes too early: every
    // installation and every change of it would wait for the second.
    manager["readinessProbe"]["periodSeconds"] = 2.into();
    if instance.network == Network::Host {
        on_the_host(pod, component);
    }
}

/// On the network of a node: fixed ports on its loopback, both controllers on one node, and the
/// API server where Talos has it on every node.
fn on_the_host(pod: &mut Value, component: Component) {
    let (metrics, health) = match component {
        Component::SourceController => (9791, 9792),
        Component::KustomizeController => (9793, 9794),
    };
    pod["hostNetwork"] = true.into();
    pod["tolerations"] = [
        "node.kubernetes.io/not-ready",
        "node.cloudprovider.kubernetes.io/uninitialized",
        "node-role.kubernetes.io/control-plane",
    ]
    .map(|key| json!({"key": key, "operator": "Exists"}))
    .into_iter()
    .collect();
    let manager = &mut pod["containers"][0];
    append(
        &mut manager["env"],
        [("KUBERNETES_SERVICE_HOST", "127.0.0.1"), ("KUBERNETES_SERVICE_PORT", "7445")]
            .map(|(name, value)| json!({"name": name, "value": value})),
    );
    append(
        &mut manager["args"],
        [
            format!("--metrics-addr=127.0.0.1:{metrics}").into(),
            format!("--health-addr=127.0.0.1:{health}").into(),
        ],
    );
    for port in manager["ports"].as_array_mut().into_iter().flatten() {
        port["containerPort"] = match port["name"].as_str() {
            Some("http-prom") => metrics.into(),
            Some("healthz") => health.into(),
            _ => 9790.into(),
        };
    }
    for probe in ["readinessProbe", "livenessProbe"] {
        manager[probe]["httpGet"]["host"] = "127.0.0.1".into();
    }
    match component {
        Component::SourceController => {
            manager["args"][6] = "--storage-adv-addr=127.0.0.1:9790".into();
            append(&mut manager["args"], ["--storage-addr=127.0.0.1:9790".into()]);
        }
        Component::KustomizeController => {
            // It fetches from 127.0.0.1: artifacts are not shown to the network.
            pod["affinity"] = json!({"podAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{
                    "labelSelector": {"matchLabels": {"app": "source-controller"}},
                    "topologyKey": "kubernetes.io/hostname",
                }],
            }});
        }
    }
}

fn append<const N: usize>(list: &mut Value, items: [Value; N]) {
    if let Some(list) = list.as_array_mut() {
        list.extend(items);
    }
}
