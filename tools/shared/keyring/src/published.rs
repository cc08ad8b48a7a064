//! Published secrets: the roots, identities and tokens in this repository and in its template.
//!
//! They let the lab run from a clone. Anybody can read them, so they protect nothing.
//!
//! **Invariant:** a project with an endpoint on another machine uses none of them. [`guard`] finds
//! those that can be found without running a command, before anything is touched; [`refuse`] checks
//! each secret again when it is resolved, so that a program cannot forget to.

use std::collections::BTreeSet;

use data_encoding::HEXLOWER;
use documents::{Declared, Stream};
use p256::pkcs8::EncodePublicKey as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::derive::{self, RootKey};
use crate::project::{Cloud, Endpoints, Forge, PHASES, Project, Registry, Store};
use crate::{Error, Identities, Reference, Secret, Sops, Url, receipt, seal};

/// The roots themselves, and not their digests, because the keys of the phases derive from them.
const ROOTS: [&str; 3] = [
    "R4WH/+lTRezrj60Vw35cSxR+Q0aF9RdxhhZ7dz9c6KQ=", // project/secrets.yaml
    "vluEM5zmlt2g7jJUJL3q+pQpwkV5SlNuLoAbuVxfMXc=", // templates/project/project/secrets.yaml
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", // tools/shared/keyring/derivation.md, tests
];

/// The projects that these roots were made for.
const PROJECTS: [&str; 2] = ["holistic", "example"];

/// The public halves of the identities.
const RECIPIENTS: [&str; 10] = [
    "age1fxcucwxnyrjtj2m6v4pexkateqlzazkugwm28fs7a6pguyy0d38q97858v", // project/test-identity.txt
    "age1dhwnpwllczl3y3dejs6953pj7e4ywgrl9ac8v94r8nw5tsgwy3yqw4cl55", // project/test-vault-identity.txt
    "age170kn9pu9wffp8raenhf4g7gl9pm0afklya3kuy04j7clt3p929qsrjnl8j", // templates/project/project/test-identity.txt
    "age1rrphsed8kf5f7amyldf5kg5x04du8znfzrs2pj7h3hu6sr6hmc9q6df5df", // tools/shared/keyring/tests/sops
    "age1elhshxq0ln3dungwxtuww0utyr26xgz2x2uly60jmwm09kttxu2s7t9w42", // tools/shared/keyring/tests/sops
    "age1qhredja4362t3h2htg3kk08zs66nfe8qy2qmppcqvqr9unj87pdsedfvy9", // tools/shared/keyring/derivation.md
    "age125lmvgpkxs3funm9cdfm2q9jckc7yxcswlnrf7t8x3sy9wfyx30s36p3kz", // tools/shared/keyring/derivation.md
    "age1jfm9p5vdvxyy5rj82f2vx8j3ljzm4zv0dsj7mv5gwvwjjqzv55fqd9ajyh", // tools/shared/keyring/derivation.md
    "age1zljndz5xcl8wf80syfx2lam5fs0vg0lh56l82cgmle02wtf25seq2m7s0g", // tools/data-drain/tests
    "age1c8vyyaftwkme6tr4ac3643g9y4nt3x8fs4n88m004g5mh4njf4uslluums", // tools/emulators/talos/tests
];

/// SHA-256 of each value in `secrets.yaml` of the repository, and then of the template.
const VALUES: [&str; 17] = [
    "478587ffe95345eceb8fad15c37e5c4b147e434685f5177186167b773f5ce8a4", // root
    "50d22afadeceeee409bfe358f227f17b5d4de44034a4867f0621a6fa7f98d9a5", // github
    "1af4eb7b0afe53ae9f2625c061a2a9054affc91562d4375e0e1f0722bb63c01d", // ghcr
    "3065d5506331da8227a41df1030509c265b799588592f4516ede41119b258405", // hetzner
    "fd839622cb4cb72472ee4cea4f05a35658fac0bcefde6ac84ed8af5414826dc0", // s3.accessKeyId
    "abebcda2dc42b0cd35951bb2a4e1ff1a958e44b90defb3fcb746d1028a4a241f", // s3.secretAccessKey
    "fa77d7bdb2ae64fbd28ade4f475e5c77621de81da3fa672f5b5e1699cf2b18d0", // s3Reader.accessKeyId
    "ed24bc0bb03d0e89e8bacafb1545ee4ed6a2b273f3db69199787632b32545179", // s3Reader.secretAccessKey
    "f5fd4c362f806c21326c2d4f3da668f86ac6c30b0664f79610cf007e04320ba3", // ghcrReader
    "81da52562d048d1d5f701cf6c0b775c4f818e4e4fc25c387caa91b962bf628cb", // root
    "8268f105f8d37634745e681e57d01336e59cdbe5fbca939e4821bdbb20185dd5", // github
    "65807af89138b9861f22ff52244a790d2e10111cc6d227cea7143efc3c7c1a45", // ghcr
    "518fda2266c99411f778317ec78c823145544b850317c25e9175b5ab00937635", // hetzner
    "837b58c6c47c0da2cbcfabf8cd4e5797e31d7de7473e6d03d5db34d970b6a466", // s3.accessKeyId
    "bf8061f00bac730cb63cc24bc76f81ec26b449bf6d465075843ce0bf8100f606", // s3.secretAccessKey
    "d7d5066822b1c7f7e207809da7b825a8707012a42b989b45ed391b8b462df458", // s3Reader.accessKeyId
    "bfe8862402417bceb580c101d2b51ada929ac9ef197ec847f79900e3933093ee", // s3Reader.secretAccessKey
];

/// What a plan shows in place of an endpoint that the cloud has not given yet.
const AFTER_APPLY: &str = "known after apply";

/// The highest generation of a phase whose derived recipient is looked for.
const GENERATIONS_MAX: u32 = 16;

/// Makes each published secret of `project` a mistake, and has the others checked whenever they are
/// resolved, unless every endpoint is on this machine.
pub(crate) fn guard(stream: &mut Stream, project: &mut Declared<Project>) {
    let name = project.name.to_string();
    if is_local(&project.spec.endpoints) && !has_remote_cluster(stream, &name) {
        return;
    }
    let mut mistakes = Vec::new();
    let published = recipients(&project.spec, &name);
    for (index, recipient) in project.spec.recipients.iter().enumerate() {
        if published.contains(recipient.age.as_str()) {
            let path = format!("/spec/recipients/{index}/age");
            mistakes.push((path, "the identity of this recipient".to_owned()));
        }
    }
    let keys = &project.spec.verification_keys;
    for (field, keys) in [("artifacts", &keys.artifacts), ("receipts", &keys.receipts)] {
        for (index, key) in keys.iter().enumerate() {
            if receipt::spki(key).is_some_and(|key| is_public_key(&project.spec, &name, &key)) {
                let path = format!("/spec/verificationKeys/{field}/{index}");
                mistakes.push((path, "the private half of this key".to_owned()));
            }
        }
    }
    for (path, reference) in references(&mut project.spec) {
        let inner = std::mem::replace(reference, Reference::FirstOf { first_of: Vec::new() });
        *reference = Reference::Guarded(Box::new(inner));
        if reference.can_be_resolved_twice()
            && let Err(Error::Published(what)) = reference.resolve()
        {
            mistakes.push((path.to_owned(), what));
        }
    }
    for phase in PHASES {
        if let Err(Error::Published(what)) = derive::given_phase_key(project, phase) {
            mistakes.push(("/spec/root".to_owned(), what));
        }
    }
    // They come out sorted by place; the way out is told once.
    mistakes.sort();
    for (index, (path, what)) in mistakes.iter().enumerate() {
        let help = if index + 1 == mistakes.len() { format!(": {NEW}") } else { String::new() };
        let message =
            format!("{what} is published with these programs, so anybody can use it{help}");
        stream.invalid(project, path, &message);
    }
}

/// How to get secrets that are not published.
pub(crate) const NEW: &str = "`./tasks/init NAME OWNER` creates an identity, a root and documents of \
                              your own; published secrets are for endpoints on loopback only";

/// Refuses `secret`, which was found at `what`, if it is published.
pub(crate) fn refuse(secret: &Secret, what: &Reference) -> Result<(), Error> {
    if is_published(secret) { Err(Error::Published(what.to_string())) } else { Ok(()) }
}

/// Refuses the file if a published identity opens it: then every value in it is published.
pub(crate) fn refuse_file(file: &std::path::Path) -> Result<(), Error> {
    // An unreadable file is reported when a value of it is resolved.
    let recipients = Sops::recipients(file).unwrap_or_default();
    if recipients.iter().any(|recipient| RECIPIENTS.contains(&recipient.as_str())) {
        return Err(Error::Published(format!("an identity that opens {}", file.display())));
    }
    Ok(())
}

/// Refuses `key` if it derives from a published root.
pub(crate) fn refuse_phase_key(
    project: &Declared<Project>,
    phase: &str,
    key: &[u8; 32],
) -> Result<(), Error> {
    if !is_guarded(&project.spec) {
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
    if roots().any(|root| is_root(&root) || derived(&root)) {
        return Err(Error::Published(format!("the key in {}", derive::variable(phase))));
    }
    Ok(())
}

/// Refuses `armored` if a published identity opens it.
pub(crate) fn refuse_sealed(
    project: &Project,
    identities: &Identities,
    armored: &str,
) -> Result<(), Error> {
    if is_guarded(project) && seal::open(&identities.published(&RECIPIENTS), armored).is_ok() {
        return Err(Error::Published("an identity that opens what was sealed".to_owned()));
    }
    Ok(())
}

/// Whether [`guard`] has found an endpoint on another machine.
fn is_guarded(project: &Project) -> bool {
    matches!(project.root, Reference::Guarded(_))
}

fn roots() -> impl Iterator<Item = RootKey> {
    ROOTS.into_iter().filter_map(|text| RootKey::parse(&Secret::new(text.into())).ok())
}

/// The generations of a phase that may have been in use.
fn generations(project: &Project) -> std::ops::RangeInclusive<u32> {
    1..=project.generations.values().copied().max().unwrap_or(1).clamp(1, GENERATIONS_MAX)
}

/// Whether the identity of `recipient` is published.
pub(crate) fn is_recipient(recipient: &str) -> bool {
    RECIPIENTS.contains(&recipient) || {
        let derived = roots().flat_map(|root| {
            let names = PROJECTS.into_iter();
            names.flat_map(move |name| {
                PHASES.map(|phase| seal::derived_recipient(&root.derive(name, phase, 1), name))
            })
        });
        derived.into_iter().any(|derived| derived.as_str() == recipient)
    }
}

/// Every recipient whose identity is published, or derives from a published root.
fn recipients(project: &Project, name: &str) -> BTreeSet<String> {
    let mut recipients: BTreeSet<_> = RECIPIENTS.map(str::to_owned).into();
    for root in roots() {
        for name in PROJECTS.into_iter().chain([name]) {
            for phase in PHASES {
                for generation in generations(project) {
                    let key = root.derive(name, phase, generation);
                    recipients.extend(generations(project).map(|generation| {
                        seal::derived_recipient(&key.at(seal::RECIPIENT, generation), name)
                            .to_string()
                    }));
                }
            }
        }
    }
    recipients
}

/// The public keys of artifacts and of receipts that derive from `root`, in DER. Both items, and both
/// phases, are in the same generation.
pub(crate) fn public_keys(
    root: &RootKey,
    name: &str,
    generation: u32,
) -> Result<[Vec<u8>; 2], Error> {
    let wrong = || Error::from(std::io::Error::other("a public key cannot be written"));
    let artifacts = root.derive(name, "artifact-attest", generation).p256(name, "signing");
    let artifacts = p256::PublicKey::from(artifacts.verifying_key());
    let artifacts = artifacts.to_public_key_der().map_err(|_| wrong())?;
    let receipts = root.derive(name, "data-drain", generation);
    let receipts = receipt::ReceiptKey::of(&receipts, name).pem();
    Ok([artifacts.as_bytes().to_vec(), receipt::spki(&receipts).ok_or_else(wrong)?])
}

/// Whether `key`, in DER, derives from a published root.
fn is_public_key(project: &Project, name: &str, key: &[u8]) -> bool {
    roots().any(|root| {
        PROJECTS.into_iter().chain([name]).any(|name| {
            generations(project).any(|generation| {
                public_keys(&root, name, generation)
                    .is_ok_and(|keys| keys.iter().any(|published| published == key))
            })
        })
    })
}

/// Whether `secret` is a published value, contains one, or is a published root in another notation.
fn is_published(secret: &Secret) -> bool {
    let is_value = |text: &str| {
        let digest = HEXLOWER.encode(&Sha256::digest(text));
        VALUES.contains(&digest.as_str())
    };
    let is_identity = |text: &str| {
        let identities = Identities::parse(&Secret::new(text.as_bytes().to_vec()));
        identities.is_ok_and(|identities| identities.published(&RECIPIENTS).places().is_some())
    };
    let root = RootKey::parse(secret);
    if root.is_ok_and(|root| roots().any(|published| published.expose() == root.expose())) {
        return true;
    }
    let Ok(text) = std::str::from_utf8(secret.expose()) else { return false };
    let mut texts: Vec<&str> = text.split_whitespace().collect();
    texts.push(text.trim());
    let json = serde_json::from_str::<Value>(text).ok();
    texts.extend(json.iter().flat_map(leaves));
    texts.iter().any(|text| is_value(text) || is_identity(text))
}

/// Every string in `value`.
fn leaves(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(leaves).collect(),
        Value::Object(entries) => entries.values().flat_map(leaves).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

/// Whether every endpoint is on this machine.
fn is_local(endpoints: &Endpoints) -> bool {
    // Destructured, so that a new endpoint does not compile before it is listed here.
    let Endpoints { forge, registry, cloud, store, flux, nix: _ } = endpoints;
    let forge = forge.as_ref().map(|(Forge::Github { url, .. } | Forge::Gitea { url, .. })| url);
    let cloud = cloud.as_ref().map(|Cloud::Hetzner { url, .. }| url);
    let store = store.as_ref().map(|Store::S3 { url, .. }| url);
    let images = [registry, flux].map(|registry| registry.as_ref().map(|registry| &registry.url));
    [forge, cloud, store].into_iter().chain(images).flatten().all(Url::is_loopback)
}

/// Whether a Cluster of the project called `name` has an API server on another machine.
fn has_remote_cluster(stream: &Stream, name: &str) -> bool {
    let is_ours = |document: &&Value| {
        let version = document["apiVersion"].as_str().unwrap_or_default();
        version.starts_with("holistic/")
            && document["kind"] == "Cluster"
            && document["spec"]["project"] == name
    };
    let endpoints = stream.documents().filter(is_ours);
    let mut endpoints =
        endpoints.filter_map(|document| document.pointer("/status/observed/endpoint")?.as_str());
    endpoints.any(|endpoint| {
        let address = endpoint.rsplit_once("://").map_or(endpoint, |(_, address)| address);
        let url = Url::try_from(format!("https://{address}"));
        endpoint != AFTER_APPLY && !url.is_ok_and(|url| url.is_loopback())
    })
}

/// Every reference of `project`, and its JSON pointer.
fn references(project: &mut Project) -> Vec<(&'static str, &mut Reference)> {
    let Endpoints { forge, registry, cloud, store, flux, nix: _ } = &mut project.endpoints;
    let mut references = vec![("/spec/root", &mut project.root)];
    match forge {
        Some(Forge::Github { token, url: _ }) => {
            references.push(("/spec/endpoints/forge/github/token", token));
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
        if let Some(Registry { token, reader, url: _, user: _ }) = registry {
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
    references
}

#[cfg(test)]
mod tests;
