//! Signed statements as Sigstore bundles v0.3 with a DSSE envelope, the form that cosign and Flux
//! read.

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER};
use p256::SecretKey;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::pkcs8::{EncodePrivateKey as _, LineEnding};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::oci::{Descriptor, Digest, EMPTY, Manifest};
use crate::statement::Predicate;

pub(crate) const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const MEDIA_TYPE_ANY: &str = "application/vnd.dev.sigstore.bundle";
/// Media type of version 0.3 in the notation of earlier versions (sigstore-go, `getBundleVersion`).
const MEDIA_TYPE_OLD_FORM: &str = "application/vnd.dev.sigstore.bundle+json;version=0.3";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Configuration of every referrer. All referrers of a repository share this blob, so it is never
/// deleted.
pub(crate) const EMPTY_CONFIG: &[u8] = b"{}";

/// DER prefix that turns a P-256 point into a public key (RFC 5480).
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Private signing key, with its public key.
pub(crate) struct Signing {
    key: SigningKey,
    pub(crate) public: Public,
}

/// Public key, with its generation.
#[derive(Clone, Debug)]
pub(crate) struct Public {
    key: VerifyingKey,
    der: Vec<u8>,
    pub(crate) generation: u32,
}

impl Signing {
    pub(crate) fn new(key: SigningKey, generation: u32) -> Self {
        let public = Public::new(*key.verifying_key(), generation);
        Self { key, public }
    }

    /// Returns the bundle of `statement`. The nonce derives from key and statement (RFC 6979), so
    /// that the same statement yields the same bundle.
    pub(crate) fn sign(&self, statement: &[u8]) -> Vec<u8> {
        let signature = self.signature(&signed(statement));
        crate::json::bytes(&json!({
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": self.public.hint()}},
            "dsseEnvelope": {
                "payload": BASE64.encode(statement),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": signature}],
            },
        }))
    }

    /// Returns the signature of `bytes`, in base64.
    pub(crate) fn signature(&self, bytes: &[u8]) -> String {
        let signature: Signature = self.key.sign(bytes);
        BASE64.encode(signature.to_der().as_bytes())
    }

    /// Returns the private key as PKCS#8 PEM, which OpenSSL reads.
    pub(crate) fn pem(&self) -> Zeroizing<Vec<u8>> {
        let text = SecretKey::from(&self.key).to_pkcs8_pem(LineEnding::LF);
        let text = text.unwrap_or_else(|_| unreachable!("PKCS#8 holds any key of P-256"));
        text.as_bytes().to_vec().into()
    }
}

impl Public {
    pub(crate) fn new(key: VerifyingKey, generation: u32) -> Self {
        let point = key.to_sec1_point(false);
        let der = [&SPKI, point.as_bytes()].concat();
        Self { key, der, generation }
    }

    /// Returns the public key as PEM, for `cosign verify --key`.
    pub(crate) fn pem(&self) -> String {
        let text = BASE64.encode(&self.der);
        let lines: Vec<_> =
            text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    pub(crate) fn id(&self) -> String {
        format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(&self.der)))
    }

    fn hint(&self) -> String {
        BASE64.encode(&Sha256::digest(&self.der))
    }

    /// Whether `signature`, in base64, is this key's signature of `bytes`.
    pub(crate) fn has_signed(&self, bytes: &[u8], signature: &str) -> bool {
        let signature = BASE64.decode(signature.as_bytes()).ok();
        let signature = signature.and_then(|der| Signature::from_der(&der).ok());
        signature.is_some_and(|signature| self.key.verify(bytes, &signature).is_ok())
    }

    /// Returns the statement in `bundle` if this key signed it and `subject` is its only subject.
    pub(crate) fn open(&self, bundle: &[u8], subject: &Digest) -> Option<Opened> {
        let accepted = Accepted::read(bundle);
        let is_accepted = accepted.is_some();
        let (payload, signature) = match accepted {
            Some(bundle) => bundle.parts()?,
            None => rejected(bundle)?,
        };
        let statement = decoded(&payload)?;
        let signature = Signature::from_der(&decoded(&signature)?).ok()?;
        self.key.verify(&signed(&statement), &signature).ok()?;
        let content: Value = serde_json::from_slice(&statement).ok()?;
        let [about] = content["subject"].as_array()?.as_slice() else { return None };
        (about["digest"] == json!({"sha256": subject.hex()}))
            .then_some(Opened { statement, is_accepted })
    }
}

/// A statement that our key signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) statement: Vec<u8>,
    /// Whether cosign and Flux accept the bundle around the statement.
    pub(crate) is_accepted: bool,
}

/// A bundle that cosign and Flux accept: the output of [`Signing::sign`] with any field order,
/// white space and hint. Both read a bundle with protojson, which rejects unknown and repeated
/// fields. Both verify it with sigstore-go, which rejects a foreign key id, a second signature, and
/// missing verification material (cosign 3.1.3, source-controller 1.9.6;
/// `tests/hazards/rewrapped.rs` compares all three).
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Accepted {
    #[serde(alias = "media_type")]
    media_type: String,
    #[serde(alias = "verification_material")]
    verification_material: Material,
    #[serde(alias = "dsse_envelope")]
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Material {
    #[serde(rename = "publicKey", alias = "public_key")]
    _public_key: Hint,
    /// Entries of a transparency log. Must be absent: our bundles are in no log, and verifiers
    /// would verify an entry.
    #[serde(default, alias = "tlog_entries")]
    tlog_entries: Option<Vec<NoEntry>>,
}

/// Key hint for people. No verifier reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hint {
    #[serde(default, rename = "hint")]
    _hint: String,
}

/// Uninhabited type, so that a list of it can only be empty.
#[derive(Deserialize)]
enum NoEntry {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Envelope {
    payload: String,
    #[serde(alias = "payload_type")]
    payload_type: String,
    signatures: Vec<Sig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sig {
    sig: String,
    #[serde(default)]
    keyid: String,
}

/// Returns the payload and the only signature of a bundle that cosign and Flux reject, because
/// others have changed the parts around our signature.
fn rejected(bundle: &[u8]) -> Option<(String, String)> {
    let bundle: Value = serde_json::from_slice(bundle).ok()?;
    let envelope = &bundle["dsseEnvelope"];
    let [signature] = envelope["signatures"].as_array()?.as_slice() else { return None };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some((text(&envelope["payload"])?, text(&signature["sig"])?))
}

impl Accepted {
    /// Returns the payload and the signature.
    fn parts(self) -> Option<(String, String)> {
        let Envelope { payload, signatures, .. } = self.dsse_envelope;
        Some((payload, signatures.into_iter().next()?.sig))
    }

    fn read(bundle: &[u8]) -> Option<Self> {
        let bundle: Self = serde_json::from_slice(bundle).ok()?;
        let Self { media_type, verification_material, dsse_envelope } = &bundle;
        let Material { tlog_entries, .. } = verification_material;
        let Envelope { payload_type, signatures, .. } = dsse_envelope;
        let is_accepted = (media_type == MEDIA_TYPE || media_type == MEDIA_TYPE_OLD_FORM)
            && payload_type == PAYLOAD_TYPE
            && tlog_entries.as_ref().is_none_or(Vec::is_empty)
            && matches!(signatures.as_slice(), [Sig { keyid, .. }] if keyid.is_empty());
        is_accepted.then_some(bundle)
    }
}

/// Decodes base64 as protojson does: either alphabet, with or without padding.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').replace('-', "+").replace('_', "/");
    BASE64_NOPAD.decode(text.as_bytes()).ok()
}

/// Returns the signed bytes of a statement (DSSE, pre-authentication encoding).
fn signed(statement: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), statement.len());
    [head.as_bytes(), statement].concat()
}

/// Returns the manifest that attaches `bundle` to `subject` as a referrer.
pub(crate) fn referrer(subject: &Descriptor, predicate: Predicate, bundle: &[u8]) -> Manifest {
    let layer = Descriptor::of(MEDIA_TYPE, bundle);
    let annotations = [("content", "dsse-envelope"), ("predicateType", predicate.uri())];
    let annotation =
        |(name, value): (&str, &str)| (format!("dev.sigstore.bundle.{name}"), value.to_owned());
    Manifest {
        artifact_type: Some(MEDIA_TYPE.to_owned()),
        subject: Some(subject.clone()),
        annotations: annotations.into_iter().map(annotation).collect(),
        ..Manifest::new(Descriptor::of(EMPTY, EMPTY_CONFIG), layer)
    }
}

/// Whether an entry of a list of referrers looks like one of our bundles. Anyone can write such an
/// entry, so the result only decides the reading order.
pub(crate) fn is_likely_ours(entry: &Value) -> bool {
    let about = entry["annotations"]["dev.sigstore.bundle.predicateType"].as_str();
    let ours = [Predicate::Provenance, Predicate::Sbom, Predicate::Signature];
    entry["artifactType"] == MEDIA_TYPE && ours.iter().any(|known| about == Some(known.uri()))
}

/// Returns the descriptor of the bundle in a referrer's manifest, if the manifest has exactly one
/// layer and that is a bundle.
pub(crate) fn layer(manifest: &[u8]) -> Option<Descriptor> {
    let manifest: Manifest = serde_json::from_slice(manifest).ok()?;
    let mut layers = manifest.layers.into_iter();
    let (layer, none) = (layers.next()?, layers.next());
    (none.is_none() && layer.media_type.starts_with(MEDIA_TYPE_ANY)).then_some(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signing(seed: u8) -> Signing {
        Signing::new(SigningKey::from_slice(&[seed; 32]).expect("a scalar"), 1)
    }

    fn statement(subject: &Digest) -> Vec<u8> {
        crate::json::bytes(&json!({"subject": [{"digest": {"sha256": subject.hex()}}]}))
    }

    #[test]
    fn a_bundle_opens_only_with_its_own_key_and_its_own_subject() {
        let (ours, theirs) = (signing(1), signing(2));
        let (this, that) = (Digest::of(b"this"), Digest::of(b"that"));
        let bundle = ours.sign(&statement(&this));
        let opened = Opened { statement: statement(&this), is_accepted: true };
        assert_eq!(ours.public.open(&bundle, &this), Some(opened));
        assert_eq!(ours.public.open(&bundle, &that), None, "another digest");
        assert_eq!(theirs.public.open(&bundle, &this), None, "a foreign key");
        assert_eq!(ours.sign(&statement(&this)), bundle, "the same bytes each time");
    }

    #[test]
    fn a_changed_byte_outside_the_hint_is_detected() {
        let (ours, this) = (signing(1), Digest::of(b"this"));
        let bundle = ours.sign(&statement(&this));
        let text = String::from_utf8(bundle.clone()).expect("JSON is text");
        let hint =
            text.find("\"hint\"").expect("a hint")..text.find("\"dsse").expect("an envelope");
        for at in (0..bundle.len()).filter(|at| !hint.contains(at)) {
            let mut forged = bundle.clone();
            forged[at] ^= 1;
            let opened = ours.public.open(&forged, &this).filter(|opened| opened.is_accepted);
            assert!(opened.is_none_or(|opened| opened.statement == statement(&this)), "byte {at}");
        }
    }

    #[test]
    fn the_public_key_is_written_as_pem_like_that_of_openssl() {
        let pem = signing(1).public.pem();
        assert!(
            pem.starts_with("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE")
        );
        assert!(pem.lines().all(|line| line.len() <= 64));
    }
}
