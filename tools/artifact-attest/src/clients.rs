//! Client of the remote service, with a reader and a writer.

pub(crate) mod registry;
