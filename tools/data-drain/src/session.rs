//! Session of one run: clients, keys and limits.

use crate::lease::Lease;
use crate::observe::Keys;
use crate::{Error, Limit, cluster, store};

/// Clients, keys and limits of one run.
pub(crate) struct Session<'a> {
    pub(crate) reader: &'a cluster::Reader,
    pub(crate) writer: &'a cluster::Writer,
    /// Store client with read-only credentials, for the read-back check.
    pub(crate) back: &'a store::Reader,
    pub(crate) store: &'a store::Writer,
    pub(crate) keys: &'a Keys,
    pub(crate) lease: &'a Lease,
    /// Image reference of the volume reader.
    pub(crate) image: &'a str,
    pub(crate) limit: Limit,
}

impl Session<'_> {
    /// Fails after a signal or after another run has taken the lease.
    pub(crate) fn check(&self) -> Result<(), Error> {
        documents::check_interrupt()?;
        self.lease.check()
    }
}
