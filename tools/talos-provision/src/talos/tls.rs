//! How a machine shows who it is, and how we show who we are.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::Error;
use crate::pki::Pki;

/// What is spoken inside.
const PROTOCOL: &[u8] = b"h2";

/// Only with machines of this cluster, as its administrator.
pub(super) fn secure(pki: &Pki) -> Result<Arc<ClientConfig>, Error> {
    let wrong = |it: rustls::Error| Error::Keys(it.to_string());
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

/// With any machine, as nobody: one that waits for its configuration cannot show who it is.
pub(super) fn maintenance() -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|it| Error::Keys(it.to_string()))?;
    let anybody = Arc::new(Anybody(provider));
    let mut config =
        builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

/// Takes any certificate whose key the other end holds.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
