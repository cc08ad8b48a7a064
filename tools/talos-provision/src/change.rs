//! Differences of shared resources from the declared state, as a plan shows them.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// Difference of a shared resource from the declared state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Part of the resource that differs.
    pub part: Part,
    /// Values that go, for example `tcp 22 from 0.0.0.0/0`; `none` when nothing goes.
    pub from: String,
    /// Values that come, for example `icmp from 0.0.0.0/0 and ::/0`; `none` when nothing comes.
    pub to: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", self.part.as_str(), self.from, self.to)
    }
}

/// Part of a shared resource that can differ from the declared state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// The rules of the firewall.
    Rules,
    /// The network's subnet for the machines.
    Subnet,
    /// The attachment of the load balancer to the network.
    Network,
    /// The public address of the load balancer.
    PublicInterface,
    /// The ports that the load balancer forwards.
    Services,
    /// The servers to which the load balancer forwards.
    Targets,
    /// The deletion of the Primary IP together with its load balancer.
    AutoDelete,
    /// The network's label of a `destroy` that did not finish.
    Labels,
}

impl Part {
    /// Returns the name for people, for example `public interface`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Subnet => "subnet",
            Self::Network => "network",
            Self::PublicInterface => "public interface",
            Self::Services => "services",
            Self::Targets => "targets",
            Self::AutoDelete => "auto delete",
            Self::Labels => "labels",
        }
    }

    pub(crate) fn change(self, from: impl Into<String>, to: impl Into<String>) -> Change {
        Change { part: self, from: from.into(), to: to.into() }
    }

    /// Returns the change of a set: what only `found` has goes, what only `declared` has comes.
    pub(crate) fn change_of_set<T: Ord>(
        self,
        found: &BTreeSet<T>,
        declared: &BTreeSet<T>,
        text: impl Fn(&T) -> String,
    ) -> Option<Change> {
        let (from, to): (Vec<_>, Vec<_>) = (
            found.difference(declared).map(&text).collect(),
            declared.difference(found).map(&text).collect(),
        );
        (!from.is_empty() || !to.is_empty()).then(|| self.change(listed(&from), listed(&to)))
    }
}

/// Returns `texts` as one text, `none` for an empty list.
pub(crate) fn listed(texts: &[String]) -> String {
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}
