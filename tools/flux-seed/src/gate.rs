//! What must be proven before data goes: that every claim was copied, that it is this very claim of
//! this very cluster, and that nothing has written to it since.

use keyring::{Project, Stopped};
use phase::Declared;
use serde_json::Value;

use crate::cluster::Reader;
use crate::object::Identity;
use crate::{Error, Job};

/// A claim that would go.
pub(crate) struct Claim {
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Refuses to go on when the data of `claims` is nowhere else.
pub(crate) fn drained(
    job: &Job<'_>,
    project: &Declared<Project>,
    reader: &Reader,
    claims: &[Claim],
) -> Result<(), Error> {
    if claims.is_empty() {
        return Ok(());
    }
    let cluster = job.own.spec.cluster.as_str();
    let receipts = keyring::receipts(job.stream, project, |it| it["cluster"] == cluster)?;
    let kube_system = reader.get(&identity("v1", "Namespace", None, "kube-system"))?;
    let uid = kube_system.as_ref().map(uid).unwrap_or_default();
    for receipt in &receipts {
        receipt.of_cluster(uid)?;
    }
    let mut missing = Vec::new();
    for claim in claims {
        let stopped =
            receipts.iter().find_map(|receipt| receipt.stopped_for(&claim.name, &claim.uid));
        match stopped {
            None => missing.push(claim.name.clone()),
            Some(Some(stopped)) => still(reader, claim, stopped)?,
            Some(None) => {}
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(Error::NotDrained { claims: missing }) }
}

/// Whether what was stopped is as the drain has left it.
fn still(reader: &Reader, claim: &Claim, stopped: &Stopped) -> Result<(), Error> {
    let namespace = claim.name.split('/').next().unwrap_or_default();
    let (kind, name) = stopped.workload.split_once('/').unwrap_or_default();
    let kind = if kind == "statefulset" { "StatefulSet" } else { "Deployment" };
    let object = reader.get(&identity("apps/v1", kind, Some(namespace), name))?;
    let is_still = object.as_ref().is_none_or(|it| {
        uid(it) == stopped.uid && it["metadata"]["generation"] == stopped.generation
    });
    let started = || Error::StartedAgain {
        claim: claim.name.clone(),
        workload: format!("{kind} {namespace}/{name}"),
    };
    if is_still { Ok(()) } else { Err(started()) }
}

fn identity(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Identity {
    Identity {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    }
}

pub(crate) fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}
