//! Puts Flux into a cluster, and has it deliver one attested artifact.
//!
//! ```text
//! documents ── wanted ──┐
//!                       ├── plan ──► apply ──► look again ──► documents with status
//! cluster ──── observe ─┘
//! ```
//!
//! **Invariant:** [`plan`](crate::plan) is a function of values: it opens nothing and asks nothing.
//! **Invariant:** only `apply` and `remove` are given a writer.
//! **Invariant:** a status is computed from what is seen, never from what was done; so the second
//! run writes the same bytes as the first, and nothing to the cluster.

mod apply;
mod archive;
mod build;
mod cli;
mod cluster;
mod deadline;
mod diff;
mod error;
mod facts;
mod foreign;
mod gate;
mod graph;
mod image;
mod impact;
mod install;
mod kstatus;
mod object;
mod observe;
mod plan;
mod prune;
mod reader;
mod record;
mod response;
mod scan;
mod served;
mod sops;
pub mod spec;
mod status;
mod sunset;
mod verify;
mod wait;
mod wanted;

pub use cli::Cli;
pub use error::Error;

use std::collections::BTreeSet;
use std::path::Path;

use age::secrecy::ExposeSecret as _;
use documents::{Condition, Declared, Deferred, Dependency, Derived, Exit, Name, Stream, Verbs};
use keyring::{PhaseKey, Project, Projects, Secret, VerifiedReceipt};

use cluster::{Reader, Writer};
use deadline::Deadline;
use gate::Gate;
use observe::{Look, Seen, observe};
use plan::{Step, World};
use spec::{Component, Delivery};
use status::{Evidence, Observed, Status};
use sunset::Sunset;
use wait::at_rest;
use wanted::{Artifact, Wanted};

impl documents::Kind for Delivery {
    const KIND: &'static str = "Delivery";
    type Observed = Observed;
    type Evidence = Evidence;
    type Step = Step;
}

/// Runs one command.
///
/// # Errors
///
/// [`documents::Error`], which carries its own help and exit status.
pub fn run(cli: &Cli) -> Result<Exit, documents::Error> {
    documents::run("flux-seed", &cli.verb, FluxSeed::read)
}

type Context<'a> = documents::Context<'a, Delivery>;

struct FluxSeed {
    projects: Projects,
}

impl FluxSeed {
    fn read(stream: &mut Stream, declared: &[Declared<Delivery>]) -> Self {
        for (index, delivery) in declared.iter().enumerate() {
            if Component::all().iter().any(|it| !delivery.spec.flux.components.contains(it)) {
                let message = "a delivery needs both: source-controller and kustomize-controller";
                stream.invalid(delivery, "/spec/flux/components", message);
            }
            if declared[..index].iter().any(|it| it.spec.cluster == delivery.spec.cluster) {
                let message = "another Delivery installs Flux in this cluster";
                stream.invalid(delivery, "/spec/cluster", message);
            }
            let project = project_of(stream, &delivery.spec.cluster);
            if let Some(project) = project {
                stream.require_exists(delivery, "/spec/cluster", "Project", &project);
            }
        }
        Self { projects: Projects::read(stream) }
    }

    fn project(&self, context: &Context<'_>) -> Result<&Declared<Project>, Error> {
        let project =
            project_of(context.stream, &context.document.spec.cluster).unwrap_or_default();
        Ok(self.projects.get(project)?)
    }

    /// What `document` asks for. `plan` shows what cannot be told yet; the others need to know.
    fn wanted(
        &self,
        context: &Context<'_>,
        key: Option<&PhaseKey>,
        artifact: Deferred<Artifact>,
        images: Images,
    ) -> Result<Wanted, Error> {
        let (document, project) = (context.document, self.project(context)?);
        let images = match images {
            Images::Unknown => {
                let components = document.spec.flux.components.iter();
                components.map(|it| (*it, Deferred::AfterApply)).collect()
            }
            Images::IfTold => wanted::images(&document.spec, &project.spec, |error| {
                documents::note(document.name.as_str(), error);
                Ok(())
            })?,
            Images::Told => wanted::images(&document.spec, &project.spec, Err)?,
        };
        Wanted::new(document, &project.spec, key, images, artifact)
    }

    fn key(&self, context: &Context<'_>) -> Result<PhaseKey, Error> {
        Ok(keyring::phase_key(self.project(context)?, "flux-seed")?)
    }

    /// Proves that Flux can read what it will deliver; where the manifests are not at hand, Flux
    /// itself will tell.
    fn readable(context: &Context<'_>, wanted: &Wanted) -> Result<(), Error> {
        let artifact = context.stream.document("Artifact", context.document.spec.artifact.as_str());
        let folder = artifact.and_then(|it| it["spec"]["manifests"]["path"].as_str());
        match (folder.map(Path::new).filter(|it| it.is_dir()), &wanted.sops_recipient) {
            (Some(folder), Some(recipient)) => sops::check(folder, recipient),
            (None, _) | (_, None) => Ok(()),
        }
    }

    fn known(&self, context: &Context<'_>) -> Result<(Wanted, Secret), Error> {
        let (key, artifact) = (self.key(context)?, Deferred::Value(artifact(context)?));
        let wanted = self.wanted(context, Some(&key), artifact, Images::Told)?;
        Ok((wanted, self.kubeconfig(context)?))
    }

    /// The data gate, with the receipts of every Drain of this cluster.
    fn gate<'a>(&'a self, context: &'a Context<'_>) -> Gate<'a> {
        let receipts = || -> Result<Vec<VerifiedReceipt>, Error> {
            let cluster = context.document.spec.cluster.as_str();
            let project = self.project(context)?;
            Ok(keyring::receipts(context.stream, project, |drain| drain["cluster"] == cluster)?)
        };
        Gate { policy: &context.document.spec.data_on_destroy, receipts: Box::new(receipts) }
    }

    /// The cluster's kubeconfig, opened with the caller's age identity, or the phase's own.
    fn kubeconfig(&self, context: &Context<'_>) -> Result<Secret, Error> {
        let name = context.document.spec.cluster.as_str();
        let sealed = sealed(context, "kubeconfig").ok_or_else(|| documents::Error::NotReady {
            document: format!("Cluster/{name}"),
            why: "its status lacks /sealed/kubeconfig".to_owned(),
        })?;
        Ok(keyring::unseal(self.project(context)?, "flux-seed", sealed)?)
    }

    /// A connection to the cluster for `plan`; `None` while the cluster is not there.
    fn look_for_plan(
        &self,
        context: &Context<'_>,
        is_reader: bool,
    ) -> Result<Option<Reader>, Error> {
        if is_reader {
            let Some(sealed) = sealed(context, "readerKubeconfig") else { return Ok(None) };
            let kubeconfig = keyring::unseal(self.project(context)?, keyring::READER, sealed)?;
            return Reader::open_limited(&kubeconfig).map(Some);
        }
        match context.stream.ready("Cluster", context.document.spec.cluster.as_str()) {
            Ok(()) => Reader::open(&self.kubeconfig(context)?).map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// What to do about the digests of the controllers' images.
#[derive(Clone, Copy)]
enum Images {
    /// They do not matter.
    Unknown,
    /// Ask, and go on without.
    IfTold,
    /// Ask.
    Told,
}

impl Verbs for FluxSeed {
    type Kind = Delivery;
    type Error = Error;

    fn dependencies(document: &Declared<Delivery>) -> Vec<Dependency> {
        vec![
            Dependency::to_ready("/spec/cluster", "Cluster", &document.spec.cluster),
            Dependency::to_ready("/spec/artifact", "Artifact", &document.spec.artifact),
        ]
    }

    fn plan(&self, context: &Context<'_>) -> Result<Status, Error> {
        let key = keyring::phase_key_unless_reader(self.project(context)?, "flux-seed")?;
        let wanted =
            self.wanted(context, key.as_ref(), artifact(context).ok().into(), Images::IfTold)?;
        Self::readable(context, &wanted)?;
        let reader = self.look_for_plan(context, key.is_none())?;
        if key.is_none() && reader.is_none() {
            return Ok(reader::without_cluster(&wanted));
        }
        let (seen, steps) = if let Some(reader) = reader {
            let (seen, steps) = at_rest(&reader, context.document.name.as_str(), &wanted)?;
            (Some((reader, seen)), steps)
        } else {
            documents::note(
                context.document.name.as_str(),
                "the cluster is not there yet: everything is to be created",
            );
            (None, plan::plan(&wanted.objects, &World::new()))
        };
        let looked = seen.as_ref().map(|(_, seen)| seen);
        let mut observed = Observed::of(&wanted, looked);
        let Some((reader, seen)) = seen else { return Ok(Status::planned(Some(observed), steps)) };
        let (name, project) = (context.document.name.as_str(), &self.project(context)?.spec);
        let prune = prune::of_apply(name, &reader, project, &wanted, &seen)?;
        if steps.is_empty() && !reader.is_limited() {
            return Ok(delivered(context, &wanted, &seen, "Delivered"));
        }
        let mut refusals = Vec::new();
        if let Some((facts, going)) = &prune {
            refusals = self.gate(context).refusals(&reader, facts, going)?.1;
            observed.losses = gate::losses(facts, going);
        }
        if reader.is_limited() {
            let scanned = prune.as_ref().map(|(facts, _)| facts.scan.silent.as_slice());
            let status = reader::status(observed, steps, &seen, scanned.unwrap_or_default());
            return Ok(Status { refusals, ..status });
        }
        Ok(Status { refusals, ..Status::planned(Some(observed), steps) })
    }

    fn plan_destroy(&self, context: &Context<'_>) -> Result<Status, Error> {
        if is_gone(context) {
            return Ok(Status::planned(None, Vec::new()));
        }
        let key = self.key(context)?;
        let wanted = self.wanted(context, Some(&key), Deferred::AfterApply, Images::Unknown)?;
        let reader = Reader::open(&self.kubeconfig(context)?)?;
        let sunset = Sunset::observe(
            &reader,
            context.document.name.as_str(),
            &wanted,
            context.document.spec.prune,
        )?;
        for kept in &sunset.stays {
            documents::note(context.document.name.as_str(), format_args!("stays: {kept}"));
        }
        let mut observed = Observed::of(&wanted, Some(&sunset.seen));
        observed.losses = gate::losses(&sunset.facts, &sunset.going);
        let refusals = self.gate(context).refusals(&reader, &sunset.facts, &sunset.going)?.1;
        Ok(Status { refusals, ..Status::planned(Some(observed), sunset.steps()) })
    }

    fn apply(&self, context: &Context<'_>) -> Result<Status, Error> {
        let (wanted, kubeconfig) = self.known(context)?;
        Self::readable(context, &wanted)?;
        let (reader, name) = (Reader::open(&kubeconfig)?, context.document.name.as_str());
        let deadline = Deadline::after(context.document.spec.timeout_seconds.seconds());
        let mut seen = observe(&reader, name, &wanted, Look::Whole)?;
        let steps = plan::plan(&wanted.objects, &seen.world);
        apply::unblocked(&steps)?;
        let project = &self.project(context)?.spec;
        let prune = prune::of_apply(name, &reader, project, &wanted, &seen)?;
        if !steps.is_empty() {
            let writer = Writer::open(&kubeconfig)?;
            let both = (&reader, &writer);
            if let Some((facts, going)) = &prune {
                self.gate(context).pass(both, facts, going)?;
            }
            seen = apply::without_terminating(name, &wanted, seen, &reader, &deadline)?;
            let steps = plan::plan(&wanted.objects, &seen.world);
            apply::apply(name, &wanted, &steps, &seen.world, both, &deadline)?;
            seen = apply::settled(name, &wanted, &reader, &deadline)?;
        }
        Ok(delivered(context, &wanted, &seen, "Delivered"))
    }

    fn verify(&self, context: &Context<'_>) -> Result<Status, Error> {
        let (wanted, kubeconfig) = self.known(context)?;
        let reader = Reader::open(&kubeconfig)?;
        let (seen, left) = at_rest(&reader, context.document.name.as_str(), &wanted)?;
        let doing = documents::step(context.document.name.as_str(), "prove");
        let proven = verify::verify(&reader, &wanted, (&seen, &left), &attested(context.stream))?;
        doing.done(format_args!("{} containers run what their manifests name", proven.containers));
        let mut status = delivered(context, &wanted, &seen, "Proven");
        if let Some(observed) = &mut status.observed {
            observed.third_party = proven.third_party;
        }
        Ok(status)
    }

    fn destroy(&self, context: &Context<'_>) -> Result<Status, Error> {
        if is_gone(context) {
            return Ok(Status::destroyed("the cluster is gone, and all that was in it"));
        }
        let key = self.key(context)?;
        let wanted = self.wanted(context, Some(&key), Deferred::AfterApply, Images::Unknown)?;
        let (kubeconfig, name) = (self.kubeconfig(context)?, context.document.name.as_str());
        let reader = Reader::open(&kubeconfig)?;
        let deadline = Deadline::after(context.document.spec.timeout_seconds.seconds());
        let both = (&reader, &Writer::open(&kubeconfig)?);
        let gate = self.gate(context);
        let allow = |sunset: &Sunset| gate.pass(both, &sunset.facts, &sunset.going);
        let stays =
            sunset::remove(name, &wanted, context.document.spec.prune, both, &deadline, &allow)?;
        Ok(Status::destroyed(match stays.as_slice() {
            [] => "nothing is left of it".to_owned(),
            stays => format!("left in the cluster: {}", stays.join("; ")),
        }))
    }

    fn derive(&self, context: &Context<'_>) -> Result<Vec<Derived>, Error> {
        let key = self.key(context)?;
        let identities = wanted::sops_identities(context.document, &key);
        let text = |it: age::x25519::Identity| it.to_string().expose_secret().as_bytes().to_vec();
        Ok(identities.into_iter().map(|(name, it)| Derived::new(name, text(it).into())).collect())
    }
}

fn delivered(context: &Context<'_>, wanted: &Wanted, seen: &Seen, reason: &str) -> Status {
    let revision = wanted.revision();
    let message = format!(
        "{} delivers {revision} to {}",
        wanted.kustomization, context.document.spec.cluster
    );
    Status {
        observed: Some(Observed::of(wanted, Some(seen))),
        evidence: observe::evidence(context.document.spec.flux.version, wanted),
        ..Status::new(Condition::ready(true, reason, message))
    }
}

fn artifact(context: &Context<'_>) -> Result<Artifact, documents::Error> {
    let name = context.document.spec.artifact.as_str();
    let read = |path| context.stream.status_of::<String>("Artifact", name, path);
    let (reference, digest) = (read("/observed/reference")?, read("/observed/digest")?);
    let not_ready = |why: &str| documents::Error::NotReady {
        document: format!("Artifact/{name}"),
        why: why.to_owned(),
    };
    let digest = spec::Digest::try_from(digest).map_err(not_ready)?;
    let repository = reference.strip_suffix(&format!("@{digest}"));
    let repository =
        repository.ok_or_else(|| not_ready("its reference and its digest disagree"))?;
    Ok(Artifact {
        repository: repository.to_owned(),
        digest: digest.to_string(),
        public_key: read("/observed/publicKey")?,
    })
}

/// A credential in the status of the Delivery's cluster.
fn sealed<'a>(context: &Context<'a>, name: &str) -> Option<&'a str> {
    let cluster = context.stream.document("Cluster", context.document.spec.cluster.as_str());
    cluster?["status"]["sealed"][name].as_str()
}

/// The digests of everything that was attested.
fn attested(stream: &Stream) -> BTreeSet<String> {
    let artifacts = stream.documents().filter(|it| {
        let version = it["apiVersion"].as_str().unwrap_or_default();
        version.starts_with("holistic/") && it["kind"] == "Artifact"
    });
    let names = artifacts.filter_map(|it| it["metadata"]["name"].as_str());
    let digest = |name| stream.status_of("Artifact", name, "/observed/digest").ok();
    names.filter_map(digest).collect()
}

fn project_of(stream: &Stream, cluster: &Name) -> Option<String> {
    let cluster = stream.document("Cluster", cluster.as_str())?;
    cluster["spec"]["project"].as_str().map(str::to_owned)
}

/// Whether the cluster has been destroyed.
fn is_gone(context: &Context<'_>) -> bool {
    let cluster = context.stream.document("Cluster", context.document.spec.cluster.as_str());
    let conditions = cluster.and_then(|it| it["status"]["conditions"].as_array());
    conditions
        .into_iter()
        .flatten()
        .any(|it| it["type"] == "Ready" && it["reason"] == Condition::DESTROYED)
}
