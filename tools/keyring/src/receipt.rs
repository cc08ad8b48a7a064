//! What a drain has proven, signed: the key to every `destroy` that would lose data.
//!
//! A receipt travels as a DSSE envelope, in the status of its `Drain`, and lies beside the data. It
//! is signed with a key of the phase `data-drain`. Who wants to destroy derives that key from the
//! project's root: so a job that holds nothing but its own phase's key destroys nothing.
//!
//! **Invariant:** nothing is believed of a receipt before its signature is.

use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use phase::{Declared, Stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{Error, PhaseKey, Project, root_key};

/// The phase whose key signs.
const PHASE: &str = "data-drain";
/// The item of that phase, and its scope: the project, whose drains are all signed alike.
const ITEM: &str = "receipt";
const PAYLOAD_TYPE: &str = "application/vnd.holistic.drain.v1+json";

/// What was copied out of where, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Receipt {
    /// The project that it was for.
    pub project: String,
    /// The `Drain`.
    pub drain: String,
    /// The cluster that it was taken from.
    pub cluster: Drained,
    /// The digest of what was to be done: the documents, not their order.
    pub run: String,
    /// The bucket, as its store calls it.
    pub bucket: String,
    /// Who can open it.
    pub recipients: Vec<String>,
    /// What was copied.
    pub sources: Vec<Copied>,
}

/// A cluster, and no other that has its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Drained {
    /// Its document.
    pub name: String,
    /// The UID of its namespace `kube-system`, made with it.
    pub uid: String,
}

/// One source, wholly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Copied {
    /// What it is.
    pub from: Source,
    /// A keyed digest of everything in it: the same twice when nothing has changed.
    pub fingerprint: String,
    /// How much of it there is, as an archive.
    pub bytes: u64,
    /// How many files and folders.
    pub entries: u64,
    /// In order: opened and joined, they are the archive.
    pub packs: Vec<Pack>,
    /// What is in them, itself encrypted.
    pub manifest: Pack,
}

/// What a source is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Source {
    /// A volume of the cluster.
    Claim {
        /// `namespace/name`.
        claim: String,
        /// Its UID.
        uid: String,
        /// What was stopped so that it does not change, and which generation of it that was.
        #[serde(skip_serializing_if = "Option::is_none")]
        stopped: Option<Stopped>,
    },
    /// The repository at the forge.
    Forge {
        /// Its document.
        repository: String,
        /// The SHA-256 of what `git ls-remote` lists there: every branch and tag, and its commit.
        refs: String,
    },
}

/// A workload that was stopped. Started again, it has another generation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Stopped {
    /// `deployment/name` or `statefulset/name`.
    pub workload: String,
    /// Its UID.
    pub uid: String,
    /// Its `metadata.generation`.
    pub generation: i64,
}

/// One object of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pack {
    /// Its key.
    pub object: String,
    /// Of what lies there.
    pub sha256: String,
    /// Of what lies there.
    pub bytes: u64,
}

/// A receipt and its signature (DSSE, <https://github.com/secure-systems-lab/dsse>).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<Signed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Signed {
    keyid: String,
    sig: String,
}

/// What verifies the receipts of `project`, as OpenSSL takes it (RFC 8410); `key` is the phase key
/// of `data-drain`.
#[must_use]
pub fn receipt_key(key: &PhaseKey, project: &str) -> String {
    let head = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let key = signing_key(key, project).verifying_key();
    let der = BASE64.encode(&[&head[..], key.as_bytes()].concat());
    format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
}

impl Receipt {
    /// Signs it; `key` is the phase key of `data-drain`. The same receipt gives the same bytes.
    ///
    /// # Errors
    ///
    /// It is no JSON: never, for what this type can hold.
    pub fn sign(&self, key: &PhaseKey) -> Result<Envelope, Error> {
        let refused = |_| refused(&self.drain, "it cannot be written");
        let payload = serde_json::to_vec(self).map_err(refused)?;
        let key = signing_key(key, &self.project);
        let signature = key.sign(&encoding(&payload));
        let signed = Signed {
            keyid: key_id(&key.verifying_key()),
            sig: BASE64.encode(&signature.to_bytes()),
        };
        Ok(Envelope {
            payload_type: PAYLOAD_TYPE.to_owned(),
            payload: BASE64.encode(&payload),
            signatures: vec![signed],
        })
    }

    /// What was stopped so that the claim `namespace/name`, the one with this UID, did not change;
    /// `None` if it is not in it.
    #[must_use]
    pub fn stopped_for(&self, name: &str, of: &str) -> Option<Option<&Stopped>> {
        self.sources.iter().find_map(|it| match &it.from {
            Source::Claim { claim, uid, stopped } if claim == name && uid == of => {
                Some(stopped.as_ref())
            }
            _ => None,
        })
    }

    /// Whether the repository, with the references that `git ls-remote` lists, is in it.
    #[must_use]
    pub fn has_forge(&self, name: &str, ls_remote: &str) -> bool {
        let digest = HEXLOWER.encode(&Sha256::digest(ls_remote));
        self.sources.iter().any(|it| {
            matches!(&it.from, Source::Forge { repository, refs } if repository == name && *refs == digest)
        })
    }

    /// Whether it was taken from the cluster with this UID.
    ///
    /// # Errors
    ///
    /// [`Error::Receipt`]: it was another cluster.
    pub fn of_cluster(&self, uid: &str) -> Result<(), Error> {
        if self.cluster.uid == uid {
            return Ok(());
        }
        let why =
            format!("it is for another cluster of that name: {}, not {uid}", self.cluster.uid);
        Err(refused(&self.drain, &why))
    }
}

impl Envelope {
    /// What it says, if `key`, the phase key of `data-drain`, has signed it for `project`.
    ///
    /// # Errors
    ///
    /// [`Error::Receipt`].
    pub fn open(&self, drain: &str, project: &str, key: &PhaseKey) -> Result<Receipt, Error> {
        let refused = |why: &str| refused(drain, why);
        if self.payload_type != PAYLOAD_TYPE {
            return Err(refused("it is of another kind"));
        }
        let decode = |text: &str| BASE64.decode(text.as_bytes()).ok();
        let payload = decode(&self.payload).ok_or_else(|| refused("it is garbled"))?;
        let key = signing_key(key, project).verifying_key();
        let message = encoding(&payload);
        let good = |it: &Signed| {
            let signature = decode(&it.sig).and_then(|it| Signature::from_slice(&it).ok());
            signature.is_some_and(|it| key.verify_strict(&message, &it).is_ok())
        };
        if !self.signatures.iter().any(good) {
            return Err(refused("no signature of this project's data-drain is on it"));
        }
        let receipt: Receipt =
            serde_json::from_slice(&payload).map_err(|_| refused("it says what we do not know"))?;
        if receipt.project != project || receipt.drain != drain {
            return Err(refused("it was given to another document"));
        }
        Ok(receipt)
    }
}

/// What must have happened to data before it goes with what holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Claims {
    /// A `Drain` has a receipt for it.
    #[default]
    Drained,
    /// Nothing: it may be lost.
    Discarded,
}

/// The receipts of every Drain in `stream` that is Ready and whose spec is as `which` says. Each is
/// signed by this project's own data-drain, for the cluster and with every source that its document
/// names.
///
/// # Errors
///
/// [`Error::Receipt`], and whatever keeps the root from being read.
pub fn receipts(
    stream: &Stream,
    project: &Declared<Project>,
    which: impl Fn(&Value) -> bool,
) -> Result<Vec<Receipt>, Error> {
    let name = |it: &Value| it["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let ours = |it: &&Value| {
        let version = it["apiVersion"].as_str().unwrap_or_default();
        version.starts_with("holistic/") && it["kind"] == "Drain"
    };
    let drains = stream.documents().filter(ours).filter(|it| which(&it["spec"]));
    let drains: Vec<_> = drains.filter(|it| stream.ready("Drain", &name(it)).is_ok()).collect();
    if drains.is_empty() {
        return Ok(Vec::new());
    }
    let key = root_key(project)?.phase(project, PHASE);
    let mut receipts = Vec::new();
    for document in drains {
        let name = name(document);
        let refused = |why: &str| refused(&name, why);
        let envelope = document.pointer("/status/evidence/0/envelope");
        let envelope = envelope.ok_or_else(|| refused("its document holds none"))?;
        let envelope: Envelope = serde_json::from_value(envelope.clone())
            .map_err(|_| refused("its document holds something else"))?;
        let receipt = envelope.open(&name, project.name.as_str(), &key)?;
        if document["spec"]["cluster"] != receipt.cluster.name.as_str() {
            return Err(refused("it is for another cluster"));
        }
        for source in document["spec"]["sources"].as_array().into_iter().flatten() {
            let copied = |it: &Copied| match &it.from {
                Source::Claim { claim, .. } => source["claim"] == claim.as_str(),
                Source::Forge { repository, .. } => source["forge"] == repository.as_str(),
            };
            if !receipt.sources.iter().any(copied) {
                return Err(refused(&format!("{source} is not in it")));
            }
        }
        receipts.push(receipt);
    }
    Ok(receipts)
}

fn refused(drain: &str, why: &str) -> Error {
    Error::Receipt { drain: drain.to_owned(), why: why.to_owned() }
}

fn signing_key(key: &PhaseKey, project: &str) -> SigningKey {
    key.ed25519(project, ITEM)
}

fn key_id(key: &VerifyingKey) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(key.as_bytes())))
}

/// What is signed: the payload and its type, each with its length, so that neither can be taken
/// for the other.
fn encoding(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}
