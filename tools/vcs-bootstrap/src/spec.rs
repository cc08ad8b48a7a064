//! Types of the `Repository` document. They hold no logic: parsing rejects every invalid value.

use std::collections::BTreeSet;
use std::fmt;

use contract::DataPolicy;
use documents::Name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A repository at the project's forge, with the name of the document. Undeclared settings stay
/// unchanged.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Repository {
    /// Name of the `Project` that holds the forge and the root of all keys.
    pub project: Name,
    /// User or organisation that owns the repository, for example `zabronax`.
    pub owner: Owner,
    /// Audience of the repository. New repositories are private by default.
    pub visibility: Option<Visibility>,
    /// Whether `apply` may make a private repository public (default `false`). A publication cannot
    /// be undone.
    #[serde(default)]
    pub allow_publish: bool,
    /// Description of the repository, in one line.
    pub description: Option<Line>,
    /// URL of the project's website.
    pub homepage: Option<Line>,
    /// Topics shown on the repository's page, for example `nix`.
    pub topics: Option<Topics>,
    /// Features of the forge besides the code.
    #[serde(default)]
    pub features: Features,
    /// Git history that `apply` pushes (default none).
    pub history: Option<History>,
    /// Requirements for changes to branches.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Actions secrets that `apply` writes.
    #[serde(default)]
    pub secrets: Secrets,
    /// Phases whose derived key gets read access to the repository as a deploy key, for example
    /// `flux-seed`.
    #[serde(default)]
    pub deploy_keys: BTreeSet<Phase>,
    /// Action of `destroy` on a repository that `apply` created (default `archive`).
    #[serde(default)]
    pub on_destroy: OnDestroy,
    /// Whether `destroy` requires a drain receipt before it deletes the repository (default
    /// `requireReceipt`). A receipt covers the Git history alone. A repository with issues, pull
    /// requests, releases, a wiki or files in Git LFS is deleted only with `discard`.
    #[serde(default)]
    pub data_on_destroy: DataPolicy,
}

/// Audience of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Visibility {
    /// Only members and invited collaborators can see the repository.
    Private,
    /// Everyone can see the repository.
    Public,
}

/// Topics shown on the repository's page.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Topics {
    /// Treatment of undeclared topics (default `additive`).
    #[serde(default)]
    pub mode: Mode,
    /// Declared topics, for example `nix`.
    pub items: BTreeSet<Topic>,
}

/// Treatment of undeclared items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Undeclared items stay in place.
    #[default]
    Additive,
    /// Undeclared items are removed.
    Authoritative,
}

/// Features of the forge besides the code. Undeclared features stay unchanged.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Features {
    /// Whether the issue tracker is enabled.
    pub issues: Option<bool>,
    /// Whether the wiki is enabled.
    pub wiki: Option<bool>,
    /// Whether project boards are enabled.
    pub projects: Option<bool>,
}

/// History to push from the Git repository in the current directory.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct History {
    /// Condition for a push (default `onCreate`).
    pub push: Push,
    /// Name of the branch, locally and at the forge (default `main`).
    pub branch: Branch,
}

/// Condition for a push. A push is never forced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Push {
    /// Push only while the forge lacks the branch. Later changes come by pull requests.
    #[default]
    OnCreate,
    /// Push whenever the local branch is ahead of the forge's.
    FastForward,
    /// Never push, so that the history is managed elsewhere.
    Never,
}

/// Requirements for changes to branches. A branch with a rule can be neither deleted nor rewritten.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// Name of the rule, unique within the document.
    pub name: Name,
    /// Names of branches, or patterns with `*`.
    pub branches: BTreeSet<Pattern>,
    /// Requirements that every change must meet.
    #[serde(default)]
    pub require: Require,
    /// Users who are exempt from this rule (default: none).
    #[serde(default)]
    pub bypass: Bypass,
}

/// Requirements that every change must meet.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Require {
    /// Requires a pull request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<PullRequest>,
    /// Whether each commit must be signed (default `false`).
    pub signed_commits: bool,
    /// Whether merge commits are forbidden (default `false`).
    pub linear_history: bool,
    /// Names of the status checks that must succeed.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub status_checks: BTreeSet<Line>,
}

/// Requirements of a pull request.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PullRequest {
    /// Number of required approvals, at most 10 (default 0).
    #[schemars(range(max = 10))]
    pub approvals: u8,
}

/// Exemptions from a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Bypass {
    /// The rule applies to all users.
    #[default]
    None,
    /// Administrators of the repository are exempt. At Gitea, every administrator may merge, and
    /// the owner (in an organisation: the team `Owners`) may push.
    Administrators,
}

/// Actions secrets that `apply` writes. Workflows can use them, and the forge never shows them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Secrets {
    /// Phases whose key is written to an Actions secret, for example `artifact-attest` to
    /// `ARTIFACT_ATTEST_KEY`.
    pub phase_keys: BTreeSet<Phase>,
}

/// A phase of the project, named after its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Builds, signs and publishes artifacts.
    ArtifactAttest,
    /// Copies data out of the cluster and the forge.
    DataDrain,
    /// Installs Flux in a cluster.
    FluxSeed,
    /// Reads only: the key opens nothing but secrets encrypted for readers.
    Reader,
    /// Creates a cluster of machines.
    TalosProvision,
    /// Creates and configures the repository: this program.
    VcsBootstrap,
}

impl Phase {
    /// Returns the name of the phase's program.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ArtifactAttest => "artifact-attest",
            Self::DataDrain => "data-drain",
            Self::FluxSeed => "flux-seed",
            Self::Reader => contract::READER,
            Self::TalosProvision => "talos-provision",
            Self::VcsBootstrap => "vcs-bootstrap",
        }
    }
}

/// Action of `destroy` on a repository that `apply` created. An adopted repository is kept, and
/// only the objects that `apply` added are removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnDestroy {
    /// Remove the secrets and keys, and archive the repository, so that the history outlives the
    /// machines.
    #[default]
    Archive,
    /// Delete the repository with all its contents.
    Delete,
}

/// Declares a newtype for a string that passes a check. `$rule` is the error message.
macro_rules! checked {
    ($(#[$doc:meta])* $name:ident, $check:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the value as text.
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
    /// Name of a user or an organisation: 1 to 39 letters, digits, `-`, `_` and `.`.
    Owner,
    |text| {
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        let begins = |text: &str| text.starts_with(|letter: char| letter.is_ascii_alphanumeric());
        (1..=39).contains(&text.len()) && begins(text) && text.chars().all(allowed)
    },
    "not an owner: use 1 to 39 letters, digits, -, _ and ., beginning with a letter or digit"
}

checked! {
    /// Topic: 1 to 35 of `a-z`, `0-9` and `-`, not beginning with `-`.
    Topic,
    |text| {
        let allowed = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        (1..=35).contains(&text.len()) && !text.starts_with('-') && text.chars().all(allowed)
    },
    "not a topic: use 1 to 35 of a-z, 0-9 and -, not beginning with -"
}

checked! {
    /// Text of one line with at most 350 characters.
    Line,
    |text| text.chars().count() <= 350 && !text.contains(char::is_control) && text.trim() == text,
    "not a single line of at most 350 characters without surrounding spaces"
}

checked! {
    /// Name of a branch that Git accepts.
    Branch,
    |text| is_reference(text) && !text.contains('*'),
    "not a branch name that Git accepts"
}

checked! {
    /// Name of a branch, or a pattern: `*` stands for any characters except `/`.
    Pattern,
    is_reference,
    "not a branch name, and not a pattern with *"
}

impl Default for Branch {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

/// Whether `git check-ref-format --branch` accepts the name, ignoring `*`.
fn is_reference(text: &str) -> bool {
    let part = |name: &str| {
        let extension = std::path::Path::new(name).extension();
        !name.is_empty() && !name.starts_with('.') && extension.is_none_or(|end| end != "lock")
    };
    let forbidden = |letter: char| letter.is_control() || " ~^:?[\\".contains(letter);
    let sequence = [text.contains(".."), text.contains("@{"), text == "@", text.ends_with('.')];
    (1..=200).contains(&text.len())
        && !text.starts_with('-')
        && !text.contains(forbidden)
        && !sequence.contains(&true)
        && text.split('/').all(part)
}
