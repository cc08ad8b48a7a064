//! Guards against an empty answer of the cloud that does not prove absence.
//!
//! A token of another project gets an empty list, and status 404 for the id of any server. A
//! cluster that was destroyed gets the same answers. The status of the document tells the two cases
//! apart, because it lists the servers of the last run.

use documents::Context;
use serde_json::Value;

use crate::Error;
use crate::hetzner::CloudState;
use crate::session::Ground;
use crate::spec::Cluster;

/// Returns the state of the cloud, or an error if an empty answer does not prove absence.
pub(crate) fn see(
    context: &Context<'_, Cluster>,
    ground: &Ground<'_>,
) -> Result<CloudState, Error> {
    let cloud = ground.see()?;
    require_known_absence(ground, context.stream.status(context.document), &cloud)?;
    Ok(cloud)
}

/// Fails if the document's own `status` lists servers, the cloud shows no resource of the cluster,
/// and no snapshot proves that the token belongs to the right project.
fn require_known_absence(
    ground: &Ground<'_>,
    status: &Value,
    cloud: &CloudState,
) -> Result<(), Error> {
    let servers = servers(status);
    if servers.is_empty() || !is_empty(cloud) {
        return Ok(());
    }
    for image in images(status) {
        if ground.cloud.has_snapshot(image)? {
            return Ok(());
        }
    }
    let cluster = ground.document.name.to_string();
    Err(Error::WrongProject { cluster, servers: servers.join(", ") })
}

/// Returns whether the cloud shows no resource of the cluster.
fn is_empty(cloud: &CloudState) -> bool {
    let resources = cloud.resources.values().any(|found| found.ours);
    let servers = cloud.servers.values().any(|server| server.ours);
    !resources && !servers && cloud.leaving.is_empty()
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
