//! Keys, certificates and tokens of a cluster. All of them are derived, and none is stored.
//!
//! **Invariant:** each is a function of the phase's key, the cluster's name and the document's
//! dates. Certificates of administrators and readers also depend on the time at which they are
//! made. Nothing is random, so the same document gives the same bytes on every machine.

mod bundle;
mod certificate;
mod clients;
mod der;
mod pem;
#[cfg(test)]
mod tests;

use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use secrets::PhaseKey;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

pub use bundle::{Bundle, Pair};
use certificate::{Certificate, ENCIPHER, Key, Role, SIGN, SIGN_CERTIFICATES, Subject, key_id};

use crate::spec::Certificates;

/// All secrets of a cluster.
pub struct Pki {
    /// Secrets that machine configurations contain.
    pub bundle: Bundle,
    /// Certificate authority of Talos's API.
    pub(crate) os: Authority,
    /// Certificate authority of Kubernetes.
    pub(crate) kubernetes: Authority,
    /// Talos credentials of an administrator for one run. They are never written anywhere.
    pub(crate) talos_admin: Client,
    /// Kubernetes credentials of an administrator for one run. They are never written anywhere.
    pub(crate) kubernetes_admin: Client,
    /// Identities of administrators in the sealed credentials.
    admin: Identities,
    /// Identities of readers in the sealed credentials.
    reader: Identities,
    /// Begin and end of the validity of sealed credentials.
    period: (DateTime, DateTime),
    /// Digests of the authorities' certificates, by name.
    pub(crate) fingerprints: Vec<(&'static str, String)>,
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pki").field("fingerprints", &self.fingerprints).finish_non_exhaustive()
    }
}

/// Certificate authority: its certificate and its key.
pub(crate) struct Authority {
    pub(crate) certificate: Vec<u8>,
    key: Key,
    organization: Option<&'static str>,
}

/// Permissions of the holder of a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Full access: `os:admin` of Talos, `system:masters` of Kubernetes.
    Admin,
    /// Read access without secrets: `os:reader` of Talos, and the `ClusterRole` `view` of
    /// Kubernetes.
    Reader,
}

/// Kubernetes group of readers.
pub(crate) const READERS: &str = "holistic:readers";

/// Identity for Talos and identity for Kubernetes.
struct Identities {
    talos: Identity,
    kubernetes: Identity,
}

/// Key, and the subject for which it is certified.
struct Identity {
    key: Key,
    subject: Subject<'static>,
    usage: u8,
    /// Seed of the serial numbers.
    serial: [u8; 16],
}

/// Client certificate and its key.
pub(crate) struct Client {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Key,
}

impl Client {
    /// Returns the certificate as PEM.
    pub(crate) fn certificate_pem(&self) -> Zeroizing<String> {
        pem::pem("CERTIFICATE", &self.certificate)
    }

    /// Returns the key as PEM.
    pub(crate) fn key_pem(&self) -> Zeroizing<String> {
        pem::pem(self.key.label(), &self.key.der())
    }
}

impl Pki {
    /// Derives all secrets of the cluster called `cluster`, at the time `now`.
    #[must_use]
    pub fn derive(key: &PhaseKey, cluster: &str, dates: &Certificates, now: DateTime) -> Self {
        let deriver = Deriver { key, cluster, dates };
        let os =
            deriver.authority("os-ca", Some("talos"), Key::Ed25519(key.ed25519(cluster, "os-ca")));
        let etcd = deriver.authority("etcd-ca", Some("etcd"), deriver.p256("etcd-ca"));
        let kubernetes = deriver.authority("k8s-ca", Some("kubernetes"), deriver.p256("k8s-ca"));
        let aggregator = deriver.authority("aggregator-ca", None, deriver.p256("aggregator-ca"));
        let service_account = deriver.p256("service-account");
        let admin = deriver
            .identities(("talosconfig", "os:admin"), ("kubeconfig", "system:masters", "admin"));
        let reader = deriver.identities(
            ("reader-talosconfig", "os:reader"),
            ("reader-kubeconfig", READERS, "reader"),
        );
        let (run, period) = (dates.run(now), dates.period(now));
        let talos_admin = os.sign(&admin.talos, run);
        let kubernetes_admin = kubernetes.sign(&admin.kubernetes, run);
        let named = [
            ("os-ca", &os),
            ("etcd-ca", &etcd),
            ("k8s-ca", &kubernetes),
            ("aggregator-ca", &aggregator),
        ];
        let fingerprints =
            named.map(|(name, authority)| (name, sha256_hex(&authority.certificate))).to_vec();
        let bundle = Bundle {
            id: data_encoding::BASE64URL.encode(&*deriver.bytes::<32>("cluster-id")).into(),
            secret: deriver.base64("cluster-secret"),
            bootstrap_token: deriver.token("bootstrap-token"),
            trustd_token: deriver.token("trustd-token"),
            secretbox: deriver.base64("secretbox"),
            etcd: etcd.pair(),
            kubernetes: kubernetes.pair(),
            aggregator: aggregator.pair(),
            os: os.pair(),
            service_account: pem::field(service_account.label(), &service_account.der()),
        };
        Self {
            bundle,
            os,
            kubernetes,
            talos_admin,
            kubernetes_admin,
            admin,
            reader,
            period,
            fingerprints,
        }
    }

    fn identities(&self, access: Access) -> &Identities {
        match access {
            Access::Admin => &self.admin,
            Access::Reader => &self.reader,
        }
    }
}

/// Returns the time of this machine in UTC. Only certificates of administrators and readers depend
/// on it.
pub(crate) fn now() -> DateTime {
    Timestamp::now().to_zoned(TimeZone::UTC).datetime()
}

/// Returns the public key of a certificate in the format of Talos's documents, or `None` if `text`
/// is not a certificate.
pub(crate) fn public_key(text: &str) -> Option<Vec<u8>> {
    let certificate = pem::read_field(text)?;
    der::public_key(&certificate).map(<[u8]>::to_vec)
}

impl Authority {
    /// Signs a certificate for `identity` with this validity.
    fn sign(&self, identity: &Identity, (not_before, not_after): (DateTime, DateTime)) -> Client {
        let mut serial = Sha256::new();
        serial.update(identity.serial);
        serial.update(format!("{not_before} {not_after}"));
        let mut serial: [u8; 32] = serial.finalize().into();
        serial[0] &= 0x7f; // positive
        let certificate = Certificate {
            serial: &serial[..16],
            issuer: Subject { organization: self.organization, common_name: None },
            subject: identity.subject,
            not_before,
            not_after,
            public: &identity.key.public(),
            usage: identity.usage,
            extended: &[der::CLIENT_AUTH],
            role: Role::Leaf(&key_id(&self.key.public())),
        };
        Client { certificate: certificate.sign(&self.key), key: identity.key.clone() }
    }

    fn pair(&self) -> Pair {
        Pair {
            crt: pem::field("CERTIFICATE", &self.certificate).to_string(),
            key: pem::field(self.key.label(), &self.key.der()),
        }
    }
}

/// Returns the SHA-256 digest of `bytes` in lower-case hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

struct Deriver<'a> {
    key: &'a PhaseKey,
    cluster: &'a str,
    dates: &'a Certificates,
}

impl Deriver<'_> {
    fn bytes<const N: usize>(&self, item: &str) -> Zeroizing<[u8; N]> {
        self.key.bytes(self.cluster, item)
    }

    fn base64(&self, item: &str) -> Zeroizing<String> {
        Zeroizing::new(data_encoding::BASE64.encode(&*self.bytes::<32>(item)))
    }

    fn p256(&self, item: &str) -> Key {
        Key::P256(self.key.p256(self.cluster, item))
    }

    /// Derives a token of the form `[0-9a-z]{6}.[0-9a-z]{16}`, with evenly distributed characters.
    fn token(&self, item: &str) -> Zeroizing<String> {
        const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let stream = self.bytes::<128>(item);
        let letters = stream.iter().filter(|&&byte| byte < 252); // 252 = 7 · 36
        let letters = letters.map(|byte| char::from(LETTERS[usize::from(byte % 36)]));
        let mut token: Zeroizing<String> = Zeroizing::new(letters.take(22).collect());
        token.insert(6, '.');
        token
    }

    /// Derives a serial number that is positive and below 2^127.
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

    /// Derives an identity for Talos (item, organization) and one for Kubernetes (item,
    /// organization, name).
    fn identities(
        &self,
        (talos, role): (&str, &'static str),
        (kubernetes, group, name): (&str, &'static str, &'static str),
    ) -> Identities {
        Identities {
            talos: Identity {
                key: Key::Ed25519(self.key.ed25519(self.cluster, talos)),
                subject: Subject { organization: Some(role), common_name: None },
                usage: SIGN,
                serial: self.serial(talos),
            },
            kubernetes: Identity {
                key: self.p256(kubernetes),
                subject: Subject { organization: Some(group), common_name: Some(name) },
                usage: SIGN | ENCIPHER,
                serial: self.serial(kubernetes),
            },
        }
    }
}
