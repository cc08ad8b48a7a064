//! Labels on the resources that this program creates in the cloud.

use std::collections::BTreeMap;

use contract::labels::{DESTROYING, POOL, REMOVING, ROLE};

use crate::spec::Role;

/// Labels of a resource, by key.
pub(crate) type Labels = BTreeMap<String, String>;

/// Returns the label of a `destroy`, for example `holistic/destroying=3`.
pub(crate) fn destroyed_label(labels: &Labels) -> Option<String> {
    labels.get(DESTROYING).map(|value| format!("{DESTROYING}={value}"))
}

/// Returns the number of control planes when the data gate was passed. Once fewer control planes exist,
/// the next `destroy` continues, although the Kubernetes API may not answer any more.
pub(crate) fn destroyed_from(labels: &Labels) -> Option<usize> {
    labels.get(DESTROYING)?.parse().ok()
}

/// Adds the label of a `destroy` that has passed the data gate.
pub(crate) fn destroying(labels: &Labels, control_planes: usize) -> Labels {
    let mut labels = labels.clone();
    labels.insert(DESTROYING.to_owned(), control_planes.to_string());
    labels
}

/// Removes the label of a `destroy`.
pub(crate) fn not_destroying(labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    labels.remove(DESTROYING);
    labels
}

/// Adds the label that takes a server out of the load balancer.
pub(crate) fn removing(labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    labels.insert(REMOVING.to_owned(), "true".to_owned());
    labels
}

/// Restores the labels that a machine had when it was created. Labels of others stay.
pub(crate) fn relabelled(labels: &Labels, role: Role, pool: &str) -> Labels {
    let mut labels = labels.clone();
    labels.insert(ROLE.to_owned(), role.as_str().to_owned());
    labels.insert(POOL.to_owned(), pool.to_owned());
    labels.remove(REMOVING);
    labels
}
