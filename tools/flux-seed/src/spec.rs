//! Document types of a Delivery. No logic: a value of these types is valid by construction.

use std::collections::BTreeMap;
use std::fmt;

use contract::DataOnDestroy;
use documents::Name;
pub use remote::registry::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Flux in a cluster, and the artifact that it delivers there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Delivery {
    /// Name of the `Cluster`, whose status holds the sealed kubeconfig.
    pub cluster: Name,
    /// Release, controllers and network of the installation.
    pub flux: Flux,
    /// Name of the `Artifact` whose manifests are delivered. Flux is pinned to its attested digest.
    pub artifact: Name,
    /// Folder of the artifact that Flux builds (default `./`).
    #[serde(default)]
    pub path: Folder,
    /// Whether Flux removes objects that a later artifact no longer contains, and `destroy` removes
    /// every delivered object (default `true`).
    #[serde(default = "yes")]
    pub prune: bool,
    /// Data policy of volume claims that `destroy` deletes, or that an `apply` deletes because the
    /// artifact no longer contains them. A claim that is not named requires a drain receipt. Example:
    /// `default/cache: discard`.
    #[serde(default)]
    pub data_on_destroy: DataOnDestroy,
    /// Interval in seconds at which Flux reverts changes of other writers (10 to 86400, default 600).
    #[serde(default)]
    pub interval_seconds: Interval,
    /// Longest time in seconds that one run waits until everything is ready or deleted (1 to 3600,
    /// default 300).
    #[serde(default)]
    pub timeout_seconds: Timeout,
}

/// Installation of Flux in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "an object with `version`")]
pub struct Flux {
    /// Release of Flux, whose manifests this program contains.
    pub version: Version,
    /// Controllers to install. A delivery needs both (default: both).
    #[serde(default = "Component::all")]
    pub components: Vec<Component>,
    /// Network of the controllers (default `pod`).
    #[serde(default)]
    pub network: Network,
    /// Digests of the controllers' images. A missing digest is resolved from the registry by the tag in
    /// the manifests.
    #[serde(default)]
    pub digests: BTreeMap<Component, Digest>,
}

/// A release of Flux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Version {
    /// Flux 2.9.5, released with source-controller 1.9.6 and kustomize-controller 1.9.5.
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

/// A controller of Flux.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// Fetches and verifies the artifact.
    SourceController,
    /// Builds and applies the manifests in the artifact.
    KustomizeController,
}

impl Component {
    /// Returns every controller that this program can install.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![Self::SourceController, Self::KustomizeController]
    }

    /// Returns the name of the controller's image and Deployment.
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

/// Network of the controllers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// The cluster's pod network and DNS.
    #[default]
    Pod,
    /// The node's network: the API server through `KubePrism` on 127.0.0.1:7445, and the controllers on
    /// ports 9790 to 9794 of 127.0.0.1. Works without a CNI, so that Flux can deliver the CNI.
    Host,
}

/// Folder of the artifact. Begins with `./` and has no `..`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct Folder(String);

impl Folder {
    /// Returns the folder as text, for example `./apps`.
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
        let upwards = text.split('/').any(|part| part == "..");
        if text.starts_with("./") && !upwards && text.len() <= 1024 {
            Ok(Self(text))
        } else {
            Err("not a folder of the artifact, which begins with `./` and has no `..`")
        }
    }
}

/// Timeout of 1 second to 1 hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u32")]
#[schemars(extend("minimum" = 1, "maximum" = 3600))]
pub struct Timeout(u32);

impl Timeout {
    /// Returns the timeout in seconds.
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

/// Interval of 10 seconds to 1 day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u32")]
#[schemars(extend("minimum" = 10, "maximum" = 86400))]
pub struct Interval(u32);

impl Interval {
    /// Returns the interval in seconds.
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
