//! Clients of remote services, each with a reader and a writer.

pub(crate) mod forge;
pub(crate) mod git;
