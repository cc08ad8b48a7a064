//! One document with its references resolved, and the clients of its registry.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ::git::Url;
use ::remote::authorities_of;
use ::remote::registry::{Error as RegistryError, Login, Registry, Repository, default_user};
use contract::facts::{self, ArtifactFacts, Facts as _, ImageFacts};
use contract::{Endpoints, Forge, Project, Projects};
use documents::{Context, Declared, Intent, WritePermit};
use secrets::Reference;

use crate::Error;
use crate::binary_cache::BinaryCache;
use crate::build_plan::BuildPlan;
use crate::clients::registry::writer::{self, DELETE, PUSH, Writer};
use crate::clients::registry::{Known, PULL, Reader};
use crate::containment::{self, Containment};
use crate::desired::{self, CachedPath, Shape};
use crate::keys::{Keys, Signer};
use crate::legacy;
use crate::nix::{BuildResult, Nix};
use crate::object_cache::ObjectCache;
use crate::observe::{self, Observation, Published};
use crate::oci::{Digest, Package};
use crate::plan::Publication;
use crate::spec::{Artifact, SourceCheck};
use crate::statement::{self, Identity};

/// A document, its public keys and identity, and readers of its registry.
pub(crate) struct Session<'a> {
    pub(crate) context: Context<'a, Artifact>,
    intent: Intent,
    /// URL of the registry, with a path in front of every repository.
    pub(crate) url: Url,
    /// Path of the repository in the registry, for example `zabronax/greeter`.
    pub(crate) repository: String,
    registry: Registry,
    /// Client of the repository, whose token all readers and writers share.
    client: RefCell<Repository>,
    /// Whether reads are denied, although the login may write.
    is_hidden: Cell<bool>,
    cache: ObjectCache,
    /// Properties of the registry that its responses have shown, which all readers share.
    known: Arc<Known>,
    /// Whether this run may have changed the repository, so that it looks at the registry itself.
    has_written: Cell<bool>,
    pub(crate) keys: Keys,
    identity: Identity,
    /// Further parameters that every provenance of this document names, such as its system.
    parameters: Vec<(&'static str, String)>,
    /// URL of the website of the project's own forge, and the token for it.
    forge: Option<(String, Reference)>,
    /// Flake inputs that this machine overrides, by name.
    inputs: BTreeMap<String, String>,
    /// Binary cache, if the document declares that its result is copied there.
    pub(crate) binary_cache: Option<BinaryCache>,
    /// Source and build of the artifact; `None` for a removal, and for a plan that waits for the
    /// reference of another document.
    pub(crate) build_plan: Option<BuildPlan>,
    /// Secrets of `apply`; `None` for every other verb.
    signer: Option<Signer>,
}

impl<'a> Session<'a> {
    pub(crate) fn open(
        projects: &Projects,
        context: &Context<'a, Artifact>,
        intent: Intent,
    ) -> Result<Self, Error> {
        let project = projects.get(&context.document.spec.project)?;
        let mut session = Self::connect(project, context, intent)?;
        if intent.is_removal() {
            session.keys = session.keys.with_former(project);
            return Ok(session);
        }
        if intent == Intent::Apply {
            session.signer = Some(Signer::new(project, &session.keys)?);
        }
        session.build_plan = match session.resolve() {
            // The reference is known after the other document has been applied.
            Err(Error::Stream(documents::Error::NotReady { .. })) if intent == Intent::Plan => None,
            build_plan => Some(build_plan?),
        };
        Ok(session)
    }

    fn connect(
        project: &Declared<Project>,
        context: &Context<'a, Artifact>,
        intent: Intent,
    ) -> Result<Self, Error> {
        let Context { document, stream } = *context;
        let Endpoints { registry, nix, forge, .. } = &project.spec.endpoints;
        let registry = registry.as_ref().ok_or(Error::NoRegistry)?;
        let login = registry.token.as_ref().map(|token| login(registry, token)).transpose()?;
        let authorities = authorities_of(registry.certificate_authority.as_deref())
            .map_err(|why| Error::NoAuthority { why })?;
        let client = Registry::of_user("artifact-attest", &registry.url, login, &authorities)
            .map_err(RegistryError::from)?;
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
            source: desired::source_url(stream, project, document).unwrap_or_default(),
            is_source_checked: document.spec.source_check.unwrap_or_default()
                == SourceCheck::Required,
        };
        let forge = forge.as_ref().map(|forge| {
            let (Forge::Github { token, .. } | Forge::Gitea { token, .. }) = forge;
            (desired::forge_site(forge), token.clone())
        });
        let repository = path.collect::<Vec<_>>().join("/");
        let has_cache = document.spec.build.as_ref().is_some_and(|build| build.cache);
        let actions = match intent {
            Intent::Apply => PUSH,
            Intent::Destroy => DELETE,
            Intent::Plan | Intent::Verify | Intent::PlanDestroy => PULL,
        };
        Ok(Self {
            context: Context { document, stream },
            intent,
            url: registry.url.clone(),
            client: RefCell::new(client.repository(&repository, actions)),
            is_hidden: Cell::new(false),
            cache: ObjectCache::new(&format!("{}/{repository}", registry.url.host())),
            known: Arc::default(),
            has_written: Cell::new(false),
            repository,
            registry: client,
            keys: Keys::of(project)?,
            identity,
            parameters,
            forge,
            inputs: nix.as_ref().map(|nix| nix.inputs.clone()).unwrap_or_default(),
            binary_cache: has_cache.then(|| BinaryCache::of(project)).flatten(),
            build_plan: None,
            signer: None,
        })
    }

    /// Finds the source, and everything that follows from it without a build.
    fn resolve(&self) -> Result<BuildPlan, Error> {
        let Context { document, stream } = self.context;
        match Shape::of(&document.spec) {
            Some(Shape::Image(build, image)) => {
                let shape = (build, image, document.spec.rebuild);
                BuildPlan::image(&self.nix(), &self.identity, shape, &document.spec.tags)
            }
            Some(Shape::Index(declared)) => {
                let images = declared.images.iter();
                let images = images.map(|name| facts::of(stream, name.as_str()));
                let images = images.collect::<Result<Vec<ImageFacts>, _>>()?;
                let flake = declared.images.iter().find_map(|name| {
                    let image = stream.document("Artifact", name.as_str())?;
                    image.pointer("/spec/build/flake")?.as_str()
                });
                let path = Path::new(flake.unwrap_or("."));
                BuildPlan::index(&self.identity, path, images, &document.spec.tags)
            }
            Some(Shape::Manifests(declared)) => {
                let mut references = BTreeMap::new();
                for image in &declared.images {
                    let reference = facts::artifact(stream, image.as_str())?.reference;
                    references.insert(image.to_string(), reference);
                }
                let key = self.keys.current.id();
                BuildPlan::manifests(
                    &self.identity,
                    &key,
                    declared,
                    references,
                    &document.spec.tags,
                )
            }
            None => Err(Error::NoShape),
        }
    }

    /// Returns the source and the build of a document that waits for no other document.
    pub(crate) fn build_plan(&self) -> Result<&BuildPlan, Error> {
        Ok(self.build_plan.as_ref().ok_or_else(documents::Error::out_of_order)?)
    }

    /// Returns the secrets of `apply`.
    pub(crate) fn signer(&self) -> Result<&Signer, Error> {
        Ok(self.signer.as_ref().ok_or_else(documents::Error::out_of_order)?)
    }

    pub(crate) fn nix(&self) -> Nix<'_> {
        Nix { document: &self.identity.document, inputs: &self.inputs }
    }

    /// Returns the payload of the signature of `digest` in the older form.
    pub(crate) fn payload(&self, digest: &Digest) -> Vec<u8> {
        legacy::payload(&format!("{}/{}", self.url.host(), self.repository), digest)
    }

    pub(crate) fn reader(&self) -> Reader {
        let reader = Reader::new(&self.client.borrow(), &self.known);
        let reader = if self.is_hidden.get() { reader.lenient() } else { reader };
        let may_cache = matches!(self.intent, Intent::Plan | Intent::Apply);
        if may_cache && !self.has_written.get() { reader.cached(&self.cache) } else { reader }
    }

    /// Returns a writer, which may delete when the verb is `destroy`.
    pub(crate) fn writer(&self, permit: &WritePermit) -> Writer {
        self.has_written.set(true);
        Writer::new(self.reader(), &self.client.borrow(), permit)
    }

    /// Observes the declared artifact, or for a removal every publication. `built` is the package of
    /// a build in this run.
    pub(crate) fn observe(
        &self,
        built: Option<(&Package, &BuildResult)>,
    ) -> Result<Observation, Error> {
        if self.intent.is_removal() {
            return self.publications().map(Observation::Publications);
        }
        let Some(build_plan) = &self.build_plan else {
            return Ok(Observation::Artifact(Box::new(Published::waiting(
                self.context.document.spec.tags.len(),
            ))));
        };
        let no_build = BuildResult::default();
        let made = built.or(build_plan.prebuilt().map(|package| (package, &no_build)));
        let observe = || {
            let payload = |digest: &Digest| self.payload(digest);
            observe::observe(&self.reader(), build_plan, &self.keys.current, made, payload)
        };
        let published = match observe() {
            Err(Error::Registry(RegistryError::Denied { anonymous: false, .. }))
                if self.may_create()? =>
            {
                observe()?
            }
            published => published?,
        };
        Ok(Observation::Artifact(Box::new(self.with_cache(published, build_plan)?)))
    }

    /// Adds what the binary cache must have, and has.
    fn with_cache(
        &self,
        mut published: Published,
        build_plan: &BuildPlan,
    ) -> Result<Published, Error> {
        if let Some(cache) = &self.binary_cache {
            let (path, url) = (build_plan.out().to_owned(), cache.url().to_owned());
            published.actual.cached = cache.has(&self.nix(), &path)?;
            published.desired.cache = Some(CachedPath { path, cache: url });
        }
        Ok(published)
    }

    /// Copies the result of a build to the binary cache, if it is the one that was published.
    pub(crate) fn copy_to_cache(
        &self,
        built: &BuildResult,
        published: &Published,
        permit: &WritePermit,
    ) -> Result<(), Error> {
        let cache = self.binary_cache.as_ref().ok_or_else(documents::Error::out_of_order)?;
        let path = self.build_plan()?.out();
        if built.nar_sha256 != published.built.nar_sha256 {
            return Err(Error::OtherResult { path: path.to_owned() });
        }
        cache.copy(&self.nix(), path, &self.signer()?.cache, permit)
    }

    /// Whether the login may write, although a read was denied: the repository may not exist yet. The next
    /// reader then counts a denied read as absence.
    fn may_create(&self) -> Result<bool, Error> {
        if self.is_hidden.get() || !matches!(self.intent, Intent::Plan | Intent::Apply) {
            return Ok(false);
        }
        if self.intent == Intent::Plan {
            // A registry may grant a token for an absent repository only to a login that asks to push.
            self.client.replace(self.registry.repository(&self.repository, PUSH));
        }
        self.is_hidden.set(writer::may_write(&self.client.borrow())?);
        Ok(self.is_hidden.get())
    }

    /// Returns every publication in the repository. A repository that may be hidden from the login
    /// counts as absent for `destroy` alone, and only if the login may write to it: such a login
    /// would see the repository.
    fn publications(&self) -> Result<Vec<Publication>, Error> {
        let may_write = || writer::may_write(&self.client.borrow());
        match self.publications_from(&self.reader().strict()) {
            Err(Error::Invisible { anonymous: false, .. })
                if self.intent == Intent::Destroy && may_write()? =>
            {
                self.publications_from(&self.reader())
            }
            publications => publications,
        }
    }

    fn publications_from(&self, reader: &Reader) -> Result<Vec<Publication>, Error> {
        let Context { document, stream } = self.context;
        let earlier = ArtifactFacts::read(stream.status(document)).ok();
        let digest = earlier.and_then(|facts| Digest::try_from(facts.digest).ok());
        let names =
            |statement: &[u8]| statement::names(statement, &self.identity, &self.parameters);
        observe::publications(reader, &self.keys.all(), names, digest)
    }

    /// Checks whether the source's repository contains the commit of `build_plan`.
    fn containment(&self, build_plan: &BuildPlan) -> Result<Containment, Error> {
        let url = &self.identity.source;
        // The forge's token is sent to the forge alone.
        let forge = self.forge.as_ref().filter(|(site, _)| {
            url.strip_prefix(site.as_str()).is_some_and(|rest| rest.starts_with('/'))
        });
        // Without a token, the source may still be public, or an earlier fetch may have its
        // branches.
        let token = forge.and_then(|(_, token)| token.resolve().ok());
        let token = token.and_then(|token| Some((Url::try_from(url.clone()).ok()?, token)));
        containment::check(&build_plan.source, url, token.as_ref())
    }

    /// Fails when others cannot fetch the commit.
    pub(crate) fn require_contained(&self) -> Result<(), Error> {
        let build_plan = self.build_plan()?;
        if !self.identity.is_source_checked {
            return Ok(());
        }
        let (rev, url) = (build_plan.source.rev.clone(), self.identity.source.clone());
        match self.containment(build_plan)? {
            Containment::Contained => Ok(()),
            Containment::Missing => Err(Error::NotInSource { rev, url }),
            Containment::Unknown { said, is_unreachable } => {
                Err(Error::SourceUnknown { rev, url, said, is_unreachable })
            }
        }
    }

    /// Notes that `apply` would fail because others cannot fetch the commit. This is no error of
    /// `plan`, because a plan may precede the `apply` that pushes the commit to the forge.
    pub(crate) fn announce(&self) -> Result<(), Error> {
        let Some(build_plan) = self.build_plan.as_ref() else { return Ok(()) };
        if !self.identity.is_source_checked {
            return Ok(());
        }
        let (name, url) = (&self.identity.document, &self.identity.source);
        let rev = &build_plan.source.rev;
        match self.containment(build_plan)? {
            Containment::Contained => {}
            Containment::Missing => documents::note(
                name,
                format_args!(
                    "no branch or tag of {url} contains {rev}: push the commit before `apply`, which signs nothing without it"
                ),
            ),
            Containment::Unknown { .. } => documents::note(
                name,
                format_args!(
                    "cannot check whether {url} contains {rev}: `apply` signs nothing without that check"
                ),
            ),
        }
        Ok(())
    }
}

/// Returns the login with the declared token.
fn login(registry: &contract::Registry, token: &Reference) -> Result<Login, Error> {
    let token = token.resolve()?;
    let host = registry.url.host();
    let default = default_user(host, token.text()?).unwrap_or("holistic");
    let user = registry.user.clone().unwrap_or_else(|| default.to_owned());
    Ok(Login { user, token })
}
