//! Ownership records: the objects that this program created, in an Actions variable of the
//! repository.
//!
//! A record is signed with a key that derives from the root, and bound to the forge's number of the
//! repository. A copied variable therefore proves nothing, and files without a `status` are enough
//! for a plan. A secret's value is recorded as a keyed hash because a forge never returns the
//! value.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrets::PhaseKey;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::model::{Ownership, OwnershipRecord, RepositorySlug};

/// Name of the Actions variable with the record.
pub(crate) const VARIABLE: &str = "HOLISTIC_RECEIPT";

/// Key that signs ownership records and hashes secrets. Its generations are those of
/// `vcs-bootstrap/receipt`.
pub(crate) struct OwnershipKey {
    /// Key of the current generation, then those of former generations.
    keys: Vec<Zeroizing<[u8; 32]>>,
    place: RepositorySlug,
}

impl OwnershipKey {
    pub(crate) fn new(key: &PhaseKey, place: &RepositorySlug) -> Self {
        const ITEM: &str = "receipt";
        const SCOPE: &str = "repositories of the project";
        // All repositories of the project share one key. A record is bound to the forge's number of
        // its repository, so a renaming changes nothing. Earlier versions signed with a key of the
        // repository's name, which is still accepted.
        let generations = (1..=key.generation(ITEM)).rev();
        let at = |generation| {
            let key = key.at(ITEM, generation);
            [key.bytes(SCOPE, ITEM), key.bytes(&place.name, ITEM)]
        };
        let keys = generations.flat_map(at).collect();
        Self { keys, place: place.clone() }
    }

    /// Returns the keyed hash of a secret's value.
    pub(crate) fn secret(&self, name: &str, value: &[u8]) -> String {
        self.sign(&[b"secret", self.place.to_string().as_bytes(), name.as_bytes(), value])
    }

    /// Returns the description that `apply` creates a repository with. Only holders of the key can
    /// compute it, so a repository whose creation was interrupted is still recognised as ours.
    pub(crate) fn creation_marker(&self) -> String {
        let mac = self.sign(&[b"created", self.place.to_string().as_bytes()]);
        format!("vcs-bootstrap is setting this up ({})", mac.get(..32).unwrap_or_default())
    }

    /// Returns the text of the record for the repository with the number `id`.
    pub(crate) fn write(&self, id: u64, receipt: &OwnershipRecord) -> String {
        let json = serde_json::json!(receipt).to_string();
        let mac = self.sign(&[b"receipt", id.to_string().as_bytes(), json.as_bytes()]);
        format!("v1 {mac} {json}")
    }

    /// Verifies the record `text` of the repository with the number `id`.
    pub(crate) fn read(&self, id: u64, text: &str) -> Ownership {
        let parts = text.trim().strip_prefix("v1 ").and_then(|text| text.split_once(' '));
        let Some((mac, json)) = parts else { return Ownership::Disputed };
        let id = id.to_string();
        let signed = self.is_signed(&[b"receipt", id.as_bytes(), json.as_bytes()], mac);
        match serde_json::from_str(json) {
            Ok(receipt) if signed => Ownership::Ours(receipt),
            _ => Ownership::Disputed,
        }
    }

    fn sign(&self, parts: &[&[u8]]) -> String {
        let macs = self.keys.first().map(|key| mac(key, parts).finalize());
        macs.map_or(String::new(), |mac| HEXLOWER.encode(&mac.into_bytes()))
    }

    fn is_signed(&self, parts: &[&[u8]], hex: &str) -> bool {
        let Ok(bytes) = HEXLOWER.decode(hex.as_bytes()) else { return false };
        self.keys.iter().any(|key| mac(key, parts).verify_slice(&bytes).is_ok())
    }
}

/// Computes a MAC over the parts, each preceded by its length, so that bytes cannot move between
/// parts.
fn mac(key: &Zeroizing<[u8; 32]>, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key[..])
        .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}
