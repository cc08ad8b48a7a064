//! What is declared. No logic: a value of these types is right by construction.

use std::fmt;

use documents::Name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is to be copied out of a cluster, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Drain {
    /// The `Cluster`. Its status holds the kubeconfig, sealed.
    pub cluster: Name,
    /// The `Artifact` whose image reads volumes, in the cluster.
    #[serde(default = "volume_reader")]
    pub reader: Name,
    /// What is to be copied.
    #[schemars(length(min = 1))]
    pub sources: Vec<Source>,
    /// Who can open the copies: names of the Project's recipients. Let one of them be somebody
    /// whose key is nowhere near the cluster.
    #[schemars(length(min = 1))]
    pub recipients: Vec<String>,
    /// How much of what was copied is read back.
    #[serde(default)]
    pub read_back: ReadBack,
    /// How long one step may make no progress, in seconds: until a workload has stopped, until a
    /// reader runs (default 120). Copying has no such limit.
    #[serde(default)]
    pub timeout_seconds: Timeout,
}

/// One thing to copy: exactly one of `claim` and `forge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Source {
    /// A volume claim of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// The workload that writes to the claim. Without it no pod may mount the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Freeze>,
    /// The node that holds the claim's data, for a `hostPath` volume that no pod mounts. The node
    /// of the claim's own pod, or the volume's node affinity, is used otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether a volume without any file is copied (default: it is refused as the wrong one).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_empty: bool,
    /// A `Repository`: everything that `git clone --mirror` brings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forge: Option<Name>,
}

/// What is stopped before a volume is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Freeze {
    /// What mounts the claim: `deployment/NAME` or `statefulset/NAME`, in its namespace.
    pub scale_to_zero: Workload,
}

/// How much of what was copied is read back. There is one answer: a sample is no proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ReadBack {
    /// All of it, every time.
    #[default]
    Full,
}

/// `NAMESPACE/NAME` of a `PersistentVolumeClaim`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^[a-z0-9][-a-z0-9]*/[a-z0-9][-.a-z0-9]*$"))]
pub struct Claim {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// `deployment/NAME` or `statefulset/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^(deployment|statefulset)/[a-z0-9][-.a-z0-9]*$"))]
pub struct Workload {
    /// In lower case, as `kubectl` takes it.
    pub(crate) kind: String,
    pub(crate) name: String,
}

/// Seconds to wait: 1 to 86400.
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

/// Whether `text` can be the name of an object: it becomes part of a path.
fn is_name(text: &str) -> bool {
    let inner = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-' || it == b'.';
    (1..=253).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
}

fn volume_reader() -> Name {
    Name::try_from("volume-reader".to_owned()).unwrap_or_else(|_| unreachable!("it is a name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_part_of_a_path_cannot_leave_it() {
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
