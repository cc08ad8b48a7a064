//! An authority of certificates in place of Sigstore's, and the bundles that it gives to a workflow.
//!
//! The format of a bundle is <https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto>, and that of
//! a certificate <https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md>.

use std::fs;
use std::path::Path;
use std::process::Command;

use data_encoding::{BASE64, HEXLOWER};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SigningKey as _,
};
use serde_json::json;

use crate::{Test, output};

/// Issuer of the token with which a workflow at GitHub proves its identity.
pub(crate) const GITHUB: &str = "https://token.actions.githubusercontent.com";

/// Extension of a certificate with the issuer of the token, as a string of UTF-8.
const ISSUER: [u64; 9] = [1, 3, 6, 1, 4, 1, 57264, 1, 8];
/// Tag of a string of UTF-8 in DER.
const UTF8_STRING: u8 = 12;

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Test<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Writes the file for cosign's flag `--trusted-root`.
    pub(crate) fn write(&self, path: &Path) -> Test {
        let chain = json!({"certificates": [{"rawBytes": BASE64.encode(&self.certificate)}]});
        let root = json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "certificateAuthorities": [{
                "subject": {"organization": "test", "commonName": "test"},
                "uri": "https://fulcio.test",
                "certChain": chain,
                "validFor": {"start": "2020-01-01T00:00:00Z"},
            }],
        });
        Ok(fs::write(path, root.to_string())?)
    }

    /// Writes the bundle that `cosign sign-blob` writes for `file` in a workflow with this identity. The bundle
    /// has no entry of a log, so only a certificate that is valid now verifies.
    pub(crate) fn sign(&self, file: &Path, identity: &str, issuer: &str, bundle: &Path) -> Test {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        let length = u8::try_from(issuer.len())?;
        assert!(length < 128, "the short form of a length");
        let issuer = [&[UTF8_STRING, length], issuer.as_bytes()].concat();
        params.custom_extensions = vec![CustomExtension::from_oid_content(&ISSUER, issuer)];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let digest = output(Command::new("sha256sum").arg(file))?;
        let digest = HEXLOWER.decode(digest.get(..64).ok_or("no digest")?.as_bytes())?;
        let text = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"certificate": {"rawBytes": BASE64.encode(certificate.der())}},
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": BASE64.encode(&digest)},
                "signature": BASE64.encode(&key.sign(&fs::read(file)?)?),
            },
        });
        Ok(fs::write(bundle, text.to_string())?)
    }
}
