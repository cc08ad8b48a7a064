//! Types of the `Repository` document. They hold no logic: parsing rejects every invalid value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use contract::{DataPolicy, checked_text};
use documents::Name;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use secrets::Reference;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A repository at the project's forge. Undeclared settings stay unchanged. Rules, secrets, variables and
/// deploy keys that this program created are removed once they are no longer declared, by an empty list or by
/// an absent one, and those of others stay.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Repository {
    /// Name of the `Project` that holds the forge and the root of all keys.
    pub project: Name,
    /// User or organisation that owns the repository, for example `zabronax`.
    pub owner: Owner,
    /// Name of the repository (default: the name of the document), for example `example.github.io`.
    pub name: Option<RepositoryName>,
    /// Former names of the repository, oldest first, for example `tools` or `another-owner/tools`. A
    /// repository that still has one of them, and that this program manages, is renamed or transferred.
    /// Derived keys stay those of the first name, so an entry stays here.
    #[serde(default)]
    pub previously: Vec<FormerName>,
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
    /// Default branch (default: the branch of `history`). The branch must exist at the forge.
    pub default_branch: Option<Branch>,
    /// Requirements for changes to branches.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Actions secrets that `apply` writes before its first push, for example
    /// `HCLOUD_TOKEN: {sops: project/secrets.yaml, key: hetzner}`.
    #[serde(default)]
    pub secrets: Secrets,
    /// Actions variables that `apply` writes before its first push. Everybody who can read the
    /// repository's settings can read them.
    #[serde(default)]
    pub variables: BTreeMap<ActionsName, VariableValue>,
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
    /// Declared topics, for example `nix`. An empty list removes every topic if `mode` is `authoritative`.
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

/// History to push from the Git repository in the current directory. Contents in Git LFS that it names are
/// uploaded before the push, with git-lfs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct History {
    /// Condition for a push (default `onCreate`).
    pub push: Push,
    /// Name of the branch, locally and at the forge (default `main`).
    pub branch: Branch,
    /// Names or patterns of the tags that are pushed with the branch, for example `v*` (default: all
    /// tags; an empty list: none). Only tags in the history of the branch are pushed, and no tag of the
    /// forge is replaced.
    pub tags: Option<BTreeSet<Pattern>>,
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
    /// Name of the rule, unique within the document, for example `main - no force pushes`.
    pub name: RuleName,
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
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// Phases whose key is written to an Actions secret, for example `artifact-attest` to
    /// `ARTIFACT_ATTEST_KEY`.
    pub phase_keys: BTreeSet<Phase>,
    /// References to the values of other secrets, by name of the secret.
    pub references: BTreeMap<ActionsName, Reference>,
}

impl<'de> Deserialize<'de> for Secrets {
    /// Written by hand, because a flattened map of serde loses the position of an error.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Secrets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "an object with `phaseKeys` and names of secrets, each with a reference",
                )
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secrets, A::Error> {
                let mut secrets = Secrets::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == PHASE_KEYS {
                        secrets.phase_keys = map.next_value()?;
                        continue;
                    }
                    let reference = map.next_value()?;
                    let name = ActionsName::try_from(name).map_err(serde::de::Error::custom)?;
                    secrets.references.insert(name, reference);
                }
                Ok(secrets)
            }
        }

        from.deserialize_map(Entries)
    }
}

/// Field of [`Secrets`] that is not the name of a secret. Names of secrets are in upper case.
const PHASE_KEYS: &str = "phaseKeys";

impl JsonSchema for Secrets {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secrets".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let phases = generator.subschema_for::<BTreeSet<Phase>>();
        let reference = generator.subschema_for::<Reference>();
        schemars::json_schema!({
            "description": "Actions secrets that `apply` writes. Workflows can use them, and the forge never shows them.",
            "type": "object",
            "properties": {
                PHASE_KEYS: {
                    "description": "Phases whose key is written to an Actions secret, for example `artifact-attest` to `ARTIFACT_ATTEST_KEY`.",
                    "allOf": [phases],
                },
            },
            "patternProperties": { "^[A-Z_][A-Z0-9_]*$": reference },
            "additionalProperties": false,
        })
    }
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

checked_text! {
    /// Name of a user or an organisation: 1 to 39 letters, digits, `-`, `_` and `.`.
    Owner,
    |text| {
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        let begins = |text: &str| text.starts_with(|letter: char| letter.is_ascii_alphanumeric());
        (1..=39).contains(&text.len()) && begins(text) && text.chars().all(allowed)
    },
    "not an owner: use 1 to 39 letters, digits, -, _ and ., beginning with a letter or digit"
}

checked_text! {
    /// Name of a repository: 1 to 100 letters, digits, `-`, `_` and `.`. GitHub and Gitea reserve the names
    /// `.` and `..`, and names that end like the address of a repository, a wiki or a feed
    /// (`models/repo/repo.go` of Gitea v1.26).
    RepositoryName,
    |text| {
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        let lower = text.to_ascii_lowercase();
        let reserved = [".git", ".wiki", ".rss", ".atom"].iter().any(|end| lower.ends_with(end));
        (1..=100).contains(&text.len()) && text.chars().all(allowed) && !reserved
            && ![".", "..", "-"].contains(&text)
    },
    "not a repository's name: use 1 to 100 letters, digits, -, _ and ., not ending in .git, .wiki, .rss or .atom"
}

checked_text! {
    /// Former name of the repository, with its former owner if that was another one: `name` or `owner/name`.
    FormerName,
    |text| {
        let (owner, name) = text.split_once('/').map_or((None, text), |(owner, name)| (Some(owner), name));
        let is_owner = |owner: &str| Owner::try_from(owner.to_owned()).is_ok();
        owner.is_none_or(is_owner) && RepositoryName::try_from(name.to_owned()).is_ok()
    },
    "not a former name: write `name` or `owner/name`"
}

checked_text! {
    /// Name of a rule: 1 to 100 characters in one line.
    RuleName,
    |text| (1..=100).contains(&text.chars().count()) && !text.contains(char::is_control) && text.trim() == text,
    "not the name of a rule: use 1 to 100 characters in one line, without surrounding spaces"
}

checked_text! {
    /// Name of an Actions secret or variable: 1 to 200 of `A-Z`, `0-9` and `_`, not beginning with a digit.
    /// The forges reserve `GITHUB_`, `GITEA_` and `FORGEJO_`
    /// (<https://docs.github.com/en/actions/reference/security/secrets#naming-your-secrets>).
    ActionsName,
    |text| {
        let allowed = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
        let reserved = ["GITHUB_", "GITEA_", "FORGEJO_"].iter().any(|prefix| text.starts_with(prefix));
        (1..=200).contains(&text.len()) && text.chars().all(allowed) && !reserved
            && !text.starts_with(|letter: char| letter.is_ascii_digit())
    },
    "not the name of an Actions secret or variable: use A-Z, 0-9 and _, not beginning with a digit, GITHUB_, GITEA_ or FORGEJO_"
}

checked_text! {
    /// Value of an Actions variable: 1 to 49,152 bytes without carriage returns, which Gitea removes
    /// (<https://docs.github.com/en/actions/reference/workflows-and-actions/variables#limits-for-configuration-variables>).
    VariableValue,
    |text| (1..=48 << 10).contains(&text.len()) && !text.contains('\r'),
    "not the value of a variable: use 1 to 49,152 bytes without carriage returns"
}

checked_text! {
    /// Topic: 1 to 35 of `a-z`, `0-9` and `-`, not beginning with `-`.
    Topic,
    |text| {
        let allowed = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        (1..=35).contains(&text.len()) && !text.starts_with('-') && text.chars().all(allowed)
    },
    "not a topic: use 1 to 35 of a-z, 0-9 and -, not beginning with -"
}

checked_text! {
    /// Text of one line with at most 350 characters.
    Line,
    |text| text.chars().count() <= 350 && !text.contains(char::is_control) && text.trim() == text,
    "not a single line of at most 350 characters without surrounding spaces"
}

checked_text! {
    /// Name of a branch that Git accepts.
    Branch,
    |text| is_reference(text) && !text.contains('*'),
    "not a branch name that Git accepts"
}

checked_text! {
    /// Name of a branch, or a pattern: `*` stands for any characters except `/`.
    Pattern,
    is_reference,
    "not a branch name, and not a pattern with *"
}

impl Pattern {
    /// Whether the pattern covers `name`.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        fn rest(pattern: &str, name: &str) -> bool {
            match pattern.split_once('*') {
                None => pattern == name,
                Some((start, pattern)) => name.strip_prefix(start).is_some_and(|name| {
                    let limit = name.find('/').unwrap_or(name.len());
                    let mut ends = (0..=limit).filter(|end| name.is_char_boundary(*end));
                    ends.any(|end| rest(pattern, &name[end..]))
                }),
            }
        }
        rest(&self.0, name)
    }
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
