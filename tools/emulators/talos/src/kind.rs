//! Role of a machine in its cluster.

/// Role of a machine in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ControlPlane,
    Worker,
}
