//! Document types of a Delivery. No logic: a value of these types is valid by construction.

use std::collections::BTreeMap;
use std::fmt;

use contract::DataOnDestroy;
use documents::Name;
pub use remote::registry::Digest;
use schemars::JsonSchema;
use secrets::Reference;
use serde::{Deserialize, Serialize};

/// Flux in a cluster, and the artifact that it delivers there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Delivery {
    /// Name of the `Cluster`, whose status holds the sealed kubeconfig. Declare either `cluster` or
    /// `kubeconfig`.
    pub cluster: Option<Name>,
    /// Kubeconfig of a cluster that no `Cluster` declares. Keys and certificates must be embedded.
    pub kubeconfig: Option<Reference>,
    /// Name of the `Project`, required with `kubeconfig`. The project of a `Cluster` is in that document.
    pub project: Option<Name>,
    /// Release, controllers and network of the installation. One Delivery of a cluster declares `flux`;
    /// the others use its installation and name it in `dependsOn`. If no document of the input declares
    /// `flux` for the cluster, Flux must already be installed there.
    pub flux: Option<Flux>,
    /// Names of Deliveries that must be Ready before this one is applied, and that `destroy` removes
    /// after this one.
    #[serde(default)]
    pub depends_on: Vec<Name>,
    /// Name of the `Artifact` whose manifests are delivered. Flux is pinned to its attested digest.
    /// Declare either `artifact` or `source`.
    pub artifact: Option<Name>,
    /// Artifact that no `Artifact` document of the input declares.
    pub source: Option<Source>,
    /// Folder of the artifact that Flux builds (default `./`).
    #[serde(default)]
    pub path: Folder,
    /// Whether Flux removes objects that a later artifact no longer contains, and `destroy` removes
    /// every delivered object (default `true`).
    #[serde(default = "yes")]
    pub prune: bool,
    /// Effect of `destroy` on the delivered objects (default `delete`).
    #[serde(default)]
    pub on_destroy: OnDestroy,
    /// Data policy of volume claims that `destroy` deletes, or that an `apply` deletes because the
    /// artifact no longer contains them. A claim that is not named requires a drain receipt. Example:
    /// `default/cache: discard`.
    #[serde(default)]
    pub data_on_destroy: DataOnDestroy,
    /// Secrets in the cluster whose values the documents refer to, for example a cloud's token. `apply`
    /// creates them before Flux applies the manifests.
    #[serde(default)]
    pub secrets: Vec<WorkloadSecret>,
    /// Interval in seconds at which Flux reverts changes of other writers (10 to 86400, default 600).
    #[serde(default)]
    pub interval_seconds: Interval,
    /// Longest time in seconds that one run waits until everything is ready or deleted (1 to 3600,
    /// default 300).
    #[serde(default)]
    pub timeout_seconds: Timeout,
}

impl Delivery {
    /// Returns the cluster as people call it, for example `cluster prod`.
    #[must_use]
    pub fn destination(&self) -> String {
        match &self.cluster {
            Some(cluster) => format!("cluster {cluster}"),
            None => "the cluster of `kubeconfig`".to_owned(),
        }
    }
}

/// Effect of `destroy` on the delivered objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnDestroy {
    /// Deletes the delivered objects, unless `prune` is `false`.
    #[default]
    Delete,
    /// Removes Flux and its objects. Workloads, their data and their Secrets stay and keep running.
    Detach,
}

/// Artifact in an OCI registry, signed with `cosign`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "an object with `repository`")]
pub struct Source {
    /// Registry and repository, for example `ghcr.io/zabronax/deployments`. Requests to the Project's
    /// `endpoints.registry` carry its credentials; requests to other registries are anonymous.
    pub repository: Repository,
    /// Digest of the artifact's manifest.
    pub digest: Digest,
    /// Public keys in PEM. Flux delivers the artifact if one of them verifies its signature.
    pub public_keys: Vec<String>,
}

/// Registry and repository without tag and digest, for example `ghcr.io/zabronax/deployments`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct Repository(String);

impl Repository {
    /// Returns the reference as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Repository {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // Components of a path, as the distribution specification v1.1.1 defines them, without its rule
        // that separators stand alone: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests
        let is_path = |part: &str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
        };
        let is_host = |host: &str| {
            !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c))
        };
        match text.split_once('/') {
            Some((host, path)) if is_host(host) && path.split('/').all(is_path) => Ok(Self(text)),
            _ => Err(
                "not a registry and a repository without tag and digest, such as `ghcr.io/me/app`",
            ),
        }
    }
}

/// Secret of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "an object with `name`")]
pub struct WorkloadSecret {
    /// Namespace of the Secret, which `apply` creates if it does not exist.
    pub namespace: Name,
    /// Name of the Secret, for example `hcloud`.
    pub name: Name,
    /// Value of each key. Declare either `data` or `imagePull`.
    #[serde(default)]
    pub data: BTreeMap<DataKey, SecretValue>,
    /// Whether the Secret holds the credentials of the Project's `endpoints.registry` that pull
    /// (`reader`), for `imagePullSecrets` of pods (default `false`).
    #[serde(default)]
    pub image_pull: bool,
}

/// Key of a Secret: 1 to 253 of `A-Z`, `a-z`, `0-9`, `-`, `_` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct DataKey(String);

impl DataKey {
    /// Returns the key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DataKey {
    type Error = &'static str;

    /// Applies the rule of Kubernetes: `IsConfigMapKey` in apimachinery's `pkg/util/validation`.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_path = text == "." || text.starts_with("..");
        if (1..=253).contains(&text.len()) && text.chars().all(is_allowed) && !is_path {
            Ok(Self(text))
        } else {
            Err("not a key of a Secret: write 1 to 253 of A-Z, a-z, 0-9, -, _ and .")
        }
    }
}

/// Source of a value in a Secret: an endpoint of the Project, or any other secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "serde_json::Value")]
#[schemars(untagged)]
pub enum SecretValue {
    /// Token of an endpoint of the Project.
    Endpoint {
        /// Endpoint whose `token` is the value.
        endpoint: TokenEndpoint,
    },
    /// Any other secret.
    Reference(Reference),
}

impl TryFrom<serde_json::Value> for SecretValue {
    type Error = String;

    /// Tells the two forms apart by their field, so that the error is about the form that was meant. The
    /// value is not quoted, because a secret may stand there by mistake.
    fn try_from(value: serde_json::Value) -> Result<Self, Self::Error> {
        let Some(endpoint) = value.get("endpoint") else {
            return Reference::deserialize(value).map(Self::Reference).map_err(|error| {
                format!("{error}; the token of an endpoint of the Project is {{endpoint: cloud}} or {{endpoint: forge}}")
            });
        };
        let is_alone = value.as_object().is_some_and(|fields| fields.len() == 1);
        match TokenEndpoint::deserialize(endpoint) {
            Ok(endpoint) if is_alone => Ok(Self::Endpoint { endpoint }),
            _ => Err("an endpoint is {endpoint: cloud} or {endpoint: forge}, without other fields"
                .to_owned()),
        }
    }
}

/// Endpoint of a Project that has a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TokenEndpoint {
    /// `endpoints.cloud`, for a cloud controller manager or a CSI driver.
    Cloud,
    /// `endpoints.forge`, for workloads that use the forge's API.
    Forge,
}

/// Installation of Flux in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "an object with `version`")]
pub struct Flux {
    /// Release of Flux, whose manifests this program contains.
    pub version: Version,
    /// Controllers to install (default: source-controller and kustomize-controller, which every delivery
    /// needs). helm-controller and notification-controller can be added.
    #[serde(default = "Component::default_list")]
    pub components: Vec<Component>,
    /// Network of the controllers (default `pod`).
    #[serde(default)]
    pub network: Network,
    /// Digests of the controllers' images, instead of the digests of the release. Example: images that
    /// were built again.
    #[serde(default)]
    pub digests: BTreeMap<Component, Digest>,
    /// Whether `apply` takes over a Flux that another program installed, for example `flux install`
    /// (default `false`). It changes the objects in place, so that delivered workloads keep running.
    /// `components` must name every controller that is installed.
    #[serde(default)]
    pub adopt: bool,
}

/// A release of Flux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Version {
    /// Flux 2.9.4, with source-controller and kustomize-controller 1.9.4, helm-controller 1.6.3 and
    /// notification-controller 1.9.3.
    #[serde(rename = "2.9.4")]
    V2_9_4,
    /// Flux 2.9.5, with source-controller and kustomize-controller 1.9.5, helm-controller 1.6.4 and
    /// notification-controller 1.9.4.
    #[serde(rename = "2.9.5")]
    V2_9_5,
}

impl Version {
    /// Every release that this program contains, the oldest first.
    pub const ALL: [Self; 2] = [Self::V2_9_4, Self::V2_9_5];
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V2_9_4 => f.write_str("2.9.4"),
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
    /// Installs Helm charts that a delivered `HelmRelease` names.
    HelmController,
    /// Sends events to the receivers that a delivered `Alert` names. With the network `pod`, webhooks of
    /// a `Receiver` reach it, too.
    NotificationController,
}

impl Component {
    /// Every controller that this program can install.
    pub const ALL: [Self; 4] = [
        Self::SourceController,
        Self::KustomizeController,
        Self::HelmController,
        Self::NotificationController,
    ];

    /// Returns the controllers that every delivery needs.
    #[must_use]
    pub fn required() -> [Self; 2] {
        [Self::SourceController, Self::KustomizeController]
    }

    fn default_list() -> Vec<Self> {
        Self::required().into()
    }

    /// Returns the name of the controller's image and Deployment.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SourceController => "source-controller",
            Self::KustomizeController => "kustomize-controller",
            Self::HelmController => "helm-controller",
            Self::NotificationController => "notification-controller",
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
    /// The cluster's pod network and DNS. The controllers also run on nodes that a cloud controller
    /// manager has not initialised yet, so that Flux can deliver it.
    #[default]
    Pod,
    /// The node's network: one pod with all controllers, the API server through `KubePrism` on
    /// 127.0.0.1:7445, and the controllers on ports 9790 to 9800 of 127.0.0.1. Works without a CNI, so
    /// that Flux can deliver the CNI. Metrics, and webhooks for notification-controller, are reachable on
    /// the node alone.
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
