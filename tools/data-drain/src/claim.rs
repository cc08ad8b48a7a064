//! Decides whether a claim can be drained, and on which node. Pure: no client, no clock.
//!
//! **Invariant:** a claim is refused before a workload stops, unless the reason is in its content.
//! **Invariant:** the reader of a node-local volume runs on the node that is known to hold the
//! data, or nowhere. The kubelet creates an empty folder on any other node (`DirectoryOrCreate`).

use std::collections::BTreeSet;

use contract::labels::{DRAIN, NODE};
use serde::Deserialize;
use serde_json::Value;

use crate::spec::Source;

/// The objects of the cluster that concern one claim.
pub(crate) struct Facts<'a> {
    pub(crate) drain: &'a str,
    pub(crate) source: &'a Source,
    pub(crate) claim: &'a Value,
    /// `PersistentVolume` of the claim; `None` if the claim is unbound.
    pub(crate) volume: Option<&'a Value>,
    /// Workload that `freeze` names; `None` if it does not exist.
    pub(crate) workload: Option<&'a Value>,
    /// Every pod of the claim's namespace.
    pub(crate) pods: &'a [Value],
    /// Every `VolumeAttachment` of the cluster.
    pub(crate) attachments: &'a [Value],
    /// Names of the cluster's nodes.
    pub(crate) nodes: &'a [String],
}

/// A pod that mounts a claim, or is about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// Namespace and name, for example `default/db-0`.
    pub(crate) pod: String,
    pub(crate) node: Option<String>,
    /// Controller of a pod that the drain does not stop; `None` if the drain stops the pod.
    pub(crate) foreign: Option<String>,
}

/// The node on which a volume is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// This node, because it has the data or a pod used the volume there.
    Node(String),
    /// Any node that the volume's affinity permits. The scheduler chooses.
    Scheduled,
}

/// Result for one claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) users: Vec<User>,
    /// Node of the reader; `None` if the claim is refused.
    pub(crate) place: Option<Place>,
    /// Reasons why the claim cannot be drained as it is.
    pub(crate) refused: Vec<String>,
    /// Facts that a person should know before the drain, and that do not prevent it.
    pub(crate) notes: Vec<String>,
    /// Whether only one pod of the cluster may use the volume. Such a volume cannot be surveyed while the
    /// workload runs.
    pub(crate) exclusive: bool,
}

/// Decides whether one claim can be drained, from the facts alone.
pub(crate) fn judge(facts: &Facts<'_>) -> Verdict {
    let mut verdict = Verdict { users: users(facts), ..Verdict::default() };
    let modes = strings(&facts.claim["spec"]["accessModes"]);
    verdict.exclusive = modes.contains(&"ReadWriteOncePod");
    if verdict.exclusive && !verdict.users.is_empty() {
        verdict.notes.push(
            "ReadWriteOncePod: its content is checked after the workload has stopped".to_owned(),
        );
    }
    state(facts, &mut verdict);
    ownership(facts, &mut verdict);
    for user in &verdict.users {
        if let Some(owner) = &user.foreign {
            let why = format!(
                "the pod {} ({owner}) mounts it, and the drain does not stop that pod: stop it, or name \
                 its workload in `freeze`",
                user.pod
            );
            verdict.refused.push(why);
        }
        if user.node.is_none() && user.foreign.is_none() {
            verdict.notes.push(format!("the pod {} is pending and has no node yet", user.pod));
        }
    }
    match place(facts, &verdict.users) {
        Ok(place) if verdict.refused.is_empty() => verdict.place = Some(place),
        Ok(_) => {}
        Err(why) => verdict.refused.push(why),
    }
    verdict
}

/// Refuses a claim whose volume cannot be mounted as a folder.
fn state(facts: &Facts<'_>, verdict: &mut Verdict) {
    let claim = facts.claim;
    let phase = claim["status"]["phase"].as_str().unwrap_or("Pending");
    if phase != "Bound" || facts.volume.is_none() {
        let why = format!("it is not bound to a volume: its phase is {phase}");
        verdict.refused.push(why);
    }
    if claim["spec"]["volumeMode"] == "Block" {
        let why = "`spec.volumeMode` is Block: a device has no files. Copy it with the tool that \
                   writes to it";
        verdict.refused.push(why.to_owned());
    }
    if claim["metadata"]["deletionTimestamp"].is_string() {
        let why = "it is being deleted and disappears with its last pod: copy its data before \
                   anything stops, with a pod that mounts it";
        verdict.refused.push(why.to_owned());
    }
    if facts.volume.is_some_and(|volume| volume["metadata"]["deletionTimestamp"].is_string()) {
        verdict.notes.push("its PersistentVolume is being deleted".to_owned());
    }
    // A volume of an earlier claim of the same name may still be bound to it.
    let bound = facts.volume.map(|volume| &volume["spec"]["claimRef"]["uid"]);
    if bound.is_some_and(|uid| uid.is_string() && *uid != claim["metadata"]["uid"]) {
        verdict.refused.push("its PersistentVolume belongs to another claim".to_owned());
    }
}

/// Refuses a claim that Kubernetes deletes when the workload stops.
fn ownership(facts: &Facts<'_>, verdict: &mut Verdict) {
    let owners = facts.claim["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    for owner in owners {
        let name = format!("{}/{}", word(&owner["kind"]), word(&owner["name"]));
        if owner["kind"] == "Pod" {
            let why = format!(
                "it belongs to {name} and is deleted with that pod, so stopping the workload loses \
                 the data: remove the claim's ownerReferences first"
            );
            verdict.refused.push(why);
        } else {
            verdict.notes.push(format!("it is deleted when {name} is deleted"));
        }
    }
    let Some(workload) = facts.workload else { return };
    let policy = &workload["spec"]["persistentVolumeClaimRetentionPolicy"];
    if policy["whenScaled"] == "Delete" {
        // https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#persistentvolumeclaim-retention
        let why = format!(
            "`persistentVolumeClaimRetentionPolicy.whenScaled` of the StatefulSet {} is Delete, so \
             stopping it deletes its claims: set it to Retain",
            word(&workload["metadata"]["name"])
        );
        verdict.refused.push(why);
    }
}

/// Returns the pods that use the claim and have not ended, except readers.
fn users(facts: &Facts<'_>) -> Vec<User> {
    let claim = word(&facts.claim["metadata"]["name"]);
    let pods = facts.pods.iter().filter(|pod| uses(pod, claim, facts.drain));
    let user = |pod: &Value| {
        let (namespace, name) = (&pod["metadata"]["namespace"], &pod["metadata"]["name"]);
        let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
        User {
            pod: format!("{}/{}", word(namespace), word(name)),
            node: node.map(str::to_owned),
            foreign: foreign(pod, facts.workload),
        }
    };
    let mut users: Vec<_> = pods.map(user).collect();
    users.sort_by(|a, b| a.pod.cmp(&b.pod));
    users
}

/// Whether a pod that has not ended mounts the claim and could change it.
fn uses(pod: &Value, claim: &str, drain: &str) -> bool {
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let ephemeral = |volume: &Value| {
        let name = format!("{}-{}", word(&pod["metadata"]["name"]), word(&volume["name"]));
        volume["ephemeral"].is_object() && name == claim
    };
    let mounts = |volume: &&Value| {
        volume["persistentVolumeClaim"]["claimName"] == claim || ephemeral(volume)
    };
    let mut mounts = volumes.filter(mounts).peekable();
    // The label alone does not identify a reader: a reader also mounts the claim read-only.
    let reader = pod["metadata"]["labels"][DRAIN] == drain
        && mounts.peek().is_some_and(|volume| volume["persistentVolumeClaim"]["readOnly"] == true);
    !ended && !reader && mounts.next().is_some()
}

/// Returns the controller of `pod`, unless it is `workload`.
fn foreign(pod: &Value, workload: Option<&Value>) -> Option<String> {
    let mut owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let Some(owner) = owners.find(|owner| owner["controller"] == true) else {
        return Some("no controller".to_owned());
    };
    let is_stopped = workload.is_some_and(|workload| match owner["kind"].as_str() {
        Some("StatefulSet") => owner["uid"] == workload["metadata"]["uid"],
        Some("ReplicaSet") => {
            workload["kind"] != "StatefulSet" && selects(&workload["spec"]["selector"], pod)
        }
        _ => false,
    });
    (!is_stopped).then(|| format!("{}/{}", word(&owner["kind"]), word(&owner["name"])))
}

/// Whether a label selector selects the pod.
fn selects(selector: &Value, pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    let mut rules = selector["matchExpressions"].as_array().into_iter().flatten();
    exact.into_iter().all(|(name, value)| labels[name.as_str()] == *value)
        && rules.all(|rule| {
            let label = &labels[word(&rule["key"])];
            let listed = strings(&rule["values"]).contains(&label.as_str().unwrap_or_default());
            match rule["operator"].as_str() {
                Some("In") => label.is_string() && listed,
                Some("NotIn") => !(label.is_string() && listed),
                Some("Exists") => label.is_string(),
                Some("DoesNotExist") => label.is_null(),
                _ => false,
            }
        })
}

/// Chooses the node of the reader, or returns the reason why no node can read the volume.
fn place(facts: &Facts<'_>, users: &[User]) -> Result<Place, String> {
    let spec = facts.volume.map_or(&Value::Null, |volume| &volume["spec"]);
    let has_affinity = spec["nodeAffinity"]["required"].is_object();
    let node_local = spec["hostPath"].is_object() || spec["local"].is_object();
    let nodes: BTreeSet<_> = users.iter().filter_map(|user| user.node.as_deref()).collect();
    if node_local && nodes.len() > 1 {
        let nodes: Vec<_> = nodes.into_iter().collect();
        return Err(format!(
            "its volume is a folder of each node, and pods use it on several: {}",
            nodes.join(", ")
        ));
    }
    let exists = |node: &str| facts.nodes.iter().any(|name| name == node);
    let known = nodes.first().copied();
    if let Some(named) = facts.source.node.as_deref() {
        return match known {
            Some(known) if node_local && known != named => {
                Err(format!("`node` is {named}, but its pod runs on {known}"))
            }
            _ if !exists(named) => Err(format!("`node` is {named}, and no node has that name")),
            _ => Ok(Place::Node(named.to_owned())),
        };
    }
    if let Some(known) = known {
        return Ok(Place::Node(known.to_owned()));
    }
    let remembered = facts.claim["metadata"]["annotations"][NODE].as_str();
    if let Some(node) = remembered.filter(|node| exists(node)) {
        return Ok(Place::Node(node.to_owned()));
    }
    if has_affinity {
        return Ok(Place::Scheduled);
    }
    if let Some(node) = attached(facts).filter(|node| exists(node)) {
        return Ok(Place::Node(node.to_owned()));
    }
    if !node_local {
        return Ok(Place::Scheduled);
    }
    Err(match remembered {
        Some(node) => format!("its volume is a folder of the node {node}, which no longer exists"),
        None => "its volume is a folder of one node, and no pod shows which: set `node` in the \
                 source to the node that holds the data"
            .to_owned(),
    })
}

/// Returns the node to which the volume is attached.
fn attached<'a>(facts: &Facts<'a>) -> Option<&'a str> {
    let volume = &facts.volume?["metadata"]["name"];
    let mut attachments = facts.attachments.iter();
    let attachment = attachments.find(|attachment| {
        attachment["spec"]["source"]["persistentVolumeName"] == *volume
            && attachment["status"]["attached"] == true
    });
    attachment?["spec"]["nodeName"].as_str()
}

/// Report of `volume-reader` about a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Report {
    pub(crate) entries: u64,
    pub(crate) empty: bool,
    pub(crate) nested: Findings,
    pub(crate) sockets: Findings,
    pub(crate) holes: Findings,
}

/// Number and first names of the entries of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Findings {
    pub(crate) count: u64,
    pub(crate) names: Vec<String>,
}

impl Report {
    /// Reasons in the volume's content why the claim cannot be drained.
    pub(crate) fn refused(&self, allow_empty: bool) -> Vec<String> {
        let mut refused = Vec::new();
        if self.nested.count > 0 {
            let names = self.nested.names.join(", ");
            refused.push(format!(
                "another file system is mounted in the volume: {names}. Drain it as a claim of its \
                 own, or unmount it"
            ));
        }
        if self.empty && !allow_empty {
            refused.push(
                "the volume is empty: it may be the wrong one. If it is right, set `allowEmpty` in \
                 the source"
                    .to_owned(),
            );
        }
        refused
    }

    /// Lists properties of the volume that a copy does not preserve.
    pub(crate) fn not_kept(&self) -> Vec<String> {
        let line = |findings: &Findings, what: &str| {
            let more = if findings.count > findings.names.len() as u64 { ", …" } else { "" };
            let names = findings.names.join(", ");
            (findings.count > 0).then(|| format!("{} {what}: {names}{more}", findings.count))
        };
        let sockets = line(&self.sockets, "sockets are not copied");
        let holes = line(&self.holes, "files have holes, which are copied as zeros");
        sockets.into_iter().chain(holes).collect()
    }
}

fn strings(values: &Value) -> Vec<&str> {
    values.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
