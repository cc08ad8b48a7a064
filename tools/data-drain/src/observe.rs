//! What is there, as far as a Drain can speak of it. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use documents::Deferred;
use keyring::{
    AgeRecipient, ClaimSource, Copied, Drained, Envelope, PhaseKey, Receipt, ReceiptKey, Secret,
    Stopped, Url, VerifiedReceipt,
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::claim::{Facts, Verdict, judge};
use crate::hold::{self, Held};
use crate::pack::Key;
use crate::plan::{At, Found, Hold, World};
use crate::spec::{Claim, Source, Workload};
use crate::{Error, cluster, forge, pack, store};

/// Annotation on a workload: its replicas before a drain stopped it.
pub(crate) const REPLICAS: &str = "data-drain.holistic/replicas";
/// Annotation on a workload: what [`RECONCILE`] was before a drain stopped it.
pub(crate) const RECONCILED: &str = "data-drain.holistic/reconcile";
/// Annotation that keeps Flux from starting again what was stopped, by its own rules
/// (<https://fluxcd.io/flux/components/kustomize/kustomizations/#controlling-the-apply-behavior-of-resources>).
pub(crate) const RECONCILE: &str = "kustomize.toolkit.fluxcd.io/reconcile";

/// How large a receipt may be: one of 3 TiB has 54,000 packs and 16 MiB.
const RECEIPT_BYTES_MAX: u64 = 256 << 20;

/// What a Drain has brought about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// The UID of the cluster's namespace `kube-system`.
    pub cluster_uid: Deferred<String>,
    /// Where everything lies in the bucket.
    pub prefix: Deferred<String>,
    /// What was copied.
    pub copied: Vec<CopiedSource>,
    /// Claims of the cluster, bound to a volume, that no Drain of it names: `namespace/name`. Their
    /// data is not copied.
    pub uncovered: Vec<String>,
}

/// One source that was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopiedSource {
    /// As the document names it.
    pub source: String,
    /// How much of it there was, as an archive.
    pub bytes: u64,
    /// How many files and folders.
    pub entries: u64,
    /// In how many objects it lies.
    pub packs: usize,
    /// What the copy does not keep as it was: sockets, holes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_kept: Vec<String>,
}

/// What lets others destroy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Of what: `receipt`.
    #[serde(rename = "type")]
    pub of: String,
    /// Where it lies.
    pub object: String,
    /// The receipt, signed.
    pub envelope: Envelope,
}

/// All that a Drain is made of, resolved.
pub(crate) struct Wanted<'a> {
    pub(crate) project: &'a str,
    pub(crate) drain: &'a str,
    pub(crate) cluster: &'a str,
    pub(crate) bucket: &'a str,
    pub(crate) sources: &'a [Source],
    pub(crate) recipients: Vec<AgeRecipient>,
    pub(crate) receipts: Vec<ReceiptKey>,
    /// By the name of the Repository.
    pub(crate) forges: BTreeMap<&'a str, (Url, Secret)>,
    /// The claims that any Drain of this cluster names.
    pub(crate) covered: BTreeSet<String>,
}

/// The keys of a run that writes.
pub(crate) struct Keys {
    pub(crate) phase: PhaseKey,
    /// Of fingerprints.
    pub(crate) fingerprint: Key,
    /// Of what says that an object is ours.
    pub(crate) proof: Key,
}

impl Keys {
    pub(crate) fn new(phase: PhaseKey, project: &str) -> Self {
        let fingerprint = phase.bytes(project, "fingerprint");
        let proof = phase.bytes(project, "proof");
        Self { phase, fingerprint, proof }
    }
}

/// All that one look has shown.
pub(crate) struct Seen {
    pub(crate) uid: String,
    pub(crate) sources: Vec<Live>,
    pub(crate) held: Held,
    pub(crate) hold: hold::State,
    pub(crate) receipt: Option<(VerifiedReceipt, Envelope)>,
    pub(crate) uncovered: Vec<String>,
}

/// One source.
pub(crate) enum Live {
    Claim(Box<LiveClaim>),
    Forge { repository: String, refs: String },
}

pub(crate) struct LiveClaim {
    pub(crate) claim: Claim,
    pub(crate) path: String,
    pub(crate) uid: String,
    /// The name of its `PersistentVolume`.
    pub(crate) volume: String,
    /// The folder of a node that is the volume, if it is one.
    folder: Option<String>,
    pub(crate) workload: Option<LiveWorkload>,
    pub(crate) verdict: Verdict,
    pub(crate) allow_empty: bool,
}

pub(crate) struct LiveWorkload {
    pub(crate) path: String,
    pub(crate) at: At,
    /// Flux's annotation: now, and before a drain changed it.
    pub(crate) reconcile: Option<String>,
    pub(crate) reconciled: Option<String>,
    stopped: Stopped,
}

/// Looks at all that is `wanted`.
pub(crate) fn observe(
    reader: &cluster::Reader,
    store: &store::Reader,
    wanted: &Wanted<'_>,
) -> Result<Seen, Error> {
    let kube_system = "/api/v1/namespaces/kube-system";
    let kube_system = reader.get(kube_system)?.ok_or_else(|| missing("Namespace kube-system"))?;
    let mut seen = claims(reader, wanted.drain, wanted.sources, Absent::IsAnError)?;
    seen.uid = text(&kube_system, "uid");
    for source in wanted.sources {
        if let Some(forge) = &source.forge {
            let (url, token) = &wanted.forges[forge.as_str()];
            let refs = pack::sha256(forge::refs(url, token)?.as_bytes());
            seen.sources.push(Live::Forge { repository: forge.to_string(), refs });
        }
    }
    let all = reader.list("/api/v1/persistentvolumeclaims")?;
    let bound = all.iter().filter(|claim| claim["status"]["phase"] == "Bound");
    let names =
        bound.map(|claim| format!("{}/{}", text_of(claim, "namespace"), text_of(claim, "name")));
    seen.uncovered = names.filter(|name| !wanted.covered.contains(name)).collect();
    seen.uncovered.sort();
    if let Some(draft) = seen.draft(wanted) {
        let object = seen.receipt_object(wanted, &draft.run);
        if let Some(text) = store.get(&object, RECEIPT_BYTES_MAX)? {
            let garbled = |_| Error::Tampered { object, why: "it is no receipt".to_owned() };
            let envelope: Envelope = serde_json::from_slice(&text).map_err(garbled)?;
            let receipt = envelope.open(wanted.drain, wanted.project, &wanted.receipts)?;
            // What was signed for another state of the same drain is no receipt for this one.
            seen.receipt = (receipt.run == draft.run).then_some((receipt, envelope));
        }
    }
    Ok(seen)
}

/// What to do about a claim that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    IsAnError,
    /// It is left out: what is gone need not be started again.
    IsLeftOut,
}

/// Looks at the claims, and at what may have been stopped or held for them.
pub(crate) fn claims(
    reader: &cluster::Reader,
    drain: &str,
    sources: &[Source],
    absent: Absent,
) -> Result<Seen, Error> {
    let mut look = Look { reader, drain, pods: BTreeMap::new(), nodes: None, attachments: None };
    let mut live = Vec::new();
    for source in sources {
        match look.claim(source) {
            Ok(claim) => live.extend(claim.map(|claim| Live::Claim(Box::new(claim)))),
            Err(Error::Missing { .. }) if absent == Absent::IsLeftOut => {}
            Err(error) => return Err(error),
        }
    }
    let mut held = Held { drain: drain.to_owned(), ..Held::default() };
    for live in &live {
        let Live::Claim(live) = live else { continue };
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
    Ok(Seen { uid, sources: live, held, hold: state, receipt: None, uncovered })
}

/// One look: lists that several claims need are fetched once.
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

    /// A workload and its object; `None` if it is gone, so that nothing has to be stopped.
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
            reconciled: annotation(RECONCILED),
            stopped: Stopped { workload, uid, generation },
        };
        Ok(Some((live, object)))
    }
}

impl Seen {
    pub(crate) fn world(&self) -> World {
        let found = self.sources.iter().map(|live| match live {
            Live::Claim(live) => Found {
                source: live.claim.to_string(),
                is_claim: true,
                workload: live.workload.as_ref().map(|workload| workload.at.clone()),
            },
            Live::Forge { repository, .. } => {
                Found { source: format!("forge {repository}"), is_claim: false, workload: None }
            }
        });
        let digest = self.receipt.as_ref().map(|(receipt, _)| receipt.digest.clone());
        World {
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
            Live::Claim(live) => Some(&**live),
            Live::Forge { .. } => None,
        })
    }

    /// The workloads that are to be stopped, each once.
    pub(crate) fn workloads(&self) -> Vec<&LiveWorkload> {
        let mut all: Vec<&LiveWorkload> = Vec::new();
        for workload in self.claims().filter_map(|claim| claim.workload.as_ref()) {
            if !all.iter().any(|other| other.path == workload.path) {
                all.push(workload);
            }
        }
        all
    }

    /// Whether every workload is as a drain leaves it.
    pub(crate) fn is_stopped(&self) -> bool {
        let mut workloads = self.workloads().into_iter();
        workloads.all(|live| live.at.replicas == 0 && live.at.stopped.is_some())
    }

    /// The pods that still use what is to be copied.
    pub(crate) fn users(&self) -> Vec<String> {
        let users = self.claims().flat_map(|claim| &claim.verdict.users);
        users.map(|user| user.pod.clone()).collect()
    }

    /// What keeps this state from being the one of a receipt, as far as the cluster tells.
    pub(crate) fn changes(&self) -> Vec<String> {
        let users = self.users().into_iter().map(|pod| format!("the pod {pod} mounts a claim"));
        let running = self.workloads().into_iter().filter(|live| live.at.replicas > 0);
        let running = running.map(|live| format!("{} runs", live.at.name));
        let hold = match self.world().hold {
            Hold::Absent => Some("no hold keeps pods off the claims".to_owned()),
            Hold::Broken => Some("the hold on the claims was changed".to_owned()),
            Hold::Active | Hold::Needless => None,
        };
        users.chain(running).chain(hold).collect()
    }

    /// The sources as they are now, once no pod can write to them.
    pub(crate) fn at_rest(&self) -> Option<Vec<keyring::Source>> {
        if !self.is_stopped() || !self.users().is_empty() {
            return None;
        }
        let source = |live: &Live| match live {
            Live::Claim(live) => Some(keyring::Source::Claim(ClaimSource {
                claim: live.claim.to_string(),
                uid: live.uid.clone(),
                volume: live.volume.clone(),
                stopped: live.workload.as_ref().map(|workload| workload.stopped.clone()),
                hold: Some(self.hold.active.clone()?),
            })),
            Live::Forge { repository, refs } => {
                Some(keyring::Source::Forge { repository: repository.clone(), refs: refs.clone() })
            }
        };
        self.sources.iter().map(source).collect()
    }

    /// The receipt for this state, with nothing copied yet; `None` as long as something runs.
    pub(crate) fn draft(&self, wanted: &Wanted<'_>) -> Option<Receipt> {
        let sources = self.at_rest()?.into_iter().map(|from| Copied {
            from,
            fingerprint: String::new(),
            bytes: 0,
            entries: 0,
            packs: Vec::new(),
            manifest: keyring::Pack { object: String::new(), sha256: String::new(), bytes: 0 },
            not_kept: Vec::new(),
        });
        let mut receipt = Receipt {
            project: wanted.project.to_owned(),
            drain: wanted.drain.to_owned(),
            cluster: Drained { name: wanted.cluster.to_owned(), uid: self.uid.clone() },
            run: String::new(),
            bucket: wanted.bucket.to_owned(),
            recipients: wanted.recipients.iter().map(ToString::to_string).collect(),
            sources: sources.collect(),
        };
        let draft = serde_json::to_vec(&receipt).unwrap_or_default();
        receipt.run = pack::sha256(&draft);
        Some(receipt)
    }

    /// Where everything lies. The same claims of the same cluster, for the same recipients, lie in
    /// the same place, whatever has been stopped, held or thawed since: so a run that was
    /// interrupted, however, finds the packs that have arrived.
    pub(crate) fn prefix(&self, wanted: &Wanted<'_>) -> String {
        let source = |live: &Live| match live {
            Live::Claim(live) => json!({"claim": live.claim.to_string(), "uid": live.uid}),
            Live::Forge { repository, .. } => json!({"forge": repository}),
        };
        let sources: Vec<_> = self.sources.iter().map(source).collect();
        let recipients: Vec<_> = wanted.recipients.iter().map(ToString::to_string).collect();
        let id = json!({
            "cluster": self.uid, "bucket": wanted.bucket, "recipients": recipients,
            "sources": sources,
        });
        let id = pack::sha256(id.to_string().as_bytes());
        format!("{}/{}/{}", wanted.project, wanted.drain, &id[..16])
    }

    /// Where the receipt for the state `run` lies.
    pub(crate) fn receipt_object(&self, wanted: &Wanted<'_>, run: &str) -> String {
        format!("{}/receipt-{}.json", self.prefix(wanted), &run[..run.len().min(16)])
    }

    /// What a status says of this look.
    pub(crate) fn observed(&self, wanted: &Wanted<'_>) -> Observed {
        let copied = |copied: &Copied| CopiedSource {
            source: match &copied.from {
                keyring::Source::Claim(entry) => entry.claim.clone(),
                keyring::Source::Forge { repository, .. } => format!("forge {repository}"),
            },
            bytes: copied.bytes,
            entries: copied.entries,
            packs: copied.packs.len(),
            not_kept: copied.not_kept.clone(),
        };
        let sources = self.receipt.iter().flat_map(|(receipt, _)| &receipt.sources);
        Observed {
            cluster_uid: Deferred::Value(self.uid.clone()),
            prefix: Deferred::Value(self.prefix(wanted)),
            copied: sources.map(copied).collect(),
            uncovered: self.uncovered.clone(),
        }
    }

    pub(crate) fn evidence(&self, wanted: &Wanted<'_>) -> Vec<Evidence> {
        let evidence = |(receipt, envelope): &(VerifiedReceipt, Envelope)| Evidence {
            of: "receipt".to_owned(),
            object: self.receipt_object(wanted, &receipt.run),
            envelope: envelope.clone(),
        };
        self.receipt.iter().map(evidence).collect()
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
