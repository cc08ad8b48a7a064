//! Plans the steps to the desired state, as pure functions.

use documents::Reason;
use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    ActualState, Desired, Head, Ownership, OwnershipRecord, Present, Pushed, Readable, Recorded,
    Refusal, Settings,
};
use crate::spec::{Mode, OnDestroy, Push};
use crate::step::{Because, Step};

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
    let sections = Sections::of(desired, &before, &seen, &mut refused);
    let claim = sections.claim(desired, &seen);
    if recorded != Some(Some(claim.clone())) {
        steps.push(Step::Record { receipt: claim.clone(), times_of: BTreeSet::new() });
    }
    steps.extend(settings(desired, &before));
    steps.extend(publish(desired, &before, &mut refused));
    steps.extend(history(desired, &before, &mut refused));
    steps.extend(topics(desired, &before));
    let times_of = sections.written.iter().map(|(name, _)| name.clone()).collect();
    let receipt = sections.receipt(desired, &claim);
    let last = Step::Record { receipt: receipt.clone(), times_of };
    let again = receipt != claim || !sections.written.is_empty();
    steps.extend(sections.steps());
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
    steps.extend(sections.steps());
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
    let branch = desired.history.as_ref().map(|history| history.branch.clone());
    Present {
        id: 0,
        administrator: None,
        archived: false,
        just_created: true,
        settings: Settings { private: Some(private), ..Settings::default() },
        topics: BTreeSet::new(),
        default_branch: branch.unwrap_or_default(),
        head: Readable::Value(Head::Absent),
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
                   are lost, delete the variable: the repository then counts as created by others, \
                   and its deploy keys and secrets must be removed by hand"
                .to_owned(),
        }),
        Readable::Value(_) => {}
    }
    refused
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

fn history(desired: &Desired, before: &Present, refused: &mut Vec<Refusal>) -> Vec<Step> {
    let Some(Pushed { push, branch, commit }) = &desired.history else { return Vec::new() };
    let head = match &before.head {
        Readable::Value(head) => head,
        Readable::Denied(refusal) => {
            refused.push(refusal.clone());
            return Vec::new();
        }
    };
    let mut steps = Vec::new();
    let mut step = |from: Option<&String>, refused: &mut Vec<Refusal>| match commit {
        Readable::Value(commit) => {
            let (branch, to) = (branch.clone(), commit.clone());
            steps.push(Step::Push { branch, from: from.cloned(), to });
        }
        Readable::Denied(refusal) => refused.push(refusal.clone()),
    };
    match (head, push) {
        (_, Push::Never) => return steps,
        (Head::Absent, _) => step(None, refused),
        (Head::Behind(from), Push::FastForward) => step(Some(from), refused),
        (Head::Elsewhere(there), Push::FastForward) => refused.push(Refusal {
            reason: Reason::HistoryDiverged,
            what: format!(
                "the forge's {branch} is at {there}, which is not an ancestor of {} here",
                commit.value().map_or("the commit", String::as_str)
            ),
            help: "run `git pull --rebase`, then the same command again; this program never forces a push".to_owned(),
        }),
        (Head::Same | Head::Ahead(_) | Head::Behind(_) | Head::Elsewhere(_), _) => {}
    }
    if *head == Head::Absent && commit.value().is_none() {
        return steps; // the branch does not exist, so it cannot be the default
    }
    if before.default_branch != *branch {
        let (from, to) = (before.default_branch.clone(), branch.clone());
        steps.push(Step::ChangeDefaultBranch { from, to });
    }
    steps
}

fn topics(desired: &Desired, before: &Present) -> Option<Step> {
    let (mode, items) = desired.topics.as_ref()?;
    let to = match mode {
        Mode::Additive => &before.topics | items,
        Mode::Authoritative => items.clone(),
    };
    (to != before.topics).then(|| Step::SetTopics { from: before.topics.clone(), to })
}

/// Steps for the lists in the ownership record. `None` means that the token may not read the list: it is
/// neither compared nor pruned, and its part of the record is kept.
struct Sections {
    rules: Option<Vec<Step>>,
    secrets: Option<Vec<Step>>,
    deploy_keys: Option<Vec<Step>>,
    /// Names of the rules that do not exist yet.
    new_rules: BTreeSet<String>,
    /// Names of the secrets to write, each with the reason.
    written: Vec<(String, Because)>,
}

impl Sections {
    fn of(
        desired: &Desired,
        before: &Present,
        receipt: &OwnershipRecord,
        refused: &mut Vec<Refusal>,
    ) -> Self {
        let rules =
            read(&before.rules, [!desired.rules.is_empty(), !receipt.rules.is_empty()], refused);
        let secrets = read(
            &before.secrets,
            [!desired.secrets.is_empty(), !receipt.secrets.is_empty()],
            refused,
        );
        let keys = [!desired.deploy_keys.is_empty(), !receipt.deploy_keys.is_empty()];
        let keys = read(&before.deploy_keys, keys, refused);
        let missing = |name: &&String| rules.is_some_and(|seen| !seen.contains_key(*name));
        let written = secrets.map_or(Vec::new(), |seen| {
            let because = |(name, mac): (&String, &String)| {
                let because = because(mac, seen.get(name), receipt.secrets.get(name))?;
                Some((name.clone(), because))
            };
            desired.secrets.iter().filter_map(because).collect()
        });
        Self {
            new_rules: desired.rules.keys().filter(missing).cloned().collect(),
            rules: rules.map(|seen| {
                let put = desired.rules.iter().filter_map(|(name, to)| {
                    let (from, name, to) = (seen.get(name).cloned(), name.clone(), to.clone());
                    let met = from.as_ref().is_some_and(|from| to.is_met_by(from));
                    let weakens = from.as_ref().map_or(Vec::new(), |from| to.weakens(from));
                    (!met).then_some(Step::PutRule { name, from, to, weakens })
                });
                let stale = receipt.rules.iter().filter(|name| !desired.rules.contains_key(*name));
                let stale = stale.filter(|name| seen.contains_key(*name)).cloned();
                put.chain(stale.map(|name| Step::RemoveRule { name })).collect()
            }),
            secrets: secrets.map(|seen| {
                let write = written.iter().cloned();
                let write = write.map(|(name, because)| Step::WriteSecret { name, because });
                let stale = receipt.secrets.keys();
                let stale = stale.filter(|name| !desired.secrets.contains_key(*name));
                let stale = stale.filter(|name| seen.contains_key(*name)).cloned();
                write.chain(stale.map(|name| Step::RemoveSecret { name })).collect()
            }),
            deploy_keys: keys.map(|seen| {
                let remove = |fingerprint: &String, id| {
                    let fingerprint = fingerprint.clone();
                    Step::RemoveDeployKey { fingerprint, id }
                };
                let put = desired.deploy_keys.iter().flat_map(|(fingerprint, key)| {
                    let seen = seen.get(fingerprint);
                    let writable = seen.filter(|seen| !seen.read_only);
                    let wrong = writable.map(|seen| remove(fingerprint, seen.id));
                    let add = Step::AddDeployKey {
                        fingerprint: fingerprint.clone(),
                        title: key.title.clone(),
                        key: key.key.clone(),
                    };
                    let add = (seen.is_none() || wrong.is_some()).then_some(add);
                    wrong.into_iter().chain(add)
                });
                let stale = receipt.deploy_keys.iter();
                let stale = stale.filter(|key| !desired.deploy_keys.contains_key(*key));
                let stale = stale.filter_map(|key| Some(remove(key, seen.get(key)?.id)));
                put.chain(stale).collect()
            }),
            written,
        }
    }

    /// Returns the ownership record to write before the first change, so that an interrupted run does not
    /// lose the ownership of a new rule. A deploy key belongs to this program because only the holder of the root
    /// can derive its private half.
    fn claim(&self, desired: &Desired, seen: &OwnershipRecord) -> OwnershipRecord {
        let deploy_keys = match self.deploy_keys {
            Some(_) => desired.deploy_keys.keys().cloned().collect(),
            None => BTreeSet::new(),
        };
        OwnershipRecord {
            made: seen.made,
            archived: false,
            rules: &seen.rules | &self.new_rules,
            deploy_keys: &seen.deploy_keys | &deploy_keys,
            secrets: seen.secrets.clone(),
        }
    }

    /// Returns the ownership record to write after the last change.
    fn receipt(&self, desired: &Desired, claim: &OwnershipRecord) -> OwnershipRecord {
        let mut receipt = claim.clone();
        if self.rules.is_some() {
            receipt.rules.retain(|name| desired.rules.contains_key(name));
        }
        if self.deploy_keys.is_some() {
            receipt.deploy_keys.retain(|key| desired.deploy_keys.contains_key(key));
        }
        if self.secrets.is_some() {
            receipt.secrets.retain(|name, _| desired.secrets.contains_key(name));
            for (name, _) in &self.written {
                let mac = desired.secrets.get(name).cloned().unwrap_or_default();
                receipt.secrets.insert(name.clone(), Recorded { mac, updated_at: None });
            }
        }
        receipt
    }

    /// Returns all steps. Secrets and keys come before rules, because a new rule may forbid later changes.
    fn steps(self) -> impl Iterator<Item = Step> {
        [self.secrets, self.deploy_keys, self.rules].into_iter().flatten().flatten()
    }
}

/// Returns the content of a section; reports its refusal when the document or the ownership record has
/// an entry in it.
fn read<'a, T>(
    section: &'a Readable<T>,
    has_entries: [bool; 2],
    refused: &mut Vec<Refusal>,
) -> Option<&'a T> {
    match section {
        Readable::Value(value) => Some(value),
        Readable::Denied(refusal) => {
            refused.extend(has_entries.contains(&true).then(|| refusal.clone()));
            None
        }
    }
}

fn because(
    mac: &str,
    seen: Option<&Option<String>>,
    recorded: Option<&Recorded>,
) -> Option<Because> {
    let (Some(updated_at), Some(recorded)) = (seen, recorded) else {
        return Some(if seen.is_none() { Because::Absent } else { Because::Unrecorded });
    };
    if recorded.mac == mac {
        (recorded.updated_at != *updated_at).then_some(Because::WrittenByOthers)
    } else {
        Some(Because::Changed)
    }
}
