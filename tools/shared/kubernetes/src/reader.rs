//! Read access to a cluster.

use serde_json::Value;

use crate::client::{Client, Settings};
use crate::request::{Change, Request};
use crate::watch::Watches;
use crate::{Error, Kubeconfig, list};

/// Read access to a cluster.
#[derive(Debug)]
pub struct Reader(pub(crate) Client);

impl Reader {
    /// Prepares a connection. The first request opens it.
    ///
    /// # Errors
    ///
    /// [`Error::Kubeconfig`] or [`Error::Runtime`].
    pub fn open(kubeconfig: &Kubeconfig, settings: Settings) -> Result<Self, Error> {
        Client::open(kubeconfig, settings).map(Self)
    }

    /// Returns the object, or `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// The object cannot be read. A 404 that does not come from the API of the object is
    /// [`Error::NotServed`], unless the request permits that.
    pub fn get(&self, request: &Request) -> Result<Option<Value>, Error> {
        self.0.get(request)
    }

    /// Returns all items of a list.
    ///
    /// # Errors
    ///
    /// The list cannot be read completely.
    pub fn list(&self, request: &Request) -> Result<Vec<Value>, Error> {
        list::all(&self.0, request)
    }

    /// Returns watches over the connection of this reader. None is open yet.
    #[must_use]
    pub fn watches(&self) -> Watches {
        Watches::new(self.0.clone())
    }

    /// Whether the API server has answered a request of this run. Before that, its address may be wrong,
    /// and a request that fails is not repeated.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.0.has_answered()
    }

    /// Reads an endpoint that answers with text, for example `/readyz`.
    ///
    /// # Errors
    ///
    /// The answer is an error.
    pub fn check(&self, request: &Request) -> Result<(), Error> {
        self.0.exchange(&request.exchange).map(drop)
    }

    /// Lets the API server validate and admit a change without making it: a server-side dry run
    /// (<https://kubernetes.io/docs/reference/using-api/api-concepts/#dry-run>).
    ///
    /// # Errors
    ///
    /// The error that the change would have.
    pub fn dry_run(&self, change: &Change) -> Result<Value, Error> {
        self.0.dry_run(change)
    }
}
