//! What must be proven before machines go: that every volume was copied, and that it was one of
//! this very cluster.

use keyring::{Claims, Projects};
use phase::{Job, Known};

use crate::Error;
use crate::hetzner::View;
use crate::kubernetes::Reader;
use crate::session::Session;
use crate::spec::{Cluster, Role};

/// Refuses to go on when data on the machines of `view` is nowhere else.
pub(crate) fn drained(
    job: &Job<'_, Cluster>,
    projects: &Projects,
    session: &Session<'_>,
    view: &View,
) -> Result<(), Error> {
    let ours = || view.servers.values().filter(|it| it.ours);
    if job.own.spec.claims == Claims::Discarded || ours().next().is_none() {
        return Ok(());
    }
    let cluster = job.own.name.as_str();
    let project = projects.get(&job.own.spec.project)?;
    let receipts = keyring::receipts(job.stream, project, |it| it["cluster"] == cluster)?;
    let refused = |why: String| Err(Error::NotDrained { cluster: cluster.to_owned(), why });
    if receipts.is_empty() {
        return refused("no Drain of it is Ready".to_owned());
    }
    let Known::Now(endpoint) = session.endpoint(view) else { return Ok(()) };
    let reader = Reader::new(&session.pki, &endpoint)?;
    let (uid, volumes) = match reader.readyz().and_then(|()| reader.volumes()) {
        Ok(told) => told,
        // It cannot be asked any more once its machines have begun to go.
        Err(_) if has_begun(job.own.spec.pools.iter(), view) => return Ok(()),
        Err(why) => {
            return refused(format!("it does not tell what it still holds: {why}"));
        }
    };
    receipts.iter().try_for_each(|it| it.of_cluster(&uid))?;
    let is_copied = |name: &str, uid: &str| {
        receipts.iter().any(|receipt| receipt.stopped_for(name, uid).is_some())
    };
    let left = volumes.iter().filter(|(name, uid)| !is_copied(name, uid));
    let left: Vec<_> = left.map(|(name, _)| name.as_str()).collect();
    if left.is_empty() {
        return Ok(());
    }
    refused(format!("no receipt names the claims {}", left.join(", ")))
}

/// Whether a control plane that is declared is gone already.
fn has_begun<'a>(pools: impl Iterator<Item = &'a crate::spec::Pool>, view: &View) -> bool {
    let declared = pools.filter(|it| it.role == Role::Controlplane).map(|it| usize::from(it.count));
    let servers = view.servers.values().filter(|it| it.ours);
    servers.filter(|it| it.role == Some(Role::Controlplane)).count() < declared.sum()
}
