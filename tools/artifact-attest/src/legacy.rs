//! Signatures in the older form of cosign: a payload per signature under the tag `sha256-….sig`. Podman,
//! skopeo, CRI-O, Kyverno, policy-controller and cosign 2 read no key-signed bundles, and read these
//! (<https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>).

use serde_json::{Value, json};

use crate::bundle::{Public, Signing};
use crate::oci::{Descriptor, Digest, IMAGE_CONFIG, MANIFEST};

/// Media type of a payload.
pub(crate) const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Annotation of a layer with the signature of its payload.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Suffix of the tag.
const SUFFIX: &str = ".sig";
/// Suffixes of the tags in which cosign keeps objects about a manifest.
const SUFFIXES: [&str; 3] = [SUFFIX, ".att", ".sbom"];

/// Returns the tag under which the signatures of `subject` are.
pub(crate) fn tag(subject: &Digest) -> String {
    subject.fallback_tag() + SUFFIX
}

/// Returns the digest of the manifest that the objects under `tag` are about.
pub(crate) fn subject(tag: &str) -> Option<Digest> {
    let tag = SUFFIXES.iter().find_map(|suffix| tag.strip_suffix(suffix)).unwrap_or(tag);
    Digest::from_fallback_tag(tag)
}

/// Returns the payload that is signed. `repository` is the reference without a tag or a digest, which
/// podman compares with its policy.
pub(crate) fn payload(repository: &str, subject: &Digest) -> Vec<u8> {
    crate::json::bytes(&json!({
        "critical": {
            "identity": {"docker-reference": repository},
            "image": {"docker-manifest-digest": subject},
            "type": "cosign container image signature",
        },
        "optional": null,
    }))
}

/// Layers of a manifest of signatures. Layers of others are kept as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Signatures {
    layers: Vec<Value>,
}

impl Signatures {
    /// Reads a manifest; `None` if it is something else, which this program must not overwrite.
    pub(crate) fn read(manifest: &[u8]) -> Option<Self> {
        let manifest: Value = serde_json::from_slice(manifest).ok()?;
        Some(Self { layers: manifest["layers"].as_array()?.clone() })
    }

    /// Whether one of `keys` has signed `payload`.
    pub(crate) fn has(&self, payload: &[u8], keys: &[&Public]) -> bool {
        self.layers.iter().any(|layer| is_of(layer, payload, keys))
    }

    /// Adds the signature of `payload`.
    pub(crate) fn add(&mut self, payload: &[u8], signing: &Signing) {
        let mut layer = json!(Descriptor::of(PAYLOAD, payload));
        layer["annotations"] = json!({ SIGNATURE: signing.signature(payload) });
        self.layers.push(layer);
    }

    /// Removes the signatures of `payload` by `keys`, and no others.
    pub(crate) fn remove(&mut self, payload: &[u8], keys: &[&Public]) {
        self.layers.retain(|layer| !is_of(layer, payload, keys));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Returns the configuration and the manifest.
    pub(crate) fn bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let digests: Vec<_> = self.layers.iter().map(|layer| &layer["digest"]).collect();
        let config = crate::json::bytes(&json!({
            "architecture": "",
            "os": "",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": digests},
        }));
        let manifest = crate::json::bytes(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": Descriptor::of(IMAGE_CONFIG, &config),
            "layers": self.layers,
        }));
        (config, manifest)
    }
}

/// Whether a layer is the signature of `payload` by one of `keys`.
fn is_of(layer: &Value, payload: &[u8], keys: &[&Public]) -> bool {
    let signature = layer["annotations"][SIGNATURE].as_str().unwrap_or_default();
    layer["mediaType"] == PAYLOAD
        && layer["digest"] == json!(Digest::of(payload))
        && keys.iter().any(|key| key.has_signed(payload, signature))
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::SigningKey;

    use super::*;

    fn signing(seed: u8) -> Signing {
        Signing::new(SigningKey::from_slice(&[seed; 32]).expect("a scalar"), 1)
    }

    #[test]
    fn signatures_of_others_survive_adding_and_removing_ours() {
        let (ours, theirs) = (signing(1), signing(2));
        let subject = Digest::of(b"manifest");
        let payload = payload("r.example/a", &subject);
        let mut all = Signatures::default();
        all.add(&payload, &theirs);
        let before = all.clone();
        assert!(!all.has(&payload, &[&ours.public]));
        all.add(&payload, &ours);
        let (_, manifest) = all.bytes();
        let mut all = Signatures::read(&manifest).expect("a manifest");
        assert!(all.has(&payload, &[&ours.public]) && all.has(&payload, &[&theirs.public]));
        assert!(!all.has(b"another payload", &[&ours.public]));
        all.remove(&payload, &[&ours.public]);
        assert_eq!(all, before);
        all.remove(&payload, &[&theirs.public]);
        assert!(all.is_empty());
    }

    #[test]
    fn a_changed_signature_proves_nothing() {
        let ours = signing(1);
        let payload = payload("r.example/a", &Digest::of(b"manifest"));
        let mut all = Signatures::default();
        all.add(&payload, &ours);
        let text = String::from_utf8(all.bytes().1).expect("JSON");
        let start = text.find(SIGNATURE).expect("a signature") + SIGNATURE.len() + 10;
        for at in start..start + 60 {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = Signatures::read(&forged).expect("JSON");
            assert!(!forged.has(&payload, &[&ours.public]), "byte {at}");
        }
        for odd in ["", "[]", "{}", "{\"layers\": 7}"] {
            assert_eq!(Signatures::read(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn the_tags_of_cosign_name_their_subject() {
        let subject = Digest::of(b"manifest");
        assert_eq!(self::subject(&tag(&subject)), Some(subject.clone()));
        assert_eq!(self::subject(&subject.fallback_tag()), Some(subject.clone()));
        assert_eq!(self::subject(&(subject.fallback_tag() + ".att")), Some(subject));
        assert_eq!(self::subject("v1.sig"), None);
    }
}
