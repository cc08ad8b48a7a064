//! Write access to a cluster.

use std::sync::Arc;

use documents::WritePermit;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::client::{Client, Settings};
use crate::request::Change;
use crate::{Error, Kubeconfig, Reader};

/// The right to open writers, for a thread that outlives a borrowed permit.
#[derive(Clone, Debug)]
pub struct WriteAccess {
    kubeconfig: Kubeconfig,
    settings: Settings,
}

impl WriteAccess {
    /// Keeps the right that `permit` proves.
    #[must_use]
    pub fn new(kubeconfig: &Kubeconfig, settings: Settings, _permit: &WritePermit) -> Self {
        Self { kubeconfig: kubeconfig.clone(), settings }
    }

    /// Opens a reader of the same cluster.
    ///
    /// # Errors
    ///
    /// [`Error::Kubeconfig`] or [`Error::Runtime`].
    pub fn reader(&self) -> Result<Reader, Error> {
        Reader::open(&self.kubeconfig, self.settings)
    }

    /// Opens a writer.
    ///
    /// # Errors
    ///
    /// [`Error::Kubeconfig`] or [`Error::Runtime`].
    pub fn writer(&self) -> Result<Writer, Error> {
        Client::open(&self.kubeconfig, self.settings).map(Writer)
    }
}

/// Write access to a cluster.
#[derive(Debug)]
pub struct Writer(Client);

impl Writer {
    /// Prepares a connection. The first request opens it.
    ///
    /// # Errors
    ///
    /// [`Error::Kubeconfig`] or [`Error::Runtime`].
    pub fn open(
        kubeconfig: &Kubeconfig,
        settings: Settings,
        _permit: &WritePermit,
    ) -> Result<Self, Error> {
        Client::open(kubeconfig, settings).map(Self)
    }

    /// Writes over the connection of `reader`.
    #[must_use]
    pub fn of(reader: &Reader, _permit: &WritePermit) -> Self {
        Self(reader.0.clone())
    }

    /// Makes a change, and returns the answer: the object, or a `Status`.
    ///
    /// # Errors
    ///
    /// The API server rejects the change, or the response was lost.
    pub fn send(&self, change: &Change) -> Result<Value, Error> {
        self.0.change(change)
    }

    /// Lets the API server validate and admit a change without making it.
    ///
    /// # Errors
    ///
    /// The error that the change would have.
    pub fn dry_run(&self, change: &Change) -> Result<Value, Error> {
        self.0.dry_run(change)
    }

    /// Makes a request with kube's own API, for example `exec` in a pod, with the deadline and the
    /// errors of this client. `name` describes the request in errors.
    ///
    /// # Errors
    ///
    /// The request failed, or its deadline is over.
    pub fn call<T>(
        &self,
        name: &str,
        request: impl AsyncFnOnce(kube::Client) -> kube::Result<T>,
    ) -> Result<T, Error> {
        self.0.call(name, request)
    }

    /// Returns the runtime that drives the streams of a [`Self::call`].
    #[must_use]
    pub fn runtime(&self) -> &Arc<Runtime> {
        self.0.runtime()
    }
}
