//! Types of the OCI image specification that this program uses.

use std::collections::BTreeMap;
use std::fs::File;

pub(crate) use ::remote::registry::{Descriptor, Digest, INDEX, MANIFEST};
use serde::{Deserialize, Serialize};

pub(crate) const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const IMAGE_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const FLUX_CONFIG: &str = "application/vnd.cncf.flux.config.v1+json";
pub(crate) const FLUX_LAYER: &str = "application/vnd.cncf.flux.content.v1.tar+gzip";
pub(crate) const EMPTY: &str = "application/vnd.oci.empty.v1+json";

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
        Self::of(config, vec![layer])
    }

    /// Returns a manifest with a configuration and layers.
    pub(crate) fn of(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: None,
            config,
            layers,
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
