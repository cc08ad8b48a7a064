//! Validates what the types cannot express, and resolves the registry, the keys and the source of
//! one document.

use std::collections::BTreeMap;
use std::rc::Rc;

use documents::{Context, Declared, Deferred, Derived, Stream};
use keyring::{Endpoints, Forge, PhaseKey, Project, Projects, Reference, Url};

use crate::Error;
use crate::bundle::{Public, Signing};
use crate::containment::{self, Containment};
use crate::http::Login;
use crate::nix::BuildResult;
use crate::oci::Digest;
use crate::plan::{Publication, Wanted};
use crate::rebuild_cache::RebuildCache;
use crate::registry::Reader;
use crate::source::{self, Source};
use crate::spec::{Artifact, Build, Image, Manifests, Observed, Repository, SourceCheck};
use crate::statement::{self, Identity};
use crate::writer::Writer;
use crate::{manifests, nix, observe, tree};

/// Name of this program in the derivation of its keys.
const PHASE: &str = "artifact-attest";
/// Purpose of the derived key.
const SIGNING: &str = "signing";
/// Number of former key generations that `destroy` derives. Eight bounds the work per manifest.
const RETIRED_MAX: u32 = 8;

/// Form of an artifact: a container image, or manifests.
pub(crate) enum Shape<'a> {
    Image(&'a Build, &'a Image),
    Manifests(&'a Manifests),
}

impl<'a> Shape<'a> {
    /// Returns `None` for a document that declares neither form, or both.
    pub(crate) fn of(spec: &'a Artifact) -> Option<Self> {
        match spec {
            Artifact { build: Some(build), image: Some(image), manifests: None, .. } => {
                Some(Self::Image(build, image))
            }
            Artifact {
                build: None,
                image: None,
                rebuild: None,
                manifests: Some(manifests),
                ..
            } => Some(Self::Manifests(manifests)),
            _ => None,
        }
    }

    fn repository(&self) -> &'a Repository {
        match self {
            Self::Image(_, image) => &image.repository,
            Self::Manifests(manifests) => &manifests.repository,
        }
    }
}

/// Returns every validation error of `document` as a pair of JSON path and message.
pub(crate) fn mistakes(
    stream: &Stream,
    projects: &Projects,
    document: &Declared<Artifact>,
) -> Vec<(String, String)> {
    let mut mistakes = Vec::new();
    let mut mistake =
        |path: &str, message: &str| mistakes.push((path.to_owned(), message.to_owned()));
    if let Ok(project) = projects.get(&document.spec.project) {
        if project.spec.endpoints.registry.is_none() {
            mistake("/spec/project", "that Project has no `endpoints.registry` to publish to");
        }
        let path = project.spec.endpoints.registry.as_ref().map(|registry| registry.url.path());
        if path.is_some_and(|path| path.bytes().any(|byte| byte.is_ascii_uppercase())) {
            mistake(
                "/spec/project",
                "the path of that Project's `endpoints.registry.url` has capital letters, which OCI repository names exclude: write the path in lower case",
            );
        }
        if source_url(stream, project, document).is_none() {
            mistake(
                "/spec",
                "the URL of the source is unknown: give `source`, or put the project's Repository, and its `endpoints.forge`, into the stream",
            );
        }
    }
    let folder =
        "not a folder: paths are relative to the working directory, the root of the repository";
    match Shape::of(&document.spec) {
        None => {
            mistake("/spec", "an Artifact has either `build` and `image`, or `manifests` alone");
        }
        Some(Shape::Image(build, image)) => {
            if !build.flake.is_dir() {
                mistake("/spec/build/flake", folder);
            }
            if image.entrypoint.is_empty() {
                mistake("/spec/image/entrypoint", "the image needs a command to run");
            }
            let number =
                |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if !image.user.split(':').all(number) || image.user.split(':').count() > 2 {
                mistake("/spec/image/user", "not a numeric UID or UID:GID, for example 65532");
            }
            if !(1..=86_400).contains(&build.timeout_seconds) {
                mistake("/spec/build/timeoutSeconds", "the time limit is 1 to 86400 seconds");
            }
        }
        Some(Shape::Manifests(declared)) if declared.path.is_dir() => {
            let tree = source::shown(document.name.as_str(), &declared.path);
            match tree.map(|tree| tree::published(&tree)) {
                Ok(Ok(files)) if !files.keys().any(|path| tree::is_yaml(path)) => {
                    mistake("/spec/manifests/path", "the folder has no *.yaml file");
                }
                Ok(Ok(files)) => {
                    for message in manifests::mistakes(&files, &declared.images) {
                        mistake("/spec/manifests/images", &message);
                    }
                }
                Ok(Err(mistakes)) => {
                    for message in mistakes {
                        mistake("/spec/manifests/path", &message);
                    }
                }
                Err(error) => mistake("/spec/manifests/path", &error.to_string()),
            }
        }
        Some(Shape::Manifests(_)) => mistake("/spec/manifests/path", folder),
    }
    mistakes
}

/// Returns the URL from which others fetch the source: the declared one, or the address of the
/// project's repository.
fn source_url(
    stream: &Stream,
    project: &Declared<Project>,
    document: &Declared<Artifact>,
) -> Option<String> {
    if let Some(url) = &document.spec.source {
        return Some(url.as_str().to_owned());
    }
    let mut repositories = stream.documents().filter(|document| {
        let version = document["apiVersion"].as_str().unwrap_or_default();
        version.starts_with("holistic/")
            && document["kind"] == "Repository"
            && document["spec"]["project"] == project.name.as_str()
    });
    let (repository, none) = (repositories.next()?, repositories.next());
    let owner = repository["spec"]["owner"].as_str()?;
    let name = repository["metadata"]["name"].as_str()?;
    let forge = project.spec.endpoints.forge.as_ref()?;
    none.is_none().then(|| format!("{}/{owner}/{name}", site(forge)))
}

/// Returns the URL of the forge's website, derived from the URL of its API.
fn site(forge: &Forge) -> String {
    let (Forge::Github { url, .. } | Forge::Gitea { url, .. }) = forge;
    match url.as_str() {
        "https://api.github.com" => "https://github.com".to_owned(),
        other => {
            let site = ["/api/v3", "/api/v1"].iter().find_map(|suffix| other.strip_suffix(suffix));
            site.unwrap_or(other).to_owned()
        }
    }
}

/// Public keys that verify a project's artifacts.
pub(crate) struct Keys {
    /// Key that signs now.
    pub(crate) current: Public,
    /// Keys that signed before a rotation. They identify bundles that `destroy` may remove, and
    /// prove nothing else.
    retired: Vec<Public>,
}

/// Clients, public keys and identity of one document. It holds no signing key.
pub(crate) struct Work {
    url: Url,
    repository: String,
    login: Option<Rc<Login>>,
    pub(crate) keys: Keys,
    pub(crate) identity: Identity,
    /// Further parameters that every provenance of this document names, such as its system.
    parameters: Vec<(&'static str, String)>,
    /// URL of the website of the project's own forge, and the token for it.
    forge: Option<(String, Reference)>,
    /// Flake inputs that this machine overrides, by name.
    pub(crate) inputs: BTreeMap<String, String>,
}

/// Secrets of `apply`: the signing key, and the cache of completed second builds.
pub(crate) struct Signer {
    pub(crate) signing: Signing,
    pub(crate) rebuild_cache: RebuildCache,
}

impl Signer {
    pub(crate) fn new(project: &Declared<Project>) -> Result<Self, Error> {
        let key = keyring::phase_key(project, PHASE)?;
        Ok(Self { signing: signing(project, &key), rebuild_cache: RebuildCache::new(key) })
    }
}

impl Keys {
    /// Returns the keys of `project`. The document's own list wins, and its first key signs.
    /// Without a list, the keys derive from the phase's key, which needs a secret and yields the
    /// keys of former generations, too.
    pub(crate) fn of(project: &Declared<Project>) -> Result<Self, Error> {
        let item = format!("{PHASE}/{SIGNING}");
        let generation = project.spec.generations.get(&item).copied().unwrap_or(1);
        if !project.spec.verification_keys.artifacts.is_empty() {
            let named = keyring::artifact_keys(project, SIGNING)?;
            let mut keys = named.into_iter().map(|key| Public::new(key, generation));
            let current = keys.next().ok_or(Error::NoKey)?;
            return Ok(Self { current, retired: keys.collect() });
        }
        let key = keyring::phase_key(project, PHASE)?;
        let current = signing(project, &key).public;
        Ok(Self { current, retired: before(project, &key) })
    }

    /// Adds the keys of former generations, which holders of the phase's key can derive. `destroy`
    /// needs them because a bundle of an unknown key is left in place.
    pub(crate) fn with_former(mut self, project: &Declared<Project>) -> Self {
        let item = format!("{PHASE}/{SIGNING}");
        let is_rotated = project.spec.generations.get(&item).is_some_and(|count| *count > 1);
        if is_rotated && let Ok(key) = keyring::phase_key(project, PHASE) {
            self.retired.extend(before(project, &key));
        }
        self
    }
}

/// Derives the public keys of the generations before the current one.
fn before(project: &Declared<Project>, key: &PhaseKey) -> Vec<Public> {
    let generation = key.generation(SIGNING);
    let oldest = generation.saturating_sub(RETIRED_MAX).max(1);
    (oldest..generation).map(|number| signing(project, &key.at(SIGNING, number)).public).collect()
}

/// Derives the key that signs for `project` in the current generation.
fn signing(project: &Declared<Project>, key: &PhaseKey) -> Signing {
    Signing::new(key.p256(project.name.as_str(), SIGNING), key.generation(SIGNING))
}

/// Derives all secrets of one artifact of `project`.
pub(crate) fn derived(project: &Declared<Project>) -> Result<Vec<Derived>, Error> {
    let signing = signing(project, &keyring::phase_key(project, PHASE)?);
    let public = signing.public.pem().into_bytes().into();
    Ok(vec![Derived::new("signing.key", signing.pem()), Derived::new("signing.pub", public)])
}

impl Work {
    pub(crate) fn new(
        stream: &Stream,
        project: &Declared<Project>,
        document: &Declared<Artifact>,
    ) -> Result<Self, Error> {
        let Endpoints { registry, nix, forge, .. } = &project.spec.endpoints;
        let registry = registry.as_ref().ok_or(Error::NoRegistry)?;
        let login = registry.token.as_ref().map(|token| {
            // Registries ignore the user name when the password is a token.
            let user = registry.user.clone().unwrap_or_else(|| "holistic".to_owned());
            Ok::<_, Error>(Rc::new(Login { user, token: token.resolve()? }))
        });
        let shape = Shape::of(&document.spec);
        let name = shape.as_ref().map(|shape| shape.repository().as_str()).unwrap_or_default();
        let path = [registry.url.path(), name].into_iter().filter(|part| !part.is_empty());
        let parameters = match shape {
            Some(Shape::Image(build, _)) => vec![
                ("attr", format!("#{}", build.attribute.as_str())),
                ("system", build.system.nix().to_owned()),
            ],
            _ => Vec::new(),
        };
        let identity = Identity {
            project: project.name.to_string(),
            document: document.name.to_string(),
            source: source_url(stream, project, document).unwrap_or_default(),
            is_source_checked: document.spec.source_check.unwrap_or_default()
                == SourceCheck::Required,
        };
        let forge = forge.as_ref().map(|forge| {
            let (Forge::Github { token, .. } | Forge::Gitea { token, .. }) = forge;
            (site(forge), token.clone())
        });
        Ok(Self {
            url: registry.url.clone(),
            repository: path.collect::<Vec<_>>().join("/"),
            login: login.transpose()?,
            keys: Keys::of(project)?,
            identity,
            parameters,
            forge,
            inputs: nix.as_ref().map(|nix| nix.inputs.clone()).unwrap_or_default(),
        })
    }

    /// Adds the keys of former generations, for `destroy`.
    pub(crate) fn with_former_keys(mut self, project: &Declared<Project>) -> Self {
        self.keys = self.keys.with_former(project);
        self
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader::new(&self.url, &self.repository, self.login.clone())
    }

    /// Returns a writer without the permission to delete. Only `apply` calls this.
    pub(crate) fn writer(&self) -> Writer {
        Writer::new(&self.url, &self.repository, self.login.clone(), "pull,push")
    }

    /// Returns a writer that may delete. Only `destroy` calls this.
    pub(crate) fn remover(&self) -> Writer {
        Writer::new(&self.url, &self.repository, self.login.clone(), "pull,push,delete")
    }

    /// Returns every publication in the repository, with its owner.
    pub(crate) fn publications(
        &self,
        context: &Context<'_, Artifact>,
        reader: &Reader,
    ) -> Result<Vec<Publication>, Error> {
        let digest = context.stream.status(context.document)["observed"]["digest"].as_str();
        let digest = digest.and_then(|text| Digest::try_from(text.to_owned()).ok());
        let Keys { current, retired } = &self.keys;
        let keys: Vec<_> = retired.iter().chain([current]).collect();
        let names =
            |statement: &[u8]| statement::names(statement, &self.identity, &self.parameters);
        observe::publications(reader, &keys, names, digest)
    }

    /// Checks whether the source's repository contains the commit.
    pub(crate) fn containment(&self, source: &Source) -> Result<Containment, Error> {
        let url = &self.identity.source;
        // The forge's token is sent to the forge alone.
        let forge = self.forge.as_ref().filter(|(site, _)| {
            url.strip_prefix(site.as_str()).is_some_and(|rest| rest.starts_with('/'))
        });
        // Without a token, the source may still be public, or an earlier fetch may have its
        // branches.
        let token = forge.and_then(|(_, token)| token.resolve().ok());
        let token = token.and_then(|token| Some((Url::try_from(url.clone()).ok()?, token)));
        containment::check(source, url, token.as_ref())
    }

    /// Fails when others cannot fetch the commit.
    pub(crate) fn require_contained(&self, source: &Source) -> Result<(), Error> {
        if !self.identity.is_source_checked {
            return Ok(());
        }
        let (rev, url) = (source.rev.clone(), self.identity.source.clone());
        match self.containment(source)? {
            Containment::Contained => Ok(()),
            Containment::Missing => Err(Error::NotInSource { rev, url }),
            Containment::Unknown { said, is_unreachable } => {
                Err(Error::SourceUnknown { rev, url, said, is_unreachable })
            }
        }
    }

    /// Returns the facts about the artifact that is, or will be, published.
    pub(crate) fn observed(&self, wanted: &Wanted, built: &BuildResult) -> Observed {
        let digest = wanted.digest.clone();
        let reference =
            |digest: &Digest| format!("{}/{}@{digest}", self.url.host(), self.repository);
        let reference = Deferred::from(digest.value().map(reference));
        let plain = "--allow-http-registry --allow-insecure-registry ";
        let plain = if self.url.is_plain() { plain } else { "" };
        let command = |reference: &String| {
            format!("cosign verify --key cosign.pub --insecure-ignore-tlog {plain}{reference}")
        };
        let was_built = !built.nar_sha256.is_empty();
        Observed {
            digest,
            tag: wanted.tag.clone(),
            nar_hash: nix::sri(&built.nar_sha256).filter(|_| was_built),
            reproducible: (was_built && built.rebuilt).then_some(true),
            public_key: self.keys.current.pem(),
            verify_with: Deferred::from(reference.value().map(command)),
            reference,
        }
    }
}
