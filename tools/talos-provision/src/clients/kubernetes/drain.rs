//! Evicts the pods of a machine that is removed, as `kubectl drain --ignore-daemonsets` does.
//!
//! The rules are those of kubectl (v1.36, `k8s.io/kubectl/pkg/drain/filters.go` and `drain.go`),
//! and of the Eviction API
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/>). A pod is evicted only
//! when its `PodDisruptionBudget` allows the eviction. If the budget does not, the request is
//! repeated until the declared limit.
//!
//! **Invariant:** pods are only evicted, never deleted directly.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ::kubernetes::Change;
use documents::{Reason, Refusal};
use serde_json::{Value, json};

use super::{Reader, RegisteredNode, Writer};
use crate::Error;
use crate::spec::{EmptyDir, Removal};

/// Pause between two lists of a machine's pods.
const PAUSE: Duration = Duration::from_secs(1);

/// Decision about a pod whose machine is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodAction {
    /// The pod stays until the machine goes: a pod of a `DaemonSet`, or a static pod that the
    /// kubelet started from a file.
    Keep,
    /// The pod is evicted.
    Evict,
    /// An eviction would lose something, so a person has to decide.
    Block(Loss),
}

/// Data or state that an eviction would lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Contents of the pod's `emptyDir` volumes.
    EmptyDir,
    /// The pod itself, because no controller starts another one.
    Pod,
}

/// Decides about `pod`. The order of the checks is that of kubectl's filters.
pub(crate) fn pod_action(pod: &Value, empty_dir: EmptyDir) -> PodAction {
    let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let controller = owners.into_iter().find(|owner| owner["controller"] == true);
    let finished = ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == **phase);
    if !finished && controller.is_some_and(|owner| owner["kind"] == "DaemonSet") {
        return PodAction::Keep;
    }
    if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
        return PodAction::Keep;
    }
    if finished || is_terminating(pod) {
        return PodAction::Evict;
    }
    let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let has_empty_dir = volumes.any(|volume| volume["emptyDir"].is_object());
    if controller.is_none() {
        return PodAction::Block(Loss::Pod);
    }
    if has_empty_dir && empty_dir == EmptyDir::Refuse {
        return PodAction::Block(Loss::EmptyDir);
    }
    PodAction::Evict
}

fn is_terminating(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_string()
}

/// Result of an eviction request.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The pod is terminating or gone.
    Accepted,
    /// The eviction is not possible now, for this reason.
    Later(String),
}

/// Interprets the answer to an eviction request. If the pod does not exist, or its name belongs to
/// another pod by now, the pod is gone. Any other error counts as temporary, and is reported when the
/// limit is reached.
fn answer(end: Result<Value, ::kubernetes::Error>) -> Answer {
    use ::kubernetes::Error::{Conflict, DisruptionBudget, NotFound, RateLimited};
    match end {
        Ok(_) | Err(NotFound { .. } | Conflict { .. }) => Answer::Accepted,
        Err(DisruptionBudget { message, .. } | RateLimited { message, .. }) => {
            Answer::Later(message)
        }
        Err(error) => Answer::Later(error.to_string()),
    }
}

fn pod_name(pod: &Value) -> String {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

/// Lists the pods of a node.
fn pods(reader: &Reader, node: &str) -> Result<Vec<Value>, ::kubernetes::Error> {
    reader.list(&format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}"))
}

/// Returns the pods of a node that must not be evicted, each with the reason.
pub(crate) fn blocked(
    reader: &Reader,
    node: &str,
    removal: Removal,
) -> Result<Vec<Refusal>, Error> {
    Ok(refusals(node, &pods(reader, node)?, removal))
}

fn refusals(node: &str, pods: &[Value], removal: Removal) -> Vec<Refusal> {
    let refusal = |pod: &Value| {
        let PodAction::Block(loss) = pod_action(pod, removal.empty_dir) else { return None };
        let name = pod_name(pod);
        let (reason, why) = match loss {
            Loss::Pod => (
                Reason::NoController,
                "no controller starts this pod again on another machine; create a controller for the pod, or \
                 delete the pod if it is not needed",
            ),
            Loss::EmptyDir => (
                Reason::EmptyDir,
                "the contents of its `emptyDir` volume would be lost; save them, and declare \
                 `removal: {emptyDir: discard}`",
            ),
        };
        let message = format!("pod {name} on {node}: {why}");
        Some(Refusal { object: format!("pod {name}"), reason, message })
    };
    pods.iter().filter_map(refusal).collect()
}

/// Fails if any of `pods` must not be evicted.
fn require_evictable(node: &str, pods: &[Value], removal: Removal) -> Result<(), Error> {
    let refusals = refusals(node, pods, removal);
    if refusals.is_empty() {
        return Ok(());
    }
    Err(Error::PodsLost { machine: node.to_owned(), refusals })
}

/// Cordons a node, evicts its pods, and pending until they are gone and their volumes are detached.
/// Fails when no pod has left for as long as the document allows. After an interruption the next
/// call continues, because the cluster itself shows the progress.
pub(crate) fn drain(
    writer: &Writer<'_>,
    node: &RegisteredNode,
    removal: Removal,
) -> Result<(), Error> {
    require_evictable(&node.name, &pods(writer.reader, &node.name)?, removal)?;
    writer.cordon(node)?;
    let limit = Duration::from(removal.eviction_seconds);
    let (mut least, mut since) = (usize::MAX, Instant::now());
    loop {
        documents::check_interrupt()?;
        let pending = match evict_all(writer, node, removal)? {
            Ok(pending) => pending,
            Err(why) => vec![why],
        };
        if pending.is_empty() {
            return Ok(());
        }
        if pending.len() < least {
            (least, since) = (pending.len(), Instant::now());
        }
        documents::detail(&node.name, pending.join("; "));
        if since.elapsed() > limit {
            return Err(Error::NotEvicted {
                machine: node.name.clone(),
                seconds: limit.as_secs(),
                why: pending.join("; "),
            });
        }
        documents::pause(PAUSE)?;
    }
}

/// Requests the eviction of every remaining pod. Returns the pods and volumes that are not gone
/// yet.
fn evict_all(
    writer: &Writer<'_>,
    node: &RegisteredNode,
    removal: Removal,
) -> Result<Result<Vec<String>, String>, Error> {
    let reader = writer.reader;
    let pods = match pods(reader, &node.name) {
        Ok(pods) => pods,
        Err(error) => return Ok(Err(error.to_string())),
    };
    require_evictable(&node.name, &pods, removal)?;
    let goes = |pod: &&Value| pod_action(pod, removal.empty_dir) == PodAction::Evict;
    let mut pending = Vec::new();
    for pod in pods.iter().filter(goes) {
        documents::check_interrupt()?;
        if is_terminating(pod) {
            // The kubelet of a lost machine never confirms the end of a pod.
            if node.ready {
                pending.push(format!("{} is terminating", pod_name(pod)));
            }
            continue;
        }
        pending.push(match answer(evict(writer, pod)) {
            Answer::Accepted => format!("{} is terminating", pod_name(pod)),
            Answer::Later(why) => format!("{}: {why}", pod_name(pod)),
        });
    }
    if !pending.is_empty() || !node.ready {
        return Ok(Ok(pending));
    }
    Ok(attached(reader, &node.name, &pods).map_err(|error| error.to_string()))
}

fn evict(writer: &Writer<'_>, pod: &Value) -> Result<Value, ::kubernetes::Error> {
    let meta = &pod["metadata"];
    let (namespace, name) = (meta["namespace"].as_str(), meta["name"].as_str());
    let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    let body = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"namespace": namespace, "name": name},
        // The UID protects a new pod of the same name, which may have been started on another
        // machine.
        "deleteOptions": {"preconditions": {"uid": meta["uid"]}},
    });
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
    (writer.send)(&Change::evict(&path, &body))
}

/// Returns the volumes that are attached to `node`, without those of pods that stay on the machine.
fn attached(
    reader: &Reader,
    node: &str,
    pods: &[Value],
) -> Result<Vec<String>, ::kubernetes::Error> {
    let attachments = reader.list("/apis/storage.k8s.io/v1/volumeattachments")?;
    let mut here: Vec<_> =
        attachments.iter().filter(|attachment| attachment["spec"]["nodeName"] == node).collect();
    if here.is_empty() {
        return Ok(Vec::new());
    }
    let mounted: BTreeSet<String> = pods.iter().flat_map(claims).collect();
    let volumes = reader.list("/api/v1/persistentvolumes")?;
    let stays = |volume: &Value| {
        let claim = &volume["spec"]["claimRef"];
        let text = |field: &str| claim[field].as_str().unwrap_or_default();
        mounted.contains(&format!("{}/{}", text("namespace"), text("name")))
    };
    here.retain(|attachment| {
        let name = &attachment["spec"]["source"]["persistentVolumeName"];
        !volumes.iter().any(|volume| volume["metadata"]["name"] == *name && stays(volume))
    });
    let text = |attachment: &&Value| {
        let name = attachment["spec"]["source"]["persistentVolumeName"].as_str();
        format!("volume {} is still attached", name.unwrap_or_default())
    };
    Ok(here.iter().map(text).collect())
}

/// Returns the volume claims of a pod, as `namespace/name`.
fn claims(pod: &Value) -> Vec<String> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let claims = volumes.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
    claims.map(|name| format!("{namespace}/{name}")).collect()
}

#[cfg(test)]
mod tests;
