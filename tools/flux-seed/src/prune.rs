//! Computes what an `apply` would delete, before anything is written.

use std::cell::OnceCell;

use contract::Project;
use serde_json::Value;

use crate::Error;
use crate::archive::{Files, Source};
use crate::artifact::Artifact;
use crate::build;
use crate::clients::cluster::Reader;
use crate::desired::Desired;
use crate::graph::{Because, ClusterFacts, Going, Graph, remote};
use crate::impact::{self, Next};
use crate::object::Identity;
use crate::observe::ObservedObjects;

/// Live objects, and the ones that the next artifact deletes.
pub(crate) type Prune = (ClusterFacts, Going);

/// The files of the declared artifact. They are pulled once in a run, because every round asks what Flux
/// would prune.
#[derive(Default)]
pub(crate) struct Pulled {
    source: OnceCell<Source>,
    files: OnceCell<Files>,
}

impl Pulled {
    fn get(&self, project: &Project, artifact: &Artifact) -> Result<&Files, Error> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let files = self.source(project, artifact)?.pull(artifact)?;
        Ok(self.files.get_or_init(|| files))
    }

    /// Returns the repository of the artifact. It is opened once, so that a run waits once for a registry
    /// that does not answer.
    pub(crate) fn source(&self, project: &Project, artifact: &Artifact) -> Result<&Source, Error> {
        if let Some(source) = self.source.get() {
            return Ok(source);
        }
        let source = Source::open(project, artifact)?;
        Ok(self.source.get_or_init(|| source))
    }
}

/// Computes what Flux would delete by applying `desired`. Returns `None` if Flux has applied it already.
/// Fails if the artifact holds objects of Flux's own installation.
pub(crate) fn of_apply(
    name: &str,
    reader: &Reader,
    (project, pulled): (&Project, &Pulled),
    desired: &Desired,
    seen: &ObservedObjects,
) -> Result<Option<Prune>, Error> {
    let (Some(artifact), Some(declared)) = (desired.artifact.value(), declared(desired)) else {
        return Ok(None);
    };
    let live = seen.actual.get(&desired.kustomization).map(|live| &live.object);
    if live.is_some_and(|live| is_applied(live, declared, &artifact.digest)) {
        return Ok(None);
    }
    let files = pulled.get(project, artifact);
    documents::check_interrupt()?;
    if let Ok(files) = &files {
        delivers_itself(files, declared, desired)?;
    }
    let Some(live) = live else { return Ok(None) };
    if let Err(error) = &files {
        documents::note(name, format_args!("what Flux will prune cannot be determined: {error}"));
    }
    let facts = ClusterFacts::read(reader)?;
    let files = files.as_ref().copied().map_err(ToString::to_string);
    let going = {
        let graph = Graph::new(&facts);
        let all = graph.delivered(live, true).into_iter();
        let all = graph.closure(all.map(|id| (id, Because::Delivered)).collect());
        let holds_data = !graph.lost(&all).is_empty()
            || all.values().any(|doomed| doomed.id.kind == "PersistentVolume")
            || !remote(&facts, &all).is_empty();
        if !holds_data {
            return Ok(None);
        }
        impact::of_apply(&facts, live, &Next { kustomization: declared, files })
    };
    Ok(Some((facts, going)))
}

fn declared(desired: &Desired) -> Option<&Value> {
    desired.objects.iter().find(|object| Identity::of(object) == desired.kustomization)
}

/// Whether Flux has applied this artifact with this path and this `prune`.
fn is_applied(live: &Value, declared: &Value, digest: &str) -> bool {
    live["status"]["lastAppliedRevision"] == digest
        && live["spec"]["path"] == declared["spec"]["path"]
        && live["spec"]["prune"] == declared["spec"]["prune"]
}

/// Rejects an artifact that contains objects of the installation, because a later artifact without
/// them would make Flux prune itself.
fn delivers_itself(files: &Files, declared: &Value, desired: &Desired) -> Result<(), Error> {
    // If the build fails here, Flux rejects the artifact as well, or the annotation on our objects
    // protects them from pruning.
    let Ok(build) = build::of_kustomization(files, &declared["spec"]) else { return Ok(()) };
    let ours = desired.objects.iter().map(Identity::of);
    // A shared Namespace may be in the artifact: Flux adds its labels to the one that exists.
    let ours = ours.filter(|id| !desired.shared.contains(id) && build.find(id).is_some());
    let objects: Vec<_> = ours.map(|id| id.to_string()).collect();
    if objects.is_empty() { Ok(()) } else { Err(Error::DeliversItself { objects }) }
}
