//! Guards against an empty answer of the cloud that does not prove absence.
//!
//! A token of another project gets an empty list, and status 404 for the id of any server. A
//! cluster that was destroyed gets the same answers. The status of the document tells the two cases
//! apart, because it lists the servers of the last run.

use serde_json::Value;

use crate::Error;
use crate::hetzner::{self, CloudState};

/// Fails if the document's own `status` lists servers, the cloud shows no resource of the cluster,
/// and no snapshot proves that the token belongs to the right project.
pub(crate) fn require_known_absence(
    cloud: &hetzner::Reader,
    (cluster, status): (&str, &Value),
    state: &CloudState,
) -> Result<(), Error> {
    let servers = servers(status);
    if servers.is_empty() || !is_empty(state) {
        return Ok(());
    }
    for image in images(status) {
        if cloud.has_snapshot(image)? {
            return Ok(());
        }
    }
    Err(Error::WrongProject { cluster: cluster.to_owned(), servers: servers.join(", ") })
}

/// Returns whether the cloud shows no resource of the cluster.
pub(crate) fn is_empty(state: &CloudState) -> bool {
    let resources = state.resources.values().any(|found| found.ours);
    let servers = state.servers.values().any(|server| server.ours);
    !resources && !servers && state.leaving.is_empty()
}

/// Returns the servers in a status, each with name and id.
fn servers(status: &Value) -> Vec<String> {
    let nodes = status["observed"]["nodes"].as_array().into_iter().flatten();
    let named =
        |node: &Value| Some(format!("{} ({})", node["name"].as_str()?, node["id"].as_u64()?));
    nodes.filter_map(named).collect()
}

fn images(status: &Value) -> Vec<u64> {
    let images = status["observed"]["images"].as_array().into_iter().flatten();
    images.filter_map(Value::as_u64).collect()
}
