//! Drain receipts: signed proofs that data was copied, without which no program destroys it.
//!
//! A receipt travels as a DSSE envelope in the status of its `Drain`, and lies beside the data. It is
//! signed with a key that derives from the key of the phase `data-drain`, and verified with the public
//! half that the Project names. A job that can verify a receipt can therefore not sign one.
//!
//! **Invariant:** no field of a receipt is used before its signature is verified.

use std::ops::Deref;

use data_encoding::{BASE64, HEXLOWER};
use documents::{Declared, Stream};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::spki::{DecodePublicKey as _, EncodePublicKey as _};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::gate::HoldObject;
use crate::{Error, PhaseKey, Project, phase_key};

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
    /// What the copy does not keep as it was, for example sockets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_kept: Vec<String>,
}

/// What a source is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Source {
    /// A volume of the cluster.
    Claim(ClaimSource),
    /// The repository at the forge.
    Forge {
        /// Its document.
        repository: String,
        /// The SHA-256 of what `git ls-remote` lists there: every branch and tag, and its commit.
        refs: String,
    },
}

/// A claim, the volume behind it, and what has kept both from changing since.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClaimSource {
    /// The claim as `namespace/name`.
    pub claim: String,
    /// UID of the claim.
    pub uid: String,
    /// Name of its `PersistentVolume`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub volume: String,
    /// Workload that was stopped so that the volume does not change; `None` when no pod mounted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Admission policy that keeps pods off the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

/// Admission policy that keeps pods off drained claims, and its binding. Both are recorded before the
/// claim is read, so that a hold that was removed, edited or put back is detected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Hold {
    /// The `ValidatingAdmissionPolicy`.
    pub policy: HoldObject,
    /// Its `ValidatingAdmissionPolicyBinding`.
    pub binding: HoldObject,
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

/// A receipt whose signature is that of this project's data-drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedReceipt {
    receipt: Receipt,
    /// Digest of the signed bytes, `sha256:…`: the name of this receipt.
    pub digest: String,
}

#[cfg(test)]
impl VerifiedReceipt {
    /// A receipt of the cluster with this UID, as if it had been verified.
    pub(crate) fn for_tests(cluster: &str, entries: Vec<ClaimSource>) -> Self {
        let pack = || Pack { object: String::new(), sha256: String::new(), bytes: 0 };
        let sources = entries.into_iter().map(|entry| Copied {
            from: Source::Claim(entry),
            fingerprint: String::new(),
            bytes: 0,
            entries: 0,
            packs: Vec::new(),
            manifest: pack(),
            not_kept: Vec::new(),
        });
        let receipt = Receipt {
            project: "holistic".to_owned(),
            drain: "prod".to_owned(),
            cluster: Drained { name: "prod".to_owned(), uid: cluster.to_owned() },
            run: String::new(),
            bucket: String::new(),
            recipients: Vec::new(),
            sources: sources.collect(),
        };
        Self { receipt, digest: "sha256:test".to_owned() }
    }
}

impl Deref for VerifiedReceipt {
    type Target = Receipt;

    fn deref(&self) -> &Receipt {
        &self.receipt
    }
}

/// Public key that verifies receipts, written as OpenSSL writes it (PEM, RFC 8410).
#[derive(Clone, PartialEq, Eq)]
pub struct ReceiptKey(VerifyingKey);

impl ReceiptKey {
    /// The public half of the key with which the phase key of data-drain signs for `project`.
    #[must_use]
    pub fn of(key: &PhaseKey, project: &str) -> Self {
        Self(signing_key(key, project).verifying_key())
    }

    /// Reads a PEM block, or its Base64 body on one line.
    ///
    /// # Errors
    ///
    /// It is not an Ed25519 public key.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let der = spki(text).and_then(|der| VerifyingKey::from_public_key_der(&der).ok());
        der.map(Self).ok_or("not an Ed25519 public key in PEM (RFC 8410)")
    }

    /// The key as a PEM block.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.to_public_key_pem(LineEnding::LF).unwrap_or_default()
    }
}

/// The DER bytes of a public key (`SubjectPublicKeyInfo`) from a PEM block, or from the Base64 body of
/// one on a single line.
pub(crate) fn spki(text: &str) -> Option<Vec<u8>> {
    let (begin, end) = ("-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----");
    let text = text.trim();
    let body = text.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end)).unwrap_or(text);
    let body: String = body.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
    BASE64.decode(body.as_bytes()).ok()
}

/// Public keys of which one must have signed a receipt of `project`: those that its document names,
/// or else the one that derives from the key of the phase `data-drain`.
///
/// # Errors
///
/// The document names no key, and neither `DATA_DRAIN_KEY` nor the root can be read.
pub fn receipt_keys(project: &Declared<Project>) -> Result<Vec<ReceiptKey>, Error> {
    let named = &project.spec.verification_keys.receipts;
    if named.is_empty() {
        return Ok(vec![ReceiptKey::of(&phase_key(project, PHASE)?, project.name.as_str())]);
    }
    named
        .iter()
        .map(|pem| ReceiptKey::parse(pem).map_err(|why| Error::VerificationKey { why }))
        .collect()
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

    /// Whether the repository, with the references that `git ls-remote` lists, is in it.
    #[must_use]
    pub fn has_forge(&self, name: &str, ls_remote: &str) -> bool {
        let digest = HEXLOWER.encode(&Sha256::digest(ls_remote));
        self.sources.iter().any(|it| {
            matches!(&it.from, Source::Forge { repository, refs } if repository == name && *refs == digest)
        })
    }
}

impl Envelope {
    /// The receipt, if one of `keys` has signed it for `project`.
    ///
    /// # Errors
    ///
    /// [`Error::Receipt`].
    pub fn open(
        &self,
        drain: &str,
        project: &str,
        keys: &[ReceiptKey],
    ) -> Result<VerifiedReceipt, Error> {
        let refused = |why: &str| refused(drain, why);
        if self.payload_type != PAYLOAD_TYPE {
            return Err(refused("its payload has another type"));
        }
        let decode = |text: &str| BASE64.decode(text.as_bytes()).ok();
        let payload = decode(&self.payload).ok_or_else(|| refused("its payload is not base64"))?;
        let message = encoding(&payload);
        let good = |signed: &Signed| {
            let signature =
                decode(&signed.sig).and_then(|bytes| Signature::from_slice(&bytes).ok());
            signature.is_some_and(|signature| {
                keys.iter().any(|key| key.0.verify_strict(&message, &signature).is_ok())
            })
        };
        if !self.signatures.iter().any(good) {
            return Err(refused("no signature on it is that of this project's data-drain"));
        }
        let receipt: Receipt = serde_json::from_slice(&payload)
            .map_err(|_| refused("another version of data-drain wrote it"))?;
        if receipt.project != project || receipt.drain != drain {
            return Err(refused("it was given to another document"));
        }
        let digest = format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(&payload)));
        Ok(VerifiedReceipt { receipt, digest })
    }
}

/// The receipts of every Drain in `stream` that is Ready and whose spec is as `which` says. Each is
/// signed by this project's own data-drain, for the cluster and with every source that its document
/// names.
///
/// # Errors
///
/// [`Error::Receipt`], and those of [`receipt_keys`].
pub fn receipts(
    stream: &Stream,
    project: &Declared<Project>,
    which: impl Fn(&Value) -> bool,
) -> Result<Vec<VerifiedReceipt>, Error> {
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
    let keys = receipt_keys(project)?;
    let mut receipts = Vec::new();
    for document in drains {
        let name = name(document);
        let refused = |why: &str| refused(&name, why);
        let envelope = document.pointer("/status/evidence/0/envelope");
        let envelope = envelope.ok_or_else(|| refused("its document holds none"))?;
        let envelope: Envelope = serde_json::from_value(envelope.clone())
            .map_err(|_| refused("its document holds something else"))?;
        let receipt = envelope.open(&name, project.name.as_str(), &keys)?;
        if document["spec"]["cluster"] != receipt.cluster.name.as_str() {
            return Err(refused("it is for another cluster"));
        }
        for source in document["spec"]["sources"].as_array().into_iter().flatten() {
            let copied = |it: &Copied| match &it.from {
                Source::Claim(entry) => source["claim"] == entry.claim.as_str(),
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
