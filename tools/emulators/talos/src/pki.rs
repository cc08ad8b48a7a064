//! Authorities out of a machine configuration, and the certificates that a node issues below them.
//!
//! Talos writes its keys under labels that no library knows (`ED25519 PRIVATE KEY`) or that ring
//! does not read (`EC PRIVATE KEY`); both become PKCS#8 here, and nowhere else.

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

use crate::trouble::{Attempt, Trouble};

/// A certificate authority; one without its key can be trusted, but cannot issue.
pub(crate) struct Authority {
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
    issuer: Option<Issuer<'static, KeyPair>>,
    /// The key as PEM that Go and OpenSSL read.
    pub(crate) key_pem: Option<String>,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    Server,
    Both,
}

/// What a certificate shall say.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) common_name: String,
    pub(crate) organizations: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) names: Vec<String>,
    pub(crate) usage: Usage,
}

/// A certificate with its key.
pub(crate) struct Issued {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) certificate_pem: String,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) key_pem: String,
}

impl Leaf {
    /// A client that is `common_name`, as a member of `organizations`.
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
    /// Reads an authority from PEM texts; the key must be the certificate's.
    pub(crate) fn read(certificate: &str, key: Option<&str>) -> Result<Self, Trouble> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .attempt("the certificate of the authority is not PEM")?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .attempt("the certificate of the authority is not X.509")?;
        let key = key.map(key_pair).transpose()?;
        if let Some(key) = &key
            && parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw()
        {
            return Err(Trouble::new("the key of the authority is not its certificate's"));
        }
        let key_pem = key.as_ref().map(KeyPair::serialize_pem);
        let issuer = key
            .map(|key| Issuer::from_ca_cert_der(&der, key))
            .transpose()
            .attempt("the certificate of the authority cannot issue")?;
        Ok(Self { pem: certificate.to_owned(), der: der.clone(), issuer, key_pem })
    }

    /// An authority that exists only until the next boot, as in maintenance mode.
    pub(crate) fn fleeting() -> Result<Self, Trouble> {
        let key = KeyPair::generate_for(&PKCS_ED25519).attempt("no key for maintenance mode")?;
        let mut params = validity(CertificateParams::default());
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).attempt("no authority for maintenance mode")?;
        Self::read(&certificate.pem(), Some(&key.serialize_pem()))
    }

    /// Whether `other` is this authority, perhaps with other dates: the key decides.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let key = |authority: &Self| {
            let (_, parsed) = x509_parser::parse_x509_certificate(&authority.der).ok()?;
            Some(parsed.public_key().subject_public_key.data.to_vec())
        };
        key(self).is_some_and(|own| key(other) == Some(own))
    }

    pub(crate) fn can_issue(&self) -> bool {
        self.issuer.is_some()
    }

    /// Issues a certificate with a key of its own, of the authority's kind.
    pub(crate) fn issue(&self, leaf: &Leaf) -> Result<Issued, Trouble> {
        let issuer = self
            .issuer
            .as_ref()
            .ok_or_else(|| Trouble::new("an authority without its key cannot issue"))?;
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

fn params(leaf: &Leaf, ed25519: bool) -> Result<CertificateParams, Trouble> {
    let mut params = validity(CertificateParams::default());
    params.distinguished_name = DistinguishedName::new();
    // An rcgen name holds one value of each type, which is all that a node's own certificates need.
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

/// A node has a clock of its own: an hour back, so that a client whose clock is slow agrees.
fn validity(mut params: CertificateParams) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(365);
    params
}

/// A key that is written as PEM under any of the labels that Talos accepts, but RSA.
fn key_pair(pem: &str) -> Result<KeyPair, Trouble> {
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8(pem)?))
        .attempt("a private key cannot be used")
}

/// The PKCS#8 form of a key that is written as PEM.
fn pkcs8(pem: &str) -> Result<Vec<u8>, Trouble> {
    let (label, der) = unwrap_pem(pem)?;
    match label.as_str() {
        // What Talos calls ED25519 is PKCS#8 under a label of its own.
        "ED25519 PRIVATE KEY" | "PRIVATE KEY" => Ok(der),
        "EC PRIVATE KEY" => Ok(sec1_to_pkcs8(&der)),
        other => Err(Trouble::new(format!(
            "a private key is labelled `{other}`, which an authority's cannot be"
        ))),
    }
}

/// The label and the content of a PEM text, whatever the label.
fn unwrap_pem(pem: &str) -> Result<(String, Vec<u8>), Trouble> {
    let mut lines = pem.lines().map(str::trim).filter(|line| !line.is_empty());
    let label = lines
        .next()
        .and_then(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .ok_or_else(|| Trouble::new("a private key is not PEM"))?;
    let body: String = lines.take_while(|line| !line.starts_with("-----END ")).collect();
    let der = BASE64.decode(body.as_bytes()).ok();
    let der = der.ok_or_else(|| Trouble::new("the content of a private key is not base64"))?;
    Ok((label.to_owned(), der))
}

/// Wraps a P-256 key in the frame that names its curve.
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

/// One DER element of at most 65,535 bytes.
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

/// The organizations in the subject of a client's certificate: its roles.
pub(crate) fn organizations(certificate: &[u8]) -> Vec<String> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let subject = parsed.subject();
    subject.iter_organization().filter_map(|it| it.as_str().ok()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_as_long_as_it_says() {
        assert_eq!(der(4, &[1, 2]), [4, 2, 1, 2]);
        assert_eq!(der(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(der(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    }

    #[test]
    fn an_authority_of_maintenance_mode_issues_and_is_named_by_nobody() {
        let authority = Authority::fleeting().expect("an authority");
        let leaf = Leaf { usage: Usage::Server, ..Leaf::client("node", &["os:reader"]) };
        let issued = authority.issue(&leaf).expect("a certificate");
        assert_eq!(organizations(&issued.certificate), ["os:reader"]);
        assert!(organizations(&authority.der).is_empty());
    }

    #[test]
    fn a_key_of_somebody_else_is_refused() {
        let (one, other) =
            (Authority::fleeting().expect("one"), Authority::fleeting().expect("other"));
        assert!(Authority::read(&one.pem, other.key_pem.as_deref()).is_err());
        assert!(Authority::read(&one.pem, one.key_pem.as_deref()).is_ok());
    }
}
