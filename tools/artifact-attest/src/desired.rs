//! The declared state, as plain data: no clients, no secrets.

use std::collections::BTreeSet;

use contract::facts::{RepositorySlug, repository_of_project};
use contract::{Forge, Project};
use documents::{Declared, Deferred, Stream};

use crate::oci::Digest;
use crate::spec::{Artifact, Build as BuildSpec, Image, Index, Manifests, Repository};
use crate::statement::Predicate;

/// State of the registry that a document declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Build that has to run first; `None` when the digest is known without a build.
    pub build: Option<Build>,
    /// Digest of the manifest.
    pub digest: Deferred<Digest>,
    /// Tag of the manifest, for example `f00dcaf-1a2b3c4d`.
    pub tag: Deferred<String>,
    /// Declared tags, which move to the manifest in this order.
    pub tags: Vec<Deferred<String>>,
    /// Statements that must be signed about the manifest.
    pub statements: BTreeSet<Predicate>,
    /// Store path that a binary cache must have; `None` if the document declares no cache.
    pub cache: Option<CachedPath>,
}

/// A store path, and the binary cache that must have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedPath {
    /// Store path of the build result, for example `/nix/store/…-greeter-1.0`.
    pub path: String,
    /// URL of the binary cache.
    pub cache: String,
}

/// Build of one derivation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Store path of the derivation, for example `/nix/store/…-greeter-1.0.drv`.
    pub derivation: String,
    /// Whether a second build must be bit-identical to the first.
    pub twice: bool,
}

/// Form of an artifact: a container image, manifests, or an index of images.
pub(crate) enum Shape<'a> {
    Image(&'a BuildSpec, &'a Image),
    Manifests(&'a Manifests),
    Index(&'a Index),
}

impl<'a> Shape<'a> {
    /// Returns `None` for a document that declares no form, or several.
    pub(crate) fn of(spec: &'a Artifact) -> Option<Self> {
        let Artifact { build, image, rebuild, manifests, index, .. } = spec;
        match (build, image, rebuild, manifests, index) {
            (Some(build), Some(image), _, None, None) => Some(Self::Image(build, image)),
            (None, None, None, Some(manifests), None) => Some(Self::Manifests(manifests)),
            (None, None, None, None, Some(index)) => Some(Self::Index(index)),
            _ => None,
        }
    }

    /// Returns the artifact's repository, relative to the project's registry.
    pub(crate) fn repository(&self) -> &'a Repository {
        match self {
            Self::Image(_, image) => &image.repository,
            Self::Manifests(manifests) => &manifests.repository,
            Self::Index(index) => &index.repository,
        }
    }
}

/// Returns the URL from which others fetch the source: the declared one, or the address of the
/// project's repository.
pub(crate) fn source_url(
    stream: &Stream,
    project: &Declared<Project>,
    document: &Declared<Artifact>,
) -> Option<String> {
    if let Some(url) = &document.spec.source {
        return Some(url.as_str().to_owned());
    }
    let RepositorySlug { owner, name } = repository_of_project(stream, project.name.as_str())?;
    let forge = project.spec.endpoints.forge.as_ref()?;
    Some(format!("{}/{owner}/{name}", forge_site(forge)))
}

/// Returns the URL of the forge's website, derived from the URL of its API.
pub(crate) fn forge_site(forge: &Forge) -> String {
    let (Forge::Github { url, .. } | Forge::Gitea { url, .. }) = forge;
    match url.as_str() {
        "https://api.github.com" => "https://github.com".to_owned(),
        other => {
            let site = ["/api/v3", "/api/v1"].iter().find_map(|suffix| other.strip_suffix(suffix));
            site.unwrap_or(other).to_owned()
        }
    }
}
