//! A volume as a source: a pod of ours mounts it, where it cannot write, and hands out an archive.
//!
//! **Invariant:** no key and no credential is ever in the cluster; what leaves the pod is
//! encrypted here.

use serde_json::{Value, json};

use crate::cluster::{Reader, Running, Writer};
use crate::observe::LABEL;
use crate::spec::Claim;
use crate::{Deadline, Error};

/// Where the volume is, in the pod.
const FOLDER: &str = "/data";

/// The pod that reads one claim; it goes when this does.
pub(crate) struct Volume<'a> {
    reader: &'a Reader,
    writer: &'a Writer,
    claim: &'a Claim,
    pod: String,
}

impl<'a> Volume<'a> {
    /// Starts the pod and waits until it runs.
    pub(crate) fn mount(
        drain: &str,
        claim: &'a Claim,
        image: &str,
        node: Option<&str>,
        (reader, writer): (&'a Reader, &'a Writer),
        deadline: &Deadline,
    ) -> Result<Self, Error> {
        let pod = format!("data-drain-{}", claim.name);
        let volume = Self { reader, writer, claim, pod };
        // One of a run that was cut short may be of another image.
        volume.remove()?;
        deadline.until(|| match reader.get(&volume.path()) {
            Ok(None) => Ok(None),
            Ok(Some(_)) => {
                Ok(Some(volume.not_running("an earlier one has not gone yet", deadline)))
            }
            Err(error) => Err(error),
        })?;
        let declared = manifest(drain, &volume.pod, claim, image, node);
        writer.apply(&volume.path(), &declared)?;
        deadline.until(|| {
            let pod = reader.get(&volume.path())?.unwrap_or_default();
            let is_ready = pod["status"]["containerStatuses"][0]["state"]["running"].is_object();
            Ok((!is_ready).then(|| volume.not_running(&why(&pod), deadline)))
        })?;
        Ok(volume)
    }

    /// The archive, as it is written.
    pub(crate) fn read(&self) -> Result<Running, Error> {
        self.writer.run(&self.claim.namespace, &self.pod, &["/bin/volume-reader", "read", FOLDER])
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.claim.namespace, self.pod)
    }

    fn remove(&self) -> Result<(), Error> {
        let Some(pod) = self.reader.get(&self.path())? else { return Ok(()) };
        if pod["metadata"]["labels"][LABEL].is_null() {
            let request = format!("start the pod {}: one of that name is not ours", self.pod);
            let (who, message) = ("the cluster".to_owned(), "remove it".to_owned());
            return Err(Error::Rejected { who, request, message });
        }
        self.writer.delete(&self.path(), &pod["metadata"]["uid"])
    }

    fn not_running(&self, why: &str, deadline: &Deadline) -> Error {
        Error::NoReader { seconds: deadline.seconds, pod: self.pod.clone(), why: why.to_owned() }
    }
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            phase::note(&self.pod, format_args!("stays for now: {error}"));
        }
    }
}

/// Why a pod does not run yet, by its own account.
fn why(pod: &Value) -> String {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let state = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    let waits = [&state["reason"], &state["message"]];
    let told = conditions.filter(|it| it["status"] == "False").map(|it| &it["message"]);
    let told = waits.into_iter().chain(told).filter_map(Value::as_str);
    let told: Vec<_> = told.collect();
    if told.is_empty() { "it has not been told why".to_owned() } else { told.join("; ") }
}

/// Root, since files belong to anybody; it may read them all, and nothing else.
fn manifest(drain: &str, pod: &str, claim: &Claim, image: &str, node: Option<&str>) -> Value {
    let mut manifest = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod, "namespace": claim.namespace, "labels": {LABEL: drain}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 0,
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
                "resources": {
                    "requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "128Mi"},
                },
                "volumeMounts": [{"name": "data", "mountPath": FOLDER, "readOnly": true}],
            }],
            "volumes": [{
                "name": "data", "persistentVolumeClaim": {"claimName": claim.name, "readOnly": true},
            }],
        },
    });
    if let Some(node) = node {
        // A volume that is a folder of one machine is empty on another.
        manifest["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    }
    manifest
}
