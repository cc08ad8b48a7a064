//! Steps for the lists that the ownership record covers: rules, secrets, variables and deploy keys.

use std::collections::BTreeSet;

use crate::model::{Desired, OwnershipRecord, Present, Readable, Recorded, Refusal};
use crate::step::{Because, Step};

/// Steps for the lists in the ownership record. `None` means that the token may not read the list: it is
/// neither compared nor pruned, and its part of the record is kept.
pub(super) struct Sections {
    rules: Option<Vec<Step>>,
    secrets: Option<Vec<Step>>,
    deploy_keys: Option<Vec<Step>>,
    variables: Vec<Step>,
    /// Names of the variables that do not exist yet.
    new_variables: BTreeSet<String>,
    /// Names of the rules that do not exist yet.
    new_rules: BTreeSet<String>,
    /// Names of the secrets to write, each with the reason.
    pub(super) written: Vec<(String, Because)>,
}

impl Sections {
    pub(super) fn of(
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
            variables: variables(desired, before, receipt),
            new_variables: {
                let missing = |name: &&String| !before.variables.contains_key(*name);
                desired.variables.keys().filter(missing).cloned().collect()
            },
            written,
        }
    }

    /// Returns the ownership record to write before the first change, so that an interrupted run does not
    /// lose the ownership of a new rule. A deploy key belongs to this program because only the holder of the root
    /// can derive its private half.
    pub(super) fn claim(&self, desired: &Desired, seen: &OwnershipRecord) -> OwnershipRecord {
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
            variables: &seen.variables | &self.new_variables,
        }
    }

    /// Returns the ownership record to write after the last change.
    pub(super) fn receipt(&self, desired: &Desired, claim: &OwnershipRecord) -> OwnershipRecord {
        let mut receipt = claim.clone();
        receipt.variables.retain(|name| desired.variables.contains_key(name));
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

    /// Takes the steps for secrets and variables. They come before the first push, because a run that
    /// begins with the push reads them when it is queued
    /// (<https://docs.github.com/en/actions/how-tos/write-workflows/choose-what-workflows-do/use-secrets>).
    pub(super) fn take_values(&mut self) -> Vec<Step> {
        let variables = std::mem::take(&mut self.variables);
        let secrets = self.secrets.as_mut().map(std::mem::take);
        variables.into_iter().chain(secrets.into_iter().flatten()).collect()
    }

    /// Returns all other steps. Keys come before rules, because a new rule may forbid later changes.
    pub(super) fn into_steps(mut self) -> impl Iterator<Item = Step> {
        let values = self.take_values();
        values.into_iter().chain([self.deploy_keys, self.rules].into_iter().flatten().flatten())
    }
}

fn variables(desired: &Desired, before: &Present, receipt: &OwnershipRecord) -> Vec<Step> {
    let write = desired.variables.iter().filter_map(|(name, to)| {
        let from = before.variables.get(name).cloned();
        let (name, to) = (name.clone(), to.clone());
        (from.as_ref() != Some(&to)).then_some(Step::WriteVariable { name, from, to })
    });
    let stale = receipt.variables.iter().filter(|name| !desired.variables.contains_key(*name));
    let stale = stale.filter(|name| before.variables.contains_key(*name)).cloned();
    write.chain(stale.map(|name| Step::RemoveVariable { name })).collect()
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
