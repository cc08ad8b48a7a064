//! What is declared. No logic: a value of these types is right by construction.

use std::path::PathBuf;

use documents::{Deferred, Name};
use keyring::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// Something that is made from a source, signed, attested and published. One of two: `build` and
/// `image`, or `manifests`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Artifact {
    /// The `Project` that names the registry, and whose root the signing key is derived from.
    pub project: Name,
    /// Where others fetch the source from. Left out: where the project's `Repository` is.
    pub source: Option<Url>,
    /// Whether a commit must be in `source` before it is signed (default `required`).
    pub source_check: Option<SourceCheck>,
    /// What Nix builds.
    pub build: Option<Build>,
    /// How what was built becomes an image of containers.
    pub image: Option<Image>,
    /// Whether it must come out the same when it is built again. Left out: it must. A machine on
    /// which it did builds it twice only once.
    pub rebuild: Option<Rebuild>,
    /// Manifests for Flux, with the images in them pinned.
    pub manifests: Option<Manifests>,
}

/// What Nix builds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Build {
    /// The folder of the flake, in a Git repository. What is built is the last commit that
    /// touched it; or the one that is checked out, if a commit elsewhere changes what is built.
    pub flake: PathBuf,
    /// Which of the flake's packages.
    #[serde(default = "default_attribute")]
    pub attribute: Attribute,
    /// For which machines.
    #[serde(default)]
    pub system: System,
    /// How long one build may take.
    #[serde(default = "hour")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: u32,
}

fn default_attribute() -> Attribute {
    Attribute("default".to_owned())
}

fn hour() -> u32 {
    3600
}

/// A system as Nix names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum System {
    /// Linux on AMD64.
    #[default]
    #[serde(rename = "x86_64-linux")]
    Amd64,
    /// Linux on ARM64.
    #[serde(rename = "aarch64-linux")]
    Arm64,
}

impl System {
    /// As Nix names it.
    pub(crate) fn nix(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux",
            Self::Arm64 => "aarch64-linux",
        }
    }

    /// As OCI names its architecture.
    pub(crate) fn oci(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// How what was built becomes an image of containers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Image {
    /// Where in the registry.
    pub repository: Repository,
    /// What runs, with its first arguments. The folders of what was built are linked from `/`.
    pub entrypoint: Vec<String>,
    /// As whom it runs: the number of a user. Left out: nobody of any use, 65532.
    #[serde(default = "nobody")]
    pub user: String,
    /// On which TCP ports it listens.
    #[serde(default)]
    pub ports: Vec<u16>,
}

fn nobody() -> String {
    "65532".to_owned()
}

/// Whether a commit must be in the repository from which others fetch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SourceCheck {
    /// A branch or a tag of `source` must hold the commit, or `apply` signs nothing.
    #[default]
    Required,
    /// The source is not asked, and the provenance says so: for a source that the machine that
    /// signs cannot reach.
    Skip,
}

/// Whether a second build must give the same bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Rebuild {
    /// It must, or nothing is published.
    #[default]
    Required,
    /// It is not tried.
    Skip,
}

/// Manifests for Flux.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifests {
    /// The folder, in a Git repository. All of its files are published, at any depth, but those
    /// whose name begins with a dot and that no Kustomization names.
    pub path: PathBuf,
    /// Where in the registry.
    pub repository: Repository,
    /// The `Artifact`s whose name stands as `image` in the manifests: what they published takes
    /// its place, by digest.
    #[serde(default)]
    pub images: Vec<Name>,
}

/// A name in a registry (OCI): words of `a-z`, `0-9` joined by `.`, `_`, `-` or `/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^[a-z0-9]+([._/-][a-z0-9]+)*$"))]
pub struct Repository(String);

impl Repository {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Repository {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let word = |it: &str| {
            !it.is_empty() && it.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit())
        };
        // Measured: cosign and crane refuse a name of one letter.
        if (2..=200).contains(&text.len()) && text.split(['.', '_', '-', '/']).all(word) {
            Ok(Self(text))
        } else {
            Err("not a name in a registry: words of a-z and 0-9, joined by one of . _ - /"
                .to_owned())
        }
    }
}

/// The name of a flake's package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^[A-Za-z_][A-Za-z0-9_'-]*$"))]
pub struct Attribute(String);

impl Attribute {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Attribute {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let first = text.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_');
        let allowed = |it: char| it.is_ascii_alphanumeric() || ['_', '\'', '-'].contains(&it);
        if first && text.len() <= 200 && text.chars().all(allowed) {
            Ok(Self(text))
        } else {
            Err("not the name of a package: a letter, then letters, digits, _ and -".to_owned())
        }
    }
}

/// Facts about what is published.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// By digest, so that nobody can put something else in its place.
    pub reference: Deferred<String>,
    /// Of its manifest.
    pub digest: Deferred<Digest>,
    /// Under which it is found; made from the commit and from what was built of it.
    pub tag: Deferred<String>,
    /// Of what Nix built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nar_hash: Option<String>,
    /// Whether a second build gave the same bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reproducible: Option<bool>,
    /// What verifies its signatures: PEM.
    pub public_key: String,
    /// A command that verifies it, `publicKey` being in `cosign.pub`.
    pub verify_with: Deferred<String>,
}

/// Something that binds what is published to what it was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// What it is about: `source`, `provenance`, `sbom` or `signature`.
    #[serde(rename = "type")]
    pub about: String,
    /// The commit that was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// The digest of the signed statement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The digest of the public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Which generation of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
}
