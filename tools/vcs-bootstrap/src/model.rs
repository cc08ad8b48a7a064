//! Repositories in the terms that all forges share: declared and observed state. `github.rs` and
//! `gitea.rs` translate to and from these types, and no other module knows a forge's format.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use documents::Reason;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::{Mode, OnDestroy, Push, Require};

/// Owner and name of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositorySlug {
    /// User or organisation that owns the repository.
    pub owner: String,
    /// Name of the repository.
    pub name: String,
}

impl fmt::Display for RepositorySlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// A part of a repository that the token may read, or the reason why it may not. Unknown is not
/// absent: a denied part is reported, never compared and never pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readable<T> {
    /// The part, as it was read.
    Value(T),
    /// The reason why the part may not be read.
    Denied(Refusal),
}

impl<T> Readable<T> {
    /// Returns the value if the part was read.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Denied(_) => None,
        }
    }
}

/// A conflict that prevents the declared state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Reason of the condition.
    pub reason: Reason,
    /// Object and cause, as a sentence.
    pub what: String,
    /// Help for this cause.
    pub help: String,
}

/// Object of Git LFS: the content of a file, for which a history has a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LfsObject {
    /// Path of the file in the history.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// File on this machine that has the content.
    pub stored: PathBuf,
}

/// Objects of Git LFS, by the SHA-256 digest of their content in lower-case hex.
pub type LfsObjects = BTreeMap<String, LfsObject>;

/// Settings of a repository. In a declaration, `None` leaves a setting unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Description of the repository, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// URL of the project's website.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub homepage: Option<String>,
    /// Whether only members and invited collaborators can see the repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private: Option<bool>,
    /// Whether the issue tracker is enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issues: Option<bool>,
    /// Whether the wiki is enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wiki: Option<bool>,
    /// Whether project boards are enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projects: Option<bool>,
}

impl Settings {
    /// Returns the declared settings of `self` that differ from `seen`.
    #[must_use]
    pub fn changed_from(&self, seen: &Self) -> Self {
        fn changed<T: Clone + PartialEq>(desired: Option<&T>, seen: Option<&T>) -> Option<T> {
            desired.filter(|_| desired != seen).cloned()
        }
        let Self { description, homepage, private, issues, wiki, projects } = self;
        Self {
            description: changed(description.as_ref(), seen.description.as_ref()),
            homepage: changed(homepage.as_ref(), seen.homepage.as_ref()),
            private: changed(private.as_ref(), seen.private.as_ref()),
            issues: changed(issues.as_ref(), seen.issues.as_ref()),
            wiki: changed(wiki.as_ref(), seen.wiki.as_ref()),
            projects: changed(projects.as_ref(), seen.projects.as_ref()),
        }
    }

    /// Returns the settings of `self` that `others` declares.
    #[must_use]
    pub fn restricted_to(&self, others: &Self) -> Self {
        let Self { description, homepage, private, issues, wiki, projects } = self.clone();
        Self {
            description: others.description.as_ref().and(description),
            homepage: others.homepage.as_ref().and(homepage),
            private: others.private.and(private),
            issues: others.issues.and(issues),
            wiki: others.wiki.and(wiki),
            projects: others.projects.and(projects),
        }
    }
}

/// Requirements for changes to branches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Names of branches, or patterns with `*`.
    pub branches: BTreeSet<String>,
    /// Requirements that every change must meet.
    pub require: Require,
    /// Whether the rule applies to administrators as well. `None` if the forge does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub administrators_too: Option<bool>,
    /// Further exempt actors in the forge's notation, for example `Team 9 (always)` or `user
    /// alice`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub also_exempt: BTreeSet<String>,
    /// Branches that `branches` covers and the rule excludes.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub except: BTreeSet<String>,
    /// Whether the forge enforces the rule.
    pub enforced: bool,
    /// Whether the rule forbids deleting a branch.
    pub forbids_deletion: bool,
    /// Whether the rule forbids replacing commits of a branch.
    pub forbids_force_push: bool,
}

impl Rule {
    /// Whether `seen` meets the declaration `self`. Values that the forge does not tell are not
    /// compared.
    #[must_use]
    pub fn is_met_by(&self, seen: &Self) -> bool {
        let administrators = seen.administrators_too.or(self.administrators_too);
        *self == Self { administrators_too: administrators, ..seen.clone() }
    }

    /// Returns the protections of `before` that `self` lacks, each as a sentence.
    #[must_use]
    pub fn weakens(&self, before: &Self) -> Vec<String> {
        let Self {
            branches,
            require,
            administrators_too,
            also_exempt,
            except,
            enforced,
            forbids_deletion,
            forbids_force_push,
        } = self;
        let Require { pull_request, signed_commits, linear_history, status_checks } = require;
        let approvals =
            |require: &Require| require.pull_request.as_ref().map(|pull| pull.approvals);
        let mut weaker = Vec::new();
        let mut lost = |is: bool, what: String| weaker.extend(is.then_some(what));
        for branch in &before.branches - branches {
            lost(true, format!("no longer covers {branch}"));
        }
        for branch in except - &before.except {
            lost(true, format!("leaves out {branch}"));
        }
        match (approvals(&before.require), pull_request) {
            (Some(_), None) => lost(true, "no longer requires a pull request".to_owned()),
            (Some(old), Some(new)) if new.approvals < old => {
                lost(true, format!("requires {} approvals instead of {old}", new.approvals));
            }
            _ => {}
        }
        let was = &before.require;
        let no_longer = |what: &str| format!("no longer {what}");
        lost(was.signed_commits && !signed_commits, no_longer("requires signed commits"));
        lost(was.linear_history && !linear_history, no_longer("requires a linear history"));
        for check in &was.status_checks - status_checks {
            lost(true, format!("no longer requires the status check {}", check.as_str()));
        }
        let exempts = *administrators_too == Some(false) && before.administrators_too == Some(true);
        lost(exempts, "exempts administrators".to_owned());
        for actor in also_exempt - &before.also_exempt {
            lost(true, format!("exempts {actor}"));
        }
        lost(before.enforced && !enforced, no_longer("is enforced"));
        lost(before.forbids_deletion && !forbids_deletion, no_longer("forbids deletion"));
        lost(before.forbids_force_push && !forbids_force_push, no_longer("forbids force pushes"));
        weaker
    }
}

/// A public key with read access to the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeployKey {
    /// Title in the list of keys, for example `flux-seed (SHA256:IbBtrX+d)`.
    pub title: String,
    /// Public key in OpenSSH's form.
    pub key: String,
}

/// A deploy key that exists at the forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenKey {
    /// Number of the key at the forge.
    pub id: u64,
    /// Title in the list of keys.
    pub title: String,
    /// Whether the key has read access only.
    pub read_only: bool,
}

/// Record of a secret's value, because a forge never returns the value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recorded {
    /// Keyed hash (HMAC) of the value.
    pub mac: String,
    /// Time of the last change, by the forge's clock; absent at Gitea.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
}

/// Objects that this program created, recorded at the forge: see `ownership.rs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Receipt")]
pub struct OwnershipRecord {
    /// Whether this program created the repository.
    pub made: bool,
    /// Whether `destroy` has archived the repository.
    pub archived: bool,
    /// Names of the rules that this program created.
    pub rules: BTreeSet<String>,
    /// Fingerprints of the deploy keys that this program created.
    pub deploy_keys: BTreeSet<String>,
    /// Secrets that this program wrote, by name.
    pub secrets: BTreeMap<String, Recorded>,
    /// Names of the Actions variables that this program created.
    // Absent while empty, so that records of earlier versions stay as they are.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub variables: BTreeSet<String>,
}

/// State of the ownership record at the forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// There is no record: this program does not own the repository, or not yet.
    None,
    /// A valid record for this repository.
    Ours(OwnershipRecord),
    /// A record with a foreign signature, or for another repository.
    Disputed,
}

/// Position of the forge's branch relative to the local branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// The forge has no such branch.
    Absent,
    /// The forge's branch is at the local commit.
    Same,
    /// The forge's branch is at an ancestor of the local commit.
    Behind(String),
    /// The forge's branch is at a descendant of the local commit.
    Ahead(String),
    /// The histories have diverged, or the local clone lacks the forge's commit, so that their
    /// relation is unknown.
    Elsewhere(String),
}

/// A repository that exists at the forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Number of the repository at the forge.
    pub id: u64,
    /// Owner and name that the repository has now, which may be former ones.
    pub place: RepositorySlug,
    /// Whether the token may administer the repository; `None` if the forge does not tell.
    pub administrator: Option<bool>,
    /// Whether the repository is archived.
    pub archived: bool,
    /// Whether the description is still the creation marker, so that the set-up is incomplete.
    pub just_created: bool,
    /// All settings of the repository.
    pub settings: Settings,
    /// Topics of the repository.
    pub topics: BTreeSet<String>,
    /// Name of the default branch.
    pub default_branch: String,
    /// Position of the declared branch.
    pub head: Readable<Head>,
    /// Objects of the tags, by name. They are read together with the branch.
    pub tags: BTreeMap<String, String>,
    /// Whether the declared default branch exists. `None` while the repository has no branch at all, or
    /// when its branches were not read.
    pub has_default_branch: Option<bool>,
    /// Ownership record of the repository.
    pub mark: Readable<Ownership>,
    /// Rules of the repository, by name.
    pub rules: Readable<BTreeMap<String, Rule>>,
    /// Time of the last change of each secret, by name.
    pub secrets: Readable<BTreeMap<String, Option<String>>>,
    /// Values of the Actions variables other than the ownership record, by name.
    pub variables: BTreeMap<String, String>,
    /// Deploy keys, by fingerprint.
    pub deploy_keys: Readable<BTreeMap<String, SeenKey>>,
}

/// The repository, or `None` if it does not exist.
pub type ActualState = Option<Present>;

/// The history to be pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Condition for a push.
    pub push: Push,
    /// Name of the branch.
    pub branch: String,
    /// Local commit of the branch, or the reason for its absence. An absent commit matters only
    /// while the forge lacks the branch.
    pub commit: Readable<String>,
    /// Objects of the local tags to push, by name.
    pub tags: BTreeMap<String, String>,
}

/// A document's declaration, in the terms of one forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Declared owner and name.
    pub place: RepositorySlug,
    /// Settings that the document declares.
    pub settings: Settings,
    /// Declared topics, with the treatment of others.
    pub topics: Option<(Mode, BTreeSet<String>)>,
    /// History to be pushed; `None` if none.
    pub history: Option<Pushed>,
    /// Declared default branch.
    pub default_branch: Option<String>,
    /// Declared rules, by name.
    pub rules: BTreeMap<String, Rule>,
    /// Keyed hashes of the secrets, by name.
    pub secrets: BTreeMap<String, String>,
    /// Values of the Actions variables, by name.
    pub variables: BTreeMap<String, String>,
    /// Declared deploy keys, by fingerprint.
    pub deploy_keys: BTreeMap<String, DeployKey>,
    /// Whether `apply` may make a private repository public.
    pub allow_publish: bool,
    /// Action of `destroy` on a repository that this program created.
    pub on_destroy: OnDestroy,
}
