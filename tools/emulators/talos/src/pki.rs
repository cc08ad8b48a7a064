//! Authorities of a machine configuration, and the certificates that a node issues.
//!
//! Talos writes its keys under PEM labels that no library knows (`ED25519 PRIVATE KEY`) or that ring does not
//! read (`EC PRIVATE KEY`). This module converts both to PKCS#8.

use std::net::IpAddr;

use data_encoding::BASE64;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ED25519, SanType,
};
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use crate::error::{Attempt, Error};

/// A certificate authority. Without its key, an authority can verify certificates, but cannot issue them.
pub(crate) struct Authority {
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
    issuer: Option<Issuer<'static, KeyPair>>,
    /// Key as PEM that Go and OpenSSL read, if it is known.
    pub(crate) key_pem: Option<String>,
}

/// Extended key usage of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    Server,
    Both,
}

/// Contents of a certificate to issue.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) common_name: String,
    pub(crate) organizations: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) names: Vec<String>,
    pub(crate) usage: Usage,
}

/// An issued certificate with its private key.
pub(crate) struct Issued {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) certificate_pem: String,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) key_pem: String,
}

impl Leaf {
    /// Creates the contents of a client's certificate.
    pub(crate) fn client(common_name: &str, organizations: &[&str]) -> Self {
        Self {
            common_name: common_name.to_owned(),
            organizations: organizations.iter().map(ToString::to_string).collect(),
            addresses: Vec::new(),
            names: Vec::new(),
            usage: Usage::Client,
        }
    }
}

impl Authority {
    /// Reads an authority from PEM texts, and refuses a key that does not belong to the certificate.
    pub(crate) fn read(certificate: &str, key: Option<&str>) -> Result<Self, Error> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .attempt("the certificate of the authority is not PEM")?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .attempt("the certificate of the authority is not X.509")?;
        let key = key.map(key_pair).transpose()?;
        if let Some(key) = &key
            && parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw()
        {
            return Err(Error::new("the key of the authority does not belong to its certificate"));
        }
        let key_pem = key.as_ref().map(KeyPair::serialize_pem);
        let issuer = key
            .map(|key| Issuer::from_ca_cert_der(&der, key))
            .transpose()
            .attempt("the certificate of the authority cannot issue")?;
        Ok(Self { pem: certificate.to_owned(), der: der.clone(), issuer, key_pem })
    }

    /// Creates an authority that exists only until the next boot, as in maintenance mode.
    pub(crate) fn ephemeral() -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ED25519).attempt("no key for maintenance mode")?;
        let mut params = validity(CertificateParams::default());
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).attempt("no authority for maintenance mode")?;
        Self::read(&certificate.pem(), Some(&key.serialize_pem()))
    }

    /// Whether `other` has the same key. A renewed certificate has other dates and the same key.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let key = |authority: &Self| {
            let (_, parsed) = x509_parser::parse_x509_certificate(&authority.der).ok()?;
            Some(parsed.public_key().subject_public_key.data.to_vec())
        };
        key(self).is_some_and(|first| key(other) == Some(first))
    }

    pub(crate) fn can_issue(&self) -> bool {
        self.issuer.is_some()
    }

    /// Issues a certificate with a key of its own, of the authority's kind.
    pub(crate) fn issue(&self, leaf: &Leaf) -> Result<Issued, Error> {
        let issuer = self
            .issuer
            .as_ref()
            .ok_or_else(|| Error::new("an authority without its key cannot issue"))?;
        let ed25519 = issuer.key().is_compatible(&PKCS_ED25519);
        let kind = if ed25519 { &PKCS_ED25519 } else { &PKCS_ECDSA_P256_SHA256 };
        let what = || format!("cannot issue a certificate for {}", leaf.common_name);
        let key = KeyPair::generate_for(kind).attempt(what())?;
        let certificate = params(leaf, ed25519)?.signed_by(&key, issuer).attempt(what())?;
        Ok(Issued {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            key_pem: key.serialize_pem(),
        })
    }
}

fn params(leaf: &Leaf, ed25519: bool) -> Result<CertificateParams, Error> {
    let mut params = validity(CertificateParams::default());
    params.distinguished_name = DistinguishedName::new();
    // A name in rcgen holds one value of each type, so the certificate gets only the first organization.
    if let Some(organization) = leaf.organizations.first() {
        params
            .distinguished_name
            .push(DnType::OrganizationName, DnValue::Utf8String(organization.clone()));
    }
    if !leaf.common_name.is_empty() {
        params
            .distinguished_name
            .push(DnType::CommonName, DnValue::Utf8String(leaf.common_name.clone()));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if !ed25519 {
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
    let (client, server) =
        (ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth);
    params.extended_key_usages = match leaf.usage {
        Usage::Client => vec![client],
        Usage::Server => vec![server],
        Usage::Both => vec![server, client],
    };
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = leaf.addresses.iter().copied().map(SanType::IpAddress).collect();
    for name in &leaf.names {
        let name =
            Ia5String::try_from(name.as_str()).attempt("a name for a certificate is not ASCII")?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    Ok(params)
}

/// Sets a validity that begins an hour ago, so that a client whose clock is slow accepts the certificate.
fn validity(mut params: CertificateParams) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(365);
    params
}

/// Reads a PEM key under any label that Talos accepts, except RSA.
fn key_pair(pem: &str) -> Result<KeyPair, Error> {
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8(pem)?))
        .attempt("a private key cannot be used")
}

/// Converts a PEM key to PKCS#8.
fn pkcs8(pem: &str) -> Result<Vec<u8>, Error> {
    let (label, der) = unwrap_pem(pem)?;
    match label.as_str() {
        // `ED25519 PRIVATE KEY` is Talos's own label for PKCS#8.
        "ED25519 PRIVATE KEY" | "PRIVATE KEY" => Ok(der),
        "EC PRIVATE KEY" => Ok(sec1_to_pkcs8(&der)),
        other => Err(Error::new(format!(
            "a private key is labelled `{other}`, which is not supported for an authority"
        ))),
    }
}

/// Returns the label and the content of a PEM text with any label.
fn unwrap_pem(pem: &str) -> Result<(String, Vec<u8>), Error> {
    let mut lines = pem.lines().map(str::trim).filter(|line| !line.is_empty());
    let label = lines
        .next()
        .and_then(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .ok_or_else(|| Error::new("a private key is not PEM"))?;
    let body: String = lines.take_while(|line| !line.starts_with("-----END ")).collect();
    let der = BASE64.decode(body.as_bytes()).ok();
    let der = der.ok_or_else(|| Error::new("the content of a private key is not base64"))?;
    Ok((label.to_owned(), der))
}

/// Wraps a P-256 key of SEC 1 in PKCS#8 (RFC 5208), which names the curve.
fn sec1_to_pkcs8(sec1: &[u8]) -> Vec<u8> {
    const EC_P256: [u8; 21] = [
        0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ];
    let mut content = vec![0x02, 0x01, 0x00];
    content.extend(EC_P256);
    content.extend(der(0x04, sec1));
    der(0x30, &content)
}

/// Encodes a DER element of at most 65,535 bytes.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let [high, low] = length.to_be_bytes();
    let mut out = match length {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    out.extend(content);
    out
}

/// Whether `pem` holds a private key that the API server can sign tokens with: RSA or P-256.
pub(crate) fn is_service_account_key(pem: &str) -> bool {
    matches!(
        <(SectionKind, Vec<u8>)>::from_pem_slice(pem.as_bytes()),
        Ok((SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey | SectionKind::PrivateKey, _))
    )
}

/// Returns the organizations in the subject of a certificate, which Talos uses as roles.
pub(crate) fn organizations(certificate: &[u8]) -> Vec<String> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let subject = parsed.subject();
    subject
        .iter_organization()
        .filter_map(|organization| organization.as_str().ok())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn der_writes_the_length_in_the_shortest_form() {
        assert_eq!(der(4, &[1, 2]), [4, 2, 1, 2]);
        assert_eq!(der(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(der(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    }

    #[test]
    fn an_ephemeral_authority_issues_certificates_and_has_no_role() {
        let authority = Authority::ephemeral().expect("an authority");
        let leaf = Leaf { usage: Usage::Server, ..Leaf::client("node", &["os:reader"]) };
        let issued = authority.issue(&leaf).expect("a certificate");
        assert_eq!(organizations(&issued.certificate), ["os:reader"]);
        assert!(organizations(&authority.der).is_empty());
    }

    #[test]
    fn read_refuses_the_key_of_another_authority() {
        let (one, other) =
            (Authority::ephemeral().expect("one"), Authority::ephemeral().expect("other"));
        assert!(Authority::read(&one.pem, other.key_pem.as_deref()).is_err());
        assert!(Authority::read(&one.pem, one.key_pem.as_deref()).is_ok());
    }
}
