//! Translates a document's declaration into the terms of one forge: derives secrets and keys, and
//! separates features that the forge lacks.

use std::collections::{BTreeMap, BTreeSet};

use contract::{Project, Roots};
use data_encoding::BASE64;
use documents::{Declared, Derived, Reason};
use secrets::PhaseKey;
use zeroize::Zeroizing;

use crate::Error;
use crate::clients::connection::Forge;
use crate::clients::dialect::Dialect;
use crate::clients::forge;
use crate::clients::git;
use crate::model::{DeployKey, Desired, Pushed, Readable, Refusal, RepositorySlug, Rule, Settings};
use crate::ownership::OwnershipKey;
use crate::spec::{
    Bypass, FormerName, Phase, PullRequest, Push, Repository, RepositoryName, Require, Visibility,
};

/// The desired state, with secret values and unsupported features, which no plan holds.
pub(crate) struct Declaration {
    /// Desired state, without secret values.
    pub(crate) desired: Desired,
    /// Values of the secrets, by name.
    pub(crate) secrets: BTreeMap<String, Zeroizing<String>>,
    /// Declared features that the forge lacks, each with the reason.
    pub(crate) unsupported: Vec<String>,
}

/// Name of the deploy key in the derivation from a phase's key.
const DEPLOY_KEY: &str = "deploy-key";

/// Document with everything that its declaration is computed from.
pub(crate) struct Source<'a> {
    pub(crate) document: &'a Declared<Repository>,
    pub(crate) project: &'a Declared<Project>,
    pub(crate) roots: &'a Roots,
}

impl Source<'_> {
    /// Returns the declared owner and name.
    pub(crate) fn place(&self) -> RepositorySlug {
        let spec = &self.document.spec;
        let name = spec.name.as_ref().map_or(self.document.name.as_str(), RepositoryName::as_str);
        RepositorySlug { owner: spec.owner.to_string(), name: name.to_owned() }
    }

    /// Returns the former owners and names, oldest first.
    pub(crate) fn former_places(&self) -> Vec<RepositorySlug> {
        let spec = &self.document.spec;
        let place = |former: &FormerName| {
            let (owner, name) =
                former.as_str().split_once('/').unwrap_or((spec.owner.as_str(), former.as_str()));
            RepositorySlug { owner: owner.to_owned(), name: name.to_owned() }
        };
        spec.previously.iter().map(place).collect()
    }

    /// Returns the first owner and name of the repository, to which hashes of secrets are bound.
    pub(crate) fn first_place(&self) -> RepositorySlug {
        self.former_places().into_iter().next().unwrap_or_else(|| self.place())
    }

    /// Returns the name from which keys of the repository derive: the first name of the document. Without
    /// `spec.name`, a document is renamed together with its repository.
    fn scope(&self) -> String {
        let first = self.former_places().into_iter().next();
        let first = first.filter(|_| self.document.spec.name.is_none());
        first.map_or_else(|| self.document.name.to_string(), |place| place.name)
    }

    fn phase_key(&self, phase: Phase) -> Result<PhaseKey, Error> {
        Ok(self.roots.phase_key(self.project, phase.as_str())?)
    }
}

/// Computes the desired state. `with_values` is false for a removal, which needs neither the local history
/// nor the values of secrets.
pub(crate) fn declaration(
    source: &Source<'_>,
    (forge, dialect): (Forge, Option<Dialect>),
    ownership: &OwnershipKey,
    with_values: bool,
) -> Result<Declaration, Error> {
    let spec = &source.document.spec;
    let (rules, unsupported) = rules(spec, forge, dialect);
    let mut secrets = phase_keys(source)?;
    if with_values {
        secrets.extend(references(source)?);
    }
    let deploy_keys = deploy_keys(source)?;
    let history = spec.history.as_ref();
    let default_branch = spec.default_branch.as_ref();
    let default_branch = default_branch.or(history.map(|history| &history.branch));
    let features = &spec.features;
    let desired = Desired {
        place: source.place(),
        settings: Settings {
            description: spec.description.as_ref().map(ToString::to_string),
            homepage: spec.homepage.as_ref().map(ToString::to_string),
            private: spec.visibility.map(|visibility| visibility == Visibility::Private),
            issues: features.issues,
            wiki: features.wiki,
            projects: features.projects,
        },
        topics: spec
            .topics
            .as_ref()
            .map(|topics| (topics.mode, topics.items.iter().map(ToString::to_string).collect())),
        history: if with_values { pushed(spec)? } else { None },
        default_branch: default_branch.map(ToString::to_string),
        variables: spec
            .variables
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        rules,
        secrets: secrets
            .iter()
            .map(|(name, value)| (name.clone(), ownership.secret(name, value.as_bytes())))
            .collect(),
        deploy_keys,
        allow_publish: spec.allow_publish,
        on_destroy: spec.on_destroy,
    };
    Ok(Declaration { desired, secrets, unsupported })
}

/// Derives every value that the repository gets from the root: the secrets of CI, in files named after
/// their variables, and the public deploy keys.
pub(crate) fn derived(source: &Source<'_>) -> Result<Vec<Derived>, Error> {
    let secrets = phase_keys(source)?.into_iter();
    let secrets = secrets.map(|(name, value)| Derived::new(name, value.as_bytes().to_vec().into()));
    let keys = deploy_keys(source)?.into_values();
    let line = |key: &DeployKey| format!("{} {}\n", key.key, key.title).into_bytes();
    let keys: Vec<u8> = keys.flat_map(|key| line(&key)).collect();
    Ok(secrets.chain([Derived::new("deploy-keys.pub", keys.into())]).collect())
}

/// Derives the keys of the phases that run in CI, by name of the Actions secret.
fn phase_keys(source: &Source<'_>) -> Result<BTreeMap<String, Zeroizing<String>>, Error> {
    let mut secrets = BTreeMap::new();
    for phase in &source.document.spec.secrets.phase_keys {
        let key = source.phase_key(*phase)?;
        let value = Zeroizing::new(BASE64.encode(key.expose()));
        secrets.insert(contract::variable(phase.as_str()), value);
    }
    Ok(secrets)
}

/// Reads the secrets to which the document refers, by name of the Actions secret.
fn references(source: &Source<'_>) -> Result<BTreeMap<String, Zeroizing<String>>, Error> {
    let mut secrets = BTreeMap::new();
    for (name, reference) in &source.document.spec.secrets.references {
        let mut reference = reference.clone();
        // A project at real vendors must not hand out secrets that are published with these programs.
        if source.project.spec.root.is_guarded() {
            reference.guard();
        }
        let value = reference.resolve()?;
        secrets.insert(name.to_string(), Zeroizing::new(value.text()?.to_owned()));
    }
    Ok(secrets)
}

/// Derives the deploy keys, by fingerprint.
fn deploy_keys(source: &Source<'_>) -> Result<BTreeMap<String, DeployKey>, Error> {
    let (mut keys, scope) = (BTreeMap::new(), source.scope());
    for phase in &source.document.spec.deploy_keys {
        let key = source.phase_key(*phase)?;
        keys.extend(deploy_key(&key, phase.as_str(), &scope));
    }
    Ok(keys)
}

fn pushed(spec: &Repository) -> Result<Option<Pushed>, Error> {
    let Some(history) = spec.history.as_ref().filter(|history| history.push != Push::Never) else {
        return Ok(None);
    };
    let branch = history.branch.to_string();
    // A CI job with a shallow clone or without the branch can still see that no push is needed.
    let commit = match git::commit(&branch) {
        Ok(commit) => Readable::Value(commit),
        Err(Error::NoHistory { what, help }) if history.push == Push::OnCreate => {
            Readable::Denied(Refusal { reason: Reason::NoHistory, what, help })
        }
        Err(error) => return Err(error),
    };
    let tags = match &commit {
        Readable::Value(commit) => git::tags(commit, history.tags.as_ref())?,
        Readable::Denied(_) => BTreeMap::new(),
    };
    Ok(Some(Pushed { push: history.push, branch, commit, tags }))
}

fn deploy_key(key: &PhaseKey, phase: &str, scope: &str) -> Option<(String, DeployKey)> {
    let public = key.ed25519(scope, DEPLOY_KEY).verifying_key();
    let openssh = forge::openssh(public.as_bytes());
    let fingerprint = forge::fingerprint(&openssh)?;
    // Gitea allows each title once, and the former key still exists during a rotation. The
    // fingerprint in the title differs after a rotation of the item, the phase or the root.
    let title = format!("{phase} ({})", fingerprint.get(..15)?);
    Some((fingerprint, DeployKey { title, key: openssh }))
}

/// Returns the rules under the forge's names, and the requirements that the forge lacks.
fn rules(
    spec: &Repository,
    forge: Forge,
    dialect: Option<Dialect>,
) -> (BTreeMap<String, Rule>, Vec<String>) {
    let name = dialect.map_or("Gitea", Dialect::name);
    let (mut rules, mut unsupported) = (BTreeMap::<String, Rule>::new(), Vec::new());
    for declared in &spec.rules {
        let mut require = declared.require.clone();
        if require.linear_history && forge == Forge::Gitea {
            require.linear_history = false;
            unsupported
                .push(format!("rule {}: {name} has no rule against merge commits", declared.name));
        }
        let cannot_bind = dialect == Some(Dialect::OldGitea) && declared.bypass == Bypass::None;
        if cannot_bind {
            unsupported.push(format!(
                "rule {}: administrators may merge against it, because {name} has no setting for that",
                declared.name
            ));
        }
        let rule = |branches: BTreeSet<String>| Rule {
            branches,
            require: require.clone(),
            administrators_too: (!cannot_bind).then_some(declared.bypass == Bypass::None),
            also_exempt: BTreeSet::new(),
            except: BTreeSet::new(),
            enforced: true,
            forbids_deletion: true,
            forbids_force_push: true,
        };
        let branches = declared.branches.iter().map(ToString::to_string);
        match forge {
            Forge::GitHub => {
                rules.insert(declared.name.to_string(), rule(branches.collect()));
            }
            // Gitea has one protection for each branch, with the branch's name.
            Forge::Gitea => {
                for branch in branches {
                    let new = rule(BTreeSet::from([branch.clone()]));
                    let both = match rules.remove(&branch) {
                        Some(other) => stricter(&new, &other),
                        None => new,
                    };
                    rules.insert(branch, both);
                }
            }
        }
    }
    (rules, unsupported)
}

/// Returns a rule that combines the requirements of both, as GitHub combines rulesets.
fn stricter(one: &Rule, other: &Rule) -> Rule {
    let Require { pull_request, signed_commits, linear_history, status_checks } = &one.require;
    let approvals = |pull: &Option<PullRequest>| pull.as_ref().map(|pull| pull.approvals);
    let approvals = approvals(pull_request).max(approvals(&other.require.pull_request));
    Rule {
        branches: one.branches.clone(),
        require: Require {
            pull_request: approvals.map(|approvals| PullRequest { approvals }),
            signed_commits: *signed_commits || other.require.signed_commits,
            linear_history: *linear_history || other.require.linear_history,
            status_checks: status_checks | &other.require.status_checks,
        },
        administrators_too: one
            .administrators_too
            .zip(other.administrators_too)
            .map(|(one, other)| one || other),
        ..one.clone()
    }
}
