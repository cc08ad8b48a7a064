//! Properties of every release and of every combination of components.

use std::collections::{BTreeMap, BTreeSet};

use documents::Deferred;
use serde_json::{Value, json};

use super::{Instance, NAMESPACED, image, release, render};
use crate::object::Identity;
use crate::spec::{Component, Network, Version};

mod assemble;
mod upstream;

/// Components of which at least one is chosen beside the two that a delivery needs.
pub(super) fn combinations() -> Vec<Vec<Component>> {
    use Component::{HelmController, NotificationController};
    let additions: [&[Component]; 4] = [
        &[],
        &[HelmController],
        &[NotificationController],
        &[HelmController, NotificationController],
    ];
    additions.map(|more| [&Component::required(), more].concat()).into()
}

/// Renders an installation whose images are known.
pub(super) fn rendered(
    version: Version,
    network: Network,
    components: &[Component],
    pull_secret: Option<&str>,
) -> Vec<Value> {
    let reference = |component| {
        let tag = image(version, component).tag;
        Deferred::Value(format!("registry.example.org/fluxcd/{component}:{tag}"))
    };
    let images = components.iter().map(|&component| (component, reference(component))).collect();
    render(&Instance { version, network, images: &images, pull_secret })
}

fn pods(objects: &[Value]) -> Vec<&Value> {
    objects.iter().filter_map(|object| object.pointer("/spec/template/spec")).collect()
}

fn containers<'a>(pods: &[&'a Value]) -> Vec<&'a Value> {
    pods.iter().flat_map(|pod| pod["containers"].as_array().into_iter().flatten()).collect()
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

#[test]
fn host_network_runs_every_container_in_one_pod_and_uses_each_port_once() {
    for version in Version::ALL {
        for components in combinations() {
            let objects = rendered(version, Network::Host, &components, None);
            let pods = pods(&objects);
            assert_eq!(pods.len(), 1, "one pod cannot be split between nodes");
            assert_eq!(pods[0]["hostNetwork"], true);
            let containers = containers(&pods);
            let names: Vec<_> = containers.iter().map(|container| &container["name"]).collect();
            let expected: Vec<_> = components.iter().map(|component| component.as_str()).collect();
            assert_eq!(names, expected);
            let listens = containers
                .iter()
                .flat_map(|container| container["ports"].as_array().into_iter().flatten());
            let ports: Vec<_> = listens.filter_map(|port| port["containerPort"].as_u64()).collect();
            let distinct: BTreeSet<_> = ports.iter().copied().collect();
            assert_eq!(distinct.len(), ports.len(), "{ports:?}");
            assert!(distinct.iter().all(|port| (9790..=9800).contains(port)), "{ports:?}");
        }
    }
}

#[test]
fn host_network_listens_only_on_the_loopback_address() {
    for components in combinations() {
        let objects = rendered(Version::V2_9_5, Network::Host, &components, None);
        for container in containers(&pods(&objects)) {
            // Defaults of upstream listen on every address: main.go of each controller.
            let mut flags = vec!["--metrics-addr", "--health-addr"];
            match container["name"].as_str() {
                Some("source-controller") => flags.push("--storage-addr"),
                Some("notification-controller") => {
                    flags.extend(["--events-addr", "--receiverAddr"]);
                }
                _ => {}
            }
            for flag in flags {
                let prefix = format!("{flag}=127.0.0.1:");
                let port = texts(&container["args"]).find_map(|arg| arg.strip_prefix(&prefix));
                let port = port.and_then(|port| port.parse::<u64>().ok());
                let declared = container["ports"].as_array().into_iter().flatten();
                let mut declared = declared.filter_map(|port| port["containerPort"].as_u64());
                assert!(declared.any(|declared| Some(declared) == port), "{flag}: {container}");
            }
            for probe in ["readinessProbe", "livenessProbe"] {
                assert_eq!(container[probe]["httpGet"]["host"], "127.0.0.1");
            }
        }
    }
}

#[test]
fn host_network_has_no_annotation_service_or_account_that_leads_nowhere() {
    let components = Component::ALL;
    let objects = rendered(Version::V2_9_5, Network::Host, &components, Some("pull"));
    assert!(!objects.iter().any(|object| object.to_string().contains("prometheus.io")));
    let named = |kind: &str| -> Vec<_> {
        let of_kind = objects.iter().filter(|object| object["kind"] == kind);
        of_kind.map(|object| object["metadata"]["name"].as_str().unwrap_or_default()).collect()
    };
    assert_eq!(named("Service"), [""; 0]);
    assert_eq!(named("NetworkPolicy"), ["allow-egress", "allow-scraping"]);
    assert_eq!(named("ServiceAccount"), ["kustomize-controller"]);
    let pods = pods(&objects);
    assert_eq!(pods[0]["serviceAccountName"], "kustomize-controller");
    assert_eq!(pods[0]["imagePullSecrets"][0]["name"], "pull");
    assert_eq!(pods[0]["terminationGracePeriodSeconds"], 600, "the one of helm-controller");
    assert_eq!(pods[0]["priorityClassName"], "system-cluster-critical");
    let bound: Vec<_> = objects
        .iter()
        .filter(|object| texts_of_subjects(object).contains(&"kustomize-controller"))
        .map(|object| object["metadata"]["name"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(bound, ["cluster-reconciler-flux-system", "crd-controller-flux-system"]);
}

fn texts_of_subjects(object: &Value) -> Vec<&str> {
    let subjects = object["subjects"].as_array().into_iter().flatten();
    subjects.filter_map(|subject| subject["name"].as_str()).collect()
}

#[test]
fn host_network_mounts_each_volume_in_one_container() {
    let objects = rendered(Version::V2_9_5, Network::Host, &Component::ALL, None);
    let pods = pods(&objects);
    let names = |list: &Value| -> Vec<String> {
        let items = list.as_array().into_iter().flatten();
        items.filter_map(|item| item["name"].as_str().map(str::to_owned)).collect()
    };
    let mounts: Vec<_> =
        containers(&pods).iter().flat_map(|container| names(&container["volumeMounts"])).collect();
    assert_eq!(mounts, names(&pods[0]["volumes"]));
    let distinct: BTreeSet<_> = mounts.iter().collect();
    assert_eq!(distinct.len(), mounts.len());
}

/// One pod has one value of each of these fields, so a controller that needs another value cannot be
/// merged.
#[test]
fn controllers_have_equal_fields_of_a_pod_except_for_the_merged_ones() {
    let merged = [
        "containers",
        "volumes",
        "serviceAccountName",
        "terminationGracePeriodSeconds",
        "priorityClassName",
    ];
    for version in Version::ALL {
        let objects = rendered(version, Network::Pod, &Component::ALL, None);
        let mut all = Vec::new();
        for pod in pods(&objects) {
            let mut pod = pod.clone();
            assert_eq!(pod["containers"].as_array().map(Vec::len), Some(1));
            for field in merged {
                pod.as_object_mut().and_then(|pod| pod.remove(field));
            }
            all.push(pod);
        }
        all.dedup();
        assert_eq!(all.len(), 1, "{all:?}");
    }
}

#[test]
fn events_are_sent_only_where_notification_controller_receives_them() {
    let events = |network, components: &[Component]| -> BTreeMap<String, String> {
        let objects = rendered(Version::V2_9_5, network, components, None);
        let pods = pods(&objects);
        let flag = |container: &&Value| {
            let last = texts(&container["args"])
                .filter_map(|arg| arg.strip_prefix("--events-addr="))
                .last();
            let image = container["image"].as_str()?.rsplit('/').next()?.split(':').next()?;
            Some((image.to_owned(), last?.to_owned()))
        };
        containers(&pods).iter().filter_map(flag).collect()
    };
    for network in [Network::Pod, Network::Host] {
        assert!(events(network, &Component::required()).values().all(String::is_empty));
    }
    let all = events(Network::Host, &Component::ALL);
    assert_eq!(all["notification-controller"], "127.0.0.1:9797");
    for sender in ["source-controller", "kustomize-controller", "helm-controller"] {
        assert_eq!(all[sender], "http://127.0.0.1:9797/");
        let pod = &events(Network::Pod, &Component::ALL)[sender];
        assert!(pod.starts_with("http://notification-controller.$(RUNTIME_NAMESPACE)"), "{pod}");
    }
}

#[test]
fn every_release_has_an_image_of_each_component_with_the_tag_of_its_manifests() {
    for version in Version::ALL {
        for component in Component::ALL {
            let image = image(version, component);
            let mut objects = release::controller(version, component);
            let deployed = objects.find_map(|object| {
                object.pointer("/spec/template/spec/containers/0/image").cloned()
            });
            let expected = format!("fluxcd/{component}:{}", image.tag);
            assert_eq!(deployed.as_ref().and_then(Value::as_str), Some(&*expected));
        }
    }
}

#[test]
fn every_line_of_a_release_is_an_object() {
    for version in Version::ALL {
        let objects = Component::ALL
            .into_iter()
            .flat_map(|component| release::controller(version, component))
            .chain(release::rbac(version))
            .chain(release::policies(version));
        for object in objects {
            assert!(!Identity::of(&object).name.is_empty(), "{object}");
        }
    }
}

#[test]
fn every_namespaced_kind_of_a_release_is_listed() {
    for version in Version::ALL {
        for network in [Network::Pod, Network::Host] {
            let objects = rendered(version, network, &Component::ALL, None);
            let ids = objects.iter().map(Identity::of).filter(|id| id.namespace.is_some());
            let kinds: BTreeSet<_> = ids.map(|id| (id.api_version, id.kind)).collect();
            let listed = NAMESPACED.map(|(version, kind)| (version.to_owned(), kind.to_owned()));
            let is_listed = |kind: &(String, String)| listed.contains(kind);
            assert!(kinds.iter().all(is_listed), "{kinds:?}");
            assert_eq!(kinds.len() == listed.len(), network == Network::Pod, "{kinds:?}");
        }
    }
}

// hazard: Flux waits for a node that the cloud controller manager initialises, and this controller waits for Flux.
// class: A component that starts the others depends on one of them.
// members: taints of new nodes: not initialised, in both networks; not ready, control plane
// now: all controllers tolerate these taints; in the network of the node, they reach the API server and
// each other without Services
#[test]
fn controllers_tolerate_nodes_that_are_not_initialised_and_in_the_host_network_not_ready() {
    for version in Version::ALL {
        let objects = rendered(version, Network::Host, &Component::ALL, None);
        let pods: Vec<_> =
            objects.iter().filter_map(|object| object.pointer("/spec/template/spec")).collect();
        assert_eq!(pods.len(), 1);
        for key in [
            "node.cloudprovider.kubernetes.io/uninitialized",
            "node.kubernetes.io/not-ready",
            "node-role.kubernetes.io/control-plane",
        ] {
            // Without `effect`, a toleration is for every effect of the taint.
            let toleration = json!({"key": key, "operator": "Exists"});
            let tolerations = pods[0]["tolerations"].as_array().expect("tolerations");
            assert!(tolerations.contains(&toleration), "{key}: {tolerations:?}");
        }
        let objects = rendered(version, Network::Pod, &Component::ALL, None);
        let pods = objects.iter().filter_map(|object| object.pointer("/spec/template/spec"));
        let key = "node.cloudprovider.kubernetes.io/uninitialized";
        let expected = json!([{"key": key, "operator": "Exists"}]);
        // A pod on a node that is not ready would have no network.
        let tolerations: Vec<_> = pods.map(|pod| &pod["tolerations"]).collect();
        assert_eq!(tolerations, [&expected; Component::ALL.len()]);
        let objects = rendered(version, Network::Host, &Component::ALL, None);
        let pods: Vec<_> =
            objects.iter().filter_map(|object| object.pointer("/spec/template/spec")).collect();
        let host = json!({"name": "KUBERNETES_SERVICE_HOST", "value": "127.0.0.1"});
        let containers = pods[0]["containers"].as_array().expect("containers");
        assert_eq!(containers.len(), Component::ALL.len());
        for container in containers {
            let environment = container["env"].as_array().expect("variables");
            assert!(environment.contains(&host), "{environment:?}");
        }
    }
}
