//! One document, and all that is needed to look at what it declares.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, Instant};

use documents::{Declared, Deferred};
use keyring::{Access, Cloud, Project, Projects};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::config::{self, Common, Keys, Patch};
use crate::hetzner::{self, CloudState, Scope};
use crate::observe::{Kubernetes, Observation};
use crate::pki::{self, Pki, sha256_hex};
use crate::plan::{
    Balancer, BalancerService, Etcd, Kind, Machine, Node, ResourceSpec, Rule, SharedResource,
    Target, TargetSelector, Wanted, World,
};
use crate::spec::{Cluster, Cni, Pool, Role};
use crate::talos;
use crate::{Error, kubernetes, wire};

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

/// Longest silence of a machine that `verify` waits out. Measured: once in four runs of the test of a
/// whole cluster, a worker did not answer right after an `apply` that had changed its authorities.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Most servers of one spread placement group.
const GROUP_SERVERS_MAX: u8 = 10;

/// The patches of a document's files, read once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patches {
    /// For every machine.
    pub(crate) all: Vec<Patch>,
    /// For every machine of a pool, in the order of pools.
    pub(crate) pools: Vec<Vec<Patch>>,
}

/// Where a cluster's machines are.
pub(crate) struct Ground<'a> {
    pub(crate) document: &'a Declared<Cluster>,
    pub(crate) cloud: hetzner::Reader,
}

impl<'a> Ground<'a> {
    /// Opens the cloud with the token for `access`: a reader's, where the Project declares one.
    pub(crate) fn open(
        document: &'a Declared<Cluster>,
        projects: &Projects,
        access: Access,
    ) -> Result<Self, Error> {
        let project = projects.get(&document.spec.project)?;
        let Some(Cloud::Hetzner { url, token, reader }) = &project.spec.endpoints.cloud else {
            return Err(Error::Unexpected { what: "the Project has no cloud".to_owned() });
        };
        let token = match access {
            Access::Reader => reader.as_ref().unwrap_or(token),
            Access::Administrator => token,
        };
        let scope = Scope { project: project.name.to_string(), cluster: document.name.to_string() };
        Ok(Self { document, cloud: hetzner::Reader::new(url.as_str(), token.resolve()?, scope) })
    }

    /// What the cloud shows of what is ours.
    pub(crate) fn see_ours(&self) -> Result<CloudState, Error> {
        self.cloud.observe(&BTreeSet::new(), &BTreeSet::new())
    }

    /// What the cloud shows, what others made under our names included. That takes a call for each
    /// name that is free, so it is asked once.
    pub(crate) fn see(&self) -> Result<CloudState, Error> {
        let things = things(self.document).into_keys().collect();
        let servers: BTreeSet<_> = machines(self.document).into_keys().collect();
        self.cloud.observe(&things, &servers)
    }
}

/// The keys of a document.
pub(crate) fn derive(
    document: &Declared<Cluster>,
    project: &Declared<Project>,
) -> Result<Pki, Error> {
    let key = keyring::phase_key(project, "talos-provision")?;
    Ok(Pki::derive(&key, document.name.as_str(), &document.spec.certificates, pki::now()))
}

/// A document with its keys.
pub(crate) struct Session<'a> {
    pub(crate) ground: Ground<'a>,
    pub(crate) pki: Pki,
    pub(crate) talos: talos::Reader,
    patches: &'a Patches,
}

impl<'a> Session<'a> {
    pub(crate) fn open(
        document: &'a Declared<Cluster>,
        projects: &Projects,
        patches: &'a Patches,
        access: Access,
    ) -> Result<Self, Error> {
        let project = projects.get(&document.spec.project)?;
        let pki = derive(document, project)?;
        let ground = Ground::open(document, projects, access)?;
        let talos = talos::Reader::new(&pki)?;
        Ok(Self { ground, pki, talos, patches })
    }

    pub(crate) fn spec(&self) -> &Cluster {
        &self.ground.document.spec
    }

    pub(crate) fn name(&self) -> &str {
        self.ground.document.name.as_str()
    }

    /// Asks machines and Kubernetes, on the ground of what the cloud showed.
    pub(crate) fn look(&self, view: &CloudState) -> Result<Observation, Error> {
        let endpoint = self.endpoint(view);
        let wanted = self.wanted(&endpoint)?;
        // The label of a server may be lost.
        let declared = |name: &String| wanted.machines.get(name).map(|machine| machine.role);
        let targets = view.servers.iter().filter_map(|(name, server)| {
            let target = talos::Target {
                name: name.clone(),
                role: declared(name).or(server.role).unwrap_or(Role::Worker),
                address: server.address.clone()?,
                declared: wanted
                    .machines
                    .get(name)
                    .and_then(|it| it.configuration.value().cloned()),
            };
            server.ours.then_some(target)
        });
        let targets: Vec<_> = targets.collect();
        let node_states = self.talos.observe(&targets)?;
        let mut servers = view.servers.clone();
        for (name, server) in &mut servers {
            if let Some(look) = node_states.get(name) {
                server.node = look.node.clone();
            }
        }
        let etcd = Etcd::merge(&servers, |name| node_states.get(name).map(|look| &look.etcd));
        let kubernetes = match (&endpoint, &etcd) {
            (Deferred::Value(endpoint), Etcd::Members(_)) => self.kubernetes(endpoint)?,
            _ => Kubernetes { ready: Err("etcd has no members yet".to_owned()), nodes: Vec::new() },
        };
        let nodes = kubernetes.nodes.iter().map(|it| it.name.clone()).collect();
        let cordoned = kubernetes.nodes.iter().filter(|node| node.cordoned_by_us);
        let cordoned = cordoned.map(|node| node.name.clone()).collect();
        let world = World { resources: view.resources.clone(), servers, etcd, nodes, cordoned };
        Ok(Observation { endpoint, wanted, world, node_states, kubernetes })
    }

    /// As [`Self::look`], and again for a while when a declared machine does not answer.
    pub(crate) fn look_patiently(&self, view: &CloudState) -> Result<Observation, Error> {
        let began = Instant::now();
        loop {
            let now = self.look(view)?;
            let is_silent = |name: &String| {
                let server = now.world.servers.get(name);
                server.is_some_and(|server| matches!(server.node, Node::Unreachable { .. }))
            };
            if began.elapsed() >= SILENCE_MAX || !now.wanted.machines.keys().any(is_silent) {
                return Ok(now);
            }
            documents::check_interrupt()?;
            sleep(Duration::from_secs(1));
        }
    }

    fn kubernetes(&self, endpoint: &str) -> Result<Kubernetes, Error> {
        let reader = kubernetes::Reader::new(&self.pki, endpoint)?;
        Ok(match reader.readyz().and_then(|()| reader.nodes()) {
            Ok(nodes) => Kubernetes { ready: Ok(()), nodes },
            Err(why) => Kubernetes { ready: Err(why), nodes: Vec::new() },
        })
    }

    pub(crate) fn endpoint(&self, view: &CloudState) -> Deferred<String> {
        endpoint(self.spec(), view)
    }

    fn wanted(&self, endpoint: &Deferred<String>) -> Result<Wanted, Error> {
        let mut wanted = wanted(self.ground.document);
        if let Deferred::Value(endpoint) = endpoint {
            for (name, machine) in &mut wanted.machines {
                let documents = self.documents(name, machine, endpoint)?;
                machine.configuration =
                    Deferred::Value(sha256_hex(config::render(&documents).as_bytes()));
                machine.keys = config::keys(&documents);
            }
        }
        Ok(wanted)
    }

    /// The configuration of one machine.
    pub(crate) fn configuration(
        &self,
        name: &str,
        machine: &Machine,
        endpoint: &str,
    ) -> Result<Zeroizing<String>, Error> {
        Ok(config::render(&self.documents(name, machine, endpoint)?))
    }

    fn documents(
        &self,
        name: &str,
        machine: &Machine,
        endpoint: &str,
    ) -> Result<Vec<Value>, Error> {
        documents(self.ground.document, (&self.pki, self.patches), (name, machine), endpoint)
    }
}

/// The declared endpoint, or the load balancer's.
pub(crate) fn endpoint(spec: &Cluster, view: &CloudState) -> Deferred<String> {
    if let Some(endpoint) = &spec.endpoint {
        return Deferred::Value(endpoint.as_str().to_owned());
    }
    let balancer = view.resources.iter().find(|(thing, _)| thing.kind == Kind::LoadBalancer);
    let address = balancer.and_then(|(_, found)| found.address.as_ref());
    Deferred::from(address.map(|address| format!("https://{address}:6443")))
}

/// The declared state, without the configurations of machines, which hold keys.
pub(crate) fn wanted(document: &Declared<Cluster>) -> Wanted {
    Wanted {
        cluster: document.name.to_string(),
        incarnation: document.spec.incarnation.get(),
        first_contact: document.spec.first_contact,
        resources: things(document),
        prices: BTreeMap::new(),
        machines: machines(document),
    }
}

/// The configuration of one machine: a function of the document, its keys and patches, and of
/// where the Kubernetes API answers.
pub(crate) fn documents(
    document: &Declared<Cluster>,
    (pki, patches): (&Pki, &Patches),
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
    let pool = spec.pools.iter().position(|it| it.name == *machine.pool.as_str());
    let pool = pool.and_then(|it| patches.pools.get(it));
    let documents = config::generate(&common, machine.role);
    let settings = [settings(spec, name, machine.role)];
    let patches = settings.iter().chain(&patches.all).chain(pool.into_iter().flatten());
    config::patched(documents, patches).map_err(Error::Patch)
}

/// Where a machine's Talos API answers.
pub(crate) fn target(view: &CloudState, name: &str) -> Result<talos::Target, Error> {
    let server = view.servers.get(name);
    let address = server.and_then(|it| it.address.clone());
    let address = address.ok_or_else(|| Error::Unexpected {
        what: format!("{name} has no public address, where port {} would be", wire::PORT),
    })?;
    let role = server.and_then(|it| it.role).unwrap_or(Role::Worker);
    Ok(talos::Target { name: name.to_owned(), role, address, declared: None })
}

/// What the document says, as a patch of the generated configuration.
pub(crate) fn settings(spec: &Cluster, name: &str, role: Role) -> Patch {
    let network = &spec.network;
    let mut root = json!({
        "machine": {"kubelet": {"nodeIP": {"validSubnets": [network.nodes]}}},
        "cluster": {"network": {
            "podSubnets": [network.pods],
            "serviceSubnets": [network.services],
        }},
    });
    if network.cni == Cni::None {
        root["cluster"]["network"]["cni"] = json!({"name": "none"});
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

/// What the machines of the document share.
fn things(document: &Declared<Cluster>) -> BTreeMap<SharedResource, ResourceSpec> {
    let spec = &document.spec;
    let named = |kind| SharedResource { kind, name: document.name.to_string() };
    let mut rules = vec![
        Rule::new("icmp", None, &spec.firewall.icmp),
        Rule::new("tcp", Some(wire::PORT), &spec.firewall.talos),
        Rule::new("tcp", Some(6443), &spec.firewall.kubernetes),
    ];
    rules.retain(|it| !it.sources.is_empty());
    rules.sort();
    let mut things = BTreeMap::from([
        (named(Kind::Network), ResourceSpec::network(spec.network.range, spec.network.nodes)),
        (named(Kind::Firewall), ResourceSpec::Firewall(rules)),
    ]);
    if spec.endpoint.is_none() {
        let scope = Scope { project: spec.project.to_string(), cluster: document.name.to_string() };
        let servers = TargetSelector::Labels(scope.control_planes());
        let balancer = Balancer {
            public: true,
            services: [BalancerService::kubernetes()].into(),
            targets: [Target { servers, private: true }].into(),
        };
        things.insert(named(Kind::LoadBalancer), ResourceSpec::LoadBalancer(balancer));
    }
    for machine in machines(document).into_values() {
        things.insert(machine.group, ResourceSpec::PlacementGroup);
    }
    things
}

/// The machines of the document; their configurations are not known yet.
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

/// A group has room for ten: every ten machines of a pool have one.
fn group(document: &Declared<Cluster>, pool: &Pool, number: u8) -> SharedResource {
    let name = match (number - 1) / GROUP_SERVERS_MAX {
        0 => format!("{}-{}", document.name, pool.name),
        group => format!("{}-{}-{}", document.name, pool.name, group + 1),
    };
    SharedResource { kind: Kind::PlacementGroup, name }
}
