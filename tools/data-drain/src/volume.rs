//! A volume as a source: a pod of ours mounts it, where it cannot write, and hands out an archive.
//!
//! **Invariant:** no key and no credential is ever in the cluster; what leaves the pod is
//! encrypted here.

use serde_json::{Value, json};

use crate::claim::{Place, Report};
use crate::cluster::{Reader, Writer};
use crate::exec::Running;
use crate::labels::LABEL;
use crate::spec::Claim;
use crate::{Error, Limit, pack};

/// Where the volume is, in the pod.
const FOLDER: &str = "/data";
/// When Kubernetes ends a reader in any case: a week, for a volume of terabytes. A reader whose
/// drain was killed ends by itself half an hour later.
const DEADLINE_SECONDS: u32 = 7 * 24 * 3600;
/// Limit of a pod's name (RFC 1123 subdomain), less the digest of a longer one.
const NAME_BYTES_MAX: usize = 253 - 17;

/// How readers are made: the same for every claim of a drain.
#[derive(Clone, Copy)]
pub(crate) struct Readers<'a> {
    pub(crate) drain: &'a str,
    pub(crate) image: &'a str,
    pub(crate) reader: &'a Reader,
    pub(crate) writer: &'a Writer,
    pub(crate) limit: Limit,
}

/// The pod that reads one claim; it goes when this does.
pub(crate) struct Volume<'a> {
    readers: Readers<'a>,
    claim: &'a Claim,
    pod: String,
}

/// Why the API server would not let a reader of `claim` in: Pod Security, quota, admission. Nothing
/// is created.
pub(crate) fn refusal(
    reader: &Reader,
    drain: &str,
    image: &str,
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
        // A run that was killed has left it, perhaps on another node.
        volume.remove()?;
        limit.until(|| {
            let left = reader.get(&volume.path())?;
            Ok(left.map(|_| volume.not_running("the pod of an earlier run has not gone yet")))
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
                // The pod goes with this error, and its events are hard to find afterwards.
                let why = [vec![why], volume.events()].concat().join("; ");
                Err(Error::NoReader { seconds, pod, why })
            }
            Err(error) => Err(error),
        }
    }
}

impl Volume<'_> {
    /// The archive, as it is written.
    pub(crate) fn read(&self) -> Result<Running, Error> {
        self.run("read")
    }

    /// What the volume holds that an archive does not keep.
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
        if pod["metadata"]["labels"][LABEL].is_null() {
            let request = format!("start the pod {}", self.pod);
            let who = "the cluster".to_owned();
            let message =
                format!("a pod of that name lacks the label {LABEL}, so no drain made it");
            return Err(Error::Rejected { who, request, message });
        }
        self.readers.writer.delete(&self.path(), &pod["metadata"]["uid"])
    }

    /// The warnings that the cluster has recorded about the pod.
    fn events(&self) -> Vec<String> {
        let Claim { namespace, .. } = self.claim;
        let selector = format!("involvedObject.name%3D{}%2Ctype%3DWarning", self.pod);
        let path = format!("/api/v1/namespaces/{namespace}/events?fieldSelector={selector}");
        let events = self.readers.reader.list(&path).unwrap_or_default();
        let told = events.iter().filter_map(|event| event["message"].as_str());
        let mut told: Vec<_> = told.map(str::to_owned).collect();
        told.dedup();
        told.truncate(5);
        told
    }

    fn not_running(&self, why: &str) -> Error {
        let seconds = self.readers.limit.seconds;
        Error::NoReader { seconds, pod: self.pod.clone(), why: why.to_owned() }
    }
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            let text = format!("the pod could not be removed, the next run does it: {error}");
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

/// Why a pod does not run yet, by its own account.
fn why(pod: &Value) -> String {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let state = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    let waits = [&state["reason"], &state["message"], &pod["status"]["message"]];
    let told = conditions.filter(|condition| condition["status"] == "False");
    let told = waits.into_iter().chain(told.map(|condition| &condition["message"]));
    let mut told: Vec<_> = told.filter_map(Value::as_str).collect();
    told.dedup();
    if told.is_empty() { "its status gives no reason".to_owned() } else { told.join("; ") }
}

/// Root, because files belong to any user: it may read them all, and nothing else.
fn manifest(drain: &str, pod: &str, claim: &Claim, image: &str, place: &Place) -> Value {
    let mut manifest = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod, "namespace": claim.namespace, "labels": {LABEL: drain}},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 0,
            // The data is where it is, whatever keeps other pods off that node.
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {
                "runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "reader",
                "image": image,
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
    if let Place::Node(node) = place {
        // By its name: the label `kubernetes.io/hostname` may be another one.
        manifest["spec"]["affinity"] = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{
                "matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}],
            }]},
        }});
    }
    manifest
}
