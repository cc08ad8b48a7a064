//! Builds sources with Nix, proves each build by a second one, signs the result, and publishes it
//! with its attestations to an OCI registry.
//!
//! ```text
//! Git, Nix ── build plan ──┐
//!                          ├── plan ──► build ──► observe ──► blobs ► bundles ► tag ──► observe again
//! registry ── observe ─────┘
//! ```
//!
//! **Invariant:** [`plan`] is a pure function of values.
//! **Invariant:** a tag never names a manifest that is incomplete or unsigned.
//! **Invariant:** failures are not signed, because verifiers check that a key signed a statement, not
//! what the statement says.
//! **Invariant:** equal commits and keys give equal bytes, including the signatures, on machines with the same version and
//! settings of Nix. So a second run only reads, and another run restores a lost signature. What only a build can tell is
//! read from the published provenance, so that a machine with another Nix accepts it.

mod base;
mod binary_cache;
mod build_plan;
mod bundle;
mod cli;
mod clients;
mod containment;
pub mod desired;
mod error;
mod execute;
mod failure;
mod git;
mod image;
mod image_index;
mod json;
mod keys;
mod layers;
mod legacy;
mod manifests;
mod nix;
mod object_cache;
mod observe;
mod oci;
mod parallel;
pub mod plan;
mod rebuild_cache;
mod sbom;
mod session;
mod source;
pub mod spec;
pub mod stanzas;
mod statement;
pub mod status;
pub mod step;
mod tool;
mod tree;
mod validate;
mod verify;

pub use ::remote::registry::{Digest, Problem};
pub use cli::Cli;
pub use error::Error;
pub use failure::Cause as NixCause;
pub use statement::Predicate;

use std::time::Duration;

use contract::Projects;
use documents::{
    Context, Declared, Dependency, Derived, Exit, Intent, Name, Next, Opened, OpenedBy, Plan,
    Program, Stream, WritePermit,
};

use execute::StepContext;
use observe::Observation;
use session::Session;
use spec::Artifact;
use status::{Evidence, Facts, Status};
use step::Step;

impl documents::Kind for Artifact {
    const KIND: &'static str = "Artifact";
    type Observed = Facts;
    type Evidence = Evidence;
    type Step = Step;
}

/// Runs one command.
///
/// # Errors
///
/// [`documents::Error`], which carries its own help and exit status.
pub fn run(cli: &Cli) -> Result<Exit, documents::Error> {
    documents::run::<Cli, _>("artifact-attest", &cli.verb, ArtifactAttest::read)
}

/// The program, after every document has been read.
struct ArtifactAttest {
    projects: Projects,
}

impl ArtifactAttest {
    fn read(stream: &mut Stream, declared: &[Declared<Artifact>]) -> Self {
        let projects = Projects::read(stream);
        validate::validate(stream, &projects, declared);
        Self { projects }
    }
}

impl Program for ArtifactAttest {
    type Kind = Artifact;
    type Error = Error;
    type Session<'a> = Session<'a>;
    type Observation = Observation;
    type StepContext = StepContext;
    // A document waits most of the time, first for one compiler and then for one registry.
    const PARALLEL_MAX: usize = 4;

    fn dependencies(document: &Declared<Artifact>) -> Vec<Dependency> {
        let of = |field: &'static str, names: Option<&[Name]>| {
            let names = names.unwrap_or_default().iter().enumerate();
            let to_ready = |(index, name)| {
                Dependency::to_ready(format!("/spec/{field}/images/{index}"), "Artifact", name)
            };
            names.map(to_ready).collect::<Vec<_>>()
        };
        let Artifact { manifests, index, .. } = &document.spec;
        let pinned = of("manifests", manifests.as_ref().map(|manifests| &*manifests.images));
        let listed = of("index", index.as_ref().map(|index| &*index.images));
        pinned
            .into_iter()
            .chain(listed)
            .chain([Dependency::to_present("/spec/project", "Project", &document.spec.project)])
            .collect()
    }

    fn open<'a>(
        &'a self,
        context: &Context<'a, Artifact>,
        intent: Intent,
    ) -> Result<OpenedBy<'a, Self>, Error> {
        Session::open(&self.projects, context, intent).map(Opened::Session)
    }

    fn observe(
        &self,
        session: &Session<'_>,
        step_context: &StepContext,
    ) -> Result<Observation, Error> {
        let built = step_context.package.as_ref().map(|(package, built)| (package, built));
        session.observe(built)
    }

    fn plan(&self, _: &Session<'_>, observation: &Observation, _: Intent) -> Plan<Step> {
        match observation {
            Observation::Artifact(published) => plan::plan(&published.desired, &published.actual),
            Observation::Publications(publications) => plan::plan_destroy(publications),
        }
        .into()
    }

    fn authorize(
        &self,
        session: &Session<'_>,
        _: &Observation,
        steps: &[Step],
        step_context: &mut StepContext,
        _: &WritePermit,
    ) -> Result<(), Error> {
        if plan::signs_provenance(steps) && !step_context.is_contained {
            session.require_contained()?;
            step_context.is_contained = true;
        }
        Ok(())
    }

    fn next(&self, _: &Session<'_>, _: &Observation, steps: &[Step]) -> Result<Next, Error> {
        Ok(match plan::batch(steps) {
            0 => Next::Finish,
            count => Next::Execute { count },
        })
    }

    fn execute(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        step: &Step,
        step_context: &mut StepContext,
        permit: &WritePermit,
    ) -> Result<String, Error> {
        execute::execute(session, observation, step, step_context, permit)
    }

    fn finish(
        &self,
        session: &Session<'_>,
        _: &Observation,
        step_context: &mut StepContext,
        _: &WritePermit,
    ) -> Result<(), Error> {
        execute::finish(session, step_context)
    }

    fn time_limit(&self, _: &Session<'_>) -> Duration {
        // Registries answer when a write is done, so a run waits only for one that does not answer.
        Duration::from_secs(60)
    }

    fn status(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        steps: Vec<Step>,
        intent: Intent,
    ) -> Result<Status, Error> {
        match observation {
            Observation::Publications(_) if intent == Intent::PlanDestroy => {
                Ok(Status::planned(None, steps))
            }
            Observation::Publications(left) => Ok(status::removed(left)),
            Observation::Artifact(published) => {
                if intent == Intent::Plan && plan::signs_provenance(&steps) {
                    session.announce()?;
                }
                Ok(status::of(session, published, steps))
            }
        }
    }

    fn verify(
        &self,
        session: &Session<'_>,
        observation: &Observation,
        steps: Vec<Step>,
    ) -> Result<Status, Error> {
        verify::verify(session, observation.published()?, steps)
    }

    fn derive(&self, context: &Context<'_, Artifact>) -> Result<Vec<Derived>, Error> {
        keys::derived(self.projects.get(&context.document.spec.project)?)
    }
}
