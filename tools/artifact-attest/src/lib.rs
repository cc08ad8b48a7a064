//! Publishes artifacts: built with Nix, built again to prove it, signed, attested.
//!
//! ```text
//! document ── git, nix ──► recipe ──┐
//!                                   ├── plan ──► build ──► blobs ► bundles ► tag ──► look again
//! registry ── signed statements ────┘
//! ```
//!
//! **Invariant:** [`plan`] is a function of values: it opens nothing and asks nothing.
//! **Invariant:** only `apply` is given a writer.
//! **Invariant:** a tag never names what is not wholly there, attested and signed.
//! **Invariant:** nothing negative is ever signed: verifiers read that a key signed, not what.
//! **Invariant:** the same commit and the same key are the same bytes, down to the signatures; so a
//! second run only reads, and a lost signature is made again by running again.

mod answer;
mod apply;
mod build_plan;
mod bundle;
mod challenge;
mod cli;
mod containment;
mod error;
mod git;
mod http;
mod image;
mod json;
mod manifests;
mod nix;
mod observe;
mod oci;
mod origin;
pub mod plan;
mod rebuild_cache;
mod registry;
mod sbom;
mod source;
pub mod spec;
mod statement;
mod tool;
mod tree;
mod validate;
mod writer;

pub use answer::Problem;
pub use cli::Cli;
pub use error::Error;
pub use oci::Digest;
pub use statement::Predicate;

use std::collections::BTreeMap;

use documents::{Condition, Context, Declared, Deferred, Dependency, Derived, Exit, Stream, Verbs};
use keyring::Projects;

use build_plan::BuildPlan;
use bundle::Public;
use containment::Containment;
use nix::BuildResult;
use nix::Nix;
use observe::Seen;
use oci::Manifest;
use plan::{Step, Wanted, World};
use spec::{Artifact, Evidence, Observed};
use statement::Predicate as About;
use validate::{Shape, Signer, Work};

impl documents::Kind for Artifact {
    const KIND: &'static str = "Artifact";
    type Observed = Observed;
    type Evidence = Evidence;
    type Step = Step;
}

/// What the program fills in.
type Status = documents::Status<Observed, Evidence, Step>;

/// Runs one command.
///
/// # Errors
///
/// [`documents::Error`], which carries its own help and exit status.
pub fn run(cli: &Cli) -> Result<Exit, documents::Error> {
    documents::run("artifact-attest", &cli.verb, ArtifactAttest::read)
}

struct ArtifactAttest {
    projects: Projects,
}

impl ArtifactAttest {
    fn read(stream: &mut Stream, declared: &[Declared<Artifact>]) -> Self {
        let projects = Projects::read(stream);
        for artifact in declared {
            for (path, message) in validate::mistakes(stream, &projects, artifact) {
                stream.invalid(artifact, &path, &message);
            }
        }
        Self { projects }
    }

    fn work(&self, context: &Context<'_, Artifact>) -> Result<Work, Error> {
        Work::new(
            context.stream,
            self.projects.get(&context.document.spec.project)?,
            context.document,
        )
    }
}

/// What the document of `context` is made from; none, as long as it waits for another document.
fn recipe(context: &Context<'_, Artifact>, work: &Work) -> Result<Option<BuildPlan>, Error> {
    match Shape::of(&context.document.spec) {
        Some(Shape::Image(build, image)) => {
            let shape = (build, image, context.document.spec.rebuild);
            BuildPlan::image(&nix(work), &work.identity, shape).map(Some)
        }
        Some(Shape::Manifests(declared)) => {
            let mut references = BTreeMap::new();
            for image in &declared.images {
                match context.stream.status_of("Artifact", image.as_str(), "/observed/reference") {
                    Ok(reference) => references.insert(image.to_string(), reference),
                    Err(documents::Error::NotReady { .. }) => return Ok(None),
                    Err(error) => return Err(error.into()),
                };
            }
            BuildPlan::manifests(&work.identity, declared, references).map(Some)
        }
        None => Err(Error::NoShape),
    }
}

/// The same, once all that it waits for is there.
fn ready_recipe(context: &Context<'_, Artifact>, work: &Work) -> Result<BuildPlan, Error> {
    let recipe = recipe(context, work)?;
    recipe.ok_or_else(|| {
        let document = format!("Artifact/{}", context.document.name);
        let why = "what it refers to has no reference yet".to_owned();
        documents::Error::NotReady { document, why }.into()
    })
}

fn nix(work: &Work) -> Nix<'_> {
    Nix { document: &work.identity.document, inputs: &work.inputs }
}

impl ArtifactAttest {
    /// What signs: its key must be the one that `plan` and `verify` know.
    fn signer(&self, context: &Context<'_, Artifact>, work: &Work) -> Result<Signer, Error> {
        let signer = Signer::new(self.projects.get(&context.document.spec.project)?)?;
        if signer.signing.public.id() == work.keys.current.id() {
            return Ok(signer);
        }
        let (signs, known) = (signer.signing.public.id(), work.keys.current.id());
        Err(Error::ForeignKey { signs, known })
    }
}

impl Verbs for ArtifactAttest {
    type Kind = Artifact;
    type Error = Error;
    // Most of a build is one compiler, and its end one registry, that are waited for.
    const PARALLEL_MAX: usize = 4;

    fn dependencies(document: &Declared<Artifact>) -> Vec<Dependency> {
        let images = document.spec.manifests.iter().flat_map(|it| &it.images).enumerate();
        let images = images.map(|(index, name)| {
            Dependency::to_ready(format!("/spec/manifests/images/{index}"), "Artifact", name)
        });
        images
            .chain([Dependency::to_present("/spec/project", "Project", &document.spec.project)])
            .collect()
    }

    fn plan(&self, context: &Context<'_, Artifact>) -> Result<Status, Error> {
        let work = self.work(context)?;
        let Some(recipe) = recipe(context, &work)? else {
            let (digest, tag) = (Deferred::AfterApply, Deferred::AfterApply);
            let statements = [About::Provenance, About::Signature].into();
            let wanted = Wanted { build: None, digest, tag, statements };
            let observed = work.observed(&wanted, &BuildResult::default());
            return Ok(Status::planned(Some(observed), plan::plan(&wanted, &World::default())));
        };
        let seen = look(&work, &recipe)?;
        if lacks_provenance(&seen) && work.identity.is_source_checked {
            announce(&work, &recipe)?;
        }
        Ok(status(&work, &recipe, &seen))
    }

    fn plan_destroy(&self, context: &Context<'_, Artifact>) -> Result<Status, Error> {
        let project = self.projects.get(&context.document.spec.project)?;
        let work = self.work(context)?.with_former_keys(project);
        let publications = work.publications(context, &work.reader().strict())?;
        Ok(Status::planned(None, plan::plan_destroy(&publications)))
    }

    fn apply(&self, context: &Context<'_, Artifact>) -> Result<Status, Error> {
        let (name, work) = (context.document.name.as_str(), self.work(context)?);
        let signer = self.signer(context, &work)?;
        let recipe = ready_recipe(context, &work)?;
        let mut seen = look(&work, &recipe)?;
        if lacks_provenance(&seen) {
            work.require_contained(&recipe.source)?;
        }
        let made = if seen.wanted.build.is_some() {
            recipe.make(&nix(&work), &signer.rebuild_cache)?
        } else {
            None
        };
        if let Some((package, built)) = &made {
            let made = Some((package, built));
            seen = observe::observe(&work.reader(), &recipe, &work.keys.current, made)?;
        }
        let steps = plan::plan(&seen.wanted, &seen.world);
        if steps.is_empty() {
            return Ok(status(&work, &recipe, &seen));
        }
        let hand = apply::Hand {
            document: name,
            signing: &signer.signing,
            manifest: &seen.manifest,
            package: made.as_ref().map(|it| &it.0).or(recipe.prebuilt()),
            statements: &seen.statements,
        };
        apply::apply(&steps, &hand, &work.writer())?;
        let seen = look(&work, &recipe)?;
        match plan::plan(&seen.wanted, &seen.world) {
            left if left.is_empty() => Ok(status(&work, &recipe, &seen)),
            left => Err(Error::Unsettled { steps: left.len() }),
        }
    }

    fn verify(&self, context: &Context<'_, Artifact>) -> Result<Status, Error> {
        let (name, work) = (context.document.name.as_str(), self.work(context)?);
        let recipe = ready_recipe(context, &work)?;
        let step = documents::step(name, "verify");
        let seen = look(&work, &recipe)?;
        let left = plan::plan(&seen.wanted, &seen.world);
        if !left.is_empty() {
            let left: Vec<_> = left.iter().map(missing).collect();
            return Err(Error::Unproven { what: left.join(", ") });
        }
        let then = context.stream.status(context.document);
        let now = evidence(&work.keys.current, &recipe, &seen);
        if let Some(then) = then["evidence"].as_array().filter(|it| !it.is_empty()) {
            for it in &now {
                if !then.contains(&serde_json::json!(it)) {
                    let what =
                        format!("the evidence of its {} has changed since `apply`", it.about);
                    return Err(Error::Unproven { what });
                }
            }
        }
        let reader = work.reader();
        let blobs = observe::check(&reader, &seen.manifest)?;
        if recipe.prebuilt().is_some() {
            let layer = serde_json::from_slice::<Manifest>(&seen.manifest).ok();
            let layer = layer.and_then(|it| it.layers.into_iter().next()).map(|it| it.digest);
            let layer = layer.map(|it| reader.blob(&it)).transpose()?.flatten().unwrap_or_default();
            if let Some(stranger) = recipe.unattested_images(&layer)?.first() {
                let what = format!("`{stranger}` is published, and was attested by nobody");
                return Err(Error::Unproven { what });
            }
        }
        step.done(format_args!("blobs read back: {blobs}, signed: {}", seen.statements.len()));
        Ok(status(&work, &recipe, &seen))
    }

    fn destroy(&self, context: &Context<'_, Artifact>) -> Result<Status, Error> {
        let project = self.projects.get(&context.document.spec.project)?;
        let work = self.work(context)?.with_former_keys(project);
        let (remover, mut reader) = (work.remover(), work.reader().strict());
        let publications = match work.publications(context, &reader) {
            // Whoever may write to a repository would see it.
            Err(Error::Invisible { anonymous: false, .. }) if remover.may_write()? => {
                reader = work.reader();
                work.publications(context, &reader)?
            }
            publications => publications?,
        };
        let steps = plan::plan_destroy(&publications);
        if !steps.is_empty() {
            apply::destroy(context.document.name.as_str(), &steps, &remover)?;
        }
        let left = work.publications(context, &reader)?;
        let others = left.iter().filter(|known| known.there).count();
        match plan::plan_destroy(&left) {
            left if left.is_empty() => Ok(Status::destroyed(format!(
                "manifests left in place, which other documents or other keys published: {others}"
            ))),
            left => Err(Error::Unsettled { steps: left.len() }),
        }
    }

    fn derive(&self, context: &Context<'_, Artifact>) -> Result<Vec<Derived>, Error> {
        validate::derived(self.projects.get(&context.document.spec.project)?)
    }
}

/// Whether `apply` would sign that something was made from its source.
fn lacks_provenance(seen: &Seen) -> bool {
    !seen.world.attested.contains(&About::Provenance)
}

/// Says what `apply` would refuse. A plan may come before the source is there: the forge is filled
/// by an `apply`, too.
fn announce(work: &Work, recipe: &BuildPlan) -> Result<(), Error> {
    let (name, url) = (&work.identity.document, &work.identity.source);
    let rev = &recipe.source.rev;
    match work.containment(&recipe.source)? {
        Containment::Contained => {}
        Containment::Missing => documents::note(
            name,
            format_args!(
                "no branch of {url} holds {rev}: `apply` signs nothing before it is pushed"
            ),
        ),
        Containment::Unknown { .. } => documents::note(
            name,
            format_args!("{url} cannot be asked whether it holds {rev}: `apply` needs an answer"),
        ),
    }
    Ok(())
}

/// What is there, and what can be made without building.
fn look(work: &Work, recipe: &BuildPlan) -> Result<Seen, Error> {
    let built = BuildResult::default();
    let made = recipe.prebuilt().map(|it| (it, &built));
    observe::observe(&work.reader(), recipe, &work.keys.current, made)
}

fn status(work: &Work, recipe: &BuildPlan, seen: &Seen) -> Status {
    let observed = work.observed(&seen.wanted, &seen.built);
    let steps = plan::plan(&seen.wanted, &seen.world);
    if !steps.is_empty() {
        return Status::planned(Some(observed), steps);
    }
    let message = format!("{} is signed and attested", observed.reference);
    let ready = Condition::ready(true, "Published", message);
    let evidence = evidence(&work.keys.current, recipe, seen);
    Status { observed: Some(observed), evidence, ..Status::new(ready) }
}

/// What a step that is left to take says about what is missing.
fn missing(step: &Step) -> String {
    match step {
        Step::Attest { statements, .. } => {
            let all: Vec<_> = statements.iter().map(ToString::to_string).collect();
            format!("no {} that our key signed", all.join(", no "))
        }
        Step::Tag { tag, .. } => format!("{tag} names something else, or nothing"),
        Step::Build { .. } => {
            "nothing published says, signed by us, that it is what is declared".into()
        }
        other => format!("{other} is left to do"),
    }
}

fn evidence(key: &Public, recipe: &BuildPlan, seen: &Seen) -> Vec<Evidence> {
    let about = |about: &str| Evidence {
        about: about.to_owned(),
        git_commit: None,
        sha256: None,
        key_id: None,
        generation: None,
    };
    let source = Evidence { git_commit: Some(recipe.source.rev.clone()), ..about("source") };
    let signed = seen.statements.iter().filter(|it| *it.0 != About::Signature);
    let signed = signed.map(|(predicate, statement)| Evidence {
        sha256: Some(Digest::of(statement).hex().to_owned()),
        ..about(&predicate.to_string())
    });
    let (key_id, generation) = (Some(key.id()), Some(key.generation));
    let signature = Evidence { key_id, generation, ..about("signature") };
    [source].into_iter().chain(signed).chain([signature]).collect()
}
