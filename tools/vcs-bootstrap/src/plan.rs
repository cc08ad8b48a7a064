//! Plans the steps to the desired state, as pure functions.

use std::collections::{BTreeMap, BTreeSet};

use documents::Reason;
use sections::Sections;

use crate::model::{
    ActualState, Desired, Head, LfsObjects, Ownership, OwnershipRecord, Present, Pushed, Readable,
    Refusal, Settings,
};
use crate::spec::{Mode, OnDestroy, Push};
use crate::step::Step;

mod sections;
#[cfg(test)]
mod tests;

/// The steps of a plan, and the reasons why others are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps in the order in which they are executed.
    pub steps: Vec<Step>,
    /// Parts that cannot be planned, each with its reason and help.
    pub refused: Vec<Refusal>,
}

impl Plan {
    /// Adds the upload of `objects` before the push of the history that names them. Forges accept a history
    /// without its objects (Gitea 1.26), or reject it (GH008 of GitHub).
    #[must_use]
    pub fn with_lfs(mut self, objects: &LfsObjects) -> Self {
        let push = self.steps.iter().position(|step| matches!(step, Step::Push { .. }));
        if let Some(push) = push.filter(|_| !objects.is_empty()) {
            let bytes = objects.values().map(|object| object.size).sum();
            let upload = Step::UploadLfsObjects { objects: objects.len(), bytes };
            self.steps.insert(push, upload);
        }
        self
    }
}

/// Returns the steps from `actual` to the `desired` state.
#[must_use]
pub fn plan(desired: &Desired, actual: &ActualState) -> Plan {
    let mut steps = Vec::new();
    let before = actual.clone().unwrap_or_else(|| {
        let private = desired.settings.private.unwrap_or(true);
        steps.push(Step::Create { private });
        just_created(private, desired)
    });
    let mut refused = refusals(&before);
    refused.extend(former_name(desired, &before));
    let recorded = recorded(&before);
    let Some(seen) = recorded.clone().filter(|_| refused.is_empty()) else {
        return Plan { steps: Vec::new(), refused };
    };
    let seen =
        seen.unwrap_or(OwnershipRecord { made: before.just_created, ..OwnershipRecord::default() });
    if before.archived {
        if !seen.archived {
            refused.push(archived_by_others());
            return Plan { steps: Vec::new(), refused };
        }
        steps.push(Step::Unarchive {});
    }
    steps.extend(moves(desired, &before));
    let mut sections = Sections::of(desired, &before, &seen, &mut refused);
    let claim = sections.claim(desired, &seen);
    if recorded != Some(Some(claim.clone())) {
        steps.push(Step::Record { receipt: claim.clone(), times_of: BTreeSet::new() });
    }
    steps.extend(settings(desired, &before));
    steps.extend(publish(desired, &before, &mut refused));
    let times_of = sections.written.iter().map(|(name, _)| name.clone()).collect();
    steps.extend(sections.take_values());
    steps.extend(history(desired, &before, &mut refused));
    steps.extend(default_branch(desired, &before, &mut refused));
    steps.extend(topics(desired, &before));
    let receipt = sections.receipt(desired, &claim);
    let last = Step::Record { receipt: receipt.clone(), times_of };
    let again = receipt != claim || !sections.written.is_empty();
    steps.extend(sections.into_steps());
    steps.extend(again.then_some(last));
    Plan { steps, refused }
}

/// Returns the steps that remove everything that [`plan`] created.
#[must_use]
pub fn plan_destroy(desired: &Desired, actual: &ActualState) -> Plan {
    let Some(before) = actual else { return Plan::default() };
    let mut refused = refusals(before);
    let Some(seen) = recorded(before).filter(|_| refused.is_empty()) else {
        return Plan { steps: Vec::new(), refused };
    };
    let just_created =
        before.just_created.then(|| OwnershipRecord { made: true, ..OwnershipRecord::default() });
    let Some(receipt) = seen.clone().or(just_created) else { return Plan::default() };
    if receipt.made && desired.on_destroy == OnDestroy::Delete {
        return Plan { steps: vec![Step::Delete {}], refused };
    }
    if before.archived && receipt.archived {
        return Plan::default();
    }
    if before.archived && !receipt.made {
        refused.push(archived_by_others());
        return Plan { steps: Vec::new(), refused };
    }
    let nothing = Desired {
        rules: BTreeMap::new(),
        secrets: BTreeMap::new(),
        variables: BTreeMap::new(),
        deploy_keys: BTreeMap::new(),
        ..desired.clone()
    };
    // Rules of an archived repository have no effect. In a repository of others, which stays in use,
    // they would.
    let kept = if receipt.made { receipt.rules.clone() } else { BTreeSet::new() };
    let goes = OwnershipRecord { rules: &receipt.rules - &kept, ..receipt.clone() };
    let sections = Sections::of(&nothing, before, &goes, &mut refused);
    if !refused.is_empty() {
        return Plan { steps: Vec::new(), refused };
    }
    let mut steps: Vec<Step> = before.archived.then_some(Step::Unarchive {}).into_iter().collect();
    steps.extend(sections.into_steps());
    if receipt.made {
        let receipt = OwnershipRecord {
            made: true,
            archived: true,
            rules: kept,
            ..OwnershipRecord::default()
        };
        if seen.as_ref() != Some(&receipt) {
            steps.push(Step::Record { receipt, times_of: BTreeSet::new() });
        }
        steps.push(Step::Archive {});
    } else {
        steps.push(Step::Forget {});
    }
    Plan { steps, refused }
}

/// Returns a repository as it is right after [`Step::Create`]. Only `private` and the branch are known,
/// so every other declared setting becomes a step.
fn just_created(private: bool, desired: &Desired) -> Present {
    let branch = desired.default_branch.clone();
    Present {
        id: 0,
        place: desired.place.clone(),
        administrator: None,
        archived: false,
        just_created: true,
        settings: Settings { private: Some(private), ..Settings::default() },
        topics: BTreeSet::new(),
        default_branch: branch.unwrap_or_default(),
        head: Readable::Value(Head::Absent),
        tags: BTreeMap::new(),
        has_default_branch: None,
        variables: BTreeMap::new(),
        mark: Readable::Value(Ownership::None),
        rules: Readable::Value(BTreeMap::new()),
        secrets: Readable::Value(BTreeMap::new()),
        deploy_keys: Readable::Value(BTreeMap::new()),
    }
}

/// Returns the ownership record, or `Some(None)` when the repository has none; `None` when the record is
/// unreadable or disputed.
#[expect(clippy::option_option, reason = "absent and unreadable differ")]
fn recorded(before: &Present) -> Option<Option<OwnershipRecord>> {
    match before.mark.value()? {
        Ownership::None => Some(None),
        Ownership::Ours(receipt) => Some(Some(receipt.clone())),
        Ownership::Disputed => None,
    }
}

/// Returns the reasons why no step can be planned.
fn refusals(before: &Present) -> Vec<Refusal> {
    let mut refused = Vec::new();
    if before.administrator == Some(false) {
        refused.push(Refusal {
            reason: Reason::Forbidden,
            what: "the token may not administer the repository".to_owned(),
            help: "give the token administration of the repository, or ask an administrator to run this".to_owned(),
        });
    }
    match &before.mark {
        Readable::Denied(refusal) => refused.push(refusal.clone()),
        Readable::Value(Ownership::Disputed) => refused.push(Refusal {
            reason: Reason::OwnershipDisputed,
            what: format!(
                "the Actions variable {} was not written with this project's key for this \
                 repository, so it does not prove what this program created in the repository",
                crate::ownership::VARIABLE
            ),
            help: "use the root and the generations with which the variable was written; only if they \
                   are lost, or if another person has overwritten the variable, delete it at the forge: \
                   the repository then counts as created by others, so that `destroy` neither archives nor \
                   deletes it, and leaves the rules and variables that exist now in place"
                .to_owned(),
        }),
        Readable::Value(_) => {}
    }
    refused
}

/// Returns the refusal to rename a repository that has a former name and no ownership record, because it
/// may be another repository, which another person has created under that name.
fn former_name(desired: &Desired, before: &Present) -> Option<Refusal> {
    let is_unproven = before.mark.value() == Some(&Ownership::None);
    (before.place != desired.place && is_unproven).then(|| Refusal {
        reason: Reason::Conflict,
        what: format!(
            "{} has a former name of {}, and no record proves that it is the same repository",
            before.place, desired.place
        ),
        help:
            "rename the repository at the forge if it is the same one; otherwise remove the name \
               from `previously`"
                .to_owned(),
    })
}

/// Plans the way from a former name or owner to the declared ones.
fn moves(desired: &Desired, before: &Present) -> Vec<Step> {
    let (from, to) = (&before.place, &desired.place);
    let rename = || Step::Rename { from: from.name.clone(), to: to.name.clone() };
    let transfer = || Step::Transfer { from: from.owner.clone(), to: to.owner.clone() };
    let rename = (from.name != to.name).then(rename);
    rename.into_iter().chain((from.owner != to.owner).then(transfer)).collect()
}

/// Returns the refusal for a repository that is archived without an ownership record of this program.
fn archived_by_others() -> Refusal {
    Refusal {
        reason: Reason::Archived,
        what: "the repository was archived, but not by this program".to_owned(),
        help: "unarchive the repository to use it again".to_owned(),
    }
}

/// Plans the publication of a private repository, which is a separate step and needs `allowPublish` in the
/// document, because the document may be older than the contents of the repository. peribolos requires
/// consent, too (`--allow-repo-publish`, <https://docs.prow.k8s.io/docs/components/cli-tools/peribolos/>).
fn publish(desired: &Desired, before: &Present, refused: &mut Vec<Refusal>) -> Option<Step> {
    if !publishes(desired, before) {
        return None;
    }
    if desired.allow_publish {
        return Some(Step::Publish {});
    }
    refused.push(Refusal {
        reason: Reason::PublishNotAllowed,
        what: "the repository is private, and the document declares it public".to_owned(),
        help:
            "declare `allowPublish: true` if everybody may read its whole history; otherwise declare \
               `visibility: private`"
                .to_owned(),
    });
    None
}

fn publishes(desired: &Desired, before: &Present) -> bool {
    desired.settings.private == Some(false)
        && before.settings.private == Some(true)
        && !before.just_created
}

fn settings(desired: &Desired, before: &Present) -> Option<Step> {
    let publishes = publishes(desired, before);
    let mut desired = desired.settings.clone();
    if publishes {
        desired.private = None;
    }
    if before.just_created {
        desired.description.get_or_insert_default();
    }
    let to = desired.changed_from(&before.settings);
    let changed = to != Settings::default();
    changed.then(|| Step::ChangeSettings { from: before.settings.restricted_to(&to), to })
}

fn history(desired: &Desired, before: &Present, refused: &mut Vec<Refusal>) -> Option<Step> {
    let history = desired.history.as_ref().filter(|history| history.push != Push::Never);
    let Pushed { push, branch, commit, tags } = history?;
    let head = match &before.head {
        Readable::Value(head) => head,
        Readable::Denied(refusal) => {
            refused.push(refusal.clone());
            return None;
        }
    };
    let missing = || {
        let missing = tags.iter().filter(|(name, _)| !before.tags.contains_key(*name));
        missing.map(|(name, object)| (name.clone(), object.clone())).collect::<BTreeMap<_, _>>()
    };
    let mut step = |from: Option<&String>| match commit {
        Readable::Value(to) => Some(Step::Push {
            branch: branch.clone(),
            from: from.cloned(),
            to: to.clone(),
            tags: missing(),
        }),
        Readable::Denied(refusal) => {
            refused.push(refusal.clone());
            None
        }
    };
    match (head, push) {
        (Head::Absent, _) => step(None),
        (Head::Behind(from), Push::FastForward) => step(Some(from)),
        (Head::Same, Push::FastForward) => {
            let tags = missing();
            (!tags.is_empty()).then_some(Step::PushTags { tags })
        }
        (Head::Elsewhere(there), Push::FastForward) => {
            refused.push(Refusal {
                reason: Reason::HistoryDiverged,
                what: format!(
                    "the forge's {branch} is at {there}, which is not an ancestor of {} here",
                    commit.value().map_or("the commit", String::as_str)
                ),
                help: "run `git pull --rebase`, then the same command again; this program never forces a push".to_owned(),
            });
            None
        }
        (Head::Same | Head::Ahead(_) | Head::Behind(_) | Head::Elsewhere(_), _) => None,
    }
}

/// Plans the change of the default branch, if the branch exists or is pushed in this plan.
fn default_branch(desired: &Desired, before: &Present, refused: &mut Vec<Refusal>) -> Option<Step> {
    let to = desired.default_branch.as_ref().filter(|to| before.default_branch != **to)?;
    let pushed = desired.history.as_ref().filter(|history| history.branch == *to);
    let exists = match (pushed, before.head.value()) {
        (Some(history), Some(Head::Absent)) => {
            history.push != Push::Never && history.commit.value().is_some()
        }
        (Some(_), Some(_)) => true,
        (Some(_), None) => return None, // the history may not be read, which is reported already
        // A repository without any branch gets its default branch with its first commit.
        (None, _) => before.has_default_branch?,
    };
    let is_reported = pushed.is_some();
    if !exists {
        refused.extend((!is_reported).then(|| Refusal {
            reason: Reason::NoHistory,
            what: format!("the forge has no branch {to}, so it cannot be the default branch"),
            help: "push the branch first, or correct `defaultBranch`".to_owned(),
        }));
        return None;
    }
    Some(Step::ChangeDefaultBranch { from: before.default_branch.clone(), to: to.clone() })
}

fn topics(desired: &Desired, before: &Present) -> Option<Step> {
    let (mode, items) = desired.topics.as_ref()?;
    let to = match mode {
        Mode::Additive => &before.topics | items,
        Mode::Authoritative => items.clone(),
    };
    (to != before.topics).then(|| Step::SetTopics { from: before.topics.clone(), to })
}
