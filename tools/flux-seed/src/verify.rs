//! Is what runs what was attested? Asks the kubelets' own reports, by way of the API server.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::Error;
use crate::cluster::Reader;
use crate::kstatus::{condition, text};
use crate::object::{Identity, NAMESPACE};
use crate::observe::{self, Seen};
use crate::plan::Step;
use crate::wanted::Wanted;

/// How many owners stand between a pod and what was declared: `CronJob`, `Job`, pod.
const OWNERS: usize = 4;

/// Proves that `seen` is what is wanted, nothing being `left` to do, and that no container runs an image that is not among
/// `attested`, the digests of all artifacts that came in.
pub(crate) fn verify(
    reader: &Reader,
    wanted: &Wanted,
    (seen, left): (&Seen, &[Step]),
    attested: &BTreeSet<String>,
) -> Result<usize, Error> {
    observe::signature(wanted, seen)?;
    let (mut wrong, mut pending) = (Vec::new(), Vec::new());
    for step in left {
        // What somebody is still at work on is no proof of the contrary.
        let of = if matches!(step, Step::Reconcile { .. }) { &mut pending } else { &mut wrong };
        of.push(step.to_string());
    }
    for it in observe::foreign(wanted, &seen.world) {
        wrong.push(format!("{} has added {} to {}", it.manager, it.path, it.object));
    }
    wrong.extend(unverified(wanted, seen));
    let pinned: BTreeSet<String> = wanted
        .images
        .values()
        .filter_map(|it| it.now()?.rsplit_once('@').map(|(_, digest)| digest.to_owned()))
        .collect();
    let uid = |object: &Value| text(&object["metadata"], "uid").to_owned();
    let controllers = seen.world.iter().filter(|(id, _)| id.kind == "Deployment");
    let controllers: BTreeMap<_, _> =
        controllers.map(|(id, live)| (uid(&live.object), id.clone())).collect();
    let delivered: BTreeMap<_, _> = seen
        .inventory
        .iter()
        .filter_map(|(id, object)| Some((uid(object.as_ref()?), id.clone())))
        .collect();
    let mut namespaces: BTreeSet<&str> =
        seen.inventory.iter().filter_map(|(id, _)| id.namespace.as_deref()).collect();
    namespaces.insert(NAMESPACE);
    let mut proven = 0;
    for namespace in namespaces {
        for pod in reader.list("v1", "Pod", Some(namespace))? {
            let owners = owners(reader, &pod)?;
            let allowed = if owners.iter().any(|it| controllers.contains_key(it)) {
                &pinned
            } else if owners.iter().any(|it| delivered.contains_key(it)) {
                attested
            } else {
                continue;
            };
            proven += containers(&pod, allowed, &mut wrong, &mut pending);
        }
    }
    match (wrong.is_empty(), pending.is_empty()) {
        (true, true) => Ok(proven),
        (true, false) => Err(Error::NotYetProven { what: pending }),
        (false, _) => Err(Error::Unproven { what: wrong }),
    }
}

/// Whether Flux itself says that it has verified what it delivers.
fn unverified(wanted: &Wanted, seen: &Seen) -> Option<String> {
    let live = seen.world.get(&wanted.source)?;
    let verified = condition(&live.object, "SourceVerified");
    let is = verified.is_some_and(|it| {
        text(it, "status") == "True"
            && it["observedGeneration"] == live.object["metadata"]["generation"]
    });
    (!is).then(|| format!("{} does not say that its signature is verified", wanted.source))
}

/// The UIDs of `pod` and of all that it belongs to.
fn owners(reader: &Reader, pod: &Value) -> Result<Vec<String>, Error> {
    let mut uids = vec![text(&pod["metadata"], "uid").to_owned()];
    let namespace = text(&pod["metadata"], "namespace").to_owned();
    let mut of = pod.clone();
    for _ in 0..OWNERS {
        let references = of["metadata"]["ownerReferences"].as_array();
        let Some(owner) = references.into_iter().flatten().find(|it| it["controller"] == true)
        else {
            break;
        };
        uids.push(text(owner, "uid").to_owned());
        let id = Identity {
            api_version: text(owner, "apiVersion").to_owned(),
            kind: text(owner, "kind").to_owned(),
            namespace: Some(namespace.clone()),
            name: text(owner, "name").to_owned(),
        };
        match reader.get(&id)? {
            Some(owner) => of = owner,
            None => break,
        }
    }
    Ok(uids)
}

/// Adds what is wrong with the containers of `pod`, and what cannot be told yet; how many are
/// right.
fn containers(
    pod: &Value,
    allowed: &BTreeSet<String>,
    wrong: &mut Vec<String>,
    pending: &mut Vec<String>,
) -> usize {
    let id = Identity::of(pod);
    let (mut proven, mut told) = (0, 0);
    for list in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
        for it in pod["status"][list].as_array().into_iter().flatten() {
            let (name, image) = (text(it, "name"), text(it, "imageID"));
            match image.rsplit_once('@') {
                Some((_, digest)) if allowed.contains(digest) => proven += 1,
                _ if image.is_empty() => continue,
                _ => wrong.push(format!(
                    "container {name} of {id} runs {image}, which nobody has attested"
                )),
            }
            told += 1;
        }
    }
    let declared = ["initContainers", "containers", "ephemeralContainers"];
    let declared = declared.map(|it| pod["spec"][it].as_array().map_or(0, Vec::len));
    if told < declared.iter().sum::<usize>() {
        pending.push(format!("the kubelet has not said yet which images {id} runs"));
    }
    proven
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_proven_by_the_digest_that_its_kubelet_reports() {
        let allowed = BTreeSet::from(["sha256:a".to_owned()]);
        let pod = |images: &[&str]| {
            let statuses: Value =
                images.iter().map(|it| json!({"name": "it", "imageID": it})).collect();
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
                "spec": {"containers": [{}]}, "status": {"containerStatuses": statuses}})
        };
        let look = |images: &[&str]| {
            let (mut wrong, mut pending) = (Vec::new(), Vec::new());
            let proven = containers(&pod(images), &allowed, &mut wrong, &mut pending);
            (proven, wrong.len(), pending.len())
        };
        assert_eq!(look(&["r/x@sha256:a"]), (1, 0, 0));
        for other in ["r/x@sha256:b", "sha256:a", "r/x:a"] {
            assert_eq!(look(&[other]), (0, 1, 0), "{other}");
        }
        assert_eq!(look(&[""]), (0, 0, 1), "not pulled yet");
        assert_eq!(look(&[]), (0, 0, 1), "not started yet");
    }
}
