//! The lease, the writers and the keys that a run holds from its first round until its end.

use contract::Receipt;
use documents::WritePermit;

use crate::Error;
use crate::clients::cluster;
use crate::clients::store;
use crate::desired::{Keys, ReaderImage};
use crate::lease::Lease;
use crate::session::Session;
use crate::volume::Readers;
use crate::write_session::WriteSession;

/// Values that one round or step hands to those after it.
#[derive(Default)]
pub(crate) struct StepContext {
    /// The lease and the writers; absent before the first round.
    pub(crate) writers: Option<Writers>,
    /// Whether this run has checked that everything can be drained.
    pub(crate) is_admitted: bool,
    /// Whether this run has seen that the API server enforces the hold.
    pub(crate) is_hold_enforced: bool,
    /// The receipt of this round, with the sources that are copied so far.
    pub(crate) draft: Option<Receipt>,
    /// `run` of the receipt of which this run has read back every object.
    pub(crate) read_back: Option<String>,
}

/// The lease and the writers of a run.
pub(crate) struct Writers {
    pub(crate) lease: Lease,
    pub(crate) cluster: cluster::Writer,
    copies: Option<CopyWriters>,
}

/// The part that a removal does not need.
struct CopyWriters {
    store: store::Writer,
    keys: Keys,
    image: ReaderImage,
}

impl Writers {
    /// Opens the writers, and takes the lease.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`]: another run holds the lease. Others: a secret cannot be resolved.
    pub(crate) fn open(session: &Session<'_>, permit: &WritePermit) -> Result<Self, Error> {
        let copies = match session.copies_if_any() {
            None => None,
            Some(_) => Some(CopyWriters {
                store: store::Writer::open(session.declared_store()?, permit)?,
                keys: session.keys()?,
                image: session.image()?,
            }),
        };
        let cluster = cluster::Writer::open(&session.kubeconfig, permit)?;
        let lease = Lease::take(session.name(), &session.kubeconfig, permit)?;
        Ok(Self { lease, cluster, copies })
    }
}

impl StepContext {
    /// Returns the lease and the writers.
    ///
    /// # Errors
    ///
    /// No round was authorised yet. Only a mistake in the engine can cause this.
    pub(crate) fn writers(&self) -> Result<&Writers, Error> {
        Ok(self.writers.as_ref().ok_or_else(documents::Error::out_of_order)?)
    }

    /// Returns everything with which a source is copied from `session` into its store.
    ///
    /// # Errors
    ///
    /// The run is a removal, or no round was authorised yet.
    pub(crate) fn write_session<'a>(
        &'a self,
        session: &'a Session<'_>,
    ) -> Result<WriteSession<'a>, Error> {
        let Writers { lease, cluster, copies } = self.writers()?;
        let CopyWriters { store, keys, image } =
            copies.as_ref().ok_or_else(documents::Error::out_of_order)?;
        Ok(WriteSession {
            reader: &session.reader,
            writer: cluster,
            store,
            keys,
            lease,
            image,
            limit: session.limit(),
        })
    }
}

impl<'a> WriteSession<'a> {
    /// Returns the way in which pods that read volumes are made.
    pub(crate) fn readers(&self, drain: &'a str) -> Readers<'a> {
        let Self { image, reader, writer, limit, .. } = *self;
        Readers { drain, image, reader, writer, limit }
    }
}
