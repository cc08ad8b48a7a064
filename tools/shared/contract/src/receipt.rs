//! Drain receipts: signed statements that data was copied. Without one, no program deletes the data.
//!
//! A receipt is a DSSE envelope in the status of its `Drain` and beside the data in the store. It is
//! signed with a key that derives from the phase `data-drain`, and verified with the public key that
//! the Project names. So a job that can verify a receipt cannot sign one.

use std::ops::Deref;

use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use schemars::JsonSchema;
use secrets::PhaseKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ContractError;
use crate::hold::Hold;
use crate::verification::{ReceiptKey, signing_key};

const PAYLOAD_TYPE: &str = "application/vnd.holistic.drain.v1+json";

/// Statement of data-drain that the data of a Drain was copied and read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Receipt {
    /// Name of the Project.
    pub project: String,
    /// Name of the Drain.
    pub drain: String,
    /// Cluster from which the data was copied.
    pub cluster: Drained,
    /// Digest of the documents that declared the drain, independent of their order.
    pub run: String,
    /// Name of the bucket in the store.
    pub bucket: String,
    /// age recipients that can decrypt the copies.
    pub recipients: Vec<String>,
    /// Sources that were copied.
    pub sources: Vec<Copied>,
}

/// Identity of a cluster, which differs from that of a later cluster with the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Drained {
    /// Name of the Cluster.
    pub name: String,
    /// UID of the Namespace `kube-system`, which is created once with the cluster.
    pub uid: String,
}

/// Complete copy of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Copied {
    /// Source of the copy.
    pub from: Source,
    /// Keyed digest of the whole source; an unchanged source has the same digest.
    pub fingerprint: String,
    /// Size of the archive in bytes, before compression and encryption.
    pub bytes: u64,
    /// Number of files and folders.
    pub entries: u64,
    /// Objects whose decrypted contents, joined in this order, are the archive.
    pub packs: Vec<Pack>,
    /// Encrypted list of the files and folders.
    pub manifest: Pack,
    /// Entries that the copy does not preserve, for example sockets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_kept: Vec<String>,
}

/// Source of a copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Source {
    /// Volume of the cluster.
    Claim(ClaimSource),
    /// Repository at the forge.
    Forge {
        /// Name of the Repository.
        repository: String,
        /// SHA-256 of the output of `git ls-remote`: every branch and tag with its commit.
        refs: String,
    },
}

/// Claim, its volume, and the hold that keeps both unchanged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClaimSource {
    /// The claim as `namespace/name`.
    pub claim: String,
    /// UID of the claim.
    pub uid: String,
    /// Name of the `PersistentVolume` that is bound to the claim.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub volume: String,
    /// Workload that was stopped so that the volume does not change; `None` when no pod mounted the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Admission policy that keeps pods off the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

/// Workload that was stopped. Starting it again changes its generation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Stopped {
    /// Kind and name: `deployment/NAME` or `statefulset/NAME`.
    pub workload: String,
    /// UID of the workload.
    pub uid: String,
    /// `metadata.generation` of the stopped workload.
    pub generation: i64,
}

/// Object in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pack {
    /// Key of the object.
    pub object: String,
    /// SHA-256 of the object in the store.
    pub sha256: String,
    /// Size of the object in bytes.
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

/// Receipt whose signature was verified with a key of the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedReceipt {
    receipt: Receipt,
    /// Digest of the signed bytes, for example `sha256:…`, which identifies the receipt.
    pub digest: String,
}

#[cfg(test)]
impl VerifiedReceipt {
    /// Creates a receipt for the cluster with the UID `cluster` without a signature.
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

impl Receipt {
    /// Signs the receipt with the phase key of `data-drain`. The same receipt gives the same bytes,
    /// because Ed25519 is deterministic.
    ///
    /// # Errors
    ///
    /// The receipt cannot be serialised, which no value of this type causes.
    pub fn sign(&self, key: &PhaseKey) -> Result<Envelope, secrets::Error> {
        let refused = |_| refused(&self.drain, "it cannot be serialised");
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

    /// Whether the receipt covers the repository called `name` with the references that
    /// `git ls-remote` lists.
    #[must_use]
    pub fn has_forge(&self, name: &str, ls_remote: &str) -> bool {
        let digest = HEXLOWER.encode(&Sha256::digest(ls_remote));
        self.sources.iter().any(|copied| {
            matches!(&copied.from, Source::Forge { repository, refs } if repository == name && *refs == digest)
        })
    }
}

impl Envelope {
    /// Returns the receipt if one of `keys` has signed it for `drain` of `project`.
    ///
    /// # Errors
    ///
    /// [`ContractError::Receipt`] with the check that failed.
    pub fn open(
        &self,
        drain: &str,
        project: &str,
        keys: &[ReceiptKey],
    ) -> Result<VerifiedReceipt, secrets::Error> {
        let refused = |why: &str| refused(drain, why);
        if self.payload_type != PAYLOAD_TYPE {
            return Err(refused("its payload type is not that of a receipt"));
        }
        let decode = |text: &str| BASE64.decode(text.as_bytes()).ok();
        let payload = decode(&self.payload).ok_or_else(|| refused("its payload is not base64"))?;
        let message = encoding(&payload);
        let is_valid = |signed: &Signed| {
            let signature =
                decode(&signed.sig).and_then(|bytes| Signature::from_slice(&bytes).ok());
            signature
                .is_some_and(|signature| keys.iter().any(|key| key.verifies(&message, &signature)))
        };
        if !self.signatures.iter().any(is_valid) {
            return Err(refused("it has no valid signature of this project's data-drain"));
        }
        let receipt: Receipt = serde_json::from_slice(&payload)
            .map_err(|_| refused("its fields are those of another version of data-drain"))?;
        if receipt.project != project || receipt.drain != drain {
            return Err(refused("it was signed for another document"));
        }
        let digest = format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(&payload)));
        Ok(VerifiedReceipt { receipt, digest })
    }
}

/// Creates the error about the receipt of `drain`.
pub(crate) fn refused(drain: &str, why: &str) -> secrets::Error {
    ContractError::Receipt { drain: drain.to_owned(), why: why.to_owned() }.into()
}

fn key_id(key: &VerifyingKey) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(key.as_bytes())))
}

/// Returns the bytes that are signed: the payload and its type, each with its length, so that neither
/// can be mistaken for the other (DSSE, "Pre-Authentication Encoding").
fn encoding(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}
