//! What is there, as far as a Drain can speak of it. Reads only.

use std::collections::BTreeMap;

use keyring::{
    AgeRecipient, Copied, Drained, Envelope, PhaseKey, Receipt, ReceiptKey, Secret, Stopped, Url,
    VerifiedReceipt,
};
use phase::Known;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::pack::Key;
use crate::plan::{At, Found, World};
use crate::spec::{Claim, Source, Workload};
use crate::{Error, cluster, forge, pack, store};

/// What says how many replicas a workload had before a drain stopped it.
pub(crate) const REPLICAS: &str = "data-drain.holistic/replicas";
/// What says on which node it ran: a volume may be there and nowhere else.
pub(crate) const NODE: &str = "data-drain.holistic/node";
/// What the pods carry that read volumes: the name of the Drain.
pub(crate) const LABEL: &str = "holistic/drain";

/// How large a receipt may be.
const RECEIPT_BYTES_MAX: u64 = 16 << 20;

/// What a Drain has brought about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// The UID of the cluster's namespace `kube-system`.
    pub cluster_uid: Known<String>,
    /// Under what everything lies in the bucket; not known before everything has stopped.
    pub prefix: Known<String>,
    /// What was copied.
    pub copied: Vec<CopiedSource>,
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
    pub(crate) keys: Keys,
    /// By the name of the Repository.
    pub(crate) forges: BTreeMap<&'a str, (Url, Secret)>,
}

pub(crate) struct Keys {
    pub(crate) phase: PhaseKey,
    receipts: ReceiptKey,
    /// Of fingerprints.
    pub(crate) fingerprint: Key,
    /// Of what says that an object is ours.
    pub(crate) proof: Key,
}

impl Keys {
    pub(crate) fn new(phase: PhaseKey, project: &str) -> Self {
        let fingerprint = phase.bytes(project, "fingerprint");
        let proof = phase.bytes(project, "proof");
        let receipts = ReceiptKey::of(&phase, project);
        Self { phase, receipts, fingerprint, proof }
    }

    /// The public half of the key that signs receipts.
    pub(crate) fn receipts(&self) -> ReceiptKey {
        self.receipts.clone()
    }
}

/// All that one look has shown.
pub(crate) struct Seen {
    pub(crate) uid: String,
    pub(crate) sources: Vec<Live>,
    pub(crate) receipt: Option<(VerifiedReceipt, Envelope)>,
}

/// One source.
pub(crate) enum Live {
    Claim {
        claim: Claim,
        uid: String,
        workload: Option<LiveWorkload>,
        /// The pods that have it mounted, and where they run.
        users: Vec<(String, String)>,
    },
    Forge {
        repository: String,
        refs: String,
    },
}

pub(crate) struct LiveWorkload {
    pub(crate) path: String,
    pub(crate) at: At,
    pub(crate) node: Option<String>,
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
    let mut seen = Seen { uid: text(&kube_system, "uid"), sources: Vec::new(), receipt: None };
    for source in wanted.sources {
        if let Some(claim) = live_claim(reader, source)? {
            seen.sources.push(claim);
        }
        if let Some(forge) = &source.forge {
            let (url, token) = &wanted.forges[forge.as_str()];
            let refs = pack::sha256(forge::refs(url, token)?.as_bytes());
            seen.sources.push(Live::Forge { repository: forge.to_string(), refs });
        }
    }
    if let Some(run) = seen.run(wanted) {
        let object = wanted.receipt(&run);
        if let Some(text) = store.get(&object, RECEIPT_BYTES_MAX)? {
            let garbled = |_| Error::Tampered { object, why: "it is no receipt".to_owned() };
            let envelope: Envelope = serde_json::from_slice(&text).map_err(garbled)?;
            let receipt = envelope.open(wanted.drain, wanted.project, &[wanted.keys.receipts()])?;
            seen.receipt = Some((receipt, envelope));
        }
    }
    Ok(seen)
}

/// Looks at the claims alone: at what may have been stopped.
pub(crate) fn claims(reader: &cluster::Reader, sources: &[Source]) -> Result<Seen, Error> {
    let live = sources.iter().map(|it| live_claim(reader, it)).filter_map(Result::transpose);
    Ok(Seen { uid: String::new(), sources: live.collect::<Result<_, _>>()?, receipt: None })
}

fn live_claim(reader: &cluster::Reader, source: &Source) -> Result<Option<Live>, Error> {
    let Some(claim) = &source.claim else { return Ok(None) };
    let Claim { namespace, name } = claim;
    let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}");
    let object = reader.get(&path)?;
    let object = object.ok_or_else(|| missing(&format!("PersistentVolumeClaim {claim}")))?;
    let pods = reader.list(&format!("/api/v1/namespaces/{namespace}/pods"))?;
    let users = pods.iter().filter(|it| uses(it, name)).map(|it| {
        let node = it["spec"]["nodeName"].as_str().unwrap_or_default();
        (format!("{namespace}/{}", text_of(it, "name")), node.to_owned())
    });
    let users = users.collect();
    let workload = source.freeze.as_ref().map(|it| &it.scale_to_zero);
    let workload = workload.map(|it| live_workload(reader, namespace, it)).transpose()?;
    Ok(Some(Live::Claim { claim: claim.clone(), uid: text(&object, "uid"), workload, users }))
}

fn live_workload(
    reader: &cluster::Reader,
    namespace: &str,
    workload: &Workload,
) -> Result<LiveWorkload, Error> {
    let Workload { kind, name } = workload;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/{kind}s/{name}");
    let object = reader.get(&path)?;
    let object = object.ok_or_else(|| missing(&format!("{workload} in {namespace}")))?;
    let replicas = object["spec"]["replicas"].as_u64().unwrap_or(1);
    let annotation = |name: &str| object["metadata"]["annotations"][name].as_str();
    let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
    Ok(LiveWorkload {
        path,
        at: At {
            name: format!("{namespace} {workload}"),
            replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
            stopped: annotation(REPLICAS).and_then(|it| it.parse().ok()),
        },
        node: annotation(NODE).map(str::to_owned),
        stopped: Stopped { workload: workload.to_string(), uid: text(&object, "uid"), generation },
    })
}

/// Whether a pod that has not ended has the claim mounted, and is not one of ours.
fn uses(pod: &Value, claim: &str) -> bool {
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mounts = volumes.into_iter().any(|it| it["persistentVolumeClaim"]["claimName"] == claim);
    mounts && !ended && pod["metadata"]["labels"][LABEL].is_null()
}

impl Seen {
    pub(crate) fn world(&self) -> World {
        let found = self.sources.iter().map(|it| match it {
            Live::Claim { claim, workload, .. } => Found {
                source: claim.to_string(),
                workload: workload.as_ref().map(|it| it.at.clone()),
            },
            Live::Forge { repository, .. } => {
                Found { source: format!("forge {repository}"), workload: None }
            }
        });
        World { found: found.collect(), receipted: self.receipt.is_some() }
    }

    /// The workloads that are to be stopped, each once.
    pub(crate) fn workloads(&self) -> Vec<&LiveWorkload> {
        let mut all: Vec<&LiveWorkload> = Vec::new();
        for source in &self.sources {
            if let Live::Claim { workload: Some(workload), .. } = source
                && !all.iter().any(|it| it.path == workload.path)
            {
                all.push(workload);
            }
        }
        all
    }

    /// Which pods still use what is to be copied.
    pub(crate) fn users(&self) -> Vec<(String, String)> {
        let users = self.sources.iter().flat_map(|it| match it {
            Live::Claim { users, .. } => users.as_slice(),
            Live::Forge { .. } => &[],
        });
        users.cloned().collect()
    }

    /// What the sources are by now, once nothing writes to them.
    pub(crate) fn at_rest(&self) -> Option<Vec<keyring::Source>> {
        let source = |live: &Live| match live {
            Live::Claim { claim, uid, workload, users } => {
                let stops = workload.as_ref();
                let still = users.is_empty()
                    && stops.is_none_or(|it| it.at.replicas == 0 && it.at.stopped.is_some());
                still.then(|| {
                    keyring::Source::Claim(keyring::ClaimSource {
                        claim: claim.to_string(),
                        uid: uid.clone(),
                        volume: String::new(),
                        stopped: stops.map(|workload| workload.stopped.clone()),
                        hold: None,
                    })
                })
            }
            Live::Forge { repository, refs } => {
                Some(keyring::Source::Forge { repository: repository.clone(), refs: refs.clone() })
            }
        };
        self.sources.iter().map(source).collect()
    }

    /// The receipt for what is there, with nothing copied yet; `None` as long as something runs.
    pub(crate) fn draft(&self, wanted: &Wanted<'_>) -> Option<Receipt> {
        let sources = self.at_rest()?.into_iter().map(|from| Copied {
            from,
            fingerprint: String::new(),
            bytes: 0,
            entries: 0,
            packs: Vec::new(),
            manifest: keyring::Pack { object: String::new(), sha256: String::new(), bytes: 0 },
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

    fn run(&self, wanted: &Wanted<'_>) -> Option<String> {
        self.draft(wanted).map(|it| it.run)
    }

    /// What a status says of this look.
    pub(crate) fn observed(&self, wanted: &Wanted<'_>) -> Observed {
        let copied = |it: &Copied| CopiedSource {
            source: match &it.from {
                keyring::Source::Claim(entry) => entry.claim.clone(),
                keyring::Source::Forge { repository, .. } => format!("forge {repository}"),
            },
            bytes: it.bytes,
            entries: it.entries,
            packs: it.packs.len(),
        };
        let sources = self.receipt.iter().flat_map(|(it, _)| &it.sources);
        Observed {
            cluster_uid: Known::Now(self.uid.clone()),
            prefix: self.run(wanted).map(|it| wanted.prefix(&it)).into(),
            copied: sources.map(copied).collect(),
        }
    }

    pub(crate) fn evidence(&self, wanted: &Wanted<'_>) -> Vec<Evidence> {
        let evidence = |(receipt, envelope): &(VerifiedReceipt, Envelope)| Evidence {
            of: "receipt".to_owned(),
            object: wanted.receipt(&receipt.run),
            envelope: envelope.clone(),
        };
        self.receipt.iter().map(evidence).collect()
    }
}

impl Wanted<'_> {
    /// Under what everything of `run` lies.
    pub(crate) fn prefix(&self, run: &str) -> String {
        format!("{}/{}/{}", self.project, self.drain, &run[..run.len().min(16)])
    }

    /// Where the receipt of `run` lies.
    pub(crate) fn receipt(&self, run: &str) -> String {
        format!("{}/receipt.json", self.prefix(run))
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
