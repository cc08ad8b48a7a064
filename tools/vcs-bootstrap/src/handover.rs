//! Resources of a Repository in the terms of `OpenTofu`'s provider for GitHub: `plan --output tofu`.
//!
//! Arguments and the forms of import ids are those of the provider integrations/github 6.13.0:
//! <https://github.com/integrations/terraform-provider-github/tree/v6.13.0/docs/resources>.
//!
//! An argument that the document declares has the declared value, so that `OpenTofu` shows the same drift as
//! `plan`. `OpenTofu` ignores the settings that no document can declare.
//!
//! **Invariant:** of the objects that exist, a configuration has only those that the ownership record lists.
//! **Invariant:** a configuration holds no value of a secret.

mod ruleset;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use contract::{Forge, Projects};
use documents::{Declared, Stream};
use opentofu::{Address, Arguments, Input, Provider, Resource, Value};
use serde_json::Value as Json;

use crate::Error;
use crate::model::{Desired, Ownership, OwnershipRecord, Present, Readable};
use crate::observe::Observation;
use crate::session::Session;
use crate::spec::{Mode, Repository};

const REPOSITORY: &str = "github_repository";

/// URL of GitHub's API, which the provider takes without an argument.
const API: &str = "https://api.github.com";

/// Settings of a repository that no document can declare, and one that exists in the state of `OpenTofu`
/// alone (`resource_github_repository.go` of v6.13.0).
const IGNORED: [&str; 15] = [
    "allow_auto_merge",
    "allow_merge_commit",
    "allow_rebase_merge",
    "allow_squash_merge",
    "allow_update_branch",
    "delete_branch_on_merge",
    "has_discussions",
    "has_downloads",
    "ignore_vulnerability_alerts_during_read",
    "is_template",
    "merge_commit_message",
    "merge_commit_title",
    "squash_merge_commit_message",
    "squash_merge_commit_title",
    "template",
];

/// Reports documents for which there is no configuration: of another forge than GitHub, and of a second
/// owner, because a provider has one.
pub(crate) fn validate(
    stream: &mut Stream,
    projects: &Projects,
    declared: &[Declared<Repository>],
) {
    let is_gitea = |document: &Declared<Repository>| {
        let project = projects.get(&document.spec.project);
        let forge = project.ok().and_then(|project| project.spec.endpoints.forge.as_ref());
        matches!(forge, Some(Forge::Gitea { .. }))
    };
    let Some(first) = declared.first() else { return };
    for document in declared {
        if is_gitea(document) {
            let message = "`--output tofu` supports GitHub only, and the forge of this Project is Gitea or \
                           Forgejo: run `plan` without `--output`";
            stream.invalid(document, "/spec/project", message);
        } else if document.spec.project != first.spec.project {
            let message = "a configuration of OpenTofu has the Repositories of one Project: run `plan` for \
                           each Project alone";
            stream.invalid(document, "/spec/project", message);
        } else if document.spec.owner.as_str() != first.spec.owner.as_str() {
            let message = "a configuration of OpenTofu has the Repositories of one owner: run `plan` for each \
                           owner alone";
            stream.invalid(document, "/spec/owner", message);
        }
    }
}

/// Returns the provider for the forge of the documents. It reads its token from `GITHUB_TOKEN`.
pub(crate) fn provider(projects: &Projects, declared: &[Declared<Repository>]) -> Provider {
    let first = declared.first();
    let project = first.and_then(|document| projects.get(&document.spec.project).ok());
    let forge = project.and_then(|project| project.spec.endpoints.forge.as_ref());
    let url = match forge {
        Some(Forge::Github { url, .. }) => Some(url.as_str().trim_end_matches('/')),
        _ => None,
    };
    let url = url.filter(|url| *url != API).map(|url| ("base_url", format!("{url}/").into()));
    let owner = first.map(|document| ("owner", document.spec.owner.as_str().into()));
    Provider {
        name: "github",
        source: "integrations/github",
        version: "~> 6.13",
        arguments: owner.into_iter().chain(url).collect(),
    }
}

/// Returns the resources of the Repository.
pub(crate) fn resources(
    session: &Session<'_>,
    observation: &Observation,
) -> Result<Vec<Resource>, Error> {
    let desired = &session.declaration.desired;
    let Some(actual) = &observation.actual else {
        return Ok(World { desired, actual: None, rulesets: BTreeMap::new() }.resources());
    };
    let Some(record) = record(actual) else {
        documents::note(
            session.document(),
            "OpenTofu's configuration lacks this repository, because others have created it and `apply` has \
             not adopted it",
        );
        return Ok(Vec::new());
    };
    let ours = desired.rules.keys().filter(|name| record.rules.contains(*name));
    let rulesets = session.rulesets(&ours.cloned().collect())?;
    let world = World { desired, actual: Some((actual, &record)), rulesets };
    let left_out = world.left_out();
    if !left_out.is_empty() {
        let names = left_out.join(", ");
        let text = format!("OpenTofu's configuration lacks what others have created: {names}");
        documents::note(session.document(), text);
    }
    Ok(world.resources())
}

/// Returns the ownership record of a repository that this program manages.
fn record(actual: &Present) -> Option<OwnershipRecord> {
    match actual.mark.value() {
        Some(Ownership::Ours(record)) => Some(record.clone()),
        // The set-up was interrupted before the first record.
        Some(Ownership::None) if actual.just_created => {
            Some(OwnershipRecord { made: true, ..OwnershipRecord::default() })
        }
        _ => None,
    }
}

/// State of a part of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The part does not exist.
    Planned,
    /// This program has created the part.
    Ours,
    /// Others have created the part, or its list cannot be read.
    Foreign,
}

/// Everything from which the resources of a Repository are computed.
struct World<'a> {
    desired: &'a Desired,
    /// The repository with its ownership record; `None` if it does not exist.
    actual: Option<(&'a Present, &'a OwnershipRecord)>,
    /// Rulesets of this program as GitHub describes them, by name.
    rulesets: BTreeMap<String, Json>,
}

impl World<'_> {
    fn resources(&self) -> Vec<Resource> {
        let mut resources: Vec<_> = self.repository().into_iter().collect();
        resources.extend(self.default_branch());
        let rules = self.desired.rules.iter();
        resources.extend(rules.filter_map(|(name, rule)| {
            let part = self.rule(name);
            (part != Part::Foreign)
                .then(|| ruleset::resource(self, (name, rule), self.rulesets.get(name)))
        }));
        resources.extend(self.desired.secrets.keys().filter_map(|name| self.secret_resource(name)));
        let variables = self.desired.variables.iter();
        resources.extend(variables.filter_map(|(name, value)| self.variable_resource(name, value)));
        let keys = self.desired.deploy_keys.keys();
        resources.extend(keys.filter_map(|fingerprint| self.deploy_key_resource(fingerprint)));
        resources
    }

    /// Returns the declared objects that others have created, for people.
    fn left_out(&self) -> Vec<String> {
        let Desired { rules, secrets, variables, deploy_keys, .. } = self.desired;
        let foreign = |part: Part| part == Part::Foreign;
        let rules = rules.keys().filter(|name| foreign(self.rule(name)));
        let secrets = secrets.keys().filter(|name| foreign(self.secret(name)));
        let variables = variables.keys().filter(|name| foreign(self.variable(name)));
        let keys = deploy_keys.iter().filter(|(key, _)| foreign(self.deploy_key(key)));
        let repository = (!self.is_ours()).then(|| "the repository".to_owned());
        repository
            .into_iter()
            .chain(rules.map(|name| format!("rule {name}")))
            .chain(secrets.map(|name| format!("secret {name}")))
            .chain(variables.map(|name| format!("variable {name}")))
            .chain(keys.map(|(_, key)| format!("deploy key {}", key.title)))
            .collect()
    }

    /// Whether the configuration has the repository itself.
    fn is_ours(&self) -> bool {
        self.actual.is_none_or(|(_, record)| record.made)
    }

    /// Returns the present name of the repository.
    fn present_name(&self) -> &str {
        self.actual.map_or(&self.desired.place.name, |(actual, _)| &actual.place.name)
    }

    fn address(&self) -> Address {
        Address::new(REPOSITORY, &self.desired.place.name)
    }

    /// Returns the value of the argument `repository`.
    fn name(&self) -> Value {
        if self.is_ours() {
            Value::Reference(self.address(), "name")
        } else {
            self.present_name().into()
        }
    }

    /// Returns the id of a part for the import: the name of the repository and of the part.
    fn import(&self, part: impl std::fmt::Display) -> String {
        format!("{}:{part}", self.present_name())
    }

    /// Returns the state of a part. `exists` is `None` if its list cannot be read.
    fn part(
        &self,
        exists: impl Fn(&Present) -> Option<bool>,
        is_recorded: impl Fn(&OwnershipRecord) -> bool,
    ) -> Part {
        let Some((actual, record)) = self.actual else { return Part::Planned };
        match exists(actual) {
            Some(false) => Part::Planned,
            Some(true) if is_recorded(record) => Part::Ours,
            // Unknown is not absent.
            Some(true) | None => Part::Foreign,
        }
    }

    fn rule(&self, name: &str) -> Part {
        self.part(|actual| contains(&actual.rules, name), |record| record.rules.contains(name))
    }

    fn secret(&self, name: &str) -> Part {
        let is_recorded = |record: &OwnershipRecord| record.secrets.contains_key(name);
        self.part(|actual| contains(&actual.secrets, name), is_recorded)
    }

    fn variable(&self, name: &str) -> Part {
        let is_recorded = |record: &OwnershipRecord| record.variables.contains(name);
        self.part(|actual| Some(actual.variables.contains_key(name)), is_recorded)
    }

    fn deploy_key(&self, fingerprint: &str) -> Part {
        let is_recorded = |record: &OwnershipRecord| record.deploy_keys.contains(fingerprint);
        self.part(|actual| contains(&actual.deploy_keys, fingerprint), is_recorded)
    }

    fn repository(&self) -> Option<Resource> {
        if !self.is_ours() {
            return None;
        }
        let declared = &self.desired.settings;
        let seen = self.actual.map(|(actual, _)| &actual.settings);
        let mut arguments: Arguments = vec![("name", (&self.desired.place.name).into())];
        let text = |declared: &Option<String>, seen: Option<&Option<String>>| {
            let text = declared.as_ref().or(seen.and_then(Option::as_ref));
            text.filter(|text| !text.is_empty()).map(Value::from)
        };
        let flag = |declared: Option<bool>, seen: Option<Option<bool>>| {
            declared.or(seen.flatten()).map(Value::from)
        };
        // While a repository is being set up, its description is a marker that only this program knows.
        let described =
            seen.filter(|_| !self.actual.is_some_and(|(actual, _)| actual.just_created));
        let described = described.map(|seen| &seen.description);
        for (name, value) in [
            ("description", text(&declared.description, described)),
            ("homepage_url", text(&declared.homepage, seen.map(|seen| &seen.homepage))),
            ("visibility", self.visibility()),
            ("has_issues", flag(declared.issues, seen.map(|seen| seen.issues))),
            ("has_wiki", flag(declared.wiki, seen.map(|seen| seen.wiki))),
            ("has_projects", flag(declared.projects, seen.map(|seen| seen.projects))),
            ("topics", self.topics()),
            ("archived", self.actual.map(|(actual, _)| actual.archived.into())),
        ] {
            arguments.extend(value.map(|value| (name, value)));
        }
        let import = self.actual.map(|_| self.present_name().to_owned());
        let resource = Resource::new(self.address(), import, arguments);
        Some(match self.actual {
            // OpenTofu does not know whether the history was drained.
            Some(_) => Resource { ignored: IGNORED.to_vec(), is_kept: true, ..resource },
            None => resource,
        })
    }

    /// Returns the visibility, unless it is the declared one. GitHub has a third one, `internal`, which a
    /// document calls private.
    fn visibility(&self) -> Option<Value> {
        let (declared, seen) = (
            self.desired.settings.private,
            self.actual.and_then(|(actual, _)| actual.settings.private),
        );
        let word = |is_private| if is_private { "private" } else { "public" };
        match (declared, self.actual) {
            (declared, None) => Some(word(declared.unwrap_or(true)).into()),
            (Some(declared), Some(_)) if Some(declared) != seen => Some(word(declared).into()),
            _ => None,
        }
    }

    fn topics(&self) -> Option<Value> {
        let seen = self.actual.map(|(actual, _)| &actual.topics);
        let (mode, declared) = self.desired.topics.as_ref()?;
        let kept = seen.into_iter().flatten().filter(|_| *mode == Mode::Additive);
        let all: BTreeSet<_> = declared.iter().chain(kept).collect();
        Some(all.into_iter().collect())
    }

    /// Returns the declared default branch. `OpenTofu` pushes no history, so a branch that does not exist must
    /// be pushed first.
    fn default_branch(&self) -> Option<Resource> {
        let branch = self.desired.default_branch.as_ref()?;
        let arguments = vec![("repository", self.name()), ("branch", branch.into())];
        let address = Address::new("github_branch_default", &self.desired.place.name);
        let is_there = self.actual.is_some_and(|(actual, _)| !actual.default_branch.is_empty());
        let import = is_there.then(|| self.present_name().to_owned());
        if !self.is_ours() && is_there {
            return None;
        }
        let resource = Resource::new(address, import, arguments);
        Some(if is_there {
            Resource { ignored: vec!["rename", "wait_for_rename"], ..resource }
        } else {
            let note =
                "The branch must be pushed before OpenTofu can make it the default.".to_owned();
            Resource { note, ..resource }
        })
    }

    fn secret_resource(&self, name: &str) -> Option<Resource> {
        let part = self.secret(name);
        if part == Part::Foreign {
            return None;
        }
        let exists = part == Part::Ours;
        let ending = if exists {
            "GitHub does not show the value, so OpenTofu ignores it while the secret exists."
        } else {
            "The secret does not exist yet."
        };
        let input = Input {
            name: format!("secret_{}_{name}", self.desired.place.name),
            description: format!("Value of the secret {name} of {}. {ending}", self.desired.place),
            default: exists.then_some(""),
            is_secret: true,
        };
        let arguments = vec![
            ("repository", self.name()),
            ("secret_name", name.into()),
            ("value", Value::Input(input)),
        ];
        let address = self.part_address("github_actions_secret", name);
        let import = exists.then(|| self.import(name));
        let resource = Resource::new(address, import, arguments);
        let ignored = if exists { vec!["value"] } else { Vec::new() };
        Some(Resource { ignored, ..resource })
    }

    fn variable_resource(&self, name: &str, value: &String) -> Option<Resource> {
        let part = self.variable(name);
        let import = (part == Part::Ours).then(|| self.import(name));
        let arguments = vec![
            ("repository", self.name()),
            ("variable_name", name.into()),
            ("value", value.into()),
        ];
        let address = self.part_address("github_actions_variable", name);
        (part != Part::Foreign).then(|| Resource::new(address, import, arguments))
    }

    fn deploy_key_resource(&self, fingerprint: &str) -> Option<Resource> {
        let key = self.desired.deploy_keys.get(fingerprint)?;
        let part = self.deploy_key(fingerprint);
        if part == Part::Foreign {
            return None;
        }
        let keys = self.actual.and_then(|(actual, _)| actual.deploy_keys.value());
        let seen = keys.and_then(|keys| keys.get(fingerprint));
        let title = seen.map_or(&key.title, |seen| &seen.title);
        let arguments = vec![
            ("repository", self.name()),
            ("title", title.into()),
            ("key", (&key.key).into()),
            ("read_only", true.into()),
        ];
        let address = self.part_address("github_repository_deploy_key", &key.title);
        Some(Resource::new(address, seen.map(|seen| self.import(seen.id)), arguments))
    }

    /// Returns the address of a part of the repository.
    fn part_address(&self, kind: &'static str, part: &str) -> Address {
        Address::new(kind, format!("{}-{part}", self.desired.place.name))
    }
}

/// Whether a list has an entry; `None` if the list cannot be read.
fn contains<T>(list: &Readable<BTreeMap<String, T>>, name: &str) -> Option<bool> {
    list.value().map(|list| list.contains_key(name))
}
