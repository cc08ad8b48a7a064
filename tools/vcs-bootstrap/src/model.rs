//! A repository as every forge knows it: what is declared of it, and what is there. `github.rs` and
//! `gitea.rs` translate to and from these types; nothing else knows how a forge writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::{Mode, OnDestroy, Push, Require};

/// Where a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The user or organisation.
    pub owner: String,
    /// Its own name.
    pub name: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// What may be read, or why it may not. Unknown is not absent: it is reported, never compared and
/// never pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Section<T> {
    /// It was read.
    Known(T),
    /// It was refused.
    Unknown(Refusal),
}

impl<T> Section<T> {
    /// What was read, if it was.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}

/// The reason of a repository whose absence has no proof.
pub(crate) const REPOSITORY_UNKNOWN: &str = "RepositoryUnknown";

/// Why something cannot be brought about as things are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The `reason` of the condition.
    pub reason: &'static str,
    /// What is refused, and why.
    pub what: String,
    /// What to do.
    pub help: String,
}

/// The plain settings; those that are not declared are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// What it is, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where to read more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub homepage: Option<String>,
    /// Whether only those who are let in can see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private: Option<bool>,
    /// Whether it has issues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issues: Option<bool>,
    /// Whether it has a wiki.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wiki: Option<bool>,
    /// Whether it has project boards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projects: Option<bool>,
}

impl Settings {
    /// Those of `self` that are declared and that `seen` does not have.
    #[must_use]
    pub fn changed_from(&self, seen: &Self) -> Self {
        fn changed<T: Clone + PartialEq>(wanted: Option<&T>, seen: Option<&T>) -> Option<T> {
            wanted.filter(|_| wanted != seen).cloned()
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

    /// Those of `self` that `others` speaks of.
    #[must_use]
    pub fn of(&self, others: &Self) -> Self {
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

/// What it takes to change some branches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// The branches: names, or patterns.
    pub branches: BTreeSet<String>,
    /// What a change must bring.
    pub require: Require,
    /// Whether it holds for administrators, too. `None`: the forge does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub administrators_too: Option<bool>,
    /// Who else is exempt, as the forge names them: `Team 9 (always)`, `user alice`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub also_exempt: BTreeSet<String>,
    /// Branches that the rule leaves out, although `branches` covers them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub except: BTreeSet<String>,
    /// Whether the forge enforces it.
    pub enforced: bool,
    /// Whether it forbids deleting a branch.
    pub forbids_deletion: bool,
    /// Whether it forbids replacing commits of a branch.
    pub forbids_force_push: bool,
}

impl Rule {
    /// Whether `seen` is what `self` declares. What the forge does not tell is not compared.
    #[must_use]
    pub fn is_met_by(&self, seen: &Self) -> bool {
        let administrators = seen.administrators_too.or(self.administrators_too);
        *self == Self { administrators_too: administrators, ..seen.clone() }
    }

    /// What `self` no longer protects of what `before` protects: one sentence for each.
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

/// A public key that may read the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeployKey {
    /// As people see it in the list.
    pub title: String,
    /// As OpenSSH writes it.
    pub key: String,
}

/// A deploy key that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenKey {
    /// By which the forge knows it.
    pub id: u64,
    /// As people see it in the list.
    pub title: String,
    /// Whether it may only read.
    pub read_only: bool,
}

/// What is remembered of a secret, since nobody can read it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recorded {
    /// A keyed hash of its value.
    pub mac: String,
    /// When the forge says that it was written last; Gitea does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
}

/// What we made, kept beside it in the world: see `receipt.rs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Whether we made the repository itself, rather than found it.
    pub made: bool,
    /// Whether `destroy` has archived it.
    pub archived: bool,
    /// The rules that we made, by name.
    pub rules: BTreeSet<String>,
    /// The deploy keys that we made, by fingerprint.
    pub deploy_keys: BTreeSet<String>,
    /// The secrets that we wrote.
    pub secrets: BTreeMap<String, Recorded>,
}

/// What stands where the receipt should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing: the repository is not ours, or not yet.
    None,
    /// A receipt that we wrote for this very repository.
    Ours(Receipt),
    /// Something that we did not write, or not with this key, or for another repository.
    Disputed,
}

/// Where the declared branch of the forge stands, seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// The forge does not have it.
    Absent,
    /// At the same commit.
    Same,
    /// At an ancestor of ours.
    Behind(String),
    /// At a descendant of ours.
    Ahead(String),
    /// Neither; or at a commit that is not here, so that nobody can tell.
    Elsewhere(String),
}

/// A repository that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// The forge's own number for it.
    pub id: u64,
    /// Whether our token may administer it; `None`: the forge does not say.
    pub administrator: Option<bool>,
    /// Whether it is archived.
    pub archived: bool,
    /// Whether its description is still the one that `apply` creates it with.
    pub newborn: bool,
    /// Its plain settings, all of them.
    pub settings: Settings,
    /// Its topics.
    pub topics: BTreeSet<String>,
    /// The branch that people see first.
    pub default_branch: String,
    /// Where the declared branch stands.
    pub head: Section<Head>,
    /// What we made of it.
    pub mark: Section<Mark>,
    /// Its rules, by name.
    pub rules: Section<BTreeMap<String, Rule>>,
    /// Its secrets, by name, and when each was written last.
    pub secrets: Section<BTreeMap<String, Option<String>>>,
    /// Its deploy keys, by fingerprint.
    pub deploy_keys: Section<BTreeMap<String, SeenKey>>,
}

/// The repository, if it is there.
pub type World = Option<Present>;

/// What is to be pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// When.
    pub push: Push,
    /// Which branch.
    pub branch: String,
    /// Its commit here, or why there is none: then it cannot be pushed, and need not be while the
    /// forge has the branch.
    pub commit: Section<String>,
}

/// What a document declares, in the words of one forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The plain settings.
    pub settings: Settings,
    /// The topics, and what happens to others.
    pub topics: Option<(Mode, BTreeSet<String>)>,
    /// The history; `None`: none is pushed.
    pub history: Option<Pushed>,
    /// The rules, by name.
    pub rules: BTreeMap<String, Rule>,
    /// The keyed hashes of the secrets, by name.
    pub secrets: BTreeMap<String, String>,
    /// The deploy keys, by fingerprint.
    pub deploy_keys: BTreeMap<String, DeployKey>,
    /// Whether a private repository may be made public.
    pub allow_publish: bool,
    /// What becomes of a repository that we made.
    pub on_destroy: OnDestroy,
}
