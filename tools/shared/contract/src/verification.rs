//! Keys that sign artifacts and receipts, and the public keys that verify the signatures.

use std::io;

use data_encoding::BASE64;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::spki::{DecodePublicKey as _, EncodePublicKey as _};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use secrets::{Error, PhaseKey, RootKey, Secret};

/// Phase whose key signs receipts.
pub(crate) const RECEIPT_PHASE: &str = "data-drain";

/// Item of that phase from which the signing key derives. The scope is the name of the project, because
/// one key signs the receipts of all its drains.
const RECEIPT_ITEM: &str = "receipt";

/// Public key that verifies receipts, in the notation of OpenSSL (PEM, RFC 8410).
#[derive(Clone, PartialEq, Eq)]
pub struct ReceiptKey(VerifyingKey);

impl ReceiptKey {
    /// Returns the public half of the key that signs receipts of `project`; `key` is the phase key of
    /// data-drain.
    #[must_use]
    pub fn of(key: &PhaseKey, project: &str) -> Self {
        Self(signing_key(key, project).verifying_key())
    }

    /// Parses a PEM block, or its Base64 body on one line.
    ///
    /// # Errors
    ///
    /// The text is not an Ed25519 public key.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let der = spki(text).and_then(|der| VerifyingKey::from_public_key_der(&der).ok());
        der.map(Self).ok_or("not an Ed25519 public key in PEM (RFC 8410)")
    }

    /// Returns the key as a PEM block.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.to_public_key_pem(LineEnding::LF).unwrap_or_default()
    }

    /// Whether `signature` is a signature of `message` by this key.
    pub(crate) fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        self.0.verify_strict(message, signature).is_ok()
    }
}

/// Derives the key that signs receipts of `project` from the phase key of data-drain.
pub(crate) fn signing_key(key: &PhaseKey, project: &str) -> SigningKey {
    key.ed25519(project, RECEIPT_ITEM)
}

/// Parses the DER bytes of a public key (`SubjectPublicKeyInfo`) from a PEM block, or from its Base64
/// body on one line.
pub(crate) fn spki(text: &str) -> Option<Vec<u8>> {
    let (begin, end) = ("-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----");
    let text = text.trim();
    let body = text.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end)).unwrap_or(text);
    let body: String = body.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
    BASE64.decode(body.as_bytes()).ok()
}

/// Parses a P-256 public key from a PEM block, or from its Base64 body on one line.
pub(crate) fn artifact_key(text: &str) -> Option<p256::ecdsa::VerifyingKey> {
    p256::ecdsa::VerifyingKey::from_public_key_der(&spki(text)?).ok()
}

/// Returns the public keys of artifacts and of receipts that derive from `root` in `project`, in DER.
/// Both items, and both phases, are in generation `generation`.
pub(crate) fn public_keys(
    root: &RootKey,
    project: &str,
    generation: u32,
) -> Result<[Vec<u8>; 2], Error> {
    let wrong = || Error::from(io::Error::other("a public key cannot be encoded"));
    let artifacts = root.derive(project, "artifact-attest", generation).p256(project, "signing");
    let artifacts = p256::PublicKey::from(artifacts.verifying_key());
    let artifacts = artifacts.to_public_key_der().map_err(|_| wrong())?;
    let receipts = root.derive(project, RECEIPT_PHASE, generation);
    let receipts = ReceiptKey::of(&receipts, project).pem();
    Ok([artifacts.as_bytes().to_vec(), spki(&receipts).ok_or_else(wrong)?])
}

/// Returns the public keys that verify artifacts and receipts of a project called `project` whose root
/// is `root`. Each is the Base64 body of a PEM block.
///
/// # Errors
///
/// [`Error::NotAKey`], or a key cannot be encoded.
pub fn verification_keys(root: &Secret, project: &str) -> Result<(String, String), Error> {
    let [artifacts, receipts] = public_keys(&RootKey::parse(root, "the root")?, project, 1)?;
    Ok((BASE64.encode(&artifacts), BASE64.encode(&receipts)))
}
