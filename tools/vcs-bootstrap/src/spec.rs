//! What is declared. No logic: a value of these types is right by construction.

use std::collections::BTreeSet;
use std::fmt;

use documents::Name;
use keyring::DataPolicy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A repository at the project's forge, called as the document is. What is not declared here is
/// left as it is.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Repository {
    /// The `Project` that knows the forge and the root of all keys.
    pub project: Name,
    /// The user or organisation to which it belongs.
    pub owner: Owner,
    /// Who can see it. A new one is private unless this says otherwise.
    pub visibility: Option<Visibility>,
    /// Whether `apply` may make a private repository public (default `false`). Publishing cannot be
    /// taken back.
    #[serde(default)]
    pub allow_publish: bool,
    /// What it is, in one line.
    pub description: Option<Line>,
    /// Where to read more.
    pub homepage: Option<Line>,
    /// By what people find it.
    pub topics: Option<Topics>,
    /// What the forge offers beside the code.
    #[serde(default)]
    pub features: Features,
    /// What is pushed into it; nothing, unless this says so.
    pub history: Option<History>,
    /// What it takes to change a branch.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// What its workflows can use and nobody can read.
    #[serde(default)]
    pub secrets: Secrets,
    /// Phases whose derived key may read the repository, and no more: `flux-seed`.
    #[serde(default)]
    pub deploy_keys: BTreeSet<Phase>,
    /// What `destroy` does with a repository that `apply` made.
    #[serde(default)]
    pub on_destroy: OnDestroy,
    /// Whether `destroy` requires a drain receipt before it deletes the repository (default
    /// `requireReceipt`). A receipt covers the Git history alone; with issues, pull requests,
    /// releases, a wiki or files in Git LFS, only `discard` deletes it.
    #[serde(default)]
    pub data_on_destroy: DataPolicy,
}

/// Who can see a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Visibility {
    /// Those who are let in.
    Private,
    /// Everybody.
    Public,
}

/// By what people find a repository.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Topics {
    /// What happens to a topic that is not declared.
    #[serde(default)]
    pub mode: Mode,
    /// The topics.
    pub items: BTreeSet<Topic>,
}

/// What happens to what is not declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// It is left alone.
    #[default]
    Additive,
    /// It is removed.
    Authoritative,
}

/// What the forge offers beside the code. One that is not declared is left as it is.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Features {
    /// Issues.
    pub issues: Option<bool>,
    /// A wiki.
    pub wiki: Option<bool>,
    /// Project boards.
    pub projects: Option<bool>,
}

/// What is pushed from the Git repository in the current directory.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct History {
    /// When.
    pub push: Push,
    /// The branch: the same here and there.
    pub branch: Branch,
}

/// When the branch is pushed. Nothing is ever forced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Push {
    /// While the forge does not have the branch. From then on it moves by pull requests.
    #[default]
    OnCreate,
    /// Whenever the branch here is ahead of the one there.
    FastForward,
    /// Never.
    Never,
}

/// What it takes to change branches. A branch under a rule can be neither deleted nor rewritten.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// What it is called.
    pub name: Name,
    /// The branches: names, or patterns with `*`.
    pub branches: BTreeSet<Pattern>,
    /// What a change must bring.
    #[serde(default)]
    pub require: Require,
    /// For whom it does not hold.
    #[serde(default)]
    pub bypass: Bypass,
}

/// What a change to a branch must bring.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Require {
    /// A pull request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<PullRequest>,
    /// A signature on each commit.
    pub signed_commits: bool,
    /// No merge commit.
    pub linear_history: bool,
    /// Checks that have succeeded.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub status_checks: BTreeSet<Line>,
}

/// A pull request.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PullRequest {
    /// How many people must approve of it.
    #[schemars(range(max = 10))]
    pub approvals: u8,
}

/// For whom a rule does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Bypass {
    /// It holds for all.
    #[default]
    Nobody,
    /// Everybody who administers the repository. At Gitea, every administrator may merge, and the
    /// owner (of an organisation: the team `Owners`) may push.
    Administrators,
}

/// What the repository's workflows can use and nobody can read.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Secrets {
    /// Phases whose key is sealed into a secret: `artifact-attest` into `ARTIFACT_ATTEST_KEY`.
    pub phase_keys: BTreeSet<Phase>,
}

/// A phase of the project, as its program is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Builds, attests and publishes.
    ArtifactAttest,
    /// Copies data out.
    DataDrain,
    /// Puts Flux into a cluster.
    FluxSeed,
    /// Reads, and writes nothing: its key opens only what is sealed for readers.
    Reader,
    /// Makes a cluster.
    TalosProvision,
    /// Brings about the repository: this program.
    VcsBootstrap,
}

impl Phase {
    /// As its program is called.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ArtifactAttest => "artifact-attest",
            Self::DataDrain => "data-drain",
            Self::FluxSeed => "flux-seed",
            Self::Reader => keyring::READER,
            Self::TalosProvision => "talos-provision",
            Self::VcsBootstrap => "vcs-bootstrap",
        }
    }
}

/// What `destroy` does with a repository that `apply` made. One that it found is never more than
/// left, without what `apply` put into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnDestroy {
    /// Its secrets and keys are removed, and it is archived: history outlives the machines.
    #[default]
    Archive,
    /// It is deleted, with all that is in it.
    Delete,
}

/// A string that has passed a check. `$rule` says what is right.
macro_rules! checked {
    ($(#[$doc:meta])* $name:ident, $check:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                let check: fn(&str) -> bool = $check;
                if check(&text) { Ok(Self(text)) } else { Err($rule) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked! {
    /// A user or an organisation: 1 to 39 of letters, digits, `-`, `_` and `.`.
    Owner,
    |it| {
        let allowed = |it: char| it.is_ascii_alphanumeric() || "-_.".contains(it);
        let begins = |it: &str| it.starts_with(|it: char| it.is_ascii_alphanumeric());
        (1..=39).contains(&it.len()) && begins(it) && it.chars().all(allowed)
    },
    "not an owner, which is 1 to 39 of letters, digits, -, _ and ., and begins with a letter or digit"
}

checked! {
    /// A topic: 1 to 35 of `a-z`, `0-9` and `-`, the first no `-`.
    Topic,
    |it| {
        let allowed = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-';
        (1..=35).contains(&it.len()) && !it.starts_with('-') && it.chars().all(allowed)
    },
    "not a topic, which is 1 to 35 of a-z, 0-9 and -, and does not begin with -"
}

checked! {
    /// Up to 350 characters in one line.
    Line,
    |it| it.chars().count() <= 350 && !it.contains(char::is_control) && it.trim() == it,
    "not one line of up to 350 characters without a space at either end"
}

checked! {
    /// A branch, as Git allows them.
    Branch,
    |it| is_reference(it) && !it.contains('*'),
    "not a name that Git allows for a branch"
}

checked! {
    /// A branch, or a pattern: `*` stands for any characters but `/`.
    Pattern,
    is_reference,
    "not a branch, nor a pattern of branches with *"
}

impl Default for Branch {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

/// What `git check-ref-format --branch` allows, but for a `*`.
fn is_reference(text: &str) -> bool {
    let part = |it: &str| {
        let extension = std::path::Path::new(it).extension();
        !it.is_empty() && !it.starts_with('.') && extension.is_none_or(|it| it != "lock")
    };
    let forbidden = |it: char| it.is_control() || " ~^:?[\\".contains(it);
    let sequence = [text.contains(".."), text.contains("@{"), text == "@", text.ends_with('.')];
    (1..=200).contains(&text.len())
        && !text.starts_with('-')
        && !text.contains(forbidden)
        && !sequence.contains(&true)
        && text.split('/').all(part)
}
