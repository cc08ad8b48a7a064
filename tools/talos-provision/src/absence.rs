//! Guards against an empty answer of the cloud that does not prove absence.
//!
//! A token of another project gets an empty list, and status 404 for the id of any server. A
//! cluster that was destroyed gets the same answers. The status of the document lists the servers of the
//! last run. A snapshot from which they were created, or an action on one of them, exists in the
//! right project alone (`knowledge/decisions/0036`).

use serde_json::Value;

use crate::Error;
use crate::clients::hetzner::{self, CloudState};
use crate::earlier::EarlierFacts;

/// Fails if the document's own `status` lists servers, the cloud shows no resource of the cluster,
/// and neither a snapshot nor an action proves that the token belongs to the right project.
pub(crate) fn require_known_absence(
    cloud: &hetzner::Reader,
    (cluster, status): (&str, &Value),
    state: &CloudState,
) -> Result<(), Error> {
    let earlier = EarlierFacts::read(status);
    let servers = earlier.servers();
    if servers.is_empty() || !is_empty(state) {
        return Ok(());
    }
    for image in earlier.images() {
        if cloud.has_snapshot(image)? {
            return Ok(());
        }
    }
    if cloud.has_acted_on(&earlier.server_ids())? {
        return Ok(());
    }
    Err(Error::WrongProject { cluster: cluster.to_owned(), servers: servers.join(", ") })
}

/// Returns whether the cloud shows no resource of the cluster.
pub(crate) fn is_empty(state: &CloudState) -> bool {
    let resources = state.resources.values().any(|found| found.ours);
    let servers = state.servers.values().any(|server| server.ours);
    let images = !state.images.ours.is_empty() || !state.images.builders.is_empty();
    !resources && !servers && !images && state.leaving.is_empty()
}
