//! Document types of a Drain. No logic: a value of these types is valid by construction.

use std::fmt;

use documents::Name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Sources to copy out of a cluster, and the recipients of the copies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Drain {
    /// Name of the `Cluster`, whose status holds the sealed kubeconfig.
    pub cluster: Name,
    /// Name of the `Artifact` whose image reads volumes in the cluster (default `volume-reader`).
    #[serde(default = "volume_reader")]
    pub reader: Name,
    /// Names of the Secrets with which the kubelet pulls that image, in the namespace of each claim (default
    /// none). A Delivery creates such a Secret with `imagePull: true`.
    #[serde(default)]
    pub image_pull_secrets: Vec<Name>,
    /// Volume claims and repositories to copy.
    #[schemars(length(min = 1))]
    pub sources: Vec<Source>,
    /// Recipients who can decrypt the copies, by their names in the Project. Include a recipient whose key
    /// is kept away from the cluster.
    #[schemars(length(min = 1))]
    pub recipients: Vec<String>,
    /// Extent of the read-back check (default `full`).
    #[serde(default)]
    pub read_back: ReadBack,
    /// Longest time in seconds that one step may make no progress, for example until a workload has
    /// stopped or a reader runs (1 to 86400, default 120). Copying has no such limit.
    #[serde(default)]
    pub timeout_seconds: Timeout,
}

/// A source to copy. Exactly one of `claim` and `forge` is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Source {
    /// Volume claim of the cluster, for example `default/data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Workload that writes to the claim. Without this field, no pod may mount the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Freeze>,
    /// Node that holds the claim's data. Required for a `hostPath` volume that no pod mounts (default: the
    /// node of the claim's pod, or the volume's node affinity).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether an empty volume is copied (default `false`: it is refused, because it may be the wrong
    /// one).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_empty: bool,
    /// Name of a `Repository`. The copy contains everything that `git clone --mirror` fetches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forge: Option<Name>,
}

/// Workload that is stopped before a volume is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Freeze {
    /// `deployment/NAME` or `statefulset/NAME` in the claim's namespace.
    pub scale_to_zero: Workload,
}

/// Extent of the read-back check. Only `full` exists, because a sample proves nothing about the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ReadBack {
    /// Read back every object in every run.
    #[default]
    Full,
}

/// A `PersistentVolumeClaim` as `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^[a-z0-9][-a-z0-9]*/[a-z0-9][-.a-z0-9]*$"))]
pub struct Claim {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A workload as `deployment/NAME` or `statefulset/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^(deployment|statefulset)/[a-z0-9][-.a-z0-9]*$"))]
pub struct Workload {
    /// Kind in lower case, as `kubectl` accepts it.
    pub(crate) kind: String,
    pub(crate) name: String,
}

/// Timeout of 1 to 86400 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u32")]
#[schemars(extend("minimum" = 1, "maximum" = 86400))]
pub struct Timeout(u32);

impl Timeout {
    pub(crate) fn seconds(self) -> u32 {
        self.0
    }
}

impl Default for Timeout {
    fn default() -> Self {
        Self(120)
    }
}

impl TryFrom<u32> for Timeout {
    type Error = &'static str;

    fn try_from(seconds: u32) -> Result<Self, Self::Error> {
        match seconds {
            1..=86400 => Ok(Self(seconds)),
            _ => Err("from 1 to 86400 seconds"),
        }
    }
}

impl TryFrom<String> for Claim {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("not a claim: write NAMESPACE/NAME"),
        }
    }
}

impl TryFrom<String> for Workload {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.split_once('/') {
            Some((kind @ ("deployment" | "statefulset"), name)) if is_name(name) => {
                Ok(Self { kind: kind.to_owned(), name: name.to_owned() })
            }
            _ => Err("not a workload: write deployment/NAME or statefulset/NAME"),
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl From<Claim> for String {
    fn from(claim: Claim) -> Self {
        claim.to_string()
    }
}

impl From<Workload> for String {
    fn from(workload: Workload) -> Self {
        workload.to_string()
    }
}

/// Whether `text` is a valid object name, which is safe in a URL path.
fn is_name(text: &str) -> bool {
    let inner = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.'
    };
    (1..=253).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
}

fn volume_reader() -> Name {
    Name::try_from("volume-reader".to_owned())
        .unwrap_or_else(|_| unreachable!("the literal is a valid name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_and_workloads_reject_names_that_leave_a_url_path() {
        for good in ["default/data", "a/b.c-1"] {
            assert!(Claim::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["data", "/data", "default/", "../x/data", "a/b/c", "a/..", "A/b", "a/b?c"] {
            assert!(Claim::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        for bad in ["deployment/", "pod/x", "deployment/../x", "greeter"] {
            assert!(Workload::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
