//! The document that all programs read and no program owns.

use std::collections::BTreeMap;

use documents::{Kind, Name};
use schemars::JsonSchema;
use secrets::{AgeRecipient, Reference};
use serde::Deserialize;
use serde_json::Value;

use crate::endpoints::Endpoints;

/// Settings that all programs share: the root of secrets, recipients, public keys and endpoints.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Project {
    /// Root from which keys derive: a secret of 32 bytes as base64, as hex, or raw.
    pub root: Reference,
    /// People and CI jobs that can decrypt sealed credentials.
    pub recipients: Vec<Recipient>,
    /// Generation of each rotated key, for example `flux-seed: 2` or `artifact-attest/signing: 2`. A key
    /// without an entry is in generation 1.
    #[serde(default)]
    pub generations: BTreeMap<String, u32>,
    /// Public keys that verify signatures of the programs. Without them, a verifying job derives the keys
    /// from the root or from a phase's key, with which the job could also sign.
    #[serde(default)]
    pub verification_keys: VerificationKeys,
    /// URLs and credentials of the remotes.
    #[serde(default)]
    pub endpoints: Endpoints,
}

/// Public keys in PEM, in the format of `PROGRAM derive`, or the Base64 body of a PEM block on one line.
/// During a rotation, a list holds the old key and the new key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VerificationKeys {
    /// Keys of artifact-attest's signatures (ECDSA P-256): `artifact-attest/NAME/signing.pub`.
    #[serde(default)]
    pub artifacts: Vec<String>,
    /// Keys of data-drain's receipts (Ed25519): `data-drain/NAME/receipt.pub`.
    #[serde(default)]
    pub receipts: Vec<String>,
}

impl Project {
    /// Returns the generation of `key`, the name of a phase or `PHASE/ITEM`.
    #[must_use]
    pub fn generation(&self, key: &str) -> u32 {
        self.generations.get(key).copied().unwrap_or(1)
    }
}

impl Kind for Project {
    const KIND: &'static str = "Project";
    type Observed = ();
    type Evidence = ();
    type Step = ();
}

/// Access that a sealed credential gives, and that a recipient may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Access {
    /// Decrypts only credentials that read: `readerKubeconfig` and `readerTalosconfig` of a Cluster.
    Reader,
    /// Decrypts every sealed credential.
    #[default]
    Administrator,
}

/// Person or CI job that can decrypt sealed credentials.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "RecipientFields")]
pub struct Recipient {
    /// Name of the recipient, to which documents refer, for example `founder`.
    pub name: Name,
    /// Public half of the recipient's age identity, which `age-keygen -y` prints.
    pub age: AgeRecipient,
    /// Credentials that the recipient can decrypt (default `administrator`: all of them).
    pub access: Access,
}

/// Person or CI job that can decrypt sealed credentials.
// The key is parsed in a second step, so that an error names the recipient and does not quote the key.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `name`, `age` and optionally `access`")]
struct RecipientFields {
    /// Name of the recipient, to which documents refer, for example `founder`.
    name: Name,
    /// Public half of the recipient's age identity, which `age-keygen -y` prints.
    #[schemars(with = "AgeRecipient")]
    age: Value,
    /// Credentials that the recipient can decrypt (default `administrator`: all of them).
    #[serde(default)]
    access: Access,
}

impl TryFrom<RecipientFields> for Recipient {
    type Error = String;

    fn try_from(RecipientFields { name, age, access }: RecipientFields) -> Result<Self, String> {
        let age = age.as_str().unwrap_or_default().to_owned();
        let age = AgeRecipient::try_from(age).map_err(|why| format!("`age` of {name} is {why}"))?;
        Ok(Self { name, age, access })
    }
}
