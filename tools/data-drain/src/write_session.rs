//! Readers, writers, keys and the lease of a run that copies.

use crate::clients::cluster;
use crate::clients::store;
use crate::desired::{Keys, ReaderImage};
use crate::lease::Lease;
use crate::{Error, Limit};

/// Readers, writers, keys and the lease of a run that copies.
pub(crate) struct WriteSession<'a> {
    pub(crate) reader: &'a cluster::Reader,
    pub(crate) writer: &'a cluster::Writer,
    pub(crate) store: &'a store::Writer,
    pub(crate) keys: &'a Keys,
    pub(crate) lease: &'a Lease,
    pub(crate) image: &'a ReaderImage,
    pub(crate) limit: Limit,
}

impl WriteSession<'_> {
    /// Checks that no signal arrived, and that no other run took the lease.
    pub(crate) fn check(&self) -> Result<(), Error> {
        documents::check_interrupt()?;
        self.lease.check()
    }
}
