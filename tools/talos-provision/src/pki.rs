//! Keys, certificates and tokens of a cluster: all of them derived, none of them stored.
//!
//! **Invariant:** a function of the phase's key, the cluster's name and the document's dates. No
//! clock, no randomness: the same document gives the same bytes on every machine.

mod bundle;
mod certificate;
mod clients;
mod der;
mod pem;
#[cfg(test)]
mod tests;

use std::fmt;

use keyring::PhaseKey;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

pub use bundle::{Bundle, Pair};
use certificate::{Certificate, ENCIPHER, Key, Role, SIGN, SIGN_CERTIFICATES, Subject, key_id};

use crate::spec::Certificates;

/// Everything secret that a cluster is made of.
pub struct Pki {
    /// What goes into machine configurations.
    pub bundle: Bundle,
    /// The authority of Talos's API.
    pub(crate) os: Authority,
    /// The authority of Kubernetes.
    pub(crate) kubernetes: Authority,
    /// Who may do anything with Talos.
    pub(crate) talos_admin: Client,
    /// Who may do anything with Kubernetes.
    pub(crate) kubernetes_admin: Client,
    /// The digest of every authority's certificate, by name.
    pub(crate) fingerprints: Vec<(&'static str, String)>,
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pki").field("fingerprints", &self.fingerprints).finish_non_exhaustive()
    }
}

/// A certificate with which others are signed, and its key.
pub(crate) struct Authority {
    pub(crate) certificate: Vec<u8>,
    key: Key,
    organization: Option<&'static str>,
}

/// A certificate with which somebody shows who they are, and its key.
pub(crate) struct Client {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Key,
}

impl Client {
    /// The key as PEM.
    pub(crate) fn key_pem(&self) -> Zeroizing<String> {
        pem::pem(self.key.label(), &self.key.der())
    }
}

impl Pki {
    /// Derives all of the cluster called `cluster`.
    #[must_use]
    pub fn derive(key: &PhaseKey, cluster: &str, dates: &Certificates) -> Self {
        let maker = Maker { key, cluster, dates };
        let os =
            maker.authority("os-ca", Some("talos"), Key::Ed25519(key.ed25519(cluster, "os-ca")));
        let etcd = maker.authority("etcd-ca", Some("etcd"), maker.p256("etcd-ca"));
        let kubernetes = maker.authority("k8s-ca", Some("kubernetes"), maker.p256("k8s-ca"));
        let aggregator = maker.authority("aggregator-ca", None, maker.p256("aggregator-ca"));
        let service_account = maker.p256("service-account");
        let talos_admin = maker.client(
            "talosconfig",
            &os,
            Key::Ed25519(key.ed25519(cluster, "talosconfig")),
            Subject { organization: Some("os:admin"), common_name: None },
            SIGN,
        );
        let kubernetes_admin = maker.client(
            "kubeconfig",
            &kubernetes,
            maker.p256("kubeconfig"),
            Subject { organization: Some("system:masters"), common_name: Some("admin") },
            SIGN | ENCIPHER,
        );
        let named = [
            ("os-ca", &os),
            ("etcd-ca", &etcd),
            ("k8s-ca", &kubernetes),
            ("aggregator-ca", &aggregator),
        ];
        let fingerprints = named.map(|(name, it)| (name, hex(&it.certificate))).to_vec();
        let bundle = Bundle {
            id: data_encoding::BASE64URL.encode(&*maker.bytes::<32>("cluster-id")).into(),
            secret: maker.base64("cluster-secret"),
            bootstrap_token: maker.token("bootstrap-token"),
            trustd_token: maker.token("trustd-token"),
            secretbox: maker.base64("secretbox"),
            etcd: etcd.pair(),
            kubernetes: kubernetes.pair(),
            aggregator: aggregator.pair(),
            os: os.pair(),
            service_account: pem::field(service_account.label(), &service_account.der()),
        };
        Self { bundle, os, kubernetes, talos_admin, kubernetes_admin, fingerprints }
    }
}

impl Authority {
    fn pair(&self) -> Pair {
        Pair {
            crt: pem::field("CERTIFICATE", &self.certificate).to_string(),
            key: pem::field(self.key.label(), &self.key.der()),
        }
    }
}

/// The digest of `bytes`, in lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

struct Maker<'a> {
    key: &'a PhaseKey,
    cluster: &'a str,
    dates: &'a Certificates,
}

impl Maker<'_> {
    fn bytes<const N: usize>(&self, item: &str) -> Zeroizing<[u8; N]> {
        self.key.bytes(self.cluster, item)
    }

    fn base64(&self, item: &str) -> Zeroizing<String> {
        Zeroizing::new(data_encoding::BASE64.encode(&*self.bytes::<32>(item)))
    }

    fn p256(&self, item: &str) -> Key {
        Key::P256(self.key.p256(self.cluster, item))
    }

    /// `[0-9a-z]{6}.[0-9a-z]{16}`, every character as likely as any other.
    fn token(&self, item: &str) -> Zeroizing<String> {
        const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let stream = self.bytes::<128>(item);
        let letters = stream.iter().filter(|&&it| it < 252); // 252 = 7 · 36
        let letters = letters.map(|it| char::from(LETTERS[usize::from(it % 36)]));
        let mut token: Zeroizing<String> = Zeroizing::new(letters.take(22).collect());
        token.insert(6, '.');
        token
    }

    /// Positive, and below 2^127.
    fn serial(&self, item: &str) -> [u8; 16] {
        let mut serial = *self.bytes::<16>(&format!("{item}-serial"));
        serial[0] &= 0x7f;
        serial
    }

    fn authority(&self, item: &str, organization: Option<&'static str>, key: Key) -> Authority {
        let subject = Subject { organization, common_name: None };
        let public = key.public();
        let certificate = Certificate {
            serial: &self.serial(item),
            issuer: subject,
            subject,
            not_before: self.dates.not_before(),
            not_after: self.dates.not_after(),
            public: &public,
            usage: SIGN | SIGN_CERTIFICATES,
            extended: &[der::SERVER_AUTH, der::CLIENT_AUTH],
            role: Role::Authority(&key_id(&public)),
        };
        Authority { certificate: certificate.sign(&key), key, organization }
    }

    fn client(
        &self,
        item: &str,
        by: &Authority,
        key: Key,
        subject: Subject<'_>,
        usage: u8,
    ) -> Client {
        let certificate = Certificate {
            serial: &self.serial(item),
            issuer: Subject { organization: by.organization, common_name: None },
            subject,
            not_before: self.dates.not_before(),
            not_after: self.dates.not_after(),
            public: &key.public(),
            usage,
            extended: &[der::CLIENT_AUTH],
            role: Role::Leaf(&key_id(&by.key.public())),
        };
        Client { certificate: certificate.sign(&by.key), key }
    }
}
