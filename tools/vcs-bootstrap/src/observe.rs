//! What is there, as far as a document can speak of it. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;
use keyring::GitOrigin;
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::forge::{Found, Reader};
use crate::git;
use crate::model::{
    Head, Ownership, OwnershipRecord, Present, Readable, RepositorySlug, Rule, Settings, Wanted,
};
use crate::ownership::OwnershipKey;
use crate::spec::Push;

/// What the status tells of the repository.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// The user or organisation to which it belongs.
    pub owner: String,
    /// Its own name.
    pub name: String,
    /// The forge's own number for it, which outlives a new name.
    pub id: u64,
    /// Where people find it.
    pub url: String,
    /// Where Git finds it.
    pub clone_url: String,
    /// Whether we made it, rather than found it.
    pub made: bool,
    /// Whether it takes no more changes.
    pub archived: bool,
    /// Its plain settings.
    pub settings: Settings,
    /// Its topics.
    pub topics: BTreeSet<String>,
    /// The branch that people see first.
    pub default_branch: String,
    /// The commit of the declared branch there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Its rules, of those that are declared.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<String, Rule>,
    /// Its secrets, of those that are declared: names alone.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub secrets: BTreeSet<String>,
    /// Its deploy keys, of those that are declared.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub deploy_keys: BTreeMap<String, DeployKeySeen>,
}

/// A deploy key that is there.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeployKeySeen {
    /// The public key.
    pub key: String,
    /// Whether it may only read.
    pub read_only: bool,
}

/// A digest that binds what is there to what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Evidence {
    /// The commit of a branch at the forge.
    Commit {
        /// The branch.
        branch: String,
        /// Its commit.
        commit: String,
    },
    /// The receipt that is kept in the repository.
    Receipt {
        /// Of its content, lower-case hex.
        sha256: String,
    },
    /// A secret.
    Secret {
        /// Its name.
        name: String,
        /// A keyed hash of its value.
        mac: String,
        /// When the forge says that it was written last; Gitea does not say.
        #[serde(skip_serializing_if = "Option::is_none")]
        updated_at: Option<String>,
    },
    /// A deploy key.
    DeployKey {
        /// As `ssh-keygen -l` prints it.
        fingerprint: String,
    },
}

/// What is there, and what must be known of it to talk about it.
pub(crate) struct Look {
    pub(crate) found: Option<Found>,
    pub(crate) world: Option<Present>,
    /// Whether a receipt is there, ours or not.
    pub(crate) recorded: bool,
}

/// Looks at the repository: at its lists only where `wanted` or its receipt speak of them.
pub(crate) fn look(
    reader: &Reader<'_>,
    seal: &OwnershipKey,
    wanted: &Wanted,
    earlier: Option<u64>,
    origin: impl FnOnce(&Found) -> Result<Readable<Head>, Error>,
) -> Result<Look, Error> {
    let Some(found) = reader.repository(earlier)? else {
        return Ok(Look { found: None, world: None, recorded: false });
    };
    let mark = match reader.receipt()? {
        Readable::Value(text) => {
            Readable::Value(text.map_or(Ownership::None, |text| seal.read(found.id, &text)))
        }
        Readable::Denied(refusal) => Readable::Denied(refusal),
    };
    let receipt = match mark.value() {
        Some(Ownership::Ours(receipt)) => receipt.clone(),
        _ => OwnershipRecord::default(),
    };
    let names: BTreeSet<_> = wanted.rules.keys().chain(&receipt.rules).cloned().collect();
    let rules = asked(!names.is_empty(), || reader.rules(&names))?;
    let secrets = !wanted.secrets.is_empty() || !receipt.secrets.is_empty();
    let secrets = asked(secrets, || reader.secrets())?;
    let keys = !wanted.deploy_keys.is_empty() || !receipt.deploy_keys.is_empty();
    let deploy_keys = asked(keys, || reader.deploy_keys())?;
    let recorded = mark.value().is_some_and(|it| *it != Ownership::None);
    let world = Present {
        id: found.id,
        administrator: found.administrator,
        archived: found.archived,
        just_created: found.settings.description.as_ref() == Some(&seal.creation_marker()),
        settings: found.settings.clone(),
        topics: found.topics.clone(),
        default_branch: found.default_branch.clone(),
        head: origin(&found)?,
        mark,
        rules,
        secrets,
        deploy_keys,
    };
    Ok(Look { found: Some(found), world: Some(world), recorded })
}

/// Nobody asks for a list of which nothing speaks; it counts as empty.
fn asked<T>(
    spoken_of: bool,
    list: impl FnOnce() -> Result<Readable<BTreeMap<String, T>>, Error>,
) -> Result<Readable<BTreeMap<String, T>>, Error> {
    if spoken_of { list() } else { Ok(Readable::Value(BTreeMap::new())) }
}

/// Where the declared branch of `found` stands.
pub(crate) fn head(
    found: &Found,
    wanted: &Wanted,
    token: &keyring::Secret,
) -> Result<Readable<Head>, Error> {
    match &wanted.history {
        Some(it) if it.push != Push::Never => {
            git::head(&GitOrigin { url: &found.git, token }, &it.branch, it.commit.value())
        }
        _ => Ok(Readable::Value(Head::Absent)),
    }
}

impl Look {
    /// What the status tells.
    pub(crate) fn observed(&self, place: &RepositorySlug, wanted: &Wanted) -> Option<Observed> {
        let (found, world) = (self.found.as_ref()?, self.world.as_ref()?);
        let made = match world.mark.value() {
            Some(Ownership::Ours(receipt)) => receipt.made,
            _ => world.just_created,
        };
        let mut rules = world.rules.value().cloned().unwrap_or_default();
        rules.retain(|name, _| wanted.rules.contains_key(name));
        let secrets = world.secrets.value().into_iter().flat_map(BTreeMap::keys);
        let keys = world.deploy_keys.value().into_iter().flatten();
        let declared = |(fingerprint, seen): (&String, &crate::model::SeenKey)| {
            let key = wanted.deploy_keys.get(fingerprint)?.key.clone();
            Some((fingerprint.clone(), DeployKeySeen { key, read_only: seen.read_only }))
        };
        Some(Observed {
            owner: place.owner.clone(),
            name: place.name.clone(),
            id: found.id,
            url: found.web.clone(),
            clone_url: found.git.to_string(),
            made,
            archived: world.archived,
            settings: world.settings.clone(),
            topics: world.topics.clone(),
            default_branch: world.default_branch.clone(),
            commit: commit(world, wanted),
            rules,
            secrets: secrets.filter(|it| wanted.secrets.contains_key(*it)).cloned().collect(),
            deploy_keys: keys.filter_map(declared).collect(),
        })
    }

    /// The digests of what is there, as it was read back.
    pub(crate) fn evidence(&self, wanted: &Wanted) -> Vec<Evidence> {
        let Some(world) = &self.world else { return Vec::new() };
        let branch = wanted.history.as_ref().map(|it| it.branch.clone());
        let commit = branch.zip(commit(world, wanted));
        let commit = commit.map(|(branch, commit)| Evidence::Commit { branch, commit });
        let receipt = match world.mark.value() {
            Some(Ownership::Ours(receipt)) => Some(receipt),
            _ => None,
        };
        let digest = |it: &OwnershipRecord| Evidence::Receipt {
            sha256: HEXLOWER.encode(&Sha256::digest(serde_json::json!(it).to_string())),
        };
        let secrets = receipt.into_iter().flat_map(|it| &it.secrets);
        let secrets = secrets.filter(|it| wanted.secrets.contains_key(it.0));
        let secret = |(name, it): (&String, &crate::model::Recorded)| Evidence::Secret {
            name: name.clone(),
            mac: it.mac.clone(),
            updated_at: it.updated_at.clone(),
        };
        let keys = world.deploy_keys.value().into_iter().flat_map(BTreeMap::keys);
        let keys = keys.filter(|it| wanted.deploy_keys.contains_key(*it)).cloned();
        commit
            .into_iter()
            .chain(receipt.map(digest))
            .chain(secrets.map(secret))
            .chain(keys.map(|fingerprint| Evidence::DeployKey { fingerprint }))
            .collect()
    }
}

/// The commit of the declared branch at the forge.
fn commit(world: &Present, wanted: &Wanted) -> Option<String> {
    match world.head.value()? {
        Head::Absent => None,
        Head::Same => wanted.history.as_ref().and_then(|it| it.commit.value().cloned()),
        Head::Behind(there) | Head::Ahead(there) | Head::Elsewhere(there) => Some(there.clone()),
    }
}
