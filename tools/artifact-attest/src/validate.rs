//! What the documents say together: which registry, which key, which source; and what is wrong
//! with them that no type can tell.

use std::collections::BTreeMap;
use std::rc::Rc;

use documents::{Context, Declared, Deferred, Derived, Stream};
use keyring::{Endpoints, Forge, PhaseKey, Project, Projects, Reference, Url};

use crate::Error;
use crate::bundle::{Public, Signing};
use crate::containment::{self, Containment};
use crate::http::Login;
use crate::memory::Memory;
use crate::nix::Built;
use crate::oci::Digest;
use crate::plan::{Publication, Wanted};
use crate::registry::Reader;
use crate::source::{self, Source};
use crate::spec::{Artifact, Build, Image, Manifests, Observed, Repository, SourceCheck};
use crate::statement::{self, Identity};
use crate::writer::Writer;
use crate::{manifests, nix, observe, tree};

/// The name under which the key of this program is derived.
const PHASE: &str = "artifact-attest";
/// What the key is for.
const SIGNING: &str = "signing";
/// How many rotations back `destroy` still knows what was ours.
const RETIRED_MAX: u32 = 8;

/// Which of the two an artifact is.
pub(crate) enum Shape<'a> {
    Image(&'a Build, &'a Image),
    Manifests(&'a Manifests),
}

impl<'a> Shape<'a> {
    /// None for a document that is neither or both.
    pub(crate) fn of(spec: &'a Artifact) -> Option<Self> {
        match spec {
            Artifact { build: Some(build), image: Some(image), manifests: None, .. } => {
                Some(Self::Image(build, image))
            }
            Artifact { build: None, image: None, rebuild: None, manifests: Some(it), .. } => {
                Some(Self::Manifests(it))
            }
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

/// What is wrong with `document` that its types cannot tell, by path.
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
                "the path of that Project's `endpoints.registry.url` has capital letters, which no name in a registry has: write it in lower case",
            );
        }
        if source_url(stream, project, document).is_none() {
            mistake(
                "/spec",
                "nothing says where others fetch the source from: give `source`, or put the project's Repository, and its `endpoints.forge`, into the stream",
            );
        }
    }
    let folder = "not a folder: paths begin where the program runs, at the root of the repository";
    match Shape::of(&document.spec) {
        None => {
            mistake("/spec", "an Artifact has either `build` and `image`, or `manifests` alone");
        }
        Some(Shape::Image(build, image)) => {
            if !build.flake.is_dir() {
                mistake("/spec/build/flake", folder);
            }
            if image.entrypoint.is_empty() {
                mistake("/spec/image/entrypoint", "nothing would run");
            }
            let number = |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
            if !image.user.split(':').all(number) || image.user.split(':').count() > 2 {
                mistake("/spec/image/user", "not the number of a user, or of a user:group");
            }
            if !(1..=86_400).contains(&build.timeout_seconds) {
                mistake("/spec/build/timeoutSeconds", "from one second to one day: 1 to 86400");
            }
        }
        Some(Shape::Manifests(declared)) if declared.path.is_dir() => {
            let tree = source::shown(document.name.as_str(), &declared.path);
            match tree.map(|tree| tree::published(&tree)) {
                Ok(Ok(files)) if !files.keys().any(|path| tree::is_yaml(path)) => {
                    mistake("/spec/manifests/path", "no *.yaml is in it");
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

/// Where others fetch the source from: as declared, or where the project's repository is.
fn source_url(
    stream: &Stream,
    project: &Declared<Project>,
    document: &Declared<Artifact>,
) -> Option<String> {
    if let Some(url) = &document.spec.source {
        return Some(url.as_str().to_owned());
    }
    let mut repositories = stream.documents().filter(|it| {
        let version = it["apiVersion"].as_str().unwrap_or_default();
        version.starts_with("holistic/")
            && it["kind"] == "Repository"
            && it["spec"]["project"] == project.name.as_str()
    });
    let (repository, none) = (repositories.next()?, repositories.next());
    let owner = repository["spec"]["owner"].as_str()?;
    let name = repository["metadata"]["name"].as_str()?;
    let forge = project.spec.endpoints.forge.as_ref()?;
    none.is_none().then(|| format!("{}/{owner}/{name}", site(forge)))
}

/// The site that people see, from the address of its API.
fn site(forge: &Forge) -> String {
    let (Forge::Github { url, .. } | Forge::Gitea { url, .. }) = forge;
    match url.as_str() {
        "https://api.github.com" => "https://github.com".to_owned(),
        other => {
            let site = ["/api/v3", "/api/v1"].iter().find_map(|it| other.strip_suffix(it));
            site.unwrap_or(other).to_owned()
        }
    }
}

/// The keys that verify a project's artifacts.
pub(crate) struct Keys {
    /// The key that signs now.
    pub(crate) current: Public,
    /// Keys that signed before a rotation: what they signed is ours to remove, and no more.
    retired: Vec<Public>,
}

/// What one document is observed with. Nothing in it can sign.
pub(crate) struct Work {
    url: Url,
    repository: String,
    login: Option<Rc<Login>>,
    pub(crate) keys: Keys,
    pub(crate) identity: Identity,
    /// What else a provenance of this document names, in any of its versions.
    what: Vec<(&'static str, String)>,
    /// The project's own forge: its address as people see it, and what lets us in.
    forge: Option<(String, Reference)>,
    /// Flake inputs to be taken from elsewhere.
    pub(crate) inputs: BTreeMap<String, String>,
}

/// What `apply` alone is given: what signs, and what this machine has built twice before.
pub(crate) struct Signer {
    pub(crate) signing: Signing,
    pub(crate) memory: Memory,
}

impl Signer {
    pub(crate) fn new(project: &Declared<Project>) -> Result<Self, Error> {
        let key = keyring::phase_key(project, PHASE)?;
        Ok(Self { signing: signing(project, &key), memory: Memory::new(key) })
    }
}

impl Keys {
    /// The keys of `project`: those that its document names, the first of which signs; or else what
    /// derives from the phase's key. Only the second needs a secret, and only it knows the keys
    /// before each rotation that the document does not name.
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

    /// The same, with those before each rotation that whoever holds the phase's key can derive. For
    /// `destroy`: what it does not know is left, and never called absent.
    pub(crate) fn with_former(mut self, project: &Declared<Project>) -> Self {
        let item = format!("{PHASE}/{SIGNING}");
        let is_rotated = project.spec.generations.get(&item).is_some_and(|count| *count > 1);
        if is_rotated && let Ok(key) = keyring::phase_key(project, PHASE) {
            self.retired.extend(before(project, &key));
        }
        self
    }
}

/// The keys before each rotation of the one that `key` derives now.
fn before(project: &Declared<Project>, key: &PhaseKey) -> Vec<Public> {
    let generation = key.generation(SIGNING);
    let oldest = generation.saturating_sub(RETIRED_MAX).max(1);
    (oldest..generation).map(|number| signing(project, &key.at(SIGNING, number)).public).collect()
}

/// The key that signs for `project`, in the generation that `key` is in.
fn signing(project: &Declared<Project>, key: &PhaseKey) -> Signing {
    Signing::new(key.p256(project.name.as_str(), SIGNING), key.generation(SIGNING))
}

/// All that derives from the root for an artifact of `project`.
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
            // With a token for a password, registries care little for the name.
            let user = registry.user.clone().unwrap_or_else(|| "holistic".to_owned());
            Ok::<_, Error>(Rc::new(Login { user, token: token.resolve()? }))
        });
        let shape = Shape::of(&document.spec);
        let name = shape.as_ref().map(|shape| shape.repository().as_str()).unwrap_or_default();
        let path = [registry.url.path(), name].into_iter().filter(|part| !part.is_empty());
        let what = match shape {
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
            what,
            forge,
            inputs: nix.as_ref().map(|nix| nix.inputs.clone()).unwrap_or_default(),
        })
    }

    /// The same, for what removes.
    pub(crate) fn with_former_keys(mut self, project: &Declared<Project>) -> Self {
        self.keys = self.keys.with_former(project);
        self
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader::new(&self.url, &self.repository, self.login.clone())
    }

    /// Only `apply` may ask for it.
    pub(crate) fn writer(&self) -> Writer {
        Writer::new(&self.url, &self.repository, self.login.clone(), "pull,push")
    }

    /// Only `destroy` may ask for it.
    pub(crate) fn remover(&self) -> Writer {
        Writer::new(&self.url, &self.repository, self.login.clone(), "pull,push,delete")
    }

    /// Everything in the repository of `context`, and which of it is this document's.
    pub(crate) fn publications(
        &self,
        context: &Context<'_, Artifact>,
        reader: &Reader,
    ) -> Result<Vec<Publication>, Error> {
        let digest = context.stream.status(context.document)["observed"]["digest"].as_str();
        let digest = digest.and_then(|text| Digest::try_from(text.to_owned()).ok());
        let Keys { current, retired } = &self.keys;
        let keys: Vec<_> = retired.iter().chain([current]).collect();
        let names = |statement: &[u8]| statement::names(statement, &self.identity, &self.what);
        observe::publications(reader, &keys, names, digest)
    }

    /// Whether `source` is in the repository from which others fetch it.
    pub(crate) fn containment(&self, source: &Source) -> Result<Containment, Error> {
        let url = &self.identity.source;
        // The forge's token is for the forge alone.
        let forge = self.forge.as_ref().filter(|(site, _)| {
            url.strip_prefix(site.as_str()).is_some_and(|rest| rest.starts_with('/'))
        });
        // Without it the source may still be public, or known from a fetch.
        let token = forge.and_then(|(_, token)| token.resolve().ok());
        let token = token.and_then(|token| Some((Url::try_from(url.clone()).ok()?, token)));
        containment::look(source, url, token.as_ref())
    }

    /// Refuses a commit that nobody else could fetch.
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

    /// The facts of what is, or will be, published.
    pub(crate) fn observed(&self, wanted: &Wanted, built: &Built) -> Observed {
        let digest = wanted.digest.clone();
        let reference = |it: &Digest| format!("{}/{}@{it}", self.url.host(), self.repository);
        let reference = Deferred::from(digest.value().map(reference));
        let plain = "--allow-http-registry --allow-insecure-registry ";
        let plain = if self.url.is_plain() { plain } else { "" };
        let command = |it: &String| {
            format!("cosign verify --key cosign.pub --insecure-ignore-tlog {plain}{it}")
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
