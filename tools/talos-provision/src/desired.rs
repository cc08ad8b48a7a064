//! The declared state: the document with its references resolved, as plain data without clients.

use std::collections::BTreeMap;

use contract::Project;
use documents::{Declared, Deferred};
use serde_json::{Value, json};

use crate::Error;
use crate::clients::hetzner::{CloudState, Scope};
use crate::config::{self, Common, Keys, Patch};
use crate::pki::{self, Pki};
use crate::plan::{
    Balancer, BalancerService, DesiredImage, DesiredState, Kind, Machine, ResourceSpec, Rule,
    SharedResource, Target, TargetSelector,
};
use crate::schematic::Schematic;
use crate::spec::{Cluster, Cni, Pool, Role};

/// Manifests that let the group [`pki::READERS`] see everything but Secrets: the cluster role `view`,
/// and what `view` lacks (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#user-facing-roles>),
/// such as nodes, volumes, roles, definitions and Flux's own kinds. The binding to `view` stays apart,
/// because the role that a binding refers to cannot be changed.
const READERS: [(&str, &str); 3] = [
    (
        "holistic-readers",
        "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: holistic-readers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'holistic:readers'}]
",
    ),
    (
        "holistic-readers-cluster-role",
        "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: holistic-readers}
rules:
- apiGroups: ['']
  resources: [namespaces, nodes, persistentvolumes]
  verbs: [get, list, watch]
- apiGroups:
  - admissionregistration.k8s.io
  - apiextensions.k8s.io
  - apiregistration.k8s.io
  - coordination.k8s.io
  - flowcontrol.apiserver.k8s.io
  - helm.toolkit.fluxcd.io
  - image.toolkit.fluxcd.io
  - kustomize.toolkit.fluxcd.io
  - node.k8s.io
  - notification.toolkit.fluxcd.io
  - rbac.authorization.k8s.io
  - scheduling.k8s.io
  - source.toolkit.fluxcd.io
  - storage.k8s.io
  resources: ['*']
  verbs: [get, list, watch]
",
    ),
    (
        "holistic-readers-cluster",
        "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: holistic-readers-cluster}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: holistic-readers}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'holistic:readers'}]
",
    ),
];

/// Most servers of one spread placement group.
const GROUP_SERVERS_MAX: u8 = 10;

/// Patches from the files that a document names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patches {
    /// Patches of every machine.
    pub(crate) all: Vec<Patch>,
    /// Patches of the machines of one pool, in the order of the pools.
    pub(crate) pools: Vec<Vec<Patch>>,
}

/// Derives the keys of a document.
pub(crate) fn derive(
    document: &Declared<Cluster>,
    project: &Declared<Project>,
) -> Result<Pki, Error> {
    let key = contract::phase_key(project, "talos-provision")?;
    Ok(Pki::derive(&key, document.name.as_str(), &document.spec.certificates, pki::now()))
}

/// Returns the URL of the Kubernetes API: the declared endpoint, otherwise the load balancer's address. A
/// load balancer that does not exist will have the address of the Primary IP.
pub(crate) fn endpoint(spec: &Cluster, view: &CloudState) -> Deferred<String> {
    if let Some(endpoint) = &spec.endpoint {
        return Deferred::Value(endpoint.as_str().to_owned());
    }
    let address_of = |kind| {
        let found = view.resources.iter().find(|(resource, _)| resource.kind == kind);
        found.and_then(|(_, found)| found.address.as_ref())
    };
    let address = address_of(Kind::LoadBalancer).or_else(|| address_of(Kind::PrimaryIp));
    Deferred::from(address.map(|address| format!("https://{address}:6443")))
}

/// Returns the declared state, without the configurations of machines, which hold keys.
pub(crate) fn desired(document: &Declared<Cluster>) -> DesiredState {
    DesiredState {
        cluster: document.name.to_string(),
        incarnation: document.spec.incarnation.get(),
        first_contact: document.spec.first_contact,
        resources: resources(document),
        prices: BTreeMap::new(),
        machines: machines(document),
        image: document.spec.image.as_ref().map(|image| DesiredImage {
            talos: document.spec.talos.to_string(),
            schematic: Schematic::of(image),
            factory: image.factory.to_string(),
            needs: BTreeMap::new(),
        }),
    }
}

/// Returns the configuration of one machine: a function of the document, its keys, patches and
/// registries, and of the endpoint.
pub(crate) fn documents(
    document: &Declared<Cluster>,
    (pki, patches, registries): (&Pki, &Patches, &Patch),
    (name, machine): (&str, &Machine),
    endpoint: &str,
) -> Result<Vec<Value>, Error> {
    let spec = &document.spec;
    let kubernetes = spec.kubernetes.to_string();
    let common = Common {
        cluster: document.name.as_str(),
        endpoint,
        kubernetes: kubernetes.trim_start_matches('v'),
        bundle: &pki.bundle,
    };
    let pool = spec.pools.iter().position(|pool| pool.name == *machine.pool.as_str());
    let pool = pool.and_then(|index| patches.pools.get(index));
    let mut documents = config::generate(&common, machine.role);
    if machine.role == Role::Controlplane {
        documents[0]["machine"]["certSANs"] = json!([host(endpoint)]);
    }
    let settings = [settings(spec, name, machine.role)];
    let settings = settings.iter().chain([registries]);
    let patches = settings.chain(&patches.all).chain(pool.into_iter().flatten());
    let mut documents =
        config::patched(documents, patches).map_err(|mistake| Error::Patch(mistake.message))?;
    without_unused_flannel(&mut documents[0], spec);
    Ok(documents)
}

/// Returns the host of the endpoint, which the certificates of control planes have to name.
///
/// A worker gets its certificate from trustd on a control plane. One of the addresses at which it looks for
/// trustd is the endpoint's host, and Talos v1.13.9 adds that host to the certificate of the Kubernetes API
/// only: `internal/app/machined/pkg/controllers/secrets/api_cert_sans.go` and `root.go` there.
fn host(endpoint: &str) -> &str {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// Returns the arguments of flanneld that select the interface of the private network.
///
/// Talos v1.13.9 starts flanneld with `--ip-masq --kube-subnet-mgr` and these arguments
/// (`k8stemplates/flannel.go`). Without an interface, flanneld takes the one with the default route. On a
/// server of Hetzner that is the public interface, where the firewall drops VXLAN (UDP 4789): pods on
/// different machines then cannot communicate.
///
/// flanneld takes the interface of the route to the address (`pkg/ipmatch/match.go`). The address is the
/// gateway of the network, the first of `range`: every server has a route to it on the private interface, and
/// no server can have it as its own address
/// (<https://docs.hetzner.com/networking/networks/technical-concepts/architecture>). The first address of
/// `nodes` belongs to the first server, whose route to itself leads to the interface `lo` (measured: flanneld
/// 0.28.7 takes `lo` there).
fn flannel_arguments(spec: &Cluster) -> Value {
    json!([format!("--iface-can-reach={}", spec.network.range.first_address())])
}

/// Removes the arguments of flanneld, if a patch declares another network plugin: Talos rejects them then
/// (`ValidateCNI` in `v1alpha1_validation.go`, v1.13.9).
pub(crate) fn without_unused_flannel(root: &mut Value, spec: &Cluster) {
    let Some(cni) = root.pointer_mut("/cluster/network/cni").and_then(Value::as_object_mut) else {
        return;
    };
    let is_ours = cni.get("flannel") == Some(&json!({"extraArgs": flannel_arguments(spec)}));
    if cni.get("name").and_then(Value::as_str) != Some("flannel") && is_ours {
        cni.remove("flannel");
    }
}

/// Returns the settings of the document as a patch of the generated configuration.
pub(crate) fn settings(spec: &Cluster, name: &str, role: Role) -> Patch {
    let network = &spec.network;
    let mut root = json!({
        "machine": {"kubelet": {"nodeIP": {"validSubnets": [network.nodes]}}},
        "cluster": {"network": {
            "podSubnets": [network.pods],
            "serviceSubnets": [network.services],
        }},
    });
    if let Some(image) = &spec.image {
        // A machine that starts from the snapshot is installed, so Talos does not pull this image at boot
        // (v1.13.9, `Install` in `internal/app/machined/pkg/runtime/v1alpha1/v1alpha1_sequencer_tasks.go`).
        // Tools that upgrade machines read the schematic from here.
        let installer = format!(
            "{}/hcloud-installer/{}:{}",
            image.factory.host(),
            Schematic::of(image).id(),
            spec.talos
        );
        root["machine"]["install"] = json!({"image": installer});
    }
    root["cluster"]["network"]["cni"] = match network.cni {
        Cni::None => json!({"name": "none"}),
        Cni::Flannel => {
            json!({"name": "flannel", "flannel": {"extraArgs": flannel_arguments(spec)}})
        }
    };
    if spec.external_cloud_provider {
        // Every role needs it, because each kubelet gets `--cloud-provider=external` from here (v1.13.9,
        // `internal/app/machined/pkg/controllers/k8s/kubelet_spec.go`). The kubelet then registers its node
        // with the taint, and announces `nodeIP` as its address, which the cloud must confirm.
        root["cluster"]["externalCloudProvider"] = json!({"enabled": true});
    }
    if role == Role::Controlplane {
        let manifest = |(name, contents)| json!({"name": name, "contents": contents});
        root["cluster"]["inlineManifests"] = READERS.map(manifest).into();
        root["cluster"]["etcd"] = json!({"advertisedSubnets": [network.nodes]});
    }
    let hostname = json!({
        "apiVersion": "v1alpha1",
        "kind": "HostnameConfig",
        "auto": "off",
        "hostname": name,
    });
    Patch::from_documents(vec![root, hostname])
}

/// Returns the resources that the machines of the document share.
fn resources(document: &Declared<Cluster>) -> BTreeMap<SharedResource, ResourceSpec> {
    let spec = &document.spec;
    let named = |kind| SharedResource { kind, name: document.name.to_string() };
    let mut resources = BTreeMap::from([
        (named(Kind::Network), ResourceSpec::network(spec.network.range, spec.network.nodes)),
        (named(Kind::Firewall), ResourceSpec::Firewall(Rule::inbound(&spec.firewall))),
    ]);
    if spec.endpoint.is_none() {
        let scope = Scope { project: spec.project.to_string(), cluster: document.name.to_string() };
        let servers = TargetSelector::Labels(scope.control_planes());
        let balancer = Balancer {
            public: true,
            services: [BalancerService::kubernetes()].into(),
            targets: [Target { servers, private: true }].into(),
        };
        let address = ResourceSpec::PrimaryIp { auto_delete: false };
        resources.insert(named(Kind::PrimaryIp), address);
        resources.insert(named(Kind::LoadBalancer), ResourceSpec::LoadBalancer(balancer));
    }
    for machine in machines(document).into_values() {
        resources.insert(machine.group, ResourceSpec::PlacementGroup);
    }
    resources
}

/// Returns the locations in which a load balancer may be, in the order in which they are tried: those of
/// the control planes, then those of the workers.
pub(crate) fn balancer_locations(spec: &Cluster) -> Vec<String> {
    let mut locations: Vec<String> = Vec::new();
    for role in [Role::Controlplane, Role::Worker] {
        for pool in spec.pools.iter().filter(|pool| pool.role == role) {
            for location in &pool.locations {
                if !locations.contains(location) {
                    locations.push(location.clone());
                }
            }
        }
    }
    locations
}

/// Returns the machines of the document, without their configurations.
pub(crate) fn machines(document: &Declared<Cluster>) -> BTreeMap<String, Machine> {
    let machine = |pool: &Pool, number: u8| {
        let mut locations = pool.locations.clone();
        let turn = usize::from(number - 1) % locations.len().max(1);
        locations.rotate_left(turn);
        let machine = Machine {
            role: pool.role,
            pool: pool.name.to_string(),
            r#type: pool.r#type.clone(),
            locations,
            group: group(document, pool, number),
            configuration: Deferred::AfterApply,
            keys: Keys::new(),
            talos: document.spec.talos.to_string(),
            monthly: None,
        };
        (format!("{}-{}-{number}", document.name, pool.name), machine)
    };
    let pools = document.spec.pools.iter();
    pools.flat_map(|pool| (1..=pool.count).map(move |number| machine(pool, number))).collect()
}

/// Returns the placement group of a machine. Every ten machines of a pool share a group, because a
/// group has at most ten servers.
fn group(document: &Declared<Cluster>, pool: &Pool, number: u8) -> SharedResource {
    let name = match (number - 1) / GROUP_SERVERS_MAX {
        0 => format!("{}-{}", document.name, pool.name),
        group => format!("{}-{}-{}", document.name, pool.name, group + 1),
    };
    SharedResource { kind: Kind::PlacementGroup, name }
}

#[cfg(test)]
mod tests;
