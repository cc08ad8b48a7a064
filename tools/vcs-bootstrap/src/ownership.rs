//! What we made, said beside it in the world: an Actions variable, signed with a key that derives
//! from the root and bound to the forge's own number for the repository.
//!
//! So nobody can make `destroy` believe that a repository is ours by copying the variable, and
//! files without a `status` are enough to plan from. A secret that nobody can read again is
//! remembered by a keyed hash of its value.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use keyring::PhaseKey;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::model::{Mark, Place, Receipt};

/// The Actions variable that holds it.
pub(crate) const VARIABLE: &str = "HOLISTIC_RECEIPT";

/// What signs receipts, and remembers secrets. Its generations are those of `vcs-bootstrap/receipt`.
pub(crate) struct Seal {
    /// The one in use, then those before it.
    keys: Vec<Zeroizing<[u8; 32]>>,
    place: Place,
}

impl Seal {
    pub(crate) fn new(key: &PhaseKey, place: &Place) -> Self {
        const ITEM: &str = "receipt";
        const SCOPE: &str = "repositories of the project";
        // One key for all repositories of the project: a receipt is bound to the forge's number for
        // its repository, so a new name changes nothing. Receipts of earlier versions were signed
        // with a key of the repository's name, and are still accepted.
        let generations = (1..=key.generation(ITEM)).rev();
        let at = |generation| {
            let key = key.at(ITEM, generation);
            [key.bytes(SCOPE, ITEM), key.bytes(&place.name, ITEM)]
        };
        let keys = generations.flat_map(at).collect();
        Self { keys, place: place.clone() }
    }

    /// What is remembered of a secret.
    pub(crate) fn secret(&self, name: &str, value: &[u8]) -> String {
        self.sign(&[b"secret", self.place.to_string().as_bytes(), name.as_bytes(), value])
    }

    /// The description that a repository is created with: only we can have written it, so a
    /// creation that was interrupted before its receipt is still known to be ours.
    pub(crate) fn birth_mark(&self) -> String {
        let mac = self.sign(&[b"created", self.place.to_string().as_bytes()]);
        format!("vcs-bootstrap is setting this up ({})", mac.get(..32).unwrap_or_default())
    }

    /// The text of `receipt`, for the repository that the forge calls `id`.
    pub(crate) fn write(&self, id: u64, receipt: &Receipt) -> String {
        let json = serde_json::json!(receipt).to_string();
        let mac = self.sign(&[b"receipt", id.to_string().as_bytes(), json.as_bytes()]);
        format!("v1 {mac} {json}")
    }

    /// What `text` says of the repository that the forge calls `id`.
    pub(crate) fn read(&self, id: u64, text: &str) -> Mark {
        let parts = text.trim().strip_prefix("v1 ").and_then(|it| it.split_once(' '));
        let Some((mac, json)) = parts else { return Mark::Disputed };
        let id = id.to_string();
        let signed = self.is_signed(&[b"receipt", id.as_bytes(), json.as_bytes()], mac);
        match serde_json::from_str(json) {
            Ok(receipt) if signed => Mark::Ours(receipt),
            _ => Mark::Disputed,
        }
    }

    fn sign(&self, parts: &[&[u8]]) -> String {
        let macs = self.keys.first().map(|key| mac(key, parts).finalize());
        macs.map_or(String::new(), |it| HEXLOWER.encode(&it.into_bytes()))
    }

    fn is_signed(&self, parts: &[&[u8]], hex: &str) -> bool {
        let Ok(bytes) = HEXLOWER.decode(hex.as_bytes()) else { return false };
        self.keys.iter().any(|key| mac(key, parts).verify_slice(&bytes).is_ok())
    }
}

/// Each part after its length, so that nothing can move from one into the next.
fn mac(key: &Zeroizing<[u8; 32]>, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key[..])
        .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}
