//! Types of the OCI image specification that this program uses.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;

use data_encoding::HEXLOWER;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const IMAGE_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const FLUX_CONFIG: &str = "application/vnd.cncf.flux.config.v1+json";
pub(crate) const FLUX_LAYER: &str = "application/vnd.cncf.flux.content.v1.tar+gzip";
pub(crate) const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// SHA-256 digest in the form `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^sha256:[0-9a-f]{64}$"))]
pub struct Digest(String);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self::from_sha256(&Sha256::digest(bytes))
    }

    pub(crate) fn from_sha256(hash: &[u8]) -> Self {
        Self(format!("sha256:{}", HEXLOWER.encode(hash)))
    }

    pub(crate) fn hex(&self) -> &str {
        self.0.trim_start_matches("sha256:")
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the tag that lists the referrers where a registry has no referrers API.
    pub(crate) fn fallback_tag(&self) -> String {
        format!("sha256-{}", self.hex())
    }

    /// Returns the digest whose referrers `tag` lists.
    pub(crate) fn from_fallback_tag(tag: &str) -> Option<Self> {
        Self::try_from(format!("sha256:{}", tag.strip_prefix("sha256-")?)).ok()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text))
        } else {
            Err("not a digest: use sha256: and 64 hexadecimal digits".to_owned())
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Media type, digest and size of content in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Descriptor {
    pub(crate) fn of(media_type: &str, bytes: &[u8]) -> Self {
        let size = bytes.len() as u64;
        Self { media_type: media_type.to_owned(), digest: Digest::of(bytes), size }
    }
}

/// An image manifest. The order of the fields is fixed, so that equal manifests have equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u8,
    #[serde(default)]
    pub(crate) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Returns a manifest with a configuration and one layer.
    pub(crate) fn new(config: Descriptor, layer: Descriptor) -> Self {
        Self {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: None,
            config,
            layers: vec![layer],
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        crate::json::bytes(self)
    }
}

/// Manifest and blobs of an artifact, ready to be published.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) manifest: Vec<u8>,
    pub(crate) blobs: Vec<Blob>,
}

impl Package {
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }
}

/// Content that a manifest refers to.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) descriptor: Descriptor,
    pub(crate) content: Content,
}

impl Blob {
    pub(crate) fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        let descriptor = Descriptor::of(media_type, &bytes);
        Self { descriptor, content: Content::Bytes(bytes) }
    }
}

/// Storage of a blob's bytes.
#[derive(Debug)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    /// A temporary file without a name, so that the kernel deletes it even when the program
    /// crashes.
    File(File),
}
