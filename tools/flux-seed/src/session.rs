//! One Delivery with its references resolved, and the connection to its cluster.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use contract::facts::{self, ClusterFacts};
use contract::{Project, Projects, VerifiedReceipt};
use documents::{Context, Declared, Deferred, Intent, Opened, Stream};
use kubernetes::Kubeconfig;
use secrets::PhaseKey;

use crate::Error;
use crate::archive::Source;
use crate::artifact::Artifact;
use crate::cause;
use crate::clients::cluster::Reader;
use crate::desired::{self, Desired};
use crate::diagnose::Diagnosis;
use crate::gate::Gate;
use crate::object::{Identity, Stage};
use crate::observe::{Look, ObservedObjects, observe};
use crate::plan::LiveObject;
use crate::prune::{self, Prune, Pulled};
use crate::reader;
use crate::spec::{self, Delivery};
use crate::status::Status;
use crate::sunset::{Extent, Sunset};
use crate::wait::Pauses;
use crate::{sops, wait};

/// One observation of the cluster.
pub(crate) enum Observation {
    /// The cluster does not exist yet, so that every object is to be created.
    NoCluster,
    /// The declared objects and what Flux has delivered.
    Delivery {
        seen: ObservedObjects,
        /// Objects on which this run has executed a step.
        touched: BTreeSet<Identity>,
    },
    /// Everything that a removal deletes.
    Removal(Box<Sunset>),
}

impl Observation {
    /// Returns a declared object of the cluster, if it exists.
    pub(crate) fn live(&self, id: &Identity) -> Option<&LiveObject> {
        match self {
            Self::NoCluster => None,
            Self::Delivery { seen, .. } => seen.actual.get(id),
            Self::Removal(sunset) => sunset.seen.actual.get(id),
        }
    }
}

/// A Delivery during one run.
pub(crate) struct Session<'a> {
    pub(crate) document: &'a Declared<Delivery>,
    pub(crate) stream: &'a Stream,
    project: &'a Declared<Project>,
    intent: Intent,
    pub(crate) desired: Desired,
    pub(crate) gate: Gate<'a>,
    /// Kubeconfig of a writer; `None` for a plan.
    kubeconfig: Option<Kubeconfig>,
    /// `None` while the cluster does not exist, which only a plan accepts.
    reader: Option<Reader>,
    pulled: Pulled,
    /// Whether this run has proven that the cluster can pull what is delivered.
    pull_is_proven: Cell<bool>,
    pub(crate) diagnosis: Diagnosis,
    pauses: RefCell<Pauses>,
}

impl<'a> Session<'a> {
    /// Resolves the references of a Delivery and connects to its cluster.
    pub(crate) fn open(
        projects: &'a Projects,
        context: &Context<'a, Delivery>,
        intent: Intent,
    ) -> Result<Opened<Self, Status>, Error> {
        let (document, stream) = (context.document, context.stream);
        let is_destroyed = document
            .spec
            .cluster
            .as_ref()
            .is_some_and(|cluster| facts::is_destroyed(stream, "Cluster", cluster.as_str()));
        if intent.is_removal() && is_destroyed {
            return Ok(Opened::Known(if intent.is_write() {
                Status::destroyed("the cluster is gone, and all that was in it")
            } else {
                Status::planned(None, Vec::new())
            }));
        }
        let project = project(projects, context)?;
        let (desired, kubeconfig, reader) = match intent {
            Intent::Plan => {
                let key = contract::phase_key_unless_reader(project, "flux-seed")?;
                let artifact = artifact(context).ok().into();
                let images = Images::IfTold;
                let desired = resolve(context, project, key.as_ref(), artifact, images)?;
                check_readable(context, &desired)?;
                let reader = open_for_plan(context, project, key.is_none())?;
                if key.is_none() && reader.is_none() {
                    return Ok(Opened::Known(reader::without_cluster(&desired)));
                }
                if reader.is_none() {
                    documents::note(
                        document.name.as_str(),
                        "the cluster is not there yet: everything is to be created",
                    );
                }
                (desired, None, reader)
            }
            Intent::Apply | Intent::Verify => {
                let key = key(projects, context)?;
                let artifact = Deferred::Value(artifact(context)?);
                let desired = resolve(context, project, Some(&key), artifact, Images::Told)?;
                let kubeconfig = kubeconfig(context, project)?;
                if intent.is_write() {
                    check_readable(context, &desired)?;
                }
                let reader = Reader::open(&kubeconfig)?;
                check_flux(document, &reader)?;
                (desired, Some(kubeconfig), Some(reader))
            }
            Intent::PlanDestroy | Intent::Destroy => {
                let key = key(projects, context)?;
                let (artifact, images) = (Deferred::AfterApply, Images::Unknown);
                let desired = resolve(context, project, Some(&key), artifact, images)?;
                let kubeconfig = kubeconfig(context, project)?;
                let reader = Reader::open(&kubeconfig)?;
                (desired, Some(kubeconfig), Some(reader))
            }
        };
        let gate = gate(context, project);
        let pulled = Pulled::default();
        Ok(Opened::Session(Self {
            document,
            stream,
            project,
            intent,
            desired,
            gate,
            kubeconfig,
            reader,
            pulled,
            pull_is_proven: Cell::default(),
            diagnosis: Diagnosis::default(),
            pauses: RefCell::default(),
        }))
    }

    /// Returns `metadata.name` of the Delivery.
    pub(crate) fn name(&self) -> &'a str {
        self.document.name.as_str()
    }

    /// Returns the reader of the cluster.
    pub(crate) fn reader(&self) -> Result<&Reader, Error> {
        self.reader.as_ref().ok_or_else(|| self.not_ready().into())
    }

    /// Returns the kubeconfig of a writer.
    pub(crate) fn kubeconfig(&self) -> Result<&Kubeconfig, Error> {
        self.kubeconfig.as_ref().ok_or_else(|| self.not_ready().into())
    }

    fn not_ready(&self) -> documents::Error {
        let cluster = self.document.spec.cluster.as_ref().map_or("", AsRef::as_ref);
        documents::Error::NotReady {
            document: format!("Cluster/{cluster}"),
            why: format!("its status lacks {}", facts::KUBECONFIG),
        }
    }

    /// Whether the goal is that nothing of the Delivery is left.
    pub(crate) fn is_removal(&self) -> bool {
        self.intent.is_removal()
    }

    /// Observes the cluster. `touched` are the objects on which this run has executed a step.
    pub(crate) fn observe(&self, touched: &BTreeSet<Identity>) -> Result<Observation, Error> {
        let Some(reader) = &self.reader else { return Ok(Observation::NoCluster) };
        if self.is_removal() {
            let extent = Extent::of(&self.document.spec);
            let sunset = Sunset::observe(reader, self.name(), &self.desired, extent)?;
            return Ok(Observation::Removal(Box::new(sunset)));
        }
        let seen = observe(reader, self.name(), &self.desired, Look::Whole)?;
        Ok(Observation::Delivery { seen, touched: touched.clone() })
    }

    /// Pauses between two observations, at most for `most`. Returns whether the next one is due.
    pub(crate) fn pause(&self, most: Duration) -> bool {
        let Some(reader) = &self.reader else { return true };
        self.pauses().pause(reader, most, || self.diagnosis.next_look(Instant::now()))
    }

    /// Returns the pauses of the current wait.
    pub(crate) fn pauses(&self) -> RefMut<'_, Pauses> {
        self.pauses.borrow_mut()
    }

    /// Computes what Flux will prune by applying the declared artifact.
    pub(crate) fn prune(&self, seen: &ObservedObjects) -> Result<Option<Prune>, Error> {
        let project = (&self.project.spec, &self.pulled);
        prune::of_apply(self.name(), self.reader()?, project, &self.desired, seen)
    }

    /// Proves with the credentials of the cluster that it can pull the artifact and the images that the
    /// artifact pins. A registry that does not answer here may answer the cluster, so that it is only
    /// reported.
    pub(crate) fn prove_pull(&self) -> Result<(), Error> {
        let Some(artifact) =
            self.desired.artifact.value().filter(|_| !self.pull_is_proven.replace(true))
        else {
            return Ok(());
        };
        let name = self.document.spec.artifact.as_ref().map_or("", AsRef::as_ref);
        let images = facts::pinned_images(self.stream, name);
        let mut images = images.iter().filter_map(|image| {
            let repository = image.repository()?.to_owned();
            Some(Artifact { repository, digest: image.digest.clone(), public_keys: Vec::new() })
        });
        let project = &self.project.spec;
        let proven =
            self.pulled.source(project, artifact).and_then(|source| source.prove(artifact));
        let prove = |image: Artifact| Source::open(project, &image)?.prove(&image);
        match proven.and_then(|()| images.try_for_each(prove)) {
            Err(error @ Error::ArtifactUnreadable { temporary: true, .. }) => {
                documents::note(self.name(), error);
                Ok(())
            }
            other => other,
        }
    }

    /// Returns what the objects of a stage wait for.
    pub(crate) fn not_ready_reason(&self, stage: Stage) -> Result<Option<String>, Error> {
        let stage = (stage, &self.diagnosis);
        wait::not_ready_reason(self.reader()?, self.name(), &self.desired, stage)
    }

    /// Adds to the error of a proof the causes for which objects are not ready, as `apply` names them.
    pub(crate) fn explained(&self, seen: &ObservedObjects, error: Error) -> Result<Error, Error> {
        let facts = || self.diagnosis.facts(self.reader()?, &self.desired, seen);
        Ok(match error {
            Error::Unproven { what, .. } => Error::Unproven { what, facts: facts()? },
            Error::NotYetProven { mut what, .. } => {
                let facts = facts()?;
                let causes = facts.as_ref().map(|facts| cause::line(&facts.causes));
                what.splice(..0, causes.filter(|line| !line.is_empty()));
                Error::NotYetProven { what, facts }
            }
            error => error,
        })
    }

    /// Returns why a wait continues, from the causes or else from the plan.
    pub(crate) fn wait_reason(
        &self,
        seen: &ObservedObjects,
        planned: String,
    ) -> Result<String, Error> {
        let causes = wait::causes(self.reader()?, &self.desired, seen, &self.diagnosis)?;
        Ok(causes.unwrap_or(planned))
    }
}

/// Ways to resolve the digests of the controllers' images.
#[derive(Clone, Copy)]
enum Images {
    /// Not at all, because a removal does not need them.
    Unknown,
    /// From the registry, where it answers.
    IfTold,
    /// From the registry, which must answer.
    Told,
}

/// Returns the declared state. A plan shows what cannot be resolved yet; the other verbs need all of it.
fn resolve(
    context: &Context<'_, Delivery>,
    project: &Declared<Project>,
    key: Option<&PhaseKey>,
    artifact: Deferred<Artifact>,
    images: Images,
) -> Result<Desired, Error> {
    let document = context.document;
    let images = match (&document.spec.flux, images) {
        (None, _) => BTreeMap::new(),
        (Some(flux), Images::Unknown) => {
            let components = flux.components.iter();
            components.map(|component| (*component, Deferred::AfterApply)).collect()
        }
        (Some(flux), Images::IfTold) => desired::images(flux, &project.spec, |error| {
            documents::note(document.name.as_str(), error);
            Ok(())
        })?,
        (Some(flux), Images::Told) => desired::images(flux, &project.spec, Err)?,
    };
    Desired::new(document, &project.spec, key, images, artifact)
}

fn project<'a>(
    projects: &'a Projects,
    context: &Context<'_, Delivery>,
) -> Result<&'a Declared<Project>, Error> {
    let spec = &context.document.spec;
    let name = match &spec.cluster {
        Some(cluster) => facts::project_of_cluster(context.stream, cluster.as_str()),
        None => spec.project.as_ref().map(AsRef::as_ref),
    };
    Ok(projects.get(name.unwrap_or_default())?)
}

/// Checks that the cluster has Flux, unless the Delivery installs it.
fn check_flux(document: &Declared<Delivery>, reader: &Reader) -> Result<(), Error> {
    if document.spec.flux.is_some() {
        return Ok(());
    }
    for name in
        ["ocirepositories.source.toolkit.fluxcd.io", "kustomizations.kustomize.toolkit.fluxcd.io"]
    {
        let definition = Identity {
            api_version: "apiextensions.k8s.io/v1".to_owned(),
            kind: "CustomResourceDefinition".to_owned(),
            namespace: None,
            name: name.to_owned(),
        };
        if reader.get(&definition)?.is_none() {
            let (cluster, definition) = (document.spec.destination(), definition.to_string());
            return Err(Error::FluxMissing { cluster, definition });
        }
    }
    Ok(())
}

/// Returns the key from which the secrets of a Delivery derive.
pub(crate) fn key(projects: &Projects, context: &Context<'_, Delivery>) -> Result<PhaseKey, Error> {
    Ok(contract::phase_key(project(projects, context)?, "flux-seed")?)
}

/// Proves that Flux can read what it will deliver. Where the manifests are not on this machine, Flux
/// itself reports it.
fn check_readable(context: &Context<'_, Delivery>, desired: &Desired) -> Result<(), Error> {
    let artifact = context.document.spec.artifact.as_ref();
    let folder = artifact.and_then(|name| facts::manifests_folder(context.stream, name.as_str()));
    match (folder.filter(|folder| folder.is_dir()), &desired.sops_recipient) {
        (Some(folder), Some(recipient)) => sops::check(folder, recipient),
        (None, _) | (_, None) => Ok(()),
    }
}

/// Returns the data gate with the receipts of every Drain of the cluster.
fn gate<'a>(context: &Context<'a, Delivery>, project: &'a Declared<Project>) -> Gate<'a> {
    let (document, stream) = (context.document, context.stream);
    let receipts = move || -> Result<Vec<VerifiedReceipt>, Error> {
        // A Drain names its Cluster, so that there is none for a cluster without a document.
        let Some(cluster) = &document.spec.cluster else { return Ok(Vec::new()) };
        Ok(contract::receipts_of_cluster(stream, project, cluster.as_str())?)
    };
    Gate { policy: &document.spec.data_on_destroy, receipts: Box::new(receipts) }
}

/// Returns the kubeconfig: the declared one, or that of the Cluster, opened with the caller's age
/// identity or the phase's own.
fn kubeconfig(
    context: &Context<'_, Delivery>,
    project: &Declared<Project>,
) -> Result<Kubeconfig, Error> {
    let spec = &context.document.spec;
    if let Some(reference) = &spec.kubeconfig {
        return Ok(Kubeconfig::parse(&reference.resolve()?)?);
    }
    let cluster = spec.cluster.as_ref().map_or("", AsRef::as_ref);
    // A degraded cluster still has its credentials.
    let cluster: ClusterFacts = facts::in_any_state(context.stream, cluster)?;
    Ok(Kubeconfig::unseal(project, "flux-seed", &cluster.kubeconfig)?)
}

/// Connects to the cluster for a plan. Returns `None` while the cluster does not exist.
fn open_for_plan(
    context: &Context<'_, Delivery>,
    project: &Declared<Project>,
    is_reader: bool,
) -> Result<Option<Reader>, Error> {
    let Some(cluster) = &context.document.spec.cluster else {
        let kubeconfig = kubeconfig(context, project)?;
        let open = if is_reader { Reader::open_limited } else { Reader::open };
        return open(&kubeconfig).map(Some);
    };
    if is_reader {
        let Some(sealed) = facts::reader_kubeconfig(context.stream, cluster.as_str()) else {
            return Ok(None);
        };
        let kubeconfig = Kubeconfig::unseal(project, contract::READER, sealed)?;
        return Reader::open_limited(&kubeconfig).map(Some);
    }
    match context.stream.ready("Cluster", cluster.as_str()) {
        Ok(()) => Reader::open(&kubeconfig(context, project)?).map(Some),
        Err(_) => Ok(None),
    }
}

fn artifact(context: &Context<'_, Delivery>) -> Result<Artifact, documents::Error> {
    let spec = &context.document.spec;
    if let Some(source) = &spec.source {
        return Ok(Artifact {
            repository: source.repository.as_str().to_owned(),
            digest: source.digest.to_string(),
            public_keys: source.public_keys.clone(),
        });
    }
    let name = spec.artifact.as_ref().map_or("", AsRef::as_ref);
    let facts = facts::artifact(context.stream, name)?;
    let not_ready = |why: &str| documents::Error::NotReady {
        document: format!("Artifact/{name}"),
        why: why.to_owned(),
    };
    spec::Digest::try_from(facts.digest.clone()).map_err(not_ready)?;
    let repository = facts.repository();
    let repository =
        repository.ok_or_else(|| not_ready("its reference and its digest disagree"))?;
    Ok(Artifact {
        repository: repository.to_owned(),
        digest: facts.digest,
        public_keys: vec![facts.public_key],
    })
}
