//! Translates a document's declaration into the terms of one forge: derives secrets and keys, and
//! separates features that the forge lacks.

use std::collections::{BTreeMap, BTreeSet};

use contract::Project;
use data_encoding::BASE64;
use documents::{Declared, Derived, Reason};
use secrets::PhaseKey;
use zeroize::Zeroizing;

use crate::Error;
use crate::clients::connection::Forge;
use crate::clients::forge;
use crate::clients::git;
use crate::model::{DeployKey, Desired, Pushed, Readable, Refusal, Rule, Settings};
use crate::ownership::OwnershipKey;
use crate::spec::{Bypass, PullRequest, Push, Repository, Require, Visibility};

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

pub(crate) fn declaration(
    document: &Declared<Repository>,
    project: &Declared<Project>,
    forge: Forge,
    ownership: &OwnershipKey,
    with_history: bool,
) -> Result<Declaration, Error> {
    let spec = &document.spec;
    let (rules, unsupported) = rules(spec, forge);
    let secrets = secrets(spec, project)?;
    let deploy_keys = deploy_keys(document, project)?;
    let features = &spec.features;
    let desired = Desired {
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
        history: if with_history { pushed(spec)? } else { None },
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
pub(crate) fn derived(
    document: &Declared<Repository>,
    project: &Declared<Project>,
) -> Result<Vec<Derived>, Error> {
    let secrets = secrets(&document.spec, project)?.into_iter();
    let secrets = secrets.map(|(name, value)| Derived::new(name, value.as_bytes().to_vec().into()));
    let keys = deploy_keys(document, project)?.into_values();
    let line = |key: &DeployKey| format!("{} {}\n", key.key, key.title).into_bytes();
    let keys: Vec<u8> = keys.flat_map(|key| line(&key)).collect();
    Ok(secrets.chain([Derived::new("deploy-keys.pub", keys.into())]).collect())
}

/// Derives the keys of the phases that run in CI, by name of the Actions secret.
fn secrets(
    spec: &Repository,
    project: &Declared<Project>,
) -> Result<BTreeMap<String, Zeroizing<String>>, Error> {
    let mut secrets = BTreeMap::new();
    for phase in &spec.secrets.phase_keys {
        let key = contract::phase_key(project, phase.as_str())?;
        let value = Zeroizing::new(BASE64.encode(key.expose()));
        secrets.insert(contract::variable(phase.as_str()), value);
    }
    Ok(secrets)
}

/// Derives the deploy keys, by fingerprint.
fn deploy_keys(
    document: &Declared<Repository>,
    project: &Declared<Project>,
) -> Result<BTreeMap<String, DeployKey>, Error> {
    let mut keys = BTreeMap::new();
    for phase in &document.spec.deploy_keys {
        let key = contract::phase_key(project, phase.as_str())?;
        keys.extend(deploy_key(&key, phase.as_str(), document.name.as_str()));
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
    Ok(Some(Pushed { push: history.push, branch, commit }))
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
fn rules(spec: &Repository, forge: Forge) -> (BTreeMap<String, Rule>, Vec<String>) {
    let (mut rules, mut unsupported) = (BTreeMap::<String, Rule>::new(), Vec::new());
    for declared in &spec.rules {
        let mut require = declared.require.clone();
        if require.linear_history && forge == Forge::Gitea {
            require.linear_history = false;
            unsupported
                .push(format!("rule {}: Gitea has no rule against merge commits", declared.name));
        }
        let rule = |branches: BTreeSet<String>| Rule {
            branches,
            require: require.clone(),
            administrators_too: Some(declared.bypass == Bypass::None),
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
        administrators_too: one.administrators_too.max(other.administrators_too),
        ..one.clone()
    }
}
