//! Facts about a live cluster that decide whether data may go.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What is known of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Facts {
    /// Nothing was ever started in it, and that is proven: it holds no data.
    NeverBegan,
    /// It could not be asked.
    Unknown {
        /// Why not, in the words of whoever did not answer.
        why: String,
    },
    /// Its own answers.
    Live(Box<LiveCluster>),
}

/// Volumes, claims and who uses them, as the API server lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveCluster {
    /// UID of the Namespace `kube-system`, which is made with the cluster and never again.
    pub uid: String,
    /// Every `PersistentVolumeClaim`, in any phase.
    pub claims: Vec<LiveClaim>,
    /// Every `PersistentVolume`: bound, released or available.
    pub volumes: Vec<LiveVolume>,
    /// Every claim that a pod which has not ended mounts and may write to.
    pub mounts: Vec<LiveMount>,
    /// Deployments, `StatefulSet`s and whatever else a drain can stop.
    pub workloads: Vec<LiveWorkload>,
    /// Owners of objects that are themselves owned, by UID.
    pub owners: BTreeMap<String, Vec<String>>,
    /// `ValidatingAdmissionPolicy` objects.
    pub policies: Vec<HoldObject>,
    /// `ValidatingAdmissionPolicyBinding` objects.
    pub bindings: Vec<HoldObject>,
}

/// A `PersistentVolumeClaim`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveClaim {
    /// Its Namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Name of its `PersistentVolume`; empty while it is not bound.
    pub volume: String,
    /// UIDs of its owners.
    pub owners: Vec<String>,
}

/// A `PersistentVolume`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveVolume {
    /// Its name.
    pub name: String,
    /// Namespace, name and UID of the claim to which it belongs or belonged.
    pub claim: Option<(String, String, String)>,
    /// Nodes on which its data is.
    pub nodes: NodeScope,
}

/// Nodes on which the data of a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeScope {
    /// None in particular: it is on the network.
    Network,
    /// These, by name.
    Nodes(BTreeSet<String>),
    /// A node, but which one is not said.
    Unknown,
}

/// A claim in use by a pod that may write to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveMount {
    /// The claim as `namespace/name`.
    pub claim: String,
    /// The pod as `namespace/name`.
    pub pod: String,
}

/// A workload that a drain may have stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveWorkload {
    /// Its Namespace.
    pub namespace: String,
    /// `deployment/name` or `statefulset/name`.
    pub workload: String,
    /// Its UID.
    pub uid: String,
    /// Its `metadata.generation`.
    pub generation: i64,
}

/// An object of a hold: deleted and made again, or edited, it is another one.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HoldObject {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its `metadata.generation`, which grows with every change of its spec.
    pub generation: i64,
}

/// Keys of node affinity that name a place larger than one machine.
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
    /// Asks a cluster. `list` returns every item at a path of the API, all pages of it; its error is
    /// the reason for which the gate stays closed.
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
            return Err("it lists no Namespace kube-system".to_owned());
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

    /// Everything that holds data: each claim with its volume, each volume whose claim is gone or
    /// was made again, and each volume that no claim owns. A claim that was never bound holds none.
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

    /// Whether the object with the UID `owner` is one of `removed`, or is owned by one of them.
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

    /// A pod that may write to the claim called `claim`.
    pub(crate) fn writer_of(&self, claim: &str) -> Option<&str> {
        self.mounts.iter().find(|mount| mount.claim == claim).map(|mount| mount.pod.as_str())
    }

    pub(crate) fn workload(&self, namespace: &str, workload: &str) -> Option<&LiveWorkload> {
        let is_it =
            |found: &&LiveWorkload| found.namespace == namespace && found.workload == workload;
        self.workloads.iter().find(is_it)
    }

    pub(crate) fn policy(&self, name: &str) -> Option<&HoldObject> {
        self.policies.iter().find(|object| object.name == name)
    }

    pub(crate) fn binding(&self, name: &str) -> Option<&HoldObject> {
        self.bindings.iter().find(|object| object.name == name)
    }
}

impl LiveClaim {
    /// `namespace/name`.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl NodeScope {
    /// Whether the removal of the nodes called `removed` may take the data.
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
        // A claimRef without a UID reserves the volume for a claim that has not bound it yet.
        claim: (!claim.2.is_empty()).then_some(claim),
        nodes: nodes(&object["spec"]),
    }
}

/// Nodes on which the data of a `PersistentVolume` with this `spec` is.
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

/// Claims that `pod` mounts and may write to, unless it has ended. A mount that is read-only for the
/// whole pod (`persistentVolumeClaim.readOnly`) cannot write.
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
        // A generic ephemeral volume has a claim called after the pod and the volume.
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
