//! Labels of what a drain makes in a cluster.

/// Label of everything that a drain makes in a cluster: the name of the Drain.
pub(crate) const LABEL: &str = "holistic/drain";
