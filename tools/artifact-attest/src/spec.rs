//! Types of the `Artifact` document. They hold no logic: parsing rejects every invalid value.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ::git::Url;
use documents::Name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A build result that is signed, attested and published. Declare either `build` and `image`, or
/// `manifests` alone, or `index` alone.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Artifact {
    /// Name of the `Project` that holds the registry and the root of the signing key.
    pub project: Name,
    /// URL from which others fetch the source (default: the address of the project's `Repository`).
    pub source: Option<Url>,
    /// Whether `source` must contain the commit before `apply` signs it (default `required`).
    pub source_check: Option<SourceCheck>,
    /// Nix build of the artifact. Requires `image`.
    pub build: Option<Build>,
    /// Container image made from the build result. Requires `build`.
    pub image: Option<Image>,
    /// Whether a second build must be bit-identical to the first (default `required`). A machine
    /// remembers a second build that succeeded and does not repeat it.
    pub rebuild: Option<Rebuild>,
    /// Manifests for Flux, published with their images pinned by digest.
    pub manifests: Option<Manifests>,
    /// Index of images for several platforms, so that one reference fits every machine.
    pub index: Option<Index>,
    /// Further tags, which move to the newest artifact in this order, after everything is signed: for example
    /// `[v{version}, latest]`. `{version}` is the version of the flake's package, `{rev}` the beginning of
    /// the commit.
    #[serde(default)]
    pub tags: Vec<Tag>,
}

/// Nix build of one package of a flake.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Build {
    /// Folder of the flake, inside a Git repository. The build uses the last commit that touched
    /// this folder. When a newer commit outside the folder changes the derivation, the build uses
    /// the checked-out commit.
    pub flake: PathBuf,
    /// Name of the flake's package (default `default`).
    #[serde(default = "default_attribute")]
    pub attribute: Attribute,
    /// System that the package is built for (default `x86_64-linux`).
    #[serde(default)]
    pub system: System,
    /// Time limit of one build, and of each evaluation, in seconds, from 1 to 86400 (default 3600).
    #[serde(default = "one_hour")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: u32,
    /// Whether the build result and its runtime dependencies are copied to the binary cache of the
    /// Project (`endpoints.nix.cache`) and signed there, after the image is published.
    #[serde(default)]
    pub cache: bool,
}

fn default_attribute() -> Attribute {
    Attribute("default".to_owned())
}

fn one_hour() -> u32 {
    3600
}

/// Target system, in Nix's spelling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum System {
    /// Linux on AMD64 (`x86_64`).
    #[default]
    #[serde(rename = "x86_64-linux")]
    Amd64,
    /// Linux on ARM64 (`aarch64`).
    #[serde(rename = "aarch64-linux")]
    Arm64,
}

impl System {
    /// Returns Nix's name of the system.
    pub(crate) fn nix(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux",
            Self::Arm64 => "aarch64-linux",
        }
    }

    /// Returns OCI's name of the architecture.
    pub(crate) fn oci(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Returns the system's machine in the header of an ELF file (`e_machine` of
    /// <https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html>).
    pub(crate) fn elf(self) -> u16 {
        match self {
            Self::Amd64 => 62,  // EM_X86_64
            Self::Arm64 => 183, // EM_AARCH64
        }
    }
}

/// Container image made from the build result.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Image {
    /// Repository below the project's registry URL, for example `greeter`.
    pub repository: Repository,
    /// Command of the container, with its first arguments. Every top-level folder of the build
    /// result is linked from `/`.
    pub entrypoint: Vec<String>,
    /// Numeric UID or `UID:GID` of the container's process (default 65532, `nonroot`).
    #[serde(default = "unprivileged_user")]
    pub user: String,
    /// TCP ports that the container listens on.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Arguments after `entrypoint`, which a container may replace.
    #[serde(default)]
    pub command: Vec<String>,
    /// Environment variables, for example `TZ: UTC` (default: `PATH: /bin`).
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Labels beside `org.opencontainers.image.revision` and `org.opencontainers.image.source`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Absolute path of the folder in which the process starts (default `/`).
    #[serde(default = "root_folder")]
    pub working_directory: String,
    /// Whether the image holds Mozilla's list of certificate authorities, in
    /// `/etc/ssl/certs/ca-certificates.crt`, which `SSL_CERT_FILE` then names. Every image has `/tmp`,
    /// `/etc/passwd` and `/etc/group`.
    #[serde(default)]
    pub ca_certificates: bool,
}

fn root_folder() -> String {
    "/".to_owned()
}

fn unprivileged_user() -> String {
    "65532".to_owned()
}

/// Check of the commit in `source` before `apply` signs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SourceCheck {
    /// A branch or a tag of `source` must contain the commit; otherwise `apply` signs nothing.
    #[default]
    Required,
    /// `source` is not contacted, and the provenance says so. Meant for a source that the signing
    /// machine cannot reach.
    Skip,
}

/// Comparison of a second build with the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Rebuild {
    /// The two builds must be bit-identical; otherwise nothing is published.
    #[default]
    Required,
    /// There is no second build.
    Skip,
}

/// Manifests for Flux, published as one OCI artifact.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifests {
    /// Folder of the manifests, inside a Git repository. All files below it are published, except
    /// hidden files that no Kustomization names.
    pub path: PathBuf,
    /// Repository below the project's registry URL, for example `deploy`.
    pub repository: Repository,
    /// Names of `Artifact` documents. Where a manifest has such a name as `image`, the published
    /// reference with its digest replaces the name.
    #[serde(default)]
    pub images: Vec<Name>,
}

/// Index of images that other `Artifact` documents publish, one for each platform.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Index {
    /// Repository below the project's registry URL: that of the images, because a registry resolves an index
    /// inside its repository.
    pub repository: Repository,
    /// Names of `Artifact` documents with an `image`, each for another `system`. A client takes the first that
    /// fits its machine.
    #[schemars(length(min = 1))]
    pub images: Vec<Name>,
}

/// Repository name in an OCI registry: words of `a-z` and `0-9`, joined by `.`, `_`, `-` or `/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^[a-z0-9]+([._/-][a-z0-9]+)*$"))]
pub struct Repository(String);

impl Repository {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Repository {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let word = |word: &str| {
            !word.is_empty()
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        // Measured: cosign and crane reject a name of one letter.
        if (2..=200).contains(&text.len()) && text.split(['.', '_', '-', '/']).all(word) {
            Ok(Self(text))
        } else {
            Err("not a repository name: use words of a-z and 0-9, joined by one of . _ - /"
                .to_owned())
        }
    }
}

/// Tag with placeholders: `{version}` and `{rev}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^([A-Za-z0-9_]|\\{version\\}|\\{rev\\})([A-Za-z0-9_.-]|\\{version\\}|\\{rev\\})*$"))]
pub struct Tag(String);

impl Tag {
    /// Returns the tag as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Tag {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let filled = text.replace("{version}", "1").replace("{rev}", "f");
        if is_tag(&filled) && !filled.starts_with("sha256-") {
            Ok(Self(text))
        } else {
            Err("not a tag: use letters, digits and _ . - with the placeholders {version} and {rev}"
                .to_owned())
        }
    }
}

/// Whether `text` is a tag by the OCI distribution specification.
pub(crate) fn is_tag(text: &str) -> bool {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.len() <= 128
        && text.starts_with(is_word)
        && text.chars().all(|letter| is_word(letter) || matches!(letter, '.' | '-'))
}

/// Name of a package in a flake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^[A-Za-z_][A-Za-z0-9_'-]*$"))]
pub struct Attribute(String);

impl Attribute {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Attribute {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let first = text.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_');
        let allowed =
            |letter: char| letter.is_ascii_alphanumeric() || ['_', '\'', '-'].contains(&letter);
        if first && text.len() <= 200 && text.chars().all(allowed) {
            Ok(Self(text))
        } else {
            Err("not a package name: use a letter, then letters, digits, _ and -".to_owned())
        }
    }
}
