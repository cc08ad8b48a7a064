//! What an `apply` would take away, before it does.

use keyring::Project;
use serde_json::Value;

use crate::Error;
use crate::archive::{self, Files};
use crate::build;
use crate::cluster::Reader;
use crate::graph::{Because, Facts, Going, Graph, remote};
use crate::impact::{self, Next};
use crate::object::Identity;
use crate::observe::Seen;
use crate::wanted::Wanted;

/// The live objects, and which of them the next artifact takes away.
pub(crate) type Prune = (Facts, Going);

/// What Flux would take away by applying what is wanted; `None` if it has applied that already.
/// Fails when the artifact holds objects of Flux's own installation.
pub(crate) fn of_apply(
    name: &str,
    reader: &Reader,
    project: &Project,
    wanted: &Wanted,
    seen: &Seen,
) -> Result<Option<Prune>, Error> {
    let (Some(artifact), Some(declared)) = (wanted.artifact.value(), declared(wanted)) else {
        return Ok(None);
    };
    let live = seen.world.get(&wanted.kustomization).map(|live| &live.object);
    if live.is_some_and(|live| is_applied(live, declared, &artifact.digest)) {
        return Ok(None);
    }
    let files = archive::pull(project, artifact);
    if let Err(error) = &files {
        documents::note(name, format_args!("cannot tell what Flux will prune: {error}"));
    }
    if let Ok(files) = &files {
        delivers_itself(files, declared, wanted)?;
    }
    let Some(live) = live else { return Ok(None) };
    let facts = Facts::read(reader)?;
    let files = files.as_ref().map_err(ToString::to_string);
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

fn declared(wanted: &Wanted) -> Option<&Value> {
    wanted.objects.iter().find(|object| Identity::of(object) == wanted.kustomization)
}

/// Whether Flux has applied this artifact, from this path.
fn is_applied(live: &Value, declared: &Value, digest: &str) -> bool {
    live["status"]["lastAppliedRevision"] == digest
        && live["spec"]["path"] == declared["spec"]["path"]
        && live["spec"]["prune"] == declared["spec"]["prune"]
}

/// Refuses an artifact that holds what this program installs: a later artifact without it would make
/// Flux prune itself.
fn delivers_itself(files: &Files, declared: &Value, wanted: &Wanted) -> Result<(), Error> {
    // What cannot be built here, Flux will refuse, or our objects are protected by their annotation.
    let Ok(build) = build::of_kustomization(files, &declared["spec"]) else { return Ok(()) };
    let document = wanted.objects.iter().map(Identity::of).filter(|id| build.find(id).is_some());
    let objects: Vec<_> = document.map(|id| id.to_string()).collect();
    if objects.is_empty() { Ok(()) } else { Err(Error::DeliversItself { objects }) }
}
