//! Everything that a drain asks and changes.

use crate::lease::Lease;
use crate::observe::Keys;
use crate::{Error, Limit, cluster, store};

/// Everything that can be asked, and everything that can be changed.
pub(crate) struct World<'a> {
    pub(crate) reader: &'a cluster::Reader,
    pub(crate) writer: &'a cluster::Writer,
    pub(crate) back: &'a store::Reader,
    pub(crate) store: &'a store::Writer,
    pub(crate) keys: &'a Keys,
    pub(crate) lease: &'a Lease,
    /// The image that reads volumes.
    pub(crate) image: &'a str,
    pub(crate) limit: Limit,
}

impl World<'_> {
    /// Whether to go on: no signal has come, and no other run has taken over.
    pub(crate) fn go_on(&self) -> Result<(), Error> {
        documents::check_interrupt()?;
        self.lease.check()
    }
}
