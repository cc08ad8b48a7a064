//! The document that all programs read and none owns.

use std::collections::BTreeMap;

use documents::{Declared, Kind, Name, Stream};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::derive::parse_artifact_key;
use crate::{AgeRecipient, Error, ReceiptKey, Reference, Secret, Url, published};

/// The names under which keys derive from the root: one per program, and [`READER`].
pub(crate) const PHASES: [&str; 6] =
    ["vcs-bootstrap", "artifact-attest", "talos-provision", "flux-seed", "data-drain", READER];

/// The key of a caller that only reads, for example a workflow of pull requests. Only an age identity
/// derives from it, which opens what is sealed for readers.
pub const READER: &str = "reader";

/// What all phases of a project have in common.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Project {
    /// The one secret that nothing can derive: 32 bytes, as base64, as hex, or as they are.
    pub root: Reference,
    /// Who can open what is sealed: people and CI.
    pub recipients: Vec<Recipient>,
    /// Bump one to rotate one: `<phase>` or `<phase>/<item>`. Every other is in generation 1.
    #[serde(default)]
    pub generations: BTreeMap<String, u32>,
    /// Public keys that verify what the programs sign, so that whoever checks cannot sign. Without
    /// them, a check derives the keys and needs the root or a phase's key.
    #[serde(default)]
    pub verification_keys: VerificationKeys,
    /// Where the remotes are.
    #[serde(default)]
    pub endpoints: Endpoints,
}

/// Public keys in PEM, as `PROGRAM derive` writes them, or the Base64 body of one on a single line.
/// Several are accepted during a rotation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VerificationKeys {
    /// Keys of artifact-attest's signatures (ECDSA P-256): `artifact-attest/NAME/signing.pub`.
    #[serde(default)]
    pub artifacts: Vec<String>,
    /// Keys of data-drain's receipts (Ed25519): `data-drain/NAME/receipt.pub`.
    #[serde(default)]
    pub receipts: Vec<String>,
}

impl Kind for Project {
    const KIND: &'static str = "Project";
    type Observed = ();
    type Evidence = ();
    type Step = ();
}

/// Access that a sealed credential gives, or that a recipient is trusted with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Access {
    /// Opens only credentials that read: `readerKubeconfig` and `readerTalosconfig` of a Cluster.
    Reader,
    /// Opens every sealed credential.
    #[default]
    Administrator,
}

/// A person or a job that can open sealed credentials.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Named")]
pub struct Recipient {
    /// Name of the recipient, for people and for the documents that refer to the recipient.
    pub name: Name,
    /// Public half of the recipient's age identity, as `age-keygen -y` prints it.
    pub age: AgeRecipient,
    /// Credentials that the recipient can open (default `administrator`: all of them).
    pub access: Access,
}

/// A person or a job that can open sealed credentials.
// The key is read in a second step, so that an error names the recipient and never quotes the key.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object with `name`, `age` and optionally `access`")]
struct Named {
    /// Name of the recipient, for people and for the documents that refer to the recipient.
    name: Name,
    /// Public half of the recipient's age identity, as `age-keygen -y` prints it.
    #[schemars(with = "AgeRecipient")]
    age: Value,
    /// Credentials that the recipient can open (default `administrator`: all of them).
    #[serde(default)]
    access: Access,
}

impl TryFrom<Named> for Recipient {
    type Error = String;

    fn try_from(Named { name, age, access }: Named) -> Result<Self, String> {
        let age = age.as_str().unwrap_or_default().to_owned();
        let age = AgeRecipient::try_from(age).map_err(|why| format!("`age` of {name} is {why}"))?;
        Ok(Self { name, age, access })
    }
}

/// Where the remotes are, and with what they let us in.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Endpoints {
    /// Where repositories are.
    pub forge: Option<Forge>,
    /// Where artifacts are published.
    pub registry: Option<Registry>,
    /// Where machines are.
    pub cloud: Option<Cloud>,
    /// Where drained data is kept.
    pub store: Option<Store>,
    /// Where the images of Flux's controllers are: `https://ghcr.io/fluxcd`.
    pub flux: Option<Registry>,
    /// How Nix builds here.
    pub nix: Option<Nix>,
}

/// A forge.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Forge {
    /// GitHub.
    Github {
        /// Of its API: `https://api.github.com`.
        url: Url,
        /// An API token.
        token: Reference,
    },
    /// Gitea or Forgejo.
    Gitea {
        /// Of the instance, without `/api/v1`.
        url: Url,
        /// An API token.
        token: Reference,
    },
}

/// An OCI registry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Registry {
    /// With what stands before every repository: `https://ghcr.io/zabronax`.
    pub url: Url,
    /// To whom the token belongs, where that matters.
    pub user: Option<String>,
    /// What lets us push; without one, whatever it lets anybody do.
    pub token: Option<Reference>,
    /// What lets a cluster pull, and do no more; without one, the token is what it gets.
    pub reader: Option<Reference>,
}

/// A cloud.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Cloud {
    /// Hetzner Cloud.
    Hetzner {
        /// Of its API: `https://api.hetzner.cloud/v1`.
        url: Url,
        /// An API token that may write.
        token: Reference,
        /// A token with the permission "Read", which `plan` and `verify` use (default: `token`).
        #[serde(default)]
        reader: Option<Reference>,
    },
}

/// An object store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Store {
    /// Any that speaks S3.
    S3 {
        /// Without the bucket.
        url: Url,
        /// With which requests are signed.
        region: String,
        /// Where everything goes.
        bucket: String,
        /// A map, or JSON text, with `accessKeyId` and `secretAccessKey`.
        credentials: Reference,
        /// The same, of somebody who may only read: what proves that the copies are there.
        #[serde(default)]
        reader: Option<Reference>,
    },
}

/// How Nix builds here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Nix {
    /// Flake inputs to take from elsewhere: `nixpkgs: path:/…`.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
}

/// What signs requests to an S3 store.
#[derive(Clone, Debug)]
pub struct S3Credentials {
    /// The public half.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: Secret,
}

impl S3Credentials {
    /// Resolves `reference` and reads `{"accessKeyId": …, "secretAccessKey": …}` there.
    ///
    /// # Errors
    ///
    /// It cannot be resolved, or is something else.
    pub fn resolve(reference: &Reference) -> Result<Self, Error> {
        let wrong = || Error::NotCredentials(reference.to_string());
        let secret = reference.resolve()?;
        let mut value: Value = serde_json::from_slice(secret.expose()).map_err(|_| wrong())?;
        let mut take = |name: &str| match value.get_mut(name).map(Value::take) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            _ => Err(wrong()),
        };
        let access_key_id = take("accessKeyId")?;
        let secret_access_key = Secret::new(take("secretAccessKey")?.into_bytes());
        Ok(Self { access_key_id, secret_access_key })
    }
}

/// Every project that came in.
#[derive(Debug)]
pub struct Projects(Vec<Declared<Project>>);

impl Projects {
    /// Reads the projects of `stream`; what is wrong with them is kept for its `accept`. A project
    /// with an endpoint on another machine must use no published secret.
    pub fn read(stream: &mut Stream) -> Self {
        let Self(mut projects) = Self::read_for_lab(stream);
        for project in &mut projects {
            published::guard(stream, project);
        }
        Self(projects)
    }

    /// Reads the projects of `stream` whatever their secrets are: the lab replaces every endpoint
    /// before a program uses a secret.
    pub fn read_for_lab(stream: &mut Stream) -> Self {
        let projects = stream.documents_of::<Project>();
        for project in &projects {
            for (path, message) in mistakes(&project.spec) {
                stream.invalid(project, &path, &message);
            }
        }
        Self(projects)
    }

    /// The one called `name`.
    ///
    /// # Errors
    ///
    /// [`Error::NoProject`].
    pub fn get(&self, name: impl AsRef<str>) -> Result<&Declared<Project>, Error> {
        let name = name.as_ref();
        let found = self.0.iter().find(|it| it.name.as_str() == name);
        found.ok_or_else(|| Error::NoProject(name.to_owned()))
    }
}

/// What the types cannot say: where, and what is wrong.
fn mistakes(project: &Project) -> Vec<(String, String)> {
    let mut mistakes = Vec::new();
    let mut mistake = |path: String, message: &str| mistakes.push((path, message.to_owned()));
    if !project.recipients.iter().any(|recipient| recipient.access == Access::Administrator) {
        let message = "nobody could open what is sealed: name at least one recipient with the access \
                       `administrator`, which is the default";
        mistake("/spec/recipients".to_owned(), message);
    }
    for (index, recipient) in project.recipients.iter().enumerate() {
        if project.recipients[..index].iter().any(|it| it.name == recipient.name) {
            mistake(format!("/spec/recipients/{index}/name"), "another recipient has this name");
        }
    }
    let keys = &project.verification_keys;
    for (index, pem) in keys.receipts.iter().enumerate() {
        if let Err(why) = ReceiptKey::parse(pem) {
            mistake(format!("/spec/verificationKeys/receipts/{index}"), why);
        }
    }
    for (index, pem) in keys.artifacts.iter().enumerate() {
        if parse_artifact_key(pem).is_none() {
            let why = "not a P-256 public key in PEM (RFC 5480)";
            mistake(format!("/spec/verificationKeys/artifacts/{index}"), why);
        }
    }
    for (key, generation) in &project.generations {
        let path = format!("/spec/generations/{}", key.replace('~', "~0").replace('/', "~1"));
        let (phase, item) = key.split_once('/').map_or((&**key, None), |it| (it.0, Some(it.1)));
        if !PHASES.contains(&phase) || item.is_some_and(str::is_empty) {
            let message = format!(
                "nothing would rotate: write <phase> or <phase>/<item>, where a phase is one of {}",
                PHASES.join(", ")
            );
            mistake(path, &message);
        } else if *generation == 0 {
            mistake(path, "generations begin with 1");
        }
    }
    mistakes
}
