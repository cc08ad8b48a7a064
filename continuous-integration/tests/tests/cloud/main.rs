//! Manifests of Hetzner's controllers and of Traefik, compared with what the vendor publishes and with the
//! documents of this repository.

mod facts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use facts::{DIFFERENCES, PUBLISHED};
use repository_tests::root;
use serde_json::Value;

/// Returns the objects in the files of `folder` below `deployments/manifests`, without kustomizations.
fn objects(folder: &str) -> Vec<Value> {
    let folder = root().join("deployments/manifests").join(folder);
    let files = fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.path());
    let mut objects = Vec::new();
    for path in files.filter(|path| path.extension().is_some_and(|name| name == "yaml")) {
        let text = fs::read_to_string(&path).expect("text");
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        objects.extend(documents.into_iter().filter(|object| object["kind"] != "Kustomization"));
    }
    assert!(objects.len() > 3, "{} objects in {}", objects.len(), folder.display());
    objects
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Returns the workloads of `objects`: each name with its pod's spec.
fn workloads(objects: &[Value]) -> BTreeMap<String, &Value> {
    let workloads = objects
        .iter()
        .filter(|object| ["Deployment", "DaemonSet"].map(Value::from).contains(&object["kind"]));
    let named = workloads
        .map(|object| (text(&object["metadata"]["name"]), &object["spec"]["template"]["spec"]));
    named.collect()
}

/// Returns every container of `objects` as `workload/container`.
fn containers(objects: &[Value]) -> BTreeMap<String, Value> {
    let mut containers = BTreeMap::new();
    for (workload, pod) in workloads(objects) {
        for container in list(&pod["initContainers"]).chain(list(&pod["containers"])) {
            let name = format!("{workload}/{}", text(&container["name"]));
            containers.insert(name, container.clone());
        }
    }
    containers
}

/// Returns the source of an environment variable: its value, `secret/key` or a field.
fn source(variable: &Value) -> String {
    let from = &variable["valueFrom"];
    let secret = &from["secretKeyRef"];
    if secret.is_object() {
        return format!("{}/{}", text(&secret["name"]), text(&secret["key"]));
    }
    if from["fieldRef"].is_object() {
        text(&from["fieldRef"]["fieldPath"])
    } else {
        text(&variable["value"])
    }
}

/// Whether one of the tolerations of a pod tolerates the taint, where `*` is every key.
fn tolerates(pod: &Value, key: &str, effect: &str) -> bool {
    list(&pod["tolerations"]).any(|toleration| {
        let field = |name: &str| toleration[name].as_str();
        let is_for_every_key = field("key").is_none() && field("operator") == Some("Exists");
        (is_for_every_key || field("key") == Some(key))
            && field("effect").is_none_or(|found| found == effect)
    })
}

/// Returns the verbs that a cluster role allows for `group/resource`.
fn verbs(objects: &[Value], role: &str, group: &str, resource: &str) -> BTreeSet<String> {
    let role = objects
        .iter()
        .find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == role);
    let rules = role.map(|role| list(&role["rules"])).into_iter().flatten();
    let covers = |rule: &&Value, field: &str, value: &str| {
        list(&rule[field]).any(|allowed| allowed == value)
    };
    rules
        .filter(|rule| covers(rule, "apiGroups", group) && covers(rule, "resources", resource))
        .flat_map(|rule| list(&rule["verbs"]).map(text).collect::<Vec<_>>())
        .collect()
}

/// Whether our manifests have a published fact.
fn has(objects: &[Value], fact: &str) -> bool {
    let words: Vec<&str> = fact.split(' ').collect();
    let [subject, kind, value, rest @ ..] = words.as_slice() else { panic!("{fact}") };
    if *kind == "may" {
        let (group, resource) = value.split_once('/').expect("a group");
        let verbs = verbs(objects, subject, group, resource);
        return rest.iter().all(|verb| verbs.contains(*verb));
    }
    let workload = subject.split('/').next().unwrap_or_default();
    let workloads = workloads(objects);
    let Some(pod) = workloads.get(workload) else { return false };
    let containers = containers(objects);
    let container = containers.get(*subject).cloned().unwrap_or_default();
    match *kind {
        "pod" => {
            let (field, wanted) = value.split_once('=').expect("a value");
            text(&pod[field]) == wanted
        }
        "tolerates" => tolerates(pod, value, rest[0]),
        "image" => text(&container["image"]).starts_with(&format!("{value}@sha256:")),
        "arg" => list(&container["args"]).any(|argument| argument == value),
        "env" => list(&container["env"])
            .any(|variable| format!("{}={}", text(&variable["name"]), source(variable)) == *value),
        "privileged" => container["securityContext"]["privileged"] == true,
        "mount" => list(&container["volumeMounts"]).any(|mount| {
            let volume = list(&pod["volumes"]).find(|volume| volume["name"] == mount["name"]);
            let volume = volume.expect("the volume of the mount");
            let host = &volume["hostPath"];
            let mut found = vec![text(&mount["mountPath"])];
            if host.is_object() {
                found.extend([text(&host["path"]), text(&host["type"])]);
            } else if volume["emptyDir"].is_object() {
                found.push("emptyDir".to_owned());
            }
            found.extend(mount["mountPropagation"].as_str().map(str::to_owned));
            found == words[2..]
        }),
        _ => panic!("{fact}"),
    }
}

// hazard: A controller of the vendor lacks a permission, a flag or a mount, and volumes or load balancers fail in production.
// class: A foreign program is configured by hand.
// members: cluster roles, flags, environment, host paths, tolerations, images
// now: a test names each published fact that ours lack, unless the difference has a reason
#[test]
fn manifests_of_the_cloud_have_every_published_fact_or_a_reason() {
    let objects = objects("cloud");
    let facts: Vec<&str> = PUBLISHED.lines().filter(|line| !line.is_empty()).collect();
    assert!(facts.len() > 60, "{} facts", facts.len());
    let is_different = |fact: &str| DIFFERENCES.iter().any(|(part, _)| fact.contains(part));
    let (missing, present): (Vec<&str>, Vec<&str>) =
        facts.into_iter().partition(|fact| !has(&objects, fact));
    let unexplained: Vec<_> = missing.iter().filter(|fact| !is_different(fact)).collect();
    assert!(unexplained.is_empty(), "published, but not in ours: {unexplained:#?}");
    let outdated: Vec<_> = present.iter().filter(|fact| is_different(fact)).collect();
    assert!(outdated.is_empty(), "no difference any more: {outdated:#?}");
    for (part, reason) in DIFFERENCES {
        assert!(missing.iter().any(|fact| fact.contains(part)), "{part} explains no fact");
        assert!(reason.len() > 20, "{part} needs a reason");
    }
}

/// Returns the rows of a table with four columns or more whose first cell is a reference of an image.
fn recorded(page: &str) -> BTreeMap<String, String> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, image, version, digest, sources, _] = cells.as_slice() else { return None };
        let cell = |cell: &str| cell.trim_matches('`').to_owned();
        digest.contains("sha256:").then(|| {
            let reference = format!("{}:{}@{}", cell(image), cell(version), cell(digest));
            (reference, (*sources).to_owned())
        })
    };
    page.lines().filter_map(row).collect()
}

/// Returns the owners of the repositories `[owner/name]` in a cell.
fn owners(sources: &str) -> BTreeSet<String> {
    let names = sources.split('[').skip(1).filter_map(|rest| rest.split(']').next());
    names.filter_map(|name| name.split_once('/')).map(|(owner, _)| owner.to_owned()).collect()
}

#[test]
fn every_image_is_pinned_and_recorded_with_its_sources() {
    let page = fs::read_to_string(root().join("knowledge/vendors/images.md")).expect("the page");
    let recorded = recorded(&page);
    let mut used = BTreeSet::new();
    for folder in ["cloud", "ingress"] {
        for (name, container) in containers(&objects(folder)) {
            let image = text(&container["image"]);
            let digest = image.split_once("@sha256:").map(|(_, digest)| digest.len());
            assert_eq!(digest, Some(64), "{name}: {image}");
            let sources = recorded.get(&image);
            let sources = sources.unwrap_or_else(|| panic!("no row for {image} of {name}"));
            let wanted = if sources.contains("**one source**") { 1 } else { 2 };
            assert_eq!(owners(sources).len(), wanted, "{image}: {sources}");
            used.insert(image);
        }
    }
    let unused: Vec<_> = recorded.keys().filter(|image| !used.contains(*image)).collect();
    assert!(unused.is_empty(), "recorded, but not used: {unused:?}");
}

/// Returns the document of the production cluster.
fn cluster() -> Value {
    let text = fs::read_to_string(root().join("machines/prod/cluster.yaml")).expect("a file");
    serde_saphyr::from_str(&text).expect("a Cluster")
}

fn variable(container: &Value, name: &str) -> String {
    let found = list(&container["env"]).find(|variable| variable["name"] == name);
    source(found.unwrap_or_else(|| panic!("no {name}")))
}

// hazard: The nodes are never initialised, because the controller looks for another network.
// class: A manifest repeats a value of a document.
// members: the name of the network, locations, the range of the network
// now: a test compares the manifests with the Cluster
#[test]
fn manifests_name_the_network_and_a_location_of_the_cluster() {
    let (cluster, cloud) = (cluster(), containers(&objects("cloud")));
    let manager = &cloud["hcloud-cloud-controller-manager/hcloud-cloud-controller-manager"];
    // talos-provision gives the network the name of the Cluster (`resources` in its desired.rs).
    assert_eq!(variable(manager, "HCLOUD_NETWORK"), text(&cluster["metadata"]["name"]));
    let driver = &cloud["hcloud-csi-controller/hcloud-csi-driver"];
    let label = format!("holistic/cluster={}", text(&cluster["metadata"]["name"]));
    assert_eq!(variable(driver, "HCLOUD_VOLUME_EXTRA_LABELS"), label);
    let ingress = objects("ingress");
    let balancer = ingress.iter().find(|object| object["spec"]["type"] == "LoadBalancer");
    let annotations = &balancer.expect("a load balancer")["metadata"]["annotations"];
    let locations: Vec<&Value> =
        list(&cluster["spec"]["pools"]).flat_map(|pool| list(&pool["locations"])).collect();
    let default = Value::from(variable(manager, "HCLOUD_LOAD_BALANCERS_LOCATION"));
    for location in [&annotations["load-balancer.hetzner.cloud/location"], &default] {
        assert!(locations.contains(&location), "{location} of {locations:?}");
    }
    let name = text(&annotations["load-balancer.hetzner.cloud/name"]);
    assert_ne!(name, text(&cluster["metadata"]["name"]), "talos-provision's own load balancer");
    let range = match &cluster["spec"]["network"]["range"] {
        Value::Null => "10.0.0.0/16".to_owned(),
        range => text(range),
    };
    let traefik = &containers(&ingress)["traefik/traefik"];
    let trusted: Vec<String> = list(&traefik["args"])
        .map(text)
        .filter_map(|argument| argument.split_once("trustedIPs=").map(|(_, ips)| ips.to_owned()))
        .collect();
    assert_eq!(trusted, [range.clone(), range], "both entry points trust the private network");
}

// hazard: A program that answers the Internet reads the token of the cloud from a Secret.
// class: A permission for the whole cluster where one namespace is enough.
// members: Secrets of kube-system, of flux-system, of other applications
// now: Traefik may read Secrets only in the namespaces that it serves
#[test]
fn traefik_reads_secrets_only_in_the_namespaces_that_it_serves() {
    let objects = objects("ingress");
    let bound = |kind: &str| -> Vec<(String, String)> {
        let bindings = objects.iter().filter(|object| object["kind"] == kind);
        let pair = |object: &Value| {
            (text(&object["roleRef"]["name"]), text(&object["metadata"]["namespace"]))
        };
        bindings.map(pair).collect()
    };
    for (role, _) in bound("ClusterRoleBinding") {
        assert!(verbs(&objects, &role, "", "secrets").is_empty(), "{role} is bound cluster-wide");
    }
    let mut namespaces: Vec<String> = bound("RoleBinding")
        .into_iter()
        .filter(|(role, _)| !verbs(&objects, role, "", "secrets").is_empty())
        .map(|(_, namespace)| namespace)
        .collect();
    namespaces.sort();
    assert!(!namespaces.iter().any(|namespace| namespace == "kube-system"));
    let traefik = &containers(&objects)["traefik/traefik"];
    let flag = "--providers.kubernetesIngress.namespaces=";
    let mut served: Vec<String> = list(&traefik["args"])
        .map(text)
        .filter_map(|argument| argument.strip_prefix(flag).map(str::to_owned))
        .flat_map(|names| names.split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    served.sort();
    assert_eq!(served, namespaces);
}
