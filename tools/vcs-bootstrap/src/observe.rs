//! Observes the parts of the repository that the document or the ownership record lists. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use ::git::Origin as GitOrigin;
use data_encoding::HEXLOWER;
use documents::{Reason, parallel_join};
use schemars::JsonSchema;
use secrets::Secret;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::clients::connection::Remote;
use crate::clients::forge::{ForgeRepository, Reader};
use crate::clients::{git, lfs};
use crate::model::{
    Desired, Head, LfsObjects, Ownership, OwnershipRecord, Present, Readable, Refusal,
    RepositorySlug, Rule, SeenKey, Settings,
};
use crate::ownership::{OwnershipKey, VARIABLE};
use crate::spec::Push;

/// Observed facts of the repository, as the status shows them.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// User or organisation that owns the repository.
    pub owner: String,
    /// Name of the repository, without the owner.
    pub name: String,
    /// Forge's number for the repository, which stays the same after a rename.
    pub id: u64,
    /// URL of the repository's web page.
    pub url: String,
    /// URL for `git clone`.
    pub clone_url: String,
    /// Whether this program created the repository.
    pub made: bool,
    /// Whether the repository is archived, which makes it read-only.
    pub archived: bool,
    /// Description, visibility and features of the repository.
    pub settings: Settings,
    /// Topics of the repository.
    pub topics: BTreeSet<String>,
    /// Default branch, for example `main`.
    pub default_branch: String,
    /// Commit of the declared branch at the forge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Declared rules that exist, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<String, Rule>,
    /// Names of the declared secrets that exist.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub secrets: BTreeSet<String>,
    /// Declared Actions variables that exist, with their values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// Declared deploy keys that exist, by fingerprint.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub deploy_keys: BTreeMap<String, DeployKeySeen>,
}

/// A deploy key that exists at the forge.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeployKeySeen {
    /// Public key in OpenSSH's format.
    pub key: String,
    /// Whether the key may only read.
    pub read_only: bool,
}

/// A digest that proves that an observed part is the declared one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Evidence {
    /// Commit of a branch at the forge.
    Commit {
        /// Branch, for example `main`.
        branch: String,
        /// Commit of the branch.
        commit: String,
    },
    /// Ownership record in the repository's Actions variable.
    Receipt {
        /// SHA-256 digest of the record, in lower-case hex.
        sha256: String,
    },
    /// Secret that this program wrote.
    Secret {
        /// Name of the secret, for example `REGISTRY_TOKEN`.
        name: String,
        /// Keyed hash of the secret's value.
        mac: String,
        /// Time at which the secret was written last, as the forge reports it; Gitea does not.
        #[serde(skip_serializing_if = "Option::is_none")]
        updated_at: Option<String>,
    },
    /// Deploy key that exists at the forge.
    DeployKey {
        /// Fingerprint as `ssh-keygen -l` prints it.
        fingerprint: String,
    },
}

/// The observed state of the repository.
pub(crate) struct Observation {
    /// The repository as the forge describes it; `None` when it does not exist.
    pub(crate) found: Option<ForgeRepository>,
    /// The parts that a plan compares; `None` when the repository does not exist.
    pub(crate) actual: Option<Present>,
    /// Whether the repository has an ownership record, valid or not.
    pub(crate) recorded: bool,
    /// Objects of Git LFS that the history to be pushed names, or the reason why it cannot be pushed
    /// completely. Empty when no push is due.
    pub(crate) lfs: Readable<LfsObjects>,
}

/// Returns the commit to be pushed, and the commit of the forge's branch; `None` when no push is due.
fn due<'a>(
    desired: &'a Desired,
    actual: Option<&'a Present>,
) -> Option<(&'a str, Option<&'a str>)> {
    let history = desired.history.as_ref().filter(|history| history.push != Push::Never)?;
    let commit = history.commit.value()?;
    match actual.map_or(Some(&Head::Absent), |actual| actual.head.value())? {
        Head::Absent => Some((commit, None)),
        Head::Behind(from) if history.push == Push::FastForward => Some((commit, Some(from))),
        Head::Same | Head::Behind(_) | Head::Ahead(_) | Head::Elsewhere(_) => None,
    }
}

/// Reads the pointers of the history to be pushed from the local repository.
fn lfs_objects(
    desired: &Desired,
    actual: Option<&Present>,
    endpoint: &contract::Forge,
) -> Result<Readable<LfsObjects>, Error> {
    match due(desired, actual) {
        Some((commit, from)) => lfs::objects(commit, from, endpoint, &desired.place),
        None => Ok(Readable::Value(LfsObjects::new())),
    }
}

/// Observes the repository. Lists are read only where `desired` or the ownership record has an entry.
///
/// Requests that do not depend on each other are sent at the same time, so that an observation takes as long
/// as its longest chain: the repository, its variables with the ownership record, the list of rules, a rule.
pub(crate) fn observe(
    reader: &Reader<'_>,
    ownership: &OwnershipKey,
    desired: &Desired,
    (earlier, former): (Option<u64>, &[RepositorySlug]),
    refs: impl FnOnce(&ForgeRepository) -> Result<Readable<Refs>, Error> + Send,
) -> Result<Observation, Error> {
    let Some(mut found) = reader.find(earlier, former)? else {
        let lfs = lfs_objects(desired, None, &reader.0.endpoint)?;
        return Ok(Observation { found: None, actual: None, recorded: false, lfs });
    };
    let (refs, (administrator, lists)) = parallel_join(
        || refs(&found),
        || {
            let administrator = || reader.administrator(&found);
            parallel_join(administrator, || Lists::read(reader, ownership, desired, &found))
        },
    );
    let (refs, administrator, lists) = (refs?, administrator?, lists?);
    let Lists { mark, variables, rules, secrets, deploy_keys } = lists;
    found.administrator = administrator;
    let (head, tags, has_default_branch) = match refs {
        Readable::Value(Refs { head, tags, has_default_branch }) => {
            (Readable::Value(head), tags, has_default_branch)
        }
        Readable::Denied(refusal) => (Readable::Denied(refusal), BTreeMap::new(), None),
    };
    let recorded = mark.value().is_some_and(|mark| *mark != Ownership::None);
    let actual = Present {
        id: found.id,
        place: reader.0.present(),
        administrator: found.administrator,
        archived: found.archived,
        just_created: found.settings.description.as_ref() == Some(&ownership.creation_marker()),
        settings: found.settings.clone(),
        topics: found.topics.clone(),
        default_branch: found.default_branch.clone(),
        head,
        tags,
        has_default_branch,
        mark,
        rules,
        secrets,
        variables,
        deploy_keys,
    };
    let lfs = lfs_objects(desired, Some(&actual), &reader.0.endpoint)?;
    Ok(Observation { found: Some(found), actual: Some(actual), recorded, lfs })
}

/// The ownership record, and the lists that it covers.
struct Lists {
    mark: Readable<Ownership>,
    variables: BTreeMap<String, String>,
    rules: Readable<BTreeMap<String, Rule>>,
    secrets: Readable<BTreeMap<String, Option<String>>>,
    deploy_keys: Readable<BTreeMap<String, SeenKey>>,
}

impl Lists {
    fn read(
        reader: &Reader<'_>,
        ownership: &OwnershipKey,
        desired: &Desired,
        found: &ForgeRepository,
    ) -> Result<Self, Error> {
        let mut variables = BTreeMap::new();
        let mark = match reader.variables()? {
            Readable::Value(mut all) => {
                let text = all.remove(VARIABLE);
                variables = all;
                let read = |text: String| ownership.read(found.id, &text);
                Readable::Value(text.map_or(Ownership::None, read))
            }
            Readable::Denied(refusal) => Readable::Denied(reader.without_variables(found, refusal)),
        };
        let receipt = match mark.value() {
            Some(Ownership::Ours(receipt)) => receipt.clone(),
            _ => OwnershipRecord::default(),
        };
        let names: BTreeSet<_> = desired.rules.keys().chain(&receipt.rules).cloned().collect();
        let needs_secrets = !desired.secrets.is_empty() || !receipt.secrets.is_empty();
        let needs_keys = !desired.deploy_keys.is_empty() || !receipt.deploy_keys.is_empty();
        let (rules, (secrets, deploy_keys)) = parallel_join(
            || read_if(!names.is_empty(), || reader.rules(&names)),
            || {
                let secrets = || read_if(needs_secrets, || reader.secrets());
                parallel_join(secrets, || read_if(needs_keys, || reader.deploy_keys()))
            },
        );
        let (rules, secrets, deploy_keys) = (rules?, secrets?, deploy_keys?);
        Ok(Self { mark, variables, rules, secrets, deploy_keys })
    }
}

/// Reads a list if it is needed; otherwise it counts as empty, so that a token needs no permission for
/// lists that the document does not use.
fn read_if<T>(
    is_needed: bool,
    list: impl FnOnce() -> Result<Readable<BTreeMap<String, T>>, Error>,
) -> Result<Readable<BTreeMap<String, T>>, Error> {
    if is_needed { list() } else { Ok(Readable::Value(BTreeMap::new())) }
}

/// References of the forge that a plan compares.
pub(crate) struct Refs {
    head: Head,
    tags: BTreeMap<String, String>,
    has_default_branch: Option<bool>,
}

/// Reads the references that the document declares. Without a history and with the right default branch,
/// nothing is read, so that the token needs no access to contents.
pub(crate) fn refs(
    found: &ForgeRepository,
    desired: &Desired,
    remote: &Remote,
) -> Result<Readable<Refs>, Error> {
    let history = desired.history.as_ref().filter(|history| history.push != Push::Never);
    let default = desired.default_branch.as_ref().filter(|name| **name != found.default_branch);
    if history.is_none() && default.is_none() {
        let (head, tags) = (Head::Absent, BTreeMap::new());
        return Ok(Readable::Value(Refs { head, tags, has_default_branch: None }));
    }
    let branches = [history.map(|history| &history.branch), default];
    let branches: Vec<_> = branches.into_iter().flatten().map(String::as_str).collect();
    let list = |token: &Secret| git::references(&GitOrigin { url: &found.git, token }, &branches);
    let token = remote.token()?;
    let mut listed = list(&token)?;
    if let Readable::Denied(Refusal { reason: Reason::Unauthorized, .. }) = &listed
        && remote.client.renews(&token)
    {
        listed = list(&remote.token()?)?;
    }
    Ok(match listed {
        Readable::Denied(refusal) => Readable::Denied(refusal),
        Readable::Value(seen) => Readable::Value(Refs {
            head: match history {
                Some(history) => {
                    git::head(seen.branches.get(&history.branch), history.commit.value())?
                }
                None => Head::Absent,
            },
            has_default_branch: default
                .map(|name| seen.branches.contains_key(name))
                .filter(|has| *has || seen.has_head),
            tags: seen.tags,
        }),
    })
}

impl Observation {
    /// Returns the facts for the status.
    pub(crate) fn observed(&self, desired: &Desired) -> Option<Facts> {
        let (found, actual) = (self.found.as_ref()?, self.actual.as_ref()?);
        let made = match actual.mark.value() {
            Some(Ownership::Ours(receipt)) => receipt.made,
            _ => actual.just_created,
        };
        let mut rules = actual.rules.value().cloned().unwrap_or_default();
        rules.retain(|name, _| desired.rules.contains_key(name));
        let secrets = actual.secrets.value().into_iter().flat_map(BTreeMap::keys);
        let keys = actual.deploy_keys.value().into_iter().flatten();
        let declared = |(fingerprint, seen): (&String, &SeenKey)| {
            let key = desired.deploy_keys.get(fingerprint)?.key.clone();
            Some((fingerprint.clone(), DeployKeySeen { key, read_only: seen.read_only }))
        };
        let variables = actual.variables.iter();
        let variables = variables.filter(|(name, _)| desired.variables.contains_key(*name));
        Some(Facts {
            owner: actual.place.owner.clone(),
            name: actual.place.name.clone(),
            id: found.id,
            url: found.web.clone(),
            clone_url: found.git.to_string(),
            made,
            archived: actual.archived,
            settings: actual.settings.clone(),
            topics: actual.topics.clone(),
            default_branch: actual.default_branch.clone(),
            commit: commit(actual, desired),
            rules,
            secrets: secrets.filter(|name| desired.secrets.contains_key(*name)).cloned().collect(),
            variables: variables.map(|(name, value)| (name.clone(), value.clone())).collect(),
            deploy_keys: keys.filter_map(declared).collect(),
        })
    }

    /// Returns the digests of the observed parts that are declared.
    pub(crate) fn evidence(&self, desired: &Desired) -> Vec<Evidence> {
        let Some(actual) = &self.actual else { return Vec::new() };
        let branch = desired.history.as_ref().map(|history| history.branch.clone());
        let commit = branch.zip(commit(actual, desired));
        let commit = commit.map(|(branch, commit)| Evidence::Commit { branch, commit });
        let receipt = match actual.mark.value() {
            Some(Ownership::Ours(receipt)) => Some(receipt),
            _ => None,
        };
        let digest = |receipt: &OwnershipRecord| Evidence::Receipt {
            sha256: HEXLOWER.encode(&Sha256::digest(serde_json::json!(receipt).to_string())),
        };
        let secrets = receipt.into_iter().flat_map(|receipt| &receipt.secrets);
        let secrets = secrets.filter(|(name, _)| desired.secrets.contains_key(*name));
        let secret = |(name, recorded): (&String, &crate::model::Recorded)| Evidence::Secret {
            name: name.clone(),
            mac: recorded.mac.clone(),
            updated_at: recorded.updated_at.clone(),
        };
        let keys = actual.deploy_keys.value().into_iter().flat_map(BTreeMap::keys);
        let keys = keys.filter(|key| desired.deploy_keys.contains_key(*key)).cloned();
        commit
            .into_iter()
            .chain(receipt.map(digest))
            .chain(secrets.map(secret))
            .chain(keys.map(|fingerprint| Evidence::DeployKey { fingerprint }))
            .collect()
    }
}

/// Returns the commit of the declared branch at the forge.
fn commit(actual: &Present, desired: &Desired) -> Option<String> {
    match actual.head.value()? {
        Head::Absent => None,
        Head::Same => {
            let history = desired.history.as_ref()?;
            history.commit.value().cloned()
        }
        Head::Behind(there) | Head::Ahead(there) | Head::Elsewhere(there) => Some(there.clone()),
    }
}
