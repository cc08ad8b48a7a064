//! X.509 certificates as Talos's generator makes them, without any field that differs between runs.

use ed25519_dalek::Signer as _;
use jiff::civil::DateTime;
use p256::ecdsa;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::der;

/// Private key of one of the two algorithms that a cluster needs.
#[derive(Clone)]
pub(crate) enum Key {
    /// Key for Talos's API.
    Ed25519(ed25519_dalek::SigningKey),
    /// Key for Kubernetes or etcd.
    P256(ecdsa::SigningKey),
}

impl Key {
    /// Returns the `AlgorithmIdentifier` of the key's signatures.
    fn algorithm(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(_) => der::sequence(&[&der::object(&[0x2b, 0x65, 0x70])]),
            Self::P256(_) => {
                let ecdsa_with_sha256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
                der::sequence(&[&der::object(&ecdsa_with_sha256)])
            }
        }
    }

    /// Returns the `SubjectPublicKeyInfo` of the key (RFC 5280, section 4.1).
    pub(crate) fn public(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => {
                let public = der::bits(key.verifying_key().as_bytes());
                der::sequence(&[&self.algorithm(), &public])
            }
            Self::P256(key) => {
                let ec = der::object(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]);
                let curve = der::object(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]);
                let point = key.verifying_key().to_sec1_point(false);
                let public = der::bits(point.as_bytes());
                der::sequence(&[&der::sequence(&[&ec, &curve]), &public])
            }
        }
    }

    /// Signs `bytes`. The signature is deterministic: Ed25519 by design, ECDSA by RFC 6979.
    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.sign(bytes).to_bytes().to_vec(),
            Self::P256(key) => {
                let signature: ecdsa::Signature = key.sign(bytes);
                signature.to_der().as_bytes().to_vec()
            }
        }
    }

    /// Returns the DER of the key: PKCS#8 for Ed25519, SEC1 for P-256.
    pub(crate) fn der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(match self {
            Self::Ed25519(key) => {
                let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
                [head.as_slice(), key.as_bytes()].concat()
            }
            Self::P256(key) => {
                let scalar = Zeroizing::new(key.to_bytes().to_vec());
                let curve = [0xa0, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
                let point = key.verifying_key().to_sec1_point(false);
                let public = der::explicit(1, &der::bits(point.as_bytes()));
                let version = [2, 1, 1];
                der::sequence(&[&version, &der::octets(&scalar), &curve, &public])
            }
        })
    }

    /// Returns the PEM label of the key. The label for Ed25519 is Talos's own, and other programs
    /// do not read it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "ED25519 PRIVATE KEY",
            Self::P256(_) => "EC PRIVATE KEY",
        }
    }
}

/// Distinguished name in a certificate. It may be empty: Talos generates the aggregator's authority
/// without a name.
#[derive(Clone, Copy, Default)]
pub(crate) struct Subject<'a> {
    pub(crate) organization: Option<&'a str>,
    pub(crate) common_name: Option<&'a str>,
}

impl Subject<'_> {
    fn der(self) -> Vec<u8> {
        let part = |id, text: Option<&str>| {
            let named = |text| der::sequence(&[&der::object(id), &der::text(text)]);
            text.map_or(Vec::new(), |text| der::set(&[&named(text)]))
        };
        let organization = part(der::ORGANIZATION, self.organization);
        der::sequence(&[&organization, &part(der::COMMON_NAME, self.common_name)])
    }
}

/// `digitalSignature` of a key usage.
pub(crate) const SIGN: u8 = 0x80;
/// `keyEncipherment` of a key usage.
pub(crate) const ENCIPHER: u8 = 0x20;
/// `keyCertSign` of a key usage.
pub(crate) const SIGN_CERTIFICATES: u8 = 0x04;

/// Contents of a certificate.
pub(crate) struct Certificate<'a> {
    pub(crate) serial: &'a [u8],
    pub(crate) issuer: Subject<'a>,
    pub(crate) subject: Subject<'a>,
    pub(crate) not_before: DateTime,
    pub(crate) not_after: DateTime,
    pub(crate) public: &'a [u8],
    pub(crate) usage: u8,
    pub(crate) extended: &'a [&'a [u8]],
    pub(crate) role: Role<'a>,
}

/// Use of the certificate's key, which decides about the extensions.
pub(crate) enum Role<'a> {
    /// Signs other certificates. Holds the certificate's own key identifier.
    Authority(&'a [u8]),
    /// Authenticates connections only. Holds the key identifier of the issuer.
    Leaf(&'a [u8]),
}

impl Certificate<'_> {
    /// Returns the `TBSCertificate` that `signer` signs.
    pub(crate) fn signed_part(&self, signer: &Key) -> Vec<u8> {
        let validity = der::sequence(&[&der::time(self.not_before), &der::time(self.not_after)]);
        der::sequence(&[
            &der::explicit(0, &[2, 1, 2]), // version 3
            &der::integer(self.serial),
            &signer.algorithm(),
            &self.issuer.der(),
            &validity,
            &self.subject.der(),
            self.public,
            &der::explicit(3, &self.extensions()),
        ])
    }

    /// Returns the extensions in the order in which Go writes them.
    fn extensions(&self) -> Vec<u8> {
        let critical = |id, content: &[u8]| {
            der::sequence(&[&der::object(id), &der::yes(), &der::octets(content)])
        };
        let other = |id, content: &[u8]| der::sequence(&[&der::object(id), &der::octets(content)]);
        let extended: Vec<u8> =
            self.extended.iter().flat_map(|purpose| der::object(purpose)).collect();
        let usage = critical(der::KEY_USAGE, &der::named_bits(self.usage));
        let extended = other(der::EXTENDED_KEY_USAGE, &der::sequence(&[&extended]));
        let role = match self.role {
            Role::Authority(id) => [
                critical(der::BASIC_CONSTRAINTS, &der::sequence(&[&der::yes()])),
                other(der::SUBJECT_KEY_ID, &der::octets(id)),
            ]
            .concat(),
            Role::Leaf(id) => {
                other(der::AUTHORITY_KEY_ID, &der::sequence(&[&der::value(0x80, id)]))
            }
        };
        der::sequence(&[&usage, &extended, &role])
    }

    pub(crate) fn sign(&self, by: &Key) -> Vec<u8> {
        let content = self.signed_part(by);
        let signature = der::bits(&by.sign(&content));
        der::sequence(&[&content, &by.algorithm(), &signature])
    }
}

/// Returns the key identifier of a public key.
pub(crate) fn key_id(public: &[u8]) -> Vec<u8> {
    Sha256::digest(public)[..20].to_vec()
}
