//! Labels of what this program makes in the cloud.

use std::collections::BTreeMap;

use crate::spec::Role;

/// Labels of a resource, by key.
pub(crate) type Labels = BTreeMap<String, String>;

pub(crate) const PROJECT: &str = "holistic/project";
pub(crate) const CLUSTER: &str = "holistic/cluster";
pub(crate) const ROLE: &str = "holistic/role";
pub(crate) const POOL: &str = "holistic/pool";
/// On a server that is being removed: the load balancer no longer forwards to it.
pub(crate) const REMOVING: &str = "holistic/removing";

/// On the network of a cluster that is being destroyed: the number of control planes that were there
/// when the data gate was passed. Once there are fewer, the next `destroy` goes on, although the
/// Kubernetes API may not answer any more. `apply` removes the label.
const DESTROYING: &str = "holistic/destroying";

/// Returns whether `labels` contains the label of a `destroy`.
pub(crate) fn is_destroying(labels: &Labels) -> bool {
    labels.contains_key(DESTROYING)
}

/// Number of control planes when the data gate was passed.
pub(crate) fn destroyed_from(labels: &Labels) -> Option<usize> {
    labels.get(DESTROYING)?.parse().ok()
}

/// `labels`, with that of a `destroy` whose data gate was passed.
pub(crate) fn destroying(labels: &Labels, control_planes: usize) -> Labels {
    let mut labels = labels.clone();
    labels.insert(DESTROYING.to_owned(), control_planes.to_string());
    labels
}

/// `labels`, without that of a `destroy`.
pub(crate) fn not_destroying(labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    labels.remove(DESTROYING);
    labels
}

/// `labels`, with the one that takes a server out of the load balancer.
pub(crate) fn removing(labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    labels.insert(REMOVING.to_owned(), "true".to_owned());
    labels
}

/// `labels`, with those of a machine as they were when it was created. Labels that are not ours stay.
pub(crate) fn relabelled(labels: &Labels, role: Role, pool: &str) -> Labels {
    let mut labels = labels.clone();
    labels.insert(ROLE.to_owned(), role.as_str().to_owned());
    labels.insert(POOL.to_owned(), pool.to_owned());
    labels.remove(REMOVING);
    labels
}
