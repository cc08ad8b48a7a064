//! What is declared. No logic: a value of these types is right by construction.

use std::collections::BTreeMap;
use std::fmt;

use documents::Name;
use keyring::DataOnDestroy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Flux in a cluster, and the one artifact that it delivers there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Delivery {
    /// The `Cluster`. Its status holds the kubeconfig, sealed.
    pub cluster: Name,
    /// What is installed there.
    pub flux: Flux,
    /// The `Artifact` whose manifests are delivered, pinned to its attested digest.
    pub artifact: Name,
    /// The folder inside the artifact from which to build.
    #[serde(default)]
    pub path: Folder,
    /// Remove from the cluster what a later artifact no longer holds, and everything on `destroy`.
    #[serde(default = "yes")]
    pub prune: bool,
    /// Data policy of the volume claims that `destroy`, or an `apply` whose artifact no longer holds
    /// them, takes away. A claim that is not named requires a drain receipt.
    #[serde(default)]
    pub data_on_destroy: DataOnDestroy,
    /// How often Flux corrects what others changed, in seconds.
    #[serde(default)]
    pub interval_seconds: Interval,
    /// How long one run waits until everything is delivered, or gone, in seconds.
    #[serde(default)]
    pub timeout_seconds: Timeout,
}

/// What is installed in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "an object with `version`")]
pub struct Flux {
    /// The release. This program carries its manifests.
    pub version: Version,
    /// The controllers. A delivery needs both.
    #[serde(default = "Component::all")]
    pub components: Vec<Component>,
    /// How the controllers reach the API server and one another.
    #[serde(default)]
    pub network: Network,
    /// The digests of the controllers' images. One that is not given is asked of the registry, by
    /// the tag that the manifests name.
    #[serde(default)]
    pub digests: BTreeMap<Component, Digest>,
}

/// A release of Flux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Version {
    /// Flux 2.9.5.
    #[serde(rename = "2.9.5")]
    V2_9_5,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V2_9_5 => f.write_str("2.9.5"),
        }
    }
}

/// One of Flux's controllers.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// Fetches and verifies the artifact.
    SourceController,
    /// Applies what is in it.
    KustomizeController,
}

impl Component {
    /// All that this program can install.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![Self::SourceController, Self::KustomizeController]
    }

    /// Its name, as its image and its Deployment have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SourceController => "source-controller",
            Self::KustomizeController => "kustomize-controller",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the controllers reach the API server and one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// As pods do: by way of the cluster's network and its DNS.
    #[default]
    Pod,
    /// As the node does: by way of `KubePrism` on 127.0.0.1:7445, on ports 9790 to 9794 of
    /// 127.0.0.1. Needs no cluster network, so that Flux can deliver that, too.
    Host,
}

/// A digest of something in a registry: `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^sha256:[0-9a-f]{64}$"))]
pub struct Digest(String);

impl Digest {
    /// The digest.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_hex = |it: char| it.is_ascii_digit() || ('a'..='f').contains(&it);
        match text.strip_prefix("sha256:") {
            Some(hex) if hex.len() == 64 && hex.chars().all(is_hex) => Ok(Self(text)),
            _ => Err("not a digest, which is `sha256:` and 64 of 0-9 and a-f"),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A folder inside the artifact: `./` and names, never upwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct Folder(String);

impl Folder {
    /// The folder.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self("./".to_owned())
    }
}

impl TryFrom<String> for Folder {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let upwards = text.split('/').any(|it| it == "..");
        if text.starts_with("./") && !upwards && text.len() <= 1024 {
            Ok(Self(text))
        } else {
            Err("not a folder of the artifact, which begins with `./` and has no `..`")
        }
    }
}

/// 1 second to 1 hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u32")]
#[schemars(extend("minimum" = 1, "maximum" = 3600))]
pub struct Timeout(u32);

impl Timeout {
    /// In seconds.
    #[must_use]
    pub fn seconds(self) -> u32 {
        self.0
    }
}

impl Default for Timeout {
    fn default() -> Self {
        Self(300)
    }
}

impl TryFrom<u32> for Timeout {
    type Error = &'static str;

    fn try_from(seconds: u32) -> Result<Self, Self::Error> {
        let right = (1..=3600).contains(&seconds);
        right.then_some(Self(seconds)).ok_or("not a number of seconds from 1 to 3600")
    }
}

/// 10 seconds to 1 day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u32")]
#[schemars(extend("minimum" = 10, "maximum" = 86400))]
pub struct Interval(u32);

impl Interval {
    /// In seconds.
    #[must_use]
    pub fn seconds(self) -> u32 {
        self.0
    }
}

impl Default for Interval {
    fn default() -> Self {
        Self(600)
    }
}

impl TryFrom<u32> for Interval {
    type Error = &'static str;

    fn try_from(seconds: u32) -> Result<Self, Self::Error> {
        let right = (10..=86400).contains(&seconds);
        right.then_some(Self(seconds)).ok_or("not a number of seconds from 10 to 86400")
    }
}

fn yes() -> bool {
    true
}
