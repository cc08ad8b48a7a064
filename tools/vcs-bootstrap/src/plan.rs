//! What will change: pure functions, data in, data out.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Head, Ownership, OwnershipRecord, Present, Pushed, Readable, Recorded, Refusal, Settings,
    Wanted, World,
};
use crate::spec::{Mode, OnDestroy, Push};
use crate::step::{Because, Step};

#[cfg(test)]
mod tests;

/// Steps to take, and what stands in the way of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are taken.
    pub steps: Vec<Step>,
    /// What must be seen to first.
    pub refused: Vec<Refusal>,
}

/// The steps from `world` to one that holds what is `wanted`.
#[must_use]
pub fn plan(wanted: &Wanted, world: &World) -> Plan {
    let mut steps = Vec::new();
    let before = world.clone().unwrap_or_else(|| {
        let private = wanted.settings.private.unwrap_or(true);
        steps.push(Step::Create { private });
        just_created(private, wanted)
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
    let sections = Sections::of(wanted, &before, &seen, &mut refused);
    let claim = sections.claim(wanted, &seen);
    if recorded != Some(Some(claim.clone())) {
        steps.push(Step::Record { receipt: claim.clone(), times_of: BTreeSet::new() });
    }
    steps.extend(settings(wanted, &before));
    steps.extend(publish(wanted, &before, &mut refused));
    steps.extend(history(wanted, &before, &mut refused));
    steps.extend(topics(wanted, &before));
    let times_of = sections.written.iter().map(|(name, _)| name.clone()).collect();
    let receipt = sections.receipt(wanted, &claim);
    let last = Step::Record { receipt: receipt.clone(), times_of };
    let again = receipt != claim || !sections.written.is_empty();
    steps.extend(sections.steps());
    steps.extend(again.then_some(last));
    Plan { steps, refused }
}

/// The steps that take away what [`plan`] made.
#[must_use]
pub fn plan_destroy(wanted: &Wanted, world: &World) -> Plan {
    let Some(before) = world else { return Plan::default() };
    let mut refused = refusals(before);
    let Some(seen) = recorded(before).filter(|_| refused.is_empty()) else {
        return Plan { steps: Vec::new(), refused };
    };
    let just_created =
        before.just_created.then(|| OwnershipRecord { made: true, ..OwnershipRecord::default() });
    let Some(receipt) = seen.clone().or(just_created) else { return Plan::default() };
    if receipt.made && wanted.on_destroy == OnDestroy::Delete {
        return Plan { steps: vec![Step::Delete {}], refused };
    }
    if before.archived && receipt.archived {
        return Plan::default();
    }
    if before.archived && !receipt.made {
        refused.push(archived_by_others());
        return Plan { steps: Vec::new(), refused };
    }
    let nothing = Wanted {
        rules: BTreeMap::new(),
        secrets: BTreeMap::new(),
        deploy_keys: BTreeMap::new(),
        ..wanted.clone()
    };
    // In an archive, rules do no harm; in what we only found, they would.
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

/// A repository as it is right after [`Step::Create`]. Only `private` and the branch are known;
/// every other declared setting is a step to take.
fn just_created(private: bool, wanted: &Wanted) -> Present {
    let branch = wanted.history.as_ref().map(|it| it.branch.clone());
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

/// The receipt that is there (`Some(None)`: none is), unless it cannot be told.
#[expect(clippy::option_option, reason = "it is not there, or may not be read: two things")]
fn recorded(before: &Present) -> Option<Option<OwnershipRecord>> {
    match before.mark.value()? {
        Ownership::None => Some(None),
        Ownership::Ours(receipt) => Some(Some(receipt.clone())),
        Ownership::Disputed => None,
    }
}

/// What stands in the way of every step.
fn refusals(before: &Present) -> Vec<Refusal> {
    let mut refused = Vec::new();
    if before.administrator == Some(false) {
        refused.push(Refusal {
            reason: "PermissionMissing",
            what: "the token may not administer the repository".to_owned(),
            help: "give the token administration of it, or ask somebody who has it".to_owned(),
        });
    }
    match &before.mark {
        Readable::Denied(refusal) => refused.push(refusal.clone()),
        Readable::Value(Ownership::Disputed) => refused.push(Refusal {
            reason: "ReceiptDisputed",
            what: format!(
                "the Actions variable {} was not written with this project's key for this \
                 repository, so nobody can tell what is ours in it",
                crate::ownership::VARIABLE
            ),
            help: "use the root and the generations with which it was written; only if they are \
                   lost, delete the variable: the repository then counts as made by others, and \
                   its deploy keys and secrets must be removed by hand"
                .to_owned(),
        }),
        Readable::Value(_) => {}
    }
    refused
}

fn archived_by_others() -> Refusal {
    Refusal {
        reason: "Archived",
        what: "the repository is archived, and not by us".to_owned(),
        help: "unarchive it if it is to be used again".to_owned(),
    }
}

/// Making a private repository public is a step of its own, and needs the document's consent: the
/// document may be older than what the repository holds now. peribolos asks likewise
/// (`--allow-repo-publish`, <https://docs.prow.k8s.io/docs/components/cli-tools/peribolos/>).
fn publish(wanted: &Wanted, before: &Present, refused: &mut Vec<Refusal>) -> Option<Step> {
    if !publishes(wanted, before) {
        return None;
    }
    if wanted.allow_publish {
        return Some(Step::Publish {});
    }
    refused.push(Refusal {
        reason: "PublishNotAllowed",
        what: "the repository is private, and the document would make it public".to_owned(),
        help:
            "declare `allowPublish: true` if everything in its history may be read by everybody; \
               otherwise declare `visibility: private`"
                .to_owned(),
    });
    None
}

fn publishes(wanted: &Wanted, before: &Present) -> bool {
    wanted.settings.private == Some(false)
        && before.settings.private == Some(true)
        && !before.just_created
}

fn settings(wanted: &Wanted, before: &Present) -> Option<Step> {
    let publishes = publishes(wanted, before);
    let mut wanted = wanted.settings.clone();
    if publishes {
        wanted.private = None;
    }
    if before.just_created {
        wanted.description.get_or_insert_default();
    }
    let to = wanted.changed_from(&before.settings);
    let changed = to != Settings::default();
    changed.then(|| Step::ChangeSettings { from: before.settings.restricted_to(&to), to })
}

fn history(wanted: &Wanted, before: &Present, refused: &mut Vec<Refusal>) -> Vec<Step> {
    let Some(Pushed { push, branch, commit }) = &wanted.history else { return Vec::new() };
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
            reason: "HistoryDiverged",
            what: format!(
                "the forge's {branch} is at {there}, which is not an ancestor of {} here",
                commit.value().map_or("the commit", String::as_str)
            ),
            help: "`git pull --rebase`, then try again: nothing is ever forced".to_owned(),
        }),
        (Head::Same | Head::Ahead(_) | Head::Behind(_) | Head::Elsewhere(_), _) => {}
    }
    if *head == Head::Absent && commit.value().is_none() {
        return steps; // there is no branch to show first
    }
    if before.default_branch != *branch {
        let (from, to) = (before.default_branch.clone(), branch.clone());
        steps.push(Step::ChangeDefaultBranch { from, to });
    }
    steps
}

fn topics(wanted: &Wanted, before: &Present) -> Option<Step> {
    let (mode, items) = wanted.topics.as_ref()?;
    let to = match mode {
        Mode::Additive => &before.topics | items,
        Mode::Authoritative => items.clone(),
    };
    (to != before.topics).then(|| Step::SetTopics { from: before.topics.clone(), to })
}

/// What changes in the lists that a receipt speaks of. `None`: the list may not be read, so it is
/// neither compared nor pruned, and what the receipt says of it stays.
struct Sections {
    rules: Option<Vec<Step>>,
    secrets: Option<Vec<Step>>,
    deploy_keys: Option<Vec<Step>>,
    new_rules: BTreeSet<String>,
    written: Vec<(String, Because)>,
}

impl Sections {
    fn of(
        wanted: &Wanted,
        before: &Present,
        receipt: &OwnershipRecord,
        refused: &mut Vec<Refusal>,
    ) -> Self {
        let rules =
            read(&before.rules, [!wanted.rules.is_empty(), !receipt.rules.is_empty()], refused);
        let secrets = read(
            &before.secrets,
            [!wanted.secrets.is_empty(), !receipt.secrets.is_empty()],
            refused,
        );
        let keys = [!wanted.deploy_keys.is_empty(), !receipt.deploy_keys.is_empty()];
        let keys = read(&before.deploy_keys, keys, refused);
        let missing = |it: &&String| rules.is_some_and(|seen| !seen.contains_key(*it));
        let written = secrets.map_or(Vec::new(), |seen| {
            let because = |(name, mac): (&String, &String)| {
                let because = because(mac, seen.get(name), receipt.secrets.get(name))?;
                Some((name.clone(), because))
            };
            wanted.secrets.iter().filter_map(because).collect()
        });
        Self {
            new_rules: wanted.rules.keys().filter(missing).cloned().collect(),
            rules: rules.map(|seen| {
                let put = wanted.rules.iter().filter_map(|(name, to)| {
                    let (from, name, to) = (seen.get(name).cloned(), name.clone(), to.clone());
                    let met = from.as_ref().is_some_and(|from| to.is_met_by(from));
                    let weakens = from.as_ref().map_or(Vec::new(), |from| to.weakens(from));
                    (!met).then_some(Step::PutRule { name, from, to, weakens })
                });
                let stale = receipt.rules.iter().filter(|it| !wanted.rules.contains_key(*it));
                let stale = stale.filter(|it| seen.contains_key(*it)).cloned();
                put.chain(stale.map(|name| Step::RemoveRule { name })).collect()
            }),
            secrets: secrets.map(|seen| {
                let write = written.iter().cloned();
                let write = write.map(|(name, because)| Step::WriteSecret { name, because });
                let stale = receipt.secrets.keys().filter(|it| !wanted.secrets.contains_key(*it));
                let stale = stale.filter(|it| seen.contains_key(*it)).cloned();
                write.chain(stale.map(|name| Step::RemoveSecret { name })).collect()
            }),
            deploy_keys: keys.map(|seen| {
                let remove = |fingerprint: &String, id| {
                    let fingerprint = fingerprint.clone();
                    Step::RemoveDeployKey { fingerprint, id }
                };
                let put = wanted.deploy_keys.iter().flat_map(|(fingerprint, key)| {
                    let seen = seen.get(fingerprint);
                    let wrong =
                        seen.filter(|it| !it.read_only).map(|it| remove(fingerprint, it.id));
                    let add = Step::AddDeployKey {
                        fingerprint: fingerprint.clone(),
                        title: key.title.clone(),
                        key: key.key.clone(),
                    };
                    let add = (seen.is_none() || wrong.is_some()).then_some(add);
                    wrong.into_iter().chain(add)
                });
                let stale =
                    receipt.deploy_keys.iter().filter(|it| !wanted.deploy_keys.contains_key(*it));
                let stale = stale.filter_map(|it| Some(remove(it, seen.get(it)?.id)));
                put.chain(stale).collect()
            }),
            written,
        }
    }

    /// What the receipt must say before anything is made: a rule that was not there and is there
    /// after an interruption is ours; so is a key whose private half only we can derive.
    fn claim(&self, wanted: &Wanted, seen: &OwnershipRecord) -> OwnershipRecord {
        let deploy_keys = match self.deploy_keys {
            Some(_) => wanted.deploy_keys.keys().cloned().collect(),
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

    /// What the receipt says in the end.
    fn receipt(&self, wanted: &Wanted, claim: &OwnershipRecord) -> OwnershipRecord {
        let mut receipt = claim.clone();
        if self.rules.is_some() {
            receipt.rules.retain(|it| wanted.rules.contains_key(it));
        }
        if self.deploy_keys.is_some() {
            receipt.deploy_keys.retain(|it| wanted.deploy_keys.contains_key(it));
        }
        if self.secrets.is_some() {
            receipt.secrets.retain(|name, _| wanted.secrets.contains_key(name));
            for (name, _) in &self.written {
                let mac = wanted.secrets.get(name).cloned().unwrap_or_default();
                receipt.secrets.insert(name.clone(), Recorded { mac, updated_at: None });
            }
        }
        receipt
    }

    /// Secrets and keys first: a rule may keep us from what comes after it.
    fn steps(self) -> impl Iterator<Item = Step> {
        [self.secrets, self.deploy_keys, self.rules].into_iter().flatten().flatten()
    }
}

/// What was read of a section, if anything speaks of it.
fn read<'a, T>(
    section: &'a Readable<T>,
    spoken_of: [bool; 2],
    refused: &mut Vec<Refusal>,
) -> Option<&'a T> {
    match section {
        Readable::Value(value) => Some(value),
        Readable::Denied(refusal) => {
            refused.extend(spoken_of.contains(&true).then(|| refusal.clone()));
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
