//! Facts about a live cluster that decide whether data may be deleted.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::hold::HoldObject;

/// Facts about a cluster, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Facts {
    /// etcd was provably never started, so the cluster holds no data.
    NeverBegan,
    /// The cluster did not answer.
    Unknown {
        /// Error of the request that failed.
        why: String,
    },
    /// Answers of the cluster's API server.
    Live(Box<LiveCluster>),
}

/// Volumes, claims and their users, which the API server lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveCluster {
    /// UID of the Namespace `kube-system`, which is created once with the cluster.
    pub uid: String,
    /// Every `PersistentVolumeClaim` in any phase.
    pub claims: Vec<LiveClaim>,
    /// Every `PersistentVolume`: bound, released or available.
    pub volumes: Vec<LiveVolume>,
    /// Every claim to which a running or pending pod may write.
    pub mounts: Vec<LiveMount>,
    /// Deployments and `StatefulSet`s, which a drain can stop.
    pub workloads: Vec<LiveWorkload>,
    /// UIDs of the owners of each owned object, by UID of the object.
    pub owners: BTreeMap<String, Vec<String>>,
    /// Every `ValidatingAdmissionPolicy` of the cluster.
    pub policies: Vec<HoldObject>,
    /// Every `ValidatingAdmissionPolicyBinding` of the cluster.
    pub bindings: Vec<HoldObject>,
}

/// `PersistentVolumeClaim` in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveClaim {
    /// Namespace of the claim.
    pub namespace: String,
    /// Name of the claim.
    pub name: String,
    /// UID of the claim.
    pub uid: String,
    /// Name of the bound `PersistentVolume`; empty while the claim is not bound.
    pub volume: String,
    /// UIDs of the owners of the claim.
    pub owners: Vec<String>,
}

/// `PersistentVolume` in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveVolume {
    /// Name of the volume.
    pub name: String,
    /// Namespace, name and UID of the claim that is or was bound to the volume.
    pub claim: Option<(String, String, String)>,
    /// Nodes that store the data of the volume.
    pub nodes: NodeScope,
}

/// Nodes that store the data of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeScope {
    /// No node: the volume is reachable over the network.
    Network,
    /// Nodes with these names.
    Nodes(BTreeSet<String>),
    /// A node that the volume does not name.
    Unknown,
}

/// Claim that a pod mounts and may write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveMount {
    /// Mounted claim as `NAMESPACE/NAME`.
    pub claim: String,
    /// Mounting pod as `NAMESPACE/NAME`.
    pub pod: String,
}

/// Workload that a drain may have stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveWorkload {
    /// Namespace of the workload.
    pub namespace: String,
    /// Kind and name: `deployment/NAME` or `statefulset/NAME`.
    pub workload: String,
    /// UID of the workload.
    pub uid: String,
    /// `metadata.generation` of the workload.
    pub generation: i64,
}

/// Keys of node affinity that select a zone or region and not one machine.
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/> and, for Hetzner,
/// <https://github.com/hetznercloud/csi-driver/blob/main/docs/kubernetes/README.md>.
const ZONES: [&str; 5] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "csi.hetzner.cloud/location",
];

impl Facts {
    /// Reads the facts from a cluster. `list` returns every item at a path of the API, from all pages.
    /// An error of `list` closes the gate.
    pub fn ask(list: impl FnMut(&str) -> Result<Vec<Value>, String>) -> Self {
        match LiveCluster::ask(list) {
            Ok(live) => Self::Live(Box::new(live)),
            Err(why) => Self::Unknown { why },
        }
    }
}

impl LiveCluster {
    fn ask(mut list: impl FnMut(&str) -> Result<Vec<Value>, String>) -> Result<Self, String> {
        let namespaces = list("/api/v1/namespaces")?;
        let kube_system =
            namespaces.iter().find(|object| object["metadata"]["name"] == "kube-system");
        let uid = kube_system.map(|object| text(object, "uid")).unwrap_or_default();
        if uid.is_empty() {
            return Err("the API server lists no Namespace kube-system".to_owned());
        }
        let claims = list("/api/v1/persistentvolumeclaims")?;
        let volumes = list("/api/v1/persistentvolumes")?;
        let pods = list("/api/v1/pods")?;
        let deployments = list("/apis/apps/v1/deployments")?;
        let replica_sets = list("/apis/apps/v1/replicasets")?;
        let stateful_sets = list("/apis/apps/v1/statefulsets")?;
        let admission = "/apis/admissionregistration.k8s.io/v1";
        let policies = list(&format!("{admission}/validatingadmissionpolicies"))?;
        let bindings = list(&format!("{admission}/validatingadmissionpolicybindings"))?;
        let owned = [&claims, &pods, &deployments, &replica_sets, &stateful_sets];
        let owned = owned.into_iter().flatten().map(|object| (text(object, "uid"), owners(object)));
        let workloads = [("deployment", &deployments), ("statefulset", &stateful_sets)];
        let workloads = workloads.iter().flat_map(|(kind, objects)| {
            objects.iter().map(move |object| LiveWorkload {
                namespace: text(object, "namespace"),
                workload: format!("{kind}/{}", text(object, "name")),
                uid: text(object, "uid"),
                generation: generation(object),
            })
        });
        Ok(Self {
            uid,
            claims: claims.iter().map(live_claim).collect(),
            volumes: volumes.iter().map(live_volume).collect(),
            mounts: pods.iter().flat_map(mounts).collect(),
            workloads: workloads.collect(),
            owners: owned.filter(|(_, owners)| !owners.is_empty()).collect(),
            policies: policies.iter().map(hold_object).collect(),
            bindings: bindings.iter().map(hold_object).collect(),
        })
    }

    /// Returns everything that holds data: each claim with its volume, each volume whose claim was deleted
    /// or created again, and each volume without a claim. A claim that was never bound holds no data.
    pub(crate) fn subjects(&self) -> Vec<super::Subject> {
        let mut subjects = Vec::new();
        let mut seen = BTreeSet::new();
        for volume in &self.volumes {
            let (namespace, name, uid) = volume.claim.clone().unwrap_or_default();
            let claim = self.claims.iter().find(|claim| claim.uid == uid);
            let claim =
                claim.or_else(|| self.claims.iter().find(|claim| claim.volume == volume.name));
            seen.extend(claim.map(|claim| claim.uid.clone()));
            subjects.push(super::Subject {
                name: match claim {
                    Some(claim) => claim.key(),
                    None if uid.is_empty() => format!("volume/{}", volume.name),
                    None => format!("{namespace}/{name}"),
                },
                namespace: claim.map_or(namespace, |claim| claim.namespace.clone()),
                uid: claim.map_or(uid, |claim| claim.uid.clone()),
                volume: volume.name.clone(),
                is_claimed: claim.is_some(),
                owners: claim.map(|claim| claim.owners.clone()).unwrap_or_default(),
                nodes: volume.nodes.clone(),
            });
        }
        let lost = self.claims.iter().filter(|claim| !claim.volume.is_empty());
        subjects.extend(lost.filter(|claim| !seen.contains(&claim.uid)).map(|claim| {
            super::Subject {
                name: claim.key(),
                namespace: claim.namespace.clone(),
                uid: claim.uid.clone(),
                volume: claim.volume.clone(),
                is_claimed: true,
                owners: claim.owners.clone(),
                nodes: NodeScope::Unknown,
            }
        }));
        subjects
    }

    /// Whether the object with the UID `owner` is one of `removed`, or belongs to one of `removed`.
    pub(crate) fn is_owned(&self, owner: &str, removed: &BTreeSet<String>) -> bool {
        let mut pending = vec![owner];
        let mut seen = BTreeSet::new();
        while let Some(uid) = pending.pop() {
            if removed.contains(uid) {
                return true;
            }
            if seen.insert(uid) {
                pending.extend(self.owners.get(uid).into_iter().flatten().map(String::as_str));
            }
        }
        false
    }

    /// Returns a pod that may write to the claim called `claim`.
    pub(crate) fn writer_of(&self, claim: &str) -> Option<&str> {
        self.mounts.iter().find(|mount| mount.claim == claim).map(|mount| mount.pod.as_str())
    }

    pub(crate) fn workload(&self, namespace: &str, workload: &str) -> Option<&LiveWorkload> {
        self.workloads
            .iter()
            .find(|found| found.namespace == namespace && found.workload == workload)
    }

    pub(crate) fn policy(&self, name: &str) -> Option<&HoldObject> {
        self.policies.iter().find(|object| object.name == name)
    }

    pub(crate) fn binding(&self, name: &str) -> Option<&HoldObject> {
        self.bindings.iter().find(|object| object.name == name)
    }
}

impl LiveClaim {
    /// Returns the claim as `NAMESPACE/NAME`.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl NodeScope {
    /// Whether the removal of the nodes called `removed` may delete the data.
    pub(crate) fn is_in(&self, removed: &BTreeSet<String>) -> bool {
        match self {
            Self::Network => false,
            Self::Nodes(nodes) => !nodes.is_disjoint(removed),
            Self::Unknown => !removed.is_empty(),
        }
    }
}

fn live_claim(object: &Value) -> LiveClaim {
    LiveClaim {
        namespace: text(object, "namespace"),
        name: text(object, "name"),
        uid: text(object, "uid"),
        volume: object["spec"]["volumeName"].as_str().unwrap_or_default().to_owned(),
        owners: owners(object),
    }
}

fn live_volume(object: &Value) -> LiveVolume {
    let reference = &object["spec"]["claimRef"];
    let field = |name: &str| reference[name].as_str().unwrap_or_default().to_owned();
    let claim = (field("namespace"), field("name"), field("uid"));
    LiveVolume {
        name: text(object, "name"),
        // A claimRef without a UID reserves the volume for a claim that is not bound yet.
        claim: (!claim.2.is_empty()).then_some(claim),
        nodes: nodes(&object["spec"]),
    }
}

/// Returns the nodes that store the data of a `PersistentVolume` with this `spec`.
fn nodes(spec: &Value) -> NodeScope {
    let is_local = spec["hostPath"].is_object() || spec["local"].is_object();
    let terms = spec["nodeAffinity"]["required"]["nodeSelectorTerms"].as_array();
    let terms: Vec<_> = terms.into_iter().flatten().collect();
    let mut nodes = BTreeSet::new();
    for term in &terms {
        let expressions = term["matchExpressions"].as_array().into_iter().flatten();
        let fields = term["matchFields"].as_array().into_iter().flatten();
        let rules: Vec<_> = expressions
            .chain(fields)
            .filter(|rule| !ZONES.contains(&rule["key"].as_str().unwrap_or_default()))
            .collect();
        if rules.is_empty() {
            return if is_local { NodeScope::Unknown } else { NodeScope::Network };
        }
        for rule in rules {
            if rule["operator"] != "In" {
                return NodeScope::Unknown;
            }
            let values = rule["values"].as_array().into_iter().flatten();
            nodes.extend(values.filter_map(Value::as_str).map(str::to_owned));
        }
    }
    match (nodes.is_empty(), is_local) {
        (false, _) => NodeScope::Nodes(nodes),
        (true, true) => NodeScope::Unknown,
        (true, false) => NodeScope::Network,
    }
}

/// Returns the claims to which `pod` may write, unless the pod has ended. A claim that is read-only for the
/// whole pod (`persistentVolumeClaim.readOnly`) is left out.
fn mounts(pod: &Value) -> Vec<LiveMount> {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let namespace = text(pod, "namespace");
    let name = text(pod, "name");
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let claims = volumes.filter_map(|volume| {
        let claim = &volume["persistentVolumeClaim"];
        let is_written = claim["readOnly"] != true;
        // The claim of a generic ephemeral volume is named after the pod and the volume.
        // https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#persistentvolumeclaim-naming
        let ephemeral = volume["ephemeral"].is_object();
        let ephemeral =
            ephemeral.then(|| format!("{name}-{}", volume["name"].as_str().unwrap_or_default()));
        claim["claimName"].as_str().filter(|_| is_written).map(str::to_owned).or(ephemeral)
    });
    claims
        .map(|claim| LiveMount {
            claim: format!("{namespace}/{claim}"),
            pod: format!("{namespace}/{name}"),
        })
        .collect()
}

fn hold_object(object: &Value) -> HoldObject {
    HoldObject {
        name: text(object, "name"),
        uid: text(object, "uid"),
        generation: generation(object),
    }
}

fn owners(object: &Value) -> Vec<String> {
    let references = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    references.filter_map(|owner| owner["uid"].as_str()).map(str::to_owned).collect()
}

fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or_default()
}

fn text(object: &Value, field: &str) -> String {
    object["metadata"][field].as_str().unwrap_or_default().to_owned()
}
