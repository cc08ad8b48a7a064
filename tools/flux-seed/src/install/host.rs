//! All controllers as containers of one pod in the network of its node.
//!
//! The controllers reach each other on the loopback address. Two pods can be scheduled to two nodes,
//! because pod affinity holds only when a pod is scheduled: after an eviction of source-controller
//! alone, kustomize-controller would ask a loopback address on which nothing listens.

use serde_json::{Value, json};

use super::{UNINITIALIZED, append};
use crate::spec::Component;

/// Name of the Deployment and value of its pods' label `app`.
const NAME: &str = "flux";

/// Identity of the pod. Upstream binds kustomize-controller to every role that a controller of Flux
/// needs, and to cluster-admin (flux2 v2.9.5, manifests/rbac).
const ACCOUNT: Component = Component::KustomizeController;

/// Taints of nodes on which the pod may run: before the CNI and the cloud controller, which Flux may
/// deliver, and on a cluster that has control planes alone. `network-unavailable` is set by a cloud
/// controller until the routes of the pod network exist
/// (<https://kubernetes.io/docs/reference/labels-annotations-taints/>).
const TOLERATED: [&str; 4] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/network-unavailable",
    UNINITIALIZED,
    "node-role.kubernetes.io/control-plane",
];

/// URL at which notification-controller receives events.
pub(super) const EVENTS: &str = "http://127.0.0.1:9797/";

/// Ports of one controller on 127.0.0.1.
struct Ports {
    metrics: u16,
    health: u16,
    /// Arguments of its other listeners, each with its port.
    others: &'static [(&'static str, u16)],
}

fn ports(component: Component) -> Ports {
    match component {
        Component::SourceController => {
            Ports { metrics: 9791, health: 9792, others: &[("--storage-addr", 9790)] }
        }
        Component::KustomizeController => Ports { metrics: 9793, health: 9794, others: &[] },
        Component::HelmController => Ports { metrics: 9795, health: 9796, others: &[] },
        // The receiver of webhooks listens on the loopback address, too: on a node's address, it would
        // be open to every network of the node.
        Component::NotificationController => Ports {
            metrics: 9799,
            health: 9800,
            others: &[("--events-addr", 9797), ("--receiverAddr", 9798)],
        },
    }
}

/// Puts the containers of all Deployments into one Deployment. Services have no pod that listens on a
/// pod's address, and the other service accounts have no pod, so both are left out.
pub(super) fn one_pod(objects: Vec<(Component, Value)>) -> Vec<Value> {
    let (mut kept, mut deployment) = (Vec::new(), None);
    for (component, object) in objects {
        match object["kind"].as_str() {
            Some("Service") => {}
            Some("ServiceAccount") if component != ACCOUNT => {}
            Some("Deployment") => {
                let next = single(component, object);
                deployment = Some(match deployment.take() {
                    Some(first) => joined(first, next),
                    None => next,
                });
            }
            _ => kept.push(object),
        }
    }
    kept.extend(deployment);
    kept
}

/// Returns the Deployment of one controller under the name and the settings of the common one.
fn single(component: Component, mut deployment: Value) -> Value {
    deployment["metadata"]["name"] = NAME.into();
    deployment["metadata"]["labels"]["app.kubernetes.io/component"] = NAME.into();
    // In a rolling update, the new pod would wait for the ports of the old pod, and the old pod
    // would stay until the new one is ready.
    deployment["spec"]["strategy"] = json!({"type": "Recreate"});
    deployment["spec"]["selector"] = json!({"matchLabels": {"app": NAME}});
    let template = &mut deployment["spec"]["template"];
    template["metadata"]["labels"]["app"] = NAME.into();
    template["metadata"]["labels"]["app.kubernetes.io/component"] = NAME.into();
    if let Some(metadata) = template["metadata"].as_object_mut() {
        // These are `prometheus.io/scrape` and `prometheus.io/port`. Prometheus scrapes the address of
        // the node, and the metrics are on the loopback address.
        metadata.remove("annotations");
    }
    let pod = &mut template["spec"];
    pod["serviceAccountName"] = ACCOUNT.as_str().into();
    pod["hostNetwork"] = true.into();
    pod["tolerations"] =
        TOLERATED.map(|key| json!({"key": key, "operator": "Exists"})).into_iter().collect();
    for volume in pod["volumes"].as_array_mut().into_iter().flatten() {
        volume["name"] = prefixed(component, &volume["name"]);
    }
    container(component, &mut pod["containers"][0]);
    deployment
}

/// Moves the listeners of a container to the loopback address, and its API server to Talos's
/// `KubePrism`, which listens on every node.
fn container(component: Component, container: &mut Value) {
    let Ports { metrics, health, others } = ports(component);
    container["name"] = component.as_str().into();
    for variable in container["env"].as_array_mut().into_iter().flatten() {
        if let Some(name) = variable.pointer_mut("/valueFrom/resourceFieldRef/containerName") {
            *name = component.as_str().into();
        }
    }
    append(
        &mut container["env"],
        [("KUBERNETES_SERVICE_HOST", "127.0.0.1"), ("KUBERNETES_SERVICE_PORT", "7445")]
            .map(|(name, value)| json!({"name": name, "value": value})),
    );
    for arg in container["args"].as_array_mut().into_iter().flatten() {
        if arg.as_str().is_some_and(|arg| arg.starts_with("--storage-adv-addr=")) {
            *arg = "--storage-adv-addr=127.0.0.1:9790".into();
        }
    }
    let listeners = [("--metrics-addr", metrics), ("--health-addr", health)]
        .into_iter()
        .chain(others.iter().copied());
    if let Some(args) = container["args"].as_array_mut() {
        let listener = |(flag, port)| format!("{flag}=127.0.0.1:{port}").into();
        args.extend(listeners.clone().map(listener));
    }
    for probe in ["readinessProbe", "livenessProbe"] {
        let get = &mut container[probe]["httpGet"];
        get["host"] = "127.0.0.1".into();
        // The names of ports must be unique within a pod, so that probes use numbers. The port `http`
        // is the one of the artifact server.
        get["port"] = if get["port"] == "http" { 9790 } else { health }.into();
    }
    // The scheduler puts no other pod with one of these ports on the node.
    let mut ports: Vec<_> = listeners.map(|(_, port)| port).collect();
    ports.sort_unstable();
    let port = |port: u16| json!({"containerPort": port, "protocol": "TCP"});
    container["ports"] = ports.into_iter().map(port).collect();
    for mount in container["volumeMounts"].as_array_mut().into_iter().flatten() {
        mount["name"] = prefixed(component, &mount["name"]);
    }
}

fn prefixed(component: Component, name: &Value) -> Value {
    format!("{component}-{}", name.as_str().unwrap_or_default()).into()
}

/// Adds the containers and volumes of `next` to `first`. A test compares the other fields of the pods.
fn joined(mut first: Value, mut next: Value) -> Value {
    let (ours, theirs) =
        (&mut first["spec"]["template"]["spec"], &mut next["spec"]["template"]["spec"]);
    for list in ["containers", "volumes"] {
        if let (Some(ours), Some(theirs)) = (ours[list].as_array_mut(), theirs[list].as_array_mut())
        {
            ours.append(theirs);
        }
    }
    // The longest period serves every container, because a pod ends when its last container does.
    let grace = "terminationGracePeriodSeconds";
    ours[grace] = ours[grace].as_u64().max(theirs[grace].as_u64()).into();
    let priority = "priorityClassName";
    if ours[priority].is_null() {
        ours[priority] = theirs[priority].take();
    }
    first
}
