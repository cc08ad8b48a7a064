//! Clients of remote services, each with a reader and a writer.

pub(crate) mod hetzner;
pub(crate) mod kubernetes;
pub(crate) mod talos;
