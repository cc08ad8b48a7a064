//! One observation of the cluster, the forge and the store. Reads only.

use std::collections::BTreeMap;

use contract::labels::{self, NODE, REPLICAS};
use contract::{ClaimSource, Copied, Drained, Envelope, Receipt, Stopped, VerifiedReceipt};
use serde_json::{Value, json};

use crate::claim::{Facts, Place, Verdict, judge};
use crate::clients::cluster;
use crate::clients::forge;
use crate::clients::store;
use crate::desired::Desired;
use crate::hold::{self, Held};
use crate::plan::{ActualState, At, Hold, NodeChange, SourceState};
use crate::spec::{Claim, Source, Workload};
use crate::{Error, pack};

/// Annotation that keeps Flux from starting again what was stopped, by its own rules
/// (<https://fluxcd.io/flux/components/kustomize/kustomizations/#controlling-the-apply-behavior-of-resources>).
pub(crate) const RECONCILE: &str = "kustomize.toolkit.fluxcd.io/reconcile";

/// Largest receipt, in bytes. The receipt of a volume of 3 TiB has 54,000 packs and 16 MiB.
const RECEIPT_BYTES_MAX: u64 = 256 << 20;

/// The result of one observation.
pub(crate) struct Observation {
    /// UID of the namespace `kube-system`, which identifies the cluster; empty for a removal.
    pub(crate) uid: String,
    pub(crate) sources: Vec<LiveSource>,
    pub(crate) held: Held,
    pub(crate) hold: hold::State,
    /// The receipt in the store for exactly this state.
    pub(crate) receipt: Option<(VerifiedReceipt, Envelope)>,
    /// Whether this run has read back every object of `receipt`.
    pub(crate) is_read_back: bool,
    /// Bound claims that no Drain names: `namespace/name`.
    pub(crate) uncovered: Vec<String>,
}

/// One source, as observed.
pub(crate) enum LiveSource {
    Claim(Box<LiveClaim>),
    Forge { repository: String, refs: String },
}

pub(crate) struct LiveClaim {
    pub(crate) claim: Claim,
    pub(crate) path: String,
    pub(crate) uid: String,
    /// Name of the claim's `PersistentVolume`.
    pub(crate) volume: String,
    /// Folder of a node that is the volume; absent for other volumes.
    folder: Option<String>,
    /// Node that the claim's annotation names.
    node: Option<String>,
    pub(crate) workload: Option<LiveWorkload>,
    pub(crate) verdict: Verdict,
    pub(crate) allow_empty: bool,
}

pub(crate) struct LiveWorkload {
    pub(crate) path: String,
    pub(crate) at: At,
    /// Present value of Flux's annotation.
    pub(crate) reconcile: Option<String>,
    /// Value of Flux's annotation before a drain changed it.
    pub(crate) reconciled: Option<String>,
    stopped: Stopped,
}

/// Observes everything that concerns a Drain.
pub(crate) fn observe(
    reader: &cluster::Reader,
    store: &store::Reader,
    desired: &Desired<'_>,
) -> Result<Observation, Error> {
    let kube_system = "/api/v1/namespaces/kube-system";
    let kube_system = reader.get(kube_system)?.ok_or_else(|| missing("Namespace kube-system"))?;
    let mut seen = claims(reader, desired.drain, desired.sources, Absent::IsAnError)?;
    seen.uid = text(&kube_system, "uid");
    for source in desired.sources {
        if let Some(forge) = &source.forge {
            let (url, token) = &desired.forges[forge.as_str()];
            let refs = pack::sha256(forge::refs(url, token)?.as_bytes());
            seen.sources.push(LiveSource::Forge { repository: forge.to_string(), refs });
        }
    }
    let all = reader.list("/api/v1/persistentvolumeclaims")?;
    let bound = all.iter().filter(|claim| claim["status"]["phase"] == "Bound");
    let names =
        bound.map(|claim| format!("{}/{}", text_of(claim, "namespace"), text_of(claim, "name")));
    seen.uncovered = names.filter(|name| !desired.covered.contains(name)).collect();
    seen.uncovered.sort();
    if let Some(draft) = seen.draft(desired) {
        let object = seen.receipt_object(desired, &draft.run);
        if let Some(text) = store.get(&object, RECEIPT_BYTES_MAX)? {
            let garbled = |_| Error::Tampered { object, why: "it is no receipt".to_owned() };
            let envelope: Envelope = serde_json::from_slice(&text).map_err(garbled)?;
            let receipt = envelope.open(desired.drain, desired.project, &desired.receipts)?;
            // What was signed for another state of the same drain is no receipt for this one.
            seen.receipt = (receipt.run == draft.run).then_some((receipt, envelope));
        }
    }
    Ok(seen)
}

/// The treatment of a claim that does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    IsAnError,
    /// The claim is left out, because nothing has to be started again for it.
    IsLeftOut,
}

/// Observes the claims, their workloads and the hold.
pub(crate) fn claims(
    reader: &cluster::Reader,
    drain: &str,
    sources: &[Source],
    absent: Absent,
) -> Result<Observation, Error> {
    let mut look = Look { reader, drain, pods: BTreeMap::new(), nodes: None, attachments: None };
    let mut live = Vec::new();
    for source in sources {
        match look.claim(source) {
            Ok(claim) => live.extend(claim.map(|claim| LiveSource::Claim(Box::new(claim)))),
            Err(Error::Missing { .. }) if absent == Absent::IsLeftOut => {}
            Err(error) => return Err(error),
        }
    }
    let mut held = Held { drain: drain.to_owned(), ..Held::default() };
    for live in &live {
        let LiveSource::Claim(live) = live else { continue };
        held.claims.push(live.claim.to_string());
        held.volumes.push(live.volume.clone());
        held.folders.extend(live.folder.clone());
    }
    held.claims.sort();
    held.volumes.sort();
    held.folders.sort();
    let any_claim = sources.iter().any(|source| source.claim.is_some());
    let state = if any_claim { held.observe(reader)? } else { hold::State::default() };
    let (uid, uncovered) = (String::new(), Vec::new());
    let (receipt, is_read_back) = (None, false);
    Ok(Observation { uid, sources: live, held, hold: state, receipt, is_read_back, uncovered })
}

/// One observation of claims. Lists that several claims need are fetched once.
struct Look<'a> {
    reader: &'a cluster::Reader,
    drain: &'a str,
    pods: BTreeMap<String, Vec<Value>>,
    nodes: Option<Vec<String>>,
    attachments: Option<Vec<Value>>,
}

impl Look<'_> {
    fn claim(&mut self, source: &Source) -> Result<Option<LiveClaim>, Error> {
        let Some(claim) = &source.claim else { return Ok(None) };
        let Claim { namespace, name } = claim;
        let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}");
        let object = self.reader.get(&path)?;
        let object = object.ok_or_else(|| missing(&format!("PersistentVolumeClaim {claim}")))?;
        let volume = match object["spec"]["volumeName"].as_str() {
            Some(volume) => self.reader.get(&format!("/api/v1/persistentvolumes/{volume}"))?,
            None => None,
        };
        let workload = source.freeze.as_ref().map(|freeze| &freeze.scale_to_zero);
        let workload = workload.map(|workload| self.workload(namespace, workload)).transpose()?;
        let workload = workload.flatten();
        self.lists(namespace)?;
        let verdict = judge(&Facts {
            drain: self.drain,
            source,
            claim: &object,
            volume: volume.as_ref(),
            workload: workload.as_ref().map(|(_, object)| object),
            pods: &self.pods[namespace],
            attachments: self.attachments.as_deref().unwrap_or_default(),
            nodes: self.nodes.as_deref().unwrap_or_default(),
        });
        let spec = volume.as_ref().map_or(&Value::Null, |volume| &volume["spec"]);
        let folder = [&spec["hostPath"]["path"], &spec["local"]["path"]];
        let folder = folder.into_iter().find_map(Value::as_str);
        Ok(Some(LiveClaim {
            claim: claim.clone(),
            path,
            uid: text(&object, "uid"),
            volume: volume.as_ref().map(|volume| text(volume, "name")).unwrap_or_default(),
            folder: folder.map(|path| path.trim_end_matches('/').to_owned()),
            node: object["metadata"]["annotations"][NODE].as_str().map(str::to_owned),
            workload: workload.map(|(live, _)| live),
            verdict,
            allow_empty: source.allow_empty,
        }))
    }

    fn lists(&mut self, namespace: &str) -> Result<(), Error> {
        if !self.pods.contains_key(namespace) {
            let pods = self.reader.list(&format!("/api/v1/namespaces/{namespace}/pods"))?;
            self.pods.insert(namespace.to_owned(), pods);
        }
        if self.nodes.is_none() {
            let nodes = self.reader.list("/api/v1/nodes")?;
            self.nodes = Some(nodes.iter().map(|node| text(node, "name")).collect());
        }
        if self.attachments.is_none() {
            let path = "/apis/storage.k8s.io/v1/volumeattachments";
            self.attachments = Some(self.reader.list(path)?);
        }
        Ok(())
    }

    /// Returns a workload and its object; absent when the workload is gone, so that nothing has to be
    /// stopped.
    fn workload(
        &self,
        namespace: &str,
        workload: &Workload,
    ) -> Result<Option<(LiveWorkload, Value)>, Error> {
        let Workload { kind, name } = workload;
        let path = format!("/apis/apps/v1/namespaces/{namespace}/{kind}s/{name}");
        let Some(mut object) = self.reader.get(&path)? else { return Ok(None) };
        // An object that was asked for by its path may leave its kind out.
        object["kind"] = if kind == "statefulset" { "StatefulSet" } else { "Deployment" }.into();
        let replicas = object["spec"]["replicas"].as_u64().unwrap_or(1);
        let annotation =
            |name: &str| object["metadata"]["annotations"][name].as_str().map(str::to_owned);
        let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
        let (workload, uid) = (workload.to_string(), text(&object, "uid"));
        let live = LiveWorkload {
            path,
            at: At {
                name: format!("{namespace} {workload}"),
                replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
                stopped: annotation(REPLICAS).and_then(|text| text.parse().ok()),
            },
            reconcile: annotation(RECONCILE),
            reconciled: annotation(labels::RECONCILE),
            stopped: Stopped { workload, uid, generation },
        };
        Ok(Some((live, object)))
    }
}

impl LiveSource {
    /// Returns the name of the source in plans, for example `default/data` or `forge web`.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Claim(live) => live.claim.to_string(),
            Self::Forge { repository, .. } => format!("forge {repository}"),
        }
    }
}

impl LiveClaim {
    /// Returns the change that records the node of the claim, if one is needed.
    fn node_change(&self) -> Option<NodeChange> {
        match &self.verdict.place {
            Some(Place::Node(node)) if self.node.as_ref() != Some(node) => {
                Some(NodeChange { from: self.node.clone(), to: node.clone() })
            }
            _ => None,
        }
    }
}

impl Observation {
    pub(crate) fn actual(&self) -> ActualState {
        let found = self.sources.iter().map(|live| {
            let source = live.name();
            match live {
                LiveSource::Claim(live) => SourceState {
                    source,
                    is_claim: true,
                    node: live.node_change(),
                    workload: live.workload.as_ref().map(|workload| workload.at.clone()),
                },
                LiveSource::Forge { .. } => {
                    SourceState { source, is_claim: false, node: None, workload: None }
                }
            }
        });
        let digest = self.receipt.as_ref().map(|(receipt, _)| receipt.digest.clone());
        ActualState {
            found: found.collect(),
            hold: match (&self.hold.active, self.hold.any) {
                _ if self.held.claims.is_empty() && !self.hold.any => Hold::Needless,
                (Some(_), _) => Hold::Active,
                (None, true) => Hold::Broken,
                (None, false) => Hold::Absent,
            },
            receipted: digest.is_some(),
            recorded: digest.is_some() && digest == self.hold.receipt,
        }
    }

    pub(crate) fn claims(&self) -> impl Iterator<Item = &LiveClaim> {
        self.sources.iter().filter_map(|live| match live {
            LiveSource::Claim(live) => Some(&**live),
            LiveSource::Forge { .. } => None,
        })
    }

    /// Returns each workload that has to be stopped once.
    pub(crate) fn workloads(&self) -> Vec<&LiveWorkload> {
        let mut all: Vec<&LiveWorkload> = Vec::new();
        for workload in self.claims().filter_map(|claim| claim.workload.as_ref()) {
            if !all.iter().any(|other| other.path == workload.path) {
                all.push(workload);
            }
        }
        all
    }

    /// Whether a drain has stopped every workload.
    pub(crate) fn is_stopped(&self) -> bool {
        let mut workloads = self.workloads().into_iter();
        workloads.all(|live| live.at.replicas == 0 && live.at.stopped.is_some())
    }

    /// Returns the pods that use a claim.
    pub(crate) fn users(&self) -> Vec<String> {
        let users = self.claims().flat_map(|claim| &claim.verdict.users);
        users.map(|user| user.pod.clone()).collect()
    }

    /// Returns what keeps a run from copying, for example pods that have not ended yet.
    pub(crate) fn in_use(&self) -> String {
        let running = self.workloads().into_iter().filter(|live| live.at.replicas > 0);
        let running = running.map(|live| live.at.name.clone());
        let users: Vec<_> = self.users().into_iter().chain(running).collect();
        if users.is_empty() {
            return "the hold on the claims is not in place".to_owned();
        }
        format!(
            "these still use what is copied: {}; stop them, or name their workload in `freeze`",
            users.join(", ")
        )
    }

    /// Returns the differences between this state and the state of a receipt, as far as the cluster
    /// tells.
    pub(crate) fn changes(&self) -> Vec<String> {
        let users = self.users().into_iter().map(|pod| format!("the pod {pod} mounts a claim"));
        let running = self.workloads().into_iter().filter(|live| live.at.replicas > 0);
        let running = running.map(|live| format!("{} runs", live.at.name));
        let hold = match self.actual().hold {
            Hold::Absent => Some("no hold keeps pods off the claims".to_owned()),
            Hold::Broken => Some("the hold on the claims was changed".to_owned()),
            Hold::Active | Hold::Needless => None,
        };
        users.chain(running).chain(hold).collect()
    }

    /// Returns the sources as they are now; absent while a pod can write to them.
    pub(crate) fn at_rest(&self) -> Option<Vec<contract::Source>> {
        if !self.is_stopped() || !self.users().is_empty() {
            return None;
        }
        let source = |live: &LiveSource| match live {
            LiveSource::Claim(live) => Some(contract::Source::Claim(ClaimSource {
                claim: live.claim.to_string(),
                uid: live.uid.clone(),
                volume: live.volume.clone(),
                stopped: live.workload.as_ref().map(|workload| workload.stopped.clone()),
                hold: Some(self.hold.active.clone()?),
            })),
            LiveSource::Forge { repository, refs } => {
                Some(contract::Source::Forge { repository: repository.clone(), refs: refs.clone() })
            }
        };
        self.sources.iter().map(source).collect()
    }

    /// Returns the receipt for this state, with nothing copied yet; absent while a pod can write.
    pub(crate) fn draft(&self, desired: &Desired<'_>) -> Option<Receipt> {
        let sources = self.at_rest()?.into_iter().map(|from| Copied {
            from,
            fingerprint: String::new(),
            bytes: 0,
            entries: 0,
            packs: Vec::new(),
            manifest: contract::Pack { object: String::new(), sha256: String::new(), bytes: 0 },
            not_kept: Vec::new(),
        });
        let mut receipt = Receipt {
            project: desired.project.to_owned(),
            drain: desired.drain.to_owned(),
            cluster: Drained { name: desired.cluster.to_owned(), uid: self.uid.clone() },
            run: String::new(),
            bucket: desired.bucket.to_owned(),
            recipients: desired.recipients.iter().map(ToString::to_string).collect(),
            sources: sources.collect(),
        };
        let draft = serde_json::to_vec(&receipt).unwrap_or_default();
        receipt.run = pack::sha256(&draft);
        Some(receipt)
    }

    /// Returns the prefix of every object in the bucket. It depends on the cluster, the claims and the
    /// recipients alone, so that a run finds the packs of an earlier run that was interrupted.
    pub(crate) fn prefix(&self, desired: &Desired<'_>) -> String {
        let source = |live: &LiveSource| match live {
            LiveSource::Claim(live) => json!({"claim": live.claim.to_string(), "uid": live.uid}),
            LiveSource::Forge { repository, .. } => json!({"forge": repository}),
        };
        let sources: Vec<_> = self.sources.iter().map(source).collect();
        let recipients: Vec<_> = desired.recipients.iter().map(ToString::to_string).collect();
        let id = json!({
            "cluster": self.uid, "bucket": desired.bucket, "recipients": recipients,
            "sources": sources,
        });
        let id = pack::sha256(id.to_string().as_bytes());
        format!("{}/{}/{}", desired.project, desired.drain, &id[..16])
    }

    /// Returns the key of the receipt for the state `run`.
    pub(crate) fn receipt_object(&self, desired: &Desired<'_>, run: &str) -> String {
        format!("{}/receipt-{}.json", self.prefix(desired), &run[..run.len().min(16)])
    }
}

pub(crate) fn missing(what: &str) -> Error {
    Error::Missing { what: what.to_owned() }
}

fn text(object: &Value, name: &str) -> String {
    text_of(object, name).to_owned()
}

fn text_of<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"][name].as_str().unwrap_or_default()
}
