//! A volume as a source: a reader pod mounts the volume read-only and streams an archive of it.
//!
//! **Invariant:** the cluster never gets a key or credential. The data is encrypted on this machine.

use contract::labels::DRAIN;
use serde_json::{Value, json};

use crate::claim::{Place, Report};
use crate::clients::cluster::exec::Running;
use crate::clients::cluster::{Reader, Writer};
use crate::desired::ReaderImage;
use crate::spec::Claim;
use crate::{Error, Limit, pack};

/// Mount path of the volume in the pod.
const FOLDER: &str = "/data";
/// Deadline after which Kubernetes ends a reader: a week, enough for a volume of terabytes. A reader
/// whose drain was killed ends by itself after half an hour.
const DEADLINE_SECONDS: u32 = 7 * 24 * 3600;
/// Limit of a pod's name (RFC 1123 subdomain), less the digest of a longer one.
const NAME_BYTES_MAX: usize = 253 - 17;

/// Parameters of the reader pods, which are the same for every claim of a drain.
#[derive(Clone, Copy)]
pub(crate) struct Readers<'a> {
    pub(crate) drain: &'a str,
    pub(crate) image: &'a ReaderImage,
    pub(crate) reader: &'a Reader,
    pub(crate) writer: &'a Writer,
    pub(crate) limit: Limit,
}

/// A reader pod of one claim, which is deleted when the value is dropped.
pub(crate) struct Volume<'a> {
    readers: Readers<'a>,
    claim: &'a Claim,
    pod: String,
}

/// Returns the reason why the API server would not admit a reader of `claim`, for example Pod Security or
/// a quota. The request is a dry run.
pub(crate) fn refusal(
    reader: &Reader,
    drain: &str,
    image: &ReaderImage,
    (claim, place): (&Claim, &Place),
) -> Result<Option<String>, Error> {
    let pods = format!("/api/v1/namespaces/{}/pods", claim.namespace);
    let mut pod = manifest(drain, &pod_name(claim), claim, image, place);
    pod["metadata"]["name"] = Value::Null;
    pod["metadata"]["generateName"] = "data-drain-probe-".into();
    reader.dry_run(&pods, &pod)
}

impl Readers<'_> {
    /// Starts the pod and waits until it runs.
    pub(crate) fn mount<'b>(
        &'b self,
        claim: &'b Claim,
        place: &Place,
    ) -> Result<Volume<'b>, Error> {
        let volume = Volume { readers: *self, claim, pod: pod_name(claim) };
        let Self { reader, limit, .. } = self;
        // Delete the reader of a killed run, which may be on another node.
        volume.remove()?;
        limit.until(|| {
            let left = reader.get(&volume.path())?;
            Ok(left.map(|_| volume.not_running("the pod of an earlier run is not deleted yet")))
        })?;
        let declared = manifest(self.drain, &volume.pod, claim, self.image, place);
        let pods = format!("/api/v1/namespaces/{}/pods", claim.namespace);
        limit.until(|| {
            let created = self.writer.create(&pods, &declared)?;
            Ok((!created).then(|| volume.not_running("another pod has its name")))
        })?;
        let started = limit.until(|| {
            let pod = reader.get(&volume.path())?.unwrap_or_default();
            if let Some("Failed" | "Succeeded") = pod["status"]["phase"].as_str() {
                return Err(volume.not_running(&format!("it has ended: {}", why(&pod))));
            }
            let is_ready = pod["status"]["containerStatuses"][0]["state"]["running"].is_object();
            Ok((!is_ready).then(|| volume.not_running(&why(&pod))))
        });
        match started {
            Ok(()) => Ok(volume),
            Err(Error::NoReader { seconds, pod, why }) => {
                // Include the events, because the pod is deleted with this error.
                let why = [vec![why], volume.events()].concat().join("; ");
                Err(Error::NoReader { seconds, pod, why })
            }
            Err(error) => Err(error),
        }
    }
}

impl Volume<'_> {
    /// Starts reading the archive of the volume.
    pub(crate) fn read(&self) -> Result<Running, Error> {
        self.run("read")
    }

    /// Surveys the volume for content that an archive does not preserve.
    pub(crate) fn survey(&self) -> Result<Report, Error> {
        let failed = |source| Error::Read { source_name: self.claim.to_string(), source };
        Ok(self.run("survey")?.finish().map_err(failed)?.0)
    }

    fn run(&self, verb: &str) -> Result<Running, Error> {
        let command = ["/bin/volume-reader", verb, "--framed", FOLDER];
        self.readers.writer.run(&self.claim.namespace, &self.pod, &command)
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.claim.namespace, self.pod)
    }

    fn remove(&self) -> Result<(), Error> {
        let Some(pod) = self.readers.reader.get(&self.path())? else { return Ok(()) };
        if pod["metadata"]["labels"][DRAIN].is_null() {
            let request = format!("start the pod {}", self.pod);
            let who = "the cluster".to_owned();
            let message = format!(
                "a pod of that name lacks the label {DRAIN}, so that another owner created it"
            );
            return Err(Error::Rejected { who, request, message });
        }
        self.readers.writer.delete(&self.path(), &pod["metadata"]["uid"])
    }

    /// Returns at most five warnings from the pod's events.
    fn events(&self) -> Vec<String> {
        let Claim { namespace, .. } = self.claim;
        let selector = format!("involvedObject.name%3D{}%2Ctype%3DWarning", self.pod);
        let path = format!("/api/v1/namespaces/{namespace}/events?fieldSelector={selector}");
        let events = self.readers.reader.list(&path).unwrap_or_default();
        let messages = events.iter().filter_map(|event| event["message"].as_str());
        let mut messages: Vec<_> = messages.map(str::to_owned).collect();
        messages.dedup();
        messages.truncate(5);
        messages
    }

    fn not_running(&self, why: &str) -> Error {
        let seconds = self.readers.limit.seconds;
        Error::NoReader { seconds, pod: self.pod.clone(), why: why.to_owned() }
    }
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            let text =
                format!("the pod could not be deleted, so that the next run deletes it: {error}");
            documents::note(&self.pod, text);
        }
    }
}

fn pod_name(claim: &Claim) -> String {
    let name = format!("data-drain-{}", claim.name);
    if name.len() <= NAME_BYTES_MAX {
        return name;
    }
    let digest = pack::sha256(name.as_bytes());
    let kept = name[..NAME_BYTES_MAX].trim_end_matches(['-', '.']);
    format!("{kept}-{}", &digest[..16])
}

/// Returns the reason in a pod's status why it does not run yet.
fn why(pod: &Value) -> String {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let state = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    let waits = [&state["reason"], &state["message"], &pod["status"]["message"]];
    let messages = conditions.filter(|condition| condition["status"] == "False");
    let messages = waits.into_iter().chain(messages.map(|condition| &condition["message"]));
    let mut messages: Vec<_> = messages.filter_map(Value::as_str).collect();
    messages.dedup();
    if messages.is_empty() { "its status gives no reason".to_owned() } else { messages.join("; ") }
}

/// Renders the reader pod. It runs as root with only the capability `DAC_OVERRIDE`, because files may
/// belong to any user.
fn manifest(drain: &str, pod: &str, claim: &Claim, image: &ReaderImage, place: &Place) -> Value {
    let mut manifest = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod, "namespace": claim.namespace, "labels": {DRAIN: drain}},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 0,
            // The reader must run where the data is, so that it tolerates every taint.
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {
                "runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "reader",
                "image": image.reference,
                "args": ["wait"],
                "securityContext": {
                    "readOnlyRootFilesystem": true,
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]},
                },
                // Measured: 82 MiB for a folder of 1,000,000 names, 38 MiB for 200,000 files that
                // have two names each.
                "resources": {
                    "requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "1Gi"},
                },
                "volumeMounts": [{"name": "data", "mountPath": FOLDER, "readOnly": true}],
            }],
            "volumes": [{
                "name": "data", "persistentVolumeClaim": {"claimName": claim.name, "readOnly": true},
            }],
        },
    });
    if !image.pull_secrets.is_empty() {
        let secrets = image.pull_secrets.iter().map(|name| json!({"name": name}));
        manifest["spec"]["imagePullSecrets"] = secrets.collect();
    }
    if let Place::Node(node) = place {
        // Select by the node's name, because the label `kubernetes.io/hostname` may differ.
        manifest["spec"]["affinity"] = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{
                "matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}],
            }]},
        }});
    }
    manifest
}

#[cfg(test)]
mod tests {
    use super::*;

    // hazard: A sunset cannot copy the volumes, because the image of the reader is in a private registry.
    // class: Pods that a program creates lack the credentials that delivered pods have.
    // members: the reader of data-drain; Flux's controllers, which have theirs
    // now: `imagePullSecrets` of the Drain names the Secrets
    #[test]
    fn reader_pulls_its_image_with_the_declared_secrets_only() {
        let claim = Claim::try_from("shop/data".to_owned()).expect("a claim");
        let pod = |pull_secrets: &[&str]| {
            let name = |name: &&str| (*name).to_owned().try_into().expect("a name");
            let pull_secrets = pull_secrets.iter().map(name).collect();
            let image =
                ReaderImage { reference: "ghcr.io/me/reader@sha256:1".to_owned(), pull_secrets };
            manifest("prod", "pod", &claim, &image, &Place::Scheduled)
        };
        assert_eq!(pod(&[])["spec"]["imagePullSecrets"], Value::Null);
        let pod = pod(&["registry"]);
        assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
        assert_eq!(pod["spec"]["containers"][0]["image"], "ghcr.io/me/reader@sha256:1");
    }
}
