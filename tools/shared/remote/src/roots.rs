//! Certificate authorities that every client trusts.
//!
//! **Invariant:** the built-in list is used only where the system has none, so that an authority that an
//! administrator has removed stays removed.

use std::env;
use std::sync::OnceLock;

use data_encoding::BASE64;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Variables that name other authorities than the system's, as in OpenSSL
/// (<https://docs.openssl.org/3.5/man3/SSL_CTX_load_verify_locations/>). Git, Nix, curl, kubectl and
/// Flux respect the same variables.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Authorities that a variable names and that cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot read the certificate authorities of {names}: {why}")]
pub struct RootsError {
    /// Variables with their values, for example `SSL_CERT_FILE=/etc/ca.pem`.
    pub names: String,
    /// Cause, in the words of the operating system or of the parser.
    pub why: String,
}

impl RootsError {
    /// Returns the help.
    #[must_use]
    pub fn help(&self) -> String {
        "name a readable file of PEM certificates, or unset the variable to trust the system's authorities"
            .to_owned()
    }
}

/// Returns the trusted authorities in DER: those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name, otherwise
/// the system's, otherwise Mozilla's list, which is built in.
///
/// # Errors
///
/// [`RootsError`] when a variable is set and yields no certificate. The system's list would then trust
/// more than the variable permits.
pub fn roots() -> Result<&'static [Vec<u8>], RootsError> {
    static ROOTS: OnceLock<Result<Vec<Vec<u8>>, RootsError>> = OnceLock::new();
    ROOTS.get_or_init(load).as_deref().map_err(Clone::clone)
}

/// Returns the trusted authorities in PEM, for clients that read no DER.
///
/// # Errors
///
/// See [`roots`].
pub fn roots_as_pem() -> Result<String, RootsError> {
    Ok(to_pem(roots()?))
}

/// Returns certificates, which are in DER, in PEM (RFC 7468: lines of 64 characters).
pub fn to_pem(certificates: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text += "-----BEGIN CERTIFICATE-----\n";
        let encoded = BASE64.encode(certificate.as_ref());
        for line in encoded.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text += "-----END CERTIFICATE-----\n";
    }
    text
}

/// Returns the certificates in `pem`, in DER.
///
/// # Errors
///
/// The text holds no certificate, or one that rustls cannot parse.
pub fn authorities(pem: &str) -> Result<Vec<Vec<u8>>, String> {
    let read = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let certificates = read.map_err(|error| format!("not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("the text has no `-----BEGIN CERTIFICATE-----`".to_owned());
    }
    for certificate in &certificates {
        let added = RootCertStore::empty().add(certificate.clone());
        added.map_err(|error| format!("not a certificate of an authority: {error}"))?;
    }
    Ok(certificates.iter().map(|certificate| certificate.to_vec()).collect())
}

/// Returns the certificates of an optional text, in DER.
///
/// # Errors
///
/// See [`authorities`].
pub fn authorities_of(pem: Option<&str>) -> Result<Vec<Vec<u8>>, String> {
    let read = pem.map(authorities).transpose();
    let read = read.map_err(|why| format!("the registry's `certificateAuthority`: {why}"))?;
    Ok(read.unwrap_or_default())
}

fn load() -> Result<Vec<Vec<u8>>, RootsError> {
    let set = VARIABLES.iter().filter_map(|name| {
        let value = env::var_os(name).filter(|value| !value.is_empty())?;
        Some(format!("{name}={}", value.to_string_lossy()))
    });
    let names = set.collect::<Vec<_>>().join(" and ");
    let found = rustls_native_certs::load_native_certs();
    // Systems list authorities that rustls cannot parse, and the SDK of S3 panics on one
    // (aws-smithy-http-client 1.1.9, `rustls_root_certs`).
    let parsed =
        found.certs.iter().filter(|der| RootCertStore::empty().add((*der).clone()).is_ok());
    let parsed: Vec<_> = parsed.map(|der| der.to_vec()).collect();
    if !parsed.is_empty() {
        return Ok(parsed);
    }
    if names.is_empty() {
        let built_in = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
        return Ok(built_in.iter().map(|certificate| certificate.to_vec()).collect());
    }
    let why = found.errors.first().map(ToString::to_string);
    Err(RootsError { names, why: why.unwrap_or_else(|| "there is no certificate".to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_authorities() {
        let pem = roots_as_pem().expect("authorities");
        assert_eq!(authorities(&pem).expect("certificates"), roots().expect("authorities"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for wrong in ["", "hello", "/etc/ssl/ca.pem", broken] {
            assert!(authorities(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn authorities_are_the_same_in_der_and_pem() {
        let der = roots().expect("authorities");
        assert!(!der.is_empty());
        let pem = roots_as_pem().expect("authorities");
        let blocks: Vec<_> = pem.split("-----BEGIN CERTIFICATE-----\n").skip(1).collect();
        assert_eq!(blocks.len(), der.len());
        for (block, der) in blocks.iter().zip(der) {
            let body = block.split("-----END").next().unwrap_or_default().replace('\n', "");
            assert_eq!(&BASE64.decode(body.as_bytes()).expect("base64"), der);
        }
    }
}
