//! Clients of remote services. Forge and Git have a reader and a writer.

pub(crate) mod answer;
pub(crate) mod app;
pub(crate) mod connection;
pub(crate) mod dialect;
pub(crate) mod forge;
pub(crate) mod git;
pub(crate) mod gitea;
pub(crate) mod github;
pub(crate) mod http;
pub(crate) mod lfs;
pub(crate) mod lfs_server;
