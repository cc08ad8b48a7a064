//! Clients of remote services. Only the cluster and the store have a writer.

pub(crate) mod cluster;
pub(crate) mod forge;
pub(crate) mod store;
