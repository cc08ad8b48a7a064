//! What the documents say together: which registry, which key, which source; and what is wrong
//! with them that no type can tell.

use std::collections::BTreeMap;
use std::rc::Rc;

use keyring::{Endpoints, Forge, PhaseKey, Project, Projects, Url};
use phase::{Declared, Derived, Job, Known, Stream};

use crate::Error;
use crate::bundle::{Public, Signing};
use crate::http::Login;
use crate::memory::Memory;
use crate::oci::Digest;
use crate::plan::{Publication, Wanted};
use crate::registry::{Reader, Writer};
use crate::spec::{Artifact, Build, Image, Manifests, Observed, Repository};
use crate::statement::Built;
use crate::{manifests, nix, observe, source};

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

/// What is wrong with `own` that its types cannot tell, by path.
pub(crate) fn mistakes(
    stream: &Stream,
    projects: &Projects,
    own: &Declared<Artifact>,
) -> Vec<(String, String)> {
    let mut mistakes = Vec::new();
    let mut mistake =
        |path: &str, message: &str| mistakes.push((path.to_owned(), message.to_owned()));
    if let Ok(project) = projects.get(&own.spec.project) {
        if project.spec.endpoints.registry.is_none() {
            mistake("/spec/project", "that Project has no `endpoints.registry` to publish to");
        }
        if source_url(stream, project, own).is_none() {
            mistake(
                "/spec",
                "nothing says where others fetch the source from: give `source`, or put the project's Repository, and its `endpoints.forge`, into the stream",
            );
        }
    }
    let folder = "not a folder: paths begin where the program runs, at the root of the repository";
    match Shape::of(&own.spec) {
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
            match source::worktree(own.name.as_str(), &declared.path) {
                Ok(files) if files.is_empty() => {
                    mistake("/spec/manifests/path", "no *.yaml is in it");
                }
                Ok(files) => {
                    for message in manifests::mistakes(&files, &declared.images) {
                        mistake("/spec/manifests/images", &message);
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
    own: &Declared<Artifact>,
) -> Option<String> {
    if let Some(url) = &own.spec.source {
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

/// What one document is worked on with.
pub(crate) struct Work {
    url: Url,
    repository: String,
    login: Option<Rc<Login>>,
    pub(crate) signing: Signing,
    /// What was built twice before.
    pub(crate) memory: Memory,
    /// What verified before the key was rotated: what it signed is ours to remove, and no more.
    retired: Vec<Public>,
    /// Where others fetch the source from.
    pub(crate) source: String,
    /// Flake inputs to be taken from elsewhere.
    pub(crate) inputs: BTreeMap<String, String>,
}

/// Who signs for `project`, in the generation that `key` is in.
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
        projects: &Projects,
        own: &Declared<Artifact>,
    ) -> Result<Self, Error> {
        let project = projects.get(&own.spec.project)?;
        let Endpoints { registry, nix, .. } = &project.spec.endpoints;
        let registry = registry.as_ref().ok_or(Error::NoRegistry)?;
        let key = keyring::phase_key(project, PHASE)?;
        let generation = key.generation(SIGNING);
        let of = |generation| signing(project, &key.at(SIGNING, generation));
        let oldest = generation.saturating_sub(RETIRED_MAX).max(1);
        let login = registry.token.as_ref().map(|token| {
            // With a token for a password, registries care little for the name.
            let user = registry.user.clone().unwrap_or_else(|| "holistic".to_owned());
            Ok::<_, Error>(Rc::new(Login { user, token: token.resolve()? }))
        });
        let shape = Shape::of(&own.spec).map(|it| it.repository().as_str()).unwrap_or_default();
        let path = [registry.url.path(), shape].into_iter().filter(|it| !it.is_empty());
        Ok(Self {
            url: registry.url.clone(),
            repository: path.collect::<Vec<_>>().join("/"),
            login: login.transpose()?,
            signing: of(generation),
            retired: (oldest..generation).map(|it| of(it).public).collect(),
            source: source_url(stream, project, own).unwrap_or_default(),
            inputs: nix.as_ref().map(|it| it.inputs.clone()).unwrap_or_default(),
            memory: Memory::new(key),
        })
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader::new(&self.url, &self.repository, self.login.clone())
    }

    /// Only `apply` and `destroy` may ask for it.
    pub(crate) fn writer(&self) -> Writer {
        Writer::new(&self.url, &self.repository, self.login.clone())
    }

    /// All that may be ours in the repository of `job`.
    pub(crate) fn publications(&self, job: &Job<'_, Artifact>) -> Result<Vec<Publication>, Error> {
        let digest = job.stream.status(job.own)["observed"]["digest"].as_str();
        let digest = digest.and_then(|it| Digest::try_from(it.to_owned()).ok());
        let keys: Vec<_> = self.retired.iter().chain([&self.signing.public]).collect();
        observe::publications(&self.reader(), &keys, digest)
    }

    /// The facts of what is, or will be, published.
    pub(crate) fn observed(&self, wanted: &Wanted, built: &Built) -> Observed {
        let digest = wanted.digest.clone();
        let reference = |it: &Digest| format!("{}/{}@{it}", self.url.host(), self.repository);
        let reference = Known::from(digest.now().map(reference));
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
            public_key: self.signing.public.pem(),
            verify_with: Known::from(reference.now().map(command)),
            reference,
        }
    }
}
