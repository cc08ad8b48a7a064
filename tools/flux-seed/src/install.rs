//! Flux's installation: the objects of one release, rendered for one cluster.
//!
//! `install/2.9.5/` is generated. The test below assembles it again with kustomize from the modules that
//! `inputs.json` names, and compares. This file then renders the objects as upstream's
//! `pkg/manifestgen/install` does, and the same test compares the result with kustomize.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use documents::Deferred;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::object::NAMESPACE;
use crate::spec::{Component, Network, Version};

#[cfg(test)]
mod tests;

/// Parts of a release as JSON lines, one object per line.
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
    lines.lines().map(|line| serde_json::from_str(line).expect("a test parses every line"))
}

/// Returns the digest of a release's manifests and of the modules that they were assembled from.
pub(crate) fn digest(version: Version) -> String {
    let Parts { source_controller, kustomize_controller, rbac, policies, inputs } = parts(version);
    let mut hash = Sha256::new();
    for part in [source_controller, kustomize_controller, rbac, policies, inputs] {
        hash.update(part);
    }
    format!("sha256:{}", HEXLOWER.encode(&hash.finalize()))
}

/// Returns the image tag of `component` in a release.
pub(crate) fn tag(version: Version, component: Component) -> String {
    let mut objects = objects(parts(version).component(component));
    let image = objects.find_map(|object| {
        object.pointer("/spec/template/spec/containers/0/image")?.as_str().map(str::to_owned)
    });
    let image = image.expect("each component has a Deployment");
    image.rsplit_once(':').map(|(_, tag)| tag.to_owned()).expect("kustomize has set the tag")
}

/// Settings of the installation in one cluster.
pub(crate) struct Instance<'a> {
    pub(crate) version: Version,
    pub(crate) network: Network,
    /// Image reference of each component with its digest. A component without an entry is not
    /// installed.
    pub(crate) images: &'a BTreeMap<Component, Deferred<String>>,
    /// Secret with the kubelet's credentials for the images; `None` if they are public.
    pub(crate) pull_secret: Option<&'a str>,
}

/// Renders all objects of the installation.
pub(crate) fn render(instance: &Instance<'_>) -> Vec<Value> {
    let parts = parts(instance.version);
    let policies = objects(parts.policies).filter(|policy| {
        // notification-controller is not installed, so that no pod listens for webhooks.
        policy["metadata"]["name"] != "allow-webhooks"
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
        if !cluster_wide.iter().any(|kind| object["kind"] == *kind) {
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
        // Talos enforces `baseline` in every Namespace, and `baseline` forbids host networking.
        labels["pod-security.kubernetes.io/enforce"] = "privileged".into();
    }
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
}

/// Adds the namespace to the name of a role, as upstream does, because roles are cluster-wide.
fn suffixed(mut object: Value) -> Value {
    let suffixed = |name: &Value| format!("{}-{NAMESPACE}", name.as_str().unwrap_or_default());
    object["metadata"]["name"] = suffixed(&object["metadata"]["name"]).into();
    if object["roleRef"]["name"].is_string() && object["roleRef"]["name"] != "cluster-admin" {
        object["roleRef"]["name"] = suffixed(&object["roleRef"]["name"]).into();
    }
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
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
        // With a rolling update, the new pod would wait for the ports of the old pod, and the old pod
        // would stay until the new one is ready.
        object["spec"]["strategy"] = json!({"type": "Recreate"});
    }
    let pod = &mut object["spec"]["template"]["spec"];
    pod["nodeSelector"] = json!({"kubernetes.io/os": "linux"});
    if let Some(secret) = instance.pull_secret {
        pod["imagePullSecrets"] = json!([{"name": secret}]);
    }
    let manager = &mut pod["containers"][0];
    // An image that is known after apply is null. `apply` never writes an object that has a null.
    manager["image"] = image.value().map_or(Value::Null, |image| image.as_str().into());
    // notification-controller is not installed, so that events have no receiver.
    manager["args"][0] = "--events-addr=".into();
    manager["args"][1] = "--watch-all-namespaces=true".into();
    if component == Component::KustomizeController {
        // A remote base is not part of the attested artifact.
        append(&mut manager["args"], ["--no-remote-bases=true".into()]);
    }
    // Upstream uses Kubernetes' default of 10 s. The first probe mostly comes too early, so that every
    // installation and every change of it would wait 10 s for the second one.
    manager["readinessProbe"]["periodSeconds"] = 2.into();
    if instance.network == Network::Host {
        on_the_host(pod, component);
    }
}

/// Moves the controllers to the network of a node: fixed ports on the loopback address, both
/// controllers on one node, and the API server through Talos's `KubePrism`, which listens on every
/// node.
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
            // source-controller serves artifacts only on 127.0.0.1, so that both must share a node.
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
