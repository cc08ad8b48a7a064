//! The files of an artifact, as source-controller unpacks them. Reads a registry only.

use std::collections::BTreeMap;
use std::io::Read as _;

use contract::{Project, Registry};
use flate2::read::GzDecoder;
use git::Url;
use remote::registry::Descriptor;
use serde_json::Value;

use crate::Error;
use crate::artifact::Artifact;
use crate::clients::registry::{Failed, Reader};

/// source-controller rejects archives above 100 MiB by default (`--artifact-...`, untar limit).
const LAYER_MAX_BYTES: u64 = 100 << 20;
/// A larger archive is treated as a decompression bomb.
const UNPACKED_MAX_BYTES: u64 = 400 << 20;
const FILES_MAX: usize = 20_000;

/// Contents of an artifact's files by path, without the leading `./`.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Repository of an artifact.
pub(crate) struct Source {
    reader: Reader,
    repository: String,
}

impl Source {
    /// Opens the repository of `artifact`.
    pub(crate) fn open(project: &Project, artifact: &Artifact) -> Result<Self, Error> {
        let failed = |failed: Failed| failed.into_error(unreadable(artifact));
        let (registry, repository) = registry(project, &artifact.repository)
            .ok_or_else(|| failed(Failed::permanent(&"its repository is not a valid URL")))?;
        Ok(Self { reader: Reader::open(&registry).map_err(failed)?, repository })
    }

    /// Pulls `artifact` by its digest and unpacks its first layer. An `OCIRepository` without
    /// `layerSelector` does the same (<https://fluxcd.io/flux/components/source/ocirepositories/#layer-selector>).
    pub(crate) fn pull(&self, artifact: &Artifact) -> Result<Files, Error> {
        let layer = self.layer(&artifact.digest);
        let layer = layer.map_err(|failed| failed.into_error(unreadable(artifact)))?;
        unpack(&layer).map_err(|why| unreadable(artifact)(why, false))
    }

    /// Proves that the credentials of the cluster can pull `artifact`.
    pub(crate) fn prove(&self, artifact: &Artifact) -> Result<(), Error> {
        let manifest = self.reader.manifest(&self.repository, &artifact.digest).map(drop);
        manifest.map_err(|failed| failed.into_error(unreadable(artifact)))
    }

    fn layer(&self, digest: &str) -> Result<Vec<u8>, Failed> {
        let manifest = self.reader.manifest(&self.repository, digest)?;
        let mut manifest: Value = serde_json::from_slice(&manifest).unwrap_or_default();
        let layer: Option<Descriptor> = serde_json::from_value(manifest["layers"][0].take()).ok();
        let layer = layer.ok_or_else(|| Failed::permanent(&"its manifest has no layer"))?;
        self.reader.blob(&self.repository, &layer, LAYER_MAX_BYTES)
    }
}

/// Returns a function that makes the error for a cause and for whether a retry may help.
fn unreadable(artifact: &Artifact) -> impl Fn(String, bool) -> Error {
    let artifact = format!("{}@{}", artifact.repository, artifact.digest);
    move |why, temporary| Error::ArtifactUnreadable { artifact: artifact.clone(), why, temporary }
}

/// Returns the registry and the repository of `reference`. Only the project's registry gets
/// credentials, so that no other host sees them.
fn registry(project: &Project, reference: &str) -> Option<(Registry, String)> {
    if let Some(registry) = &project.endpoints.registry {
        let below = reference.strip_prefix(&registry.url.rest().to_string());
        if let Some(repository) = below.and_then(|rest| rest.strip_prefix('/')) {
            return Some((registry.clone(), repository.to_owned()));
        }
    }
    let (host, repository) = reference.split_once('/')?;
    let url = Url::try_from(format!("https://{host}")).ok()?;
    Some((
        Registry { url, user: None, token: None, reader: None, certificate_authority: None },
        repository.to_owned(),
    ))
}

/// Returns the regular files of a tar archive, which may be gzipped.
fn unpack(layer: &[u8]) -> Result<Files, String> {
    let mut bytes = Vec::new();
    let invalid = |why: std::io::Error| format!("its layer is not a valid tar archive: {why}");
    if layer.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = GzDecoder::new(layer).take(UNPACKED_MAX_BYTES + 1);
        unpacked.read_to_end(&mut bytes).map_err(invalid)?;
    } else {
        bytes.extend_from_slice(layer);
    }
    if bytes.len() as u64 > UNPACKED_MAX_BYTES {
        return Err(format!("its layer is larger than {UNPACKED_MAX_BYTES} bytes"));
    }
    let mut files = Files::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().map_err(invalid)? {
        let mut entry = entry.map_err(invalid)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(invalid)?.to_string_lossy().into_owned();
        let path = path.strip_prefix("./").unwrap_or(&path).to_owned();
        let mut text = Vec::new();
        entry.read_to_end(&mut text).map_err(invalid)?;
        files.insert(path, text);
        if files.len() > FILES_MAX {
            return Err(format!("its layer has more than {FILES_MAX} files"));
        }
    }
    Ok(files)
}
