//! Labels of the objects that a drain creates.

/// Label with the name of the Drain, on every object that it creates.
pub(crate) const LABEL: &str = "holistic/drain";
