//! Clients of remote services. Only the cluster has a writer.

pub(crate) mod cluster;
pub(crate) mod registry;
