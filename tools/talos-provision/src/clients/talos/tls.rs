//! TLS settings: certificates of machines, and our client certificate.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::pki::Pki;

/// Protocol inside TLS, negotiated by ALPN: HTTP/2.
const PROTOCOL: &[u8] = b"h2";

/// Returns the settings for machines of this cluster, with an administrator's client certificate.
pub(super) fn secure(pki: &Pki) -> Result<Arc<ClientConfig>, Error> {
    let wrong = |error: rustls::Error| Error::Keys(error.to_string());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(pki.os.certificate.clone())).map_err(wrong)?;
    let chain = vec![CertificateDer::from(pki.talos_admin.certificate.clone())];
    let key = PrivatePkcs8KeyDer::from(pki.talos_admin.key.der().to_vec());
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(wrong)?;
    let builder = builder.with_root_certificates(roots);
    let mut config =
        builder.with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(key)).map_err(wrong)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

/// Returns the settings for machines in maintenance mode, without a client certificate. The machine
/// cannot prove its identity before it has its configuration.
pub(super) fn maintenance(contacts: &Arc<Contacts>) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Error::Keys(error.to_string()))?;
    let verifier = Arc::new(PinnedCertificate { provider, contacts: contacts.clone() });
    let mut config =
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // A resumed connection would show no certificate to compare.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Certificates that machines in maintenance mode have shown in this run, by address.
#[derive(Debug, Default)]
pub(super) struct Contacts(Mutex<BTreeMap<String, Contact>>);

/// Digests of the certificates that one machine has shown.
#[derive(Debug, Default)]
struct Contact {
    /// Certificate of the last connection.
    shown: Option<[u8; 32]>,
    /// First certificate whose key a machine in maintenance mode has proven to hold.
    pinned: Option<[u8; 32]>,
}

impl Contacts {
    fn contacts(&self) -> MutexGuard<'_, BTreeMap<String, Contact>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a certificate, and returns whether it may be trusted.
    fn record(&self, address: &str, certificate: &[u8]) -> bool {
        let digest: [u8; 32] = Sha256::digest(certificate).into();
        let mut contacts = self.contacts();
        let contact = contacts.entry(address.to_owned()).or_default();
        contact.shown = Some(digest);
        contact.pinned.is_none_or(|pinned| pinned == digest)
    }

    /// From now on, accepts no other certificate of a machine in maintenance mode at `address`.
    pub(super) fn pin(&self, address: IpAddr) {
        if let Some(contact) = self.contacts().get_mut(&address.to_string()) {
            contact.pinned = contact.pinned.or(contact.shown);
        }
    }
}

/// Accepts any certificate whose key the machine holds, but no second certificate for one address.
#[derive(Debug)]
struct PinnedCertificate {
    provider: Arc<CryptoProvider>,
    contacts: Arc<Contacts>,
}

impl ServerCertVerifier for PinnedCertificate {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.contacts.record(&name.to_str(), certificate) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_shows_another_certificate_after_its_first_contact_is_not_trusted() {
        let contacts = Contacts::default();
        let address: IpAddr = [127, 0, 0, 1].into();
        assert!(contacts.record("127.0.0.1", b"of a machine that has its configuration"));
        assert!(contacts.record("127.0.0.1", b"first"), "nothing is pinned yet");
        contacts.pin(address);
        assert!(contacts.record("127.0.0.1", b"first"));
        assert!(!contacts.record("127.0.0.1", b"second"));
        contacts.pin(address);
        assert!(!contacts.record("127.0.0.1", b"second"), "the first one stays");
        assert!(
            contacts.record("127.0.0.2", b"second"),
            "each address has a certificate of its own"
        );
    }
}
