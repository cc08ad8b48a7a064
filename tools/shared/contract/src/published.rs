//! Published secrets of a project.
//!
//! **Invariant:** a project with an endpoint on another machine uses no published secret. [`guard`] finds
//! each one that can be found without running a command, before a program changes anything. A guarded
//! reference is checked again when it is resolved, so that a program cannot omit the check.

use std::collections::BTreeSet;

use documents::{Declared, Stream};
use git::Url;
use secrets::published::{self, HELP};
use secrets::{Error, Identities, RECIPIENT_ITEM, Reference, RootKey, derived_recipient};

use crate::binary_cache::BinaryCache;
use crate::endpoints::{App, Cloud, Endpoints, Forge, Registry, Store};
use crate::facts;
use crate::phases::{PHASES, key_from_environment, variable};
use crate::project::Project;
use crate::verification::{public_keys, spki};

/// Names of the projects for which the published roots were created.
const PROJECTS: [&str; 2] = ["holistic", "example"];

/// Text of an endpoint in a plan before the cloud has assigned the address.
const AFTER_APPLY: &str = "known after apply";

/// Highest generation of a phase whose derived recipients and keys are compared. A project may name any
/// generation, so the search needs a limit.
const GENERATIONS_MAX: u32 = 16;

/// Reports each published secret of `project` as a validation error, and guards its references, unless
/// every endpoint is on this machine.
pub(crate) fn guard(stream: &mut Stream, project: &mut Declared<Project>) {
    let name = project.name.to_string();
    if is_local(&project.spec.endpoints) && !has_remote_cluster(stream, &name) {
        return;
    }
    let mut errors = Vec::new();
    let published = published_recipients(&project.spec, &name);
    for (index, recipient) in project.spec.recipients.iter().enumerate() {
        if published.contains(recipient.age.as_str()) {
            let path = format!("/spec/recipients/{index}/age");
            errors.push((path, "the identity of this recipient".to_owned()));
        }
    }
    let keys = &project.spec.verification_keys;
    for (field, keys) in [("artifacts", &keys.artifacts), ("receipts", &keys.receipts)] {
        for (index, key) in keys.iter().enumerate() {
            if spki(key).is_some_and(|key| is_public_key(&project.spec, &name, &key)) {
                let path = format!("/spec/verificationKeys/{field}/{index}");
                errors.push((path, "the private half of this key".to_owned()));
            }
        }
    }
    for (path, reference) in references(&mut project.spec) {
        reference.guard();
        if reference.can_be_resolved_twice()
            && let Err(Error::Published(what)) = reference.resolve()
        {
            errors.push((path.to_owned(), what));
        }
    }
    for phase in PHASES {
        // Other errors are reported by the program that needs this key.
        if let Ok(Some(key)) = key_from_environment(project, phase)
            && let Err(Error::Published(what)) = refuse_phase_key(project, phase, key.expose())
        {
            errors.push(("/spec/root".to_owned(), what));
        }
    }
    // The stream prints errors in this order, so the help of the last error is printed once, at the end.
    errors.sort();
    for (index, (path, what)) in errors.iter().enumerate() {
        let help = if index + 1 == errors.len() { format!(": {HELP}") } else { String::new() };
        let message =
            format!("{what} is published with these programs, so anybody can use it{help}");
        stream.invalid(project, path, &message);
    }
}

/// Returns an error if `key` is a published root or derives from one, unless every endpoint of `project`
/// is on this machine.
pub(crate) fn refuse_phase_key(
    project: &Declared<Project>,
    phase: &str,
    key: &[u8; 32],
) -> Result<(), Error> {
    if !project.spec.root.is_guarded() {
        return Ok(());
    }
    let names = PROJECTS.into_iter().chain([project.name.as_str()]);
    let names: BTreeSet<_> = names.collect();
    let generations = generations(&project.spec);
    let derived = |root: &RootKey| {
        names.iter().any(|name| {
            generations
                .clone()
                .any(|generation| root.derive(name, phase, generation).expose() == key)
        })
    };
    let is_root = |root: &RootKey| root.expose() == key;
    if published::roots().any(|root| is_root(&root) || derived(&root)) {
        return Err(Error::Published(format!("the key in {}", variable(phase))));
    }
    Ok(())
}

/// Returns an error if one of `identities` that decrypts `armored` is published, unless every endpoint
/// of `project` is on this machine.
pub(crate) fn refuse_sealed(
    project: &Project,
    identities: &Identities,
    armored: &str,
) -> Result<(), Error> {
    if project.root.is_guarded() { published::refuse_sealed(identities, armored) } else { Ok(()) }
}

/// Returns the generations of a phase that may have been in use.
fn generations(project: &Project) -> std::ops::RangeInclusive<u32> {
    1..=project.generations.values().copied().max().unwrap_or(1).clamp(1, GENERATIONS_MAX)
}

/// Whether the identity of `recipient` is in this repository or in its template, or derives from a root
/// that is, so that anybody can use the identity.
#[must_use]
pub fn is_published(recipient: &str) -> bool {
    published::recipients().contains(&recipient) || {
        let derived = published::roots().flat_map(|root| {
            let names = PROJECTS.into_iter();
            names.flat_map(move |name| {
                PHASES.map(|phase| derived_recipient(&root.derive(name, phase, 1), name))
            })
        });
        derived.into_iter().any(|derived| derived.as_str() == recipient)
    }
}

/// Returns every recipient whose identity is published, or derives from a published root.
fn published_recipients(project: &Project, name: &str) -> BTreeSet<String> {
    let listed = published::recipients().iter().map(|&recipient| recipient.to_owned());
    let mut recipients: BTreeSet<_> = listed.collect();
    for root in published::roots() {
        for name in PROJECTS.into_iter().chain([name]) {
            for phase in PHASES {
                for generation in generations(project) {
                    let key = root.derive(name, phase, generation);
                    recipients.extend(generations(project).map(|generation| {
                        derived_recipient(&key.at(RECIPIENT_ITEM, generation), name).to_string()
                    }));
                }
            }
        }
    }
    recipients
}

/// Whether `key`, in DER, derives from a published root.
fn is_public_key(project: &Project, name: &str, key: &[u8]) -> bool {
    published::roots().any(|root| {
        PROJECTS.into_iter().chain([name]).any(|name| {
            generations(project).any(|generation| {
                public_keys(&root, name, generation)
                    .is_ok_and(|keys| keys.iter().any(|published| published == key))
            })
        })
    })
}

/// Whether every endpoint is on this machine.
fn is_local(endpoints: &Endpoints) -> bool {
    // The pattern names every field, so that a new endpoint is a compile error until it is listed here.
    let Endpoints { forge, registry, cloud, store, flux, nix } = endpoints;
    let cache = nix.as_ref().and_then(|nix| nix.cache.as_ref());
    if cache.is_some_and(|cache| !cache.url.is_local()) {
        return false;
    }
    let forge = forge.as_ref().map(|(Forge::Github { url, .. } | Forge::Gitea { url, .. })| url);
    let cloud = cloud.as_ref().map(|Cloud::Hetzner { url, .. }| url);
    let store = store.as_ref().map(|Store::S3 { url, .. }| url);
    let images = [registry, flux].map(|registry| registry.as_ref().map(|registry| &registry.url));
    [forge, cloud, store].into_iter().chain(images).flatten().all(Url::is_loopback)
}

/// Whether a Cluster of the project called `name` has an API server on another machine.
fn has_remote_cluster(stream: &Stream, name: &str) -> bool {
    facts::endpoints_of_project(stream, name).any(|endpoint| {
        let address = endpoint.rsplit_once("://").map_or(endpoint, |(_, address)| address);
        let url = Url::try_from(format!("https://{address}"));
        endpoint != AFTER_APPLY && !url.is_ok_and(|url| url.is_loopback())
    })
}

/// Returns every reference of `project` with its JSON pointer.
fn references(project: &mut Project) -> Vec<(&'static str, &mut Reference)> {
    let Endpoints { forge, registry, cloud, store, flux, nix } = &mut project.endpoints;
    let mut references = vec![("/spec/root", &mut project.root)];
    match forge {
        Some(Forge::Github { token, app, url: _ }) => {
            references.push(("/spec/endpoints/forge/github/token", token));
            let key = app.as_mut().map(|App { key, client_id: _ }| key);
            references.extend(key.map(|key| ("/spec/endpoints/forge/github/app/key", key)));
        }
        Some(Forge::Gitea { token, url: _ }) => {
            references.push(("/spec/endpoints/forge/gitea/token", token));
        }
        None => {}
    }
    let registries = [
        (registry, "/spec/endpoints/registry/token", "/spec/endpoints/registry/reader"),
        (flux, "/spec/endpoints/flux/token", "/spec/endpoints/flux/reader"),
    ];
    for (registry, token_path, reader_path) in registries {
        if let Some(Registry { token, reader, url: _, user: _, certificate_authority: _ }) =
            registry
        {
            references.extend(token.as_mut().map(|token| (token_path, token)));
            references.extend(reader.as_mut().map(|reader| (reader_path, reader)));
        }
    }
    if let Some(Cloud::Hetzner { token, reader, url: _ }) = cloud {
        references.push(("/spec/endpoints/cloud/hetzner/token", token));
        let path = "/spec/endpoints/cloud/hetzner/reader";
        references.extend(reader.as_mut().map(|reader| (path, reader)));
    }
    if let Some(Store::S3 { credentials, reader, url: _, region: _, bucket: _ }) = store {
        references.push(("/spec/endpoints/store/s3/credentials", credentials));
        let path = "/spec/endpoints/store/s3/reader";
        references.extend(reader.as_mut().map(|reader| (path, reader)));
    }
    if let Some(BinaryCache { credentials, reader, url: _ }) =
        nix.as_mut().and_then(|nix| nix.cache.as_mut())
    {
        let path = "/spec/endpoints/nix/cache/credentials";
        references.extend(credentials.as_mut().map(|credentials| (path, credentials)));
        let path = "/spec/endpoints/nix/cache/reader";
        references.extend(reader.as_mut().map(|reader| (path, reader)));
    }
    references
}

#[cfg(test)]
mod tests;
