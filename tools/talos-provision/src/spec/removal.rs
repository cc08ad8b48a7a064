//! Rules for the removal of a machine while the cluster lives.

use schemars::JsonSchema;
use serde::Deserialize;

/// Rules by which pods leave a machine that is removed while the cluster lives. They equal those of
/// `kubectl drain --ignore-daemonsets`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Removal {
    /// Longest time in seconds in which no pod leaves the machine (default 900). After that `apply`
    /// fails and names the `PodDisruptionBudget`. The machine stays, and takes no new pods.
    #[schemars(range(min = 1, max = 86400))]
    pub eviction_seconds: Seconds,
    /// Rule for pods with an `emptyDir` volume, whose contents an eviction loses (default
    /// `refuse`).
    pub empty_dir: EmptyDir,
}

impl Default for Removal {
    fn default() -> Self {
        Self { eviction_seconds: Seconds(900), empty_dir: EmptyDir::Refuse }
    }
}

/// Number of seconds, from 1 to 86400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "u32")]
#[schemars(with = "u32")]
pub struct Seconds(u32);

impl TryFrom<u32> for Seconds {
    type Error = &'static str;

    fn try_from(seconds: u32) -> Result<Self, Self::Error> {
        if (1..=86_400).contains(&seconds) {
            Ok(Self(seconds))
        } else {
            Err("not between 1 and 86400")
        }
    }
}

impl From<Seconds> for std::time::Duration {
    fn from(seconds: Seconds) -> Self {
        Self::from_secs(seconds.0.into())
    }
}

/// Rule for `emptyDir` volumes on a machine that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EmptyDir {
    /// A pod with an `emptyDir` volume stops the removal, as `kubectl drain` does without
    /// `--delete-emptydir-data`.
    Refuse,
    /// The pod is evicted, and the volume's contents are lost.
    Discard,
}
