//! One change to the world, as a plan shows it.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use crate::model::{DeployKey, OwnershipRecord, Rule, Settings};

/// One change. Says what it makes true, and from what, so that a reader can object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// The repository is not there.
    Create {
        /// Whether only those who are let in can see it, from its first moment.
        private: bool,
    },
    /// It was archived by `destroy`, and is declared again.
    Unarchive {},
    /// Says beside the repository what we made of it.
    Record {
        /// What it says then.
        receipt: OwnershipRecord,
        /// The secrets whose time of writing is read back first: known after apply.
        times_of: BTreeSet<String>,
    },
    /// Plain settings differ.
    ChangeSettings {
        /// What they are.
        from: Settings,
        /// What they become.
        to: Settings,
    },
    /// The branch is not there, or behind.
    Push {
        /// Which.
        branch: String,
        /// The commit that is there.
        from: Option<String>,
        /// The commit that is here.
        to: String,
    },
    /// People see another branch first.
    ChangeDefaultBranch {
        /// Which.
        from: String,
        /// Which they see then.
        to: String,
    },
    /// Topics are missing, or are not declared where the list is authoritative.
    SetTopics {
        /// What they are.
        from: BTreeSet<String>,
        /// What they become.
        to: BTreeSet<String>,
    },
    /// A secret is not known to hold what it must.
    WriteSecret {
        /// Its name.
        name: String,
        /// How we know.
        because: Because,
    },
    /// A deploy key is not there.
    AddDeployKey {
        /// Its fingerprint.
        fingerprint: String,
        /// What is added.
        key: DeployKey,
    },
    /// A rule is not there, or differs.
    PutRule {
        /// Its name.
        name: String,
        /// What it is.
        from: Option<Rule>,
        /// What it becomes.
        to: Rule,
        /// What the rule protects now and no longer protects then.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        weakens: Vec<String>,
    },
    /// A private repository becomes visible to everybody, with all of its history. It cannot be
    /// taken back: what was read once is known.
    Publish {},
    /// A rule that we made is no longer declared.
    RemoveRule {
        /// Its name.
        name: String,
    },
    /// A secret that we wrote is no longer declared.
    RemoveSecret {
        /// Its name.
        name: String,
    },
    /// A deploy key that we made is no longer declared, or may write.
    RemoveDeployKey {
        /// Its fingerprint.
        fingerprint: String,
        /// The forge's own number for it.
        id: u64,
    },
    /// Nothing of ours is left in a repository that we found.
    Forget {},
    /// The repository that we made is kept, and takes no more changes.
    Archive {},
    /// The repository that we made goes, with all that is in it.
    Delete {},
}

/// How we know that a secret must be written, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Because {
    /// It is not there.
    Absent,
    /// It is there, and nothing says what it holds.
    Unrecorded,
    /// Its value has changed here.
    Changed,
    /// Somebody else has written it since.
    WrittenByOthers,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { .. } => write!(f, "create"),
            Self::Unarchive {} => write!(f, "unarchive"),
            Self::Record { .. } => write!(f, "record"),
            Self::ChangeSettings { .. } => write!(f, "settings"),
            Self::Push { branch, .. } => write!(f, "push {branch}"),
            Self::ChangeDefaultBranch { to, .. } => write!(f, "default branch {to}"),
            Self::SetTopics { .. } => write!(f, "topics"),
            Self::WriteSecret { name, .. } => write!(f, "secret {name}"),
            Self::AddDeployKey { .. } => write!(f, "deploy key"),
            Self::PutRule { name, weakens, .. } if !weakens.is_empty() => {
                write!(f, "rule {name} ({})", weakens.join(", "))
            }
            Self::PutRule { name, .. } => write!(f, "rule {name}"),
            Self::Publish {} => write!(f, "publish: the repository becomes public"),
            Self::RemoveRule { name } => write!(f, "remove rule {name}"),
            Self::RemoveSecret { name } => write!(f, "remove secret {name}"),
            Self::RemoveDeployKey { .. } => write!(f, "remove deploy key"),
            Self::Forget {} => write!(f, "forget"),
            Self::Archive {} => write!(f, "archive"),
            Self::Delete {} => write!(f, "delete"),
        }
    }
}
