//! Kubernetes client of a drain: objects by their URL path, and programs in pods.
//!
//! **Invariant:** only [`Writer`] changes objects, and a [`Reader`] cannot become a [`Writer`].

pub(crate) mod exec;

use std::sync::Arc;
use std::time::Duration;

use documents::WritePermit;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use kubernetes::{Change, Kubeconfig, Request, Settings};
use serde_json::{Value, json};

use crate::Error;
use crate::clients::cluster::exec::Running;

/// A webhook may take 30 s
/// (<https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#timeouts>).
const SETTINGS: Settings = Settings { manager: "data-drain", deadline: Duration::from_secs(30) };
/// Maximum bytes of a volume that wait in memory.
const BUFFER_BYTES: usize = 1 << 20;

/// Read access to a cluster.
pub(crate) struct Reader(kubernetes::Reader);

/// Write access to a cluster, which includes running programs in pods.
pub(crate) struct Writer(kubernetes::Writer);

impl Reader {
    pub(crate) fn open(kubeconfig: &Kubeconfig) -> Result<Self, Error> {
        Ok(Self(kubernetes::Reader::open(kubeconfig, SETTINGS)?))
    }

    /// Returns the object at `path`, or `None` if it does not exist.
    pub(crate) fn get(&self, path: &str) -> Result<Option<Value>, Error> {
        Ok(self.0.get(&Request::get(path))?)
    }

    /// Lists all objects in the collection at `path`.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Value>, Error> {
        Ok(self.0.list(&Request::get(path).named(format!("list {path}")))?)
    }

    /// Whether the API server serves the collection at `path`.
    pub(crate) fn serves(&self, path: &str) -> Result<bool, Error> {
        let request = Request::get(&format!("{path}?limit=1")).of_optional_api();
        Ok(self.0.get(&request)?.is_some())
    }

    /// Returns the reason why the API server would not create `object` in the collection at `path`, or
    /// `None` if it would. The request is a dry run.
    pub(crate) fn dry_run(&self, path: &str, object: &Value) -> Result<Option<String>, Error> {
        use kubernetes::Error::{Denied, Forbidden, Invalid, NotFound, QuotaExceeded, Terminating};
        match self.0.dry_run(&Change::create(path, object)) {
            Ok(_) => Ok(None),
            Err(NotFound { .. }) => Ok(Some("the namespace does not exist".to_owned())),
            Err(
                Denied { message, .. }
                | Forbidden { message, .. }
                | QuotaExceeded { message, .. }
                | Terminating { message, .. }
                | Invalid { message, .. },
            ) => Ok(Some(message)),
            Err(error) => Err(error.into()),
        }
    }
}

/// The right to open writers, for a thread that outlives a borrowed permit.
#[derive(Clone)]
pub(crate) struct WriteAccess(kubernetes::WriteAccess);

impl WriteAccess {
    pub(crate) fn new(kubeconfig: &Kubeconfig, permit: &WritePermit) -> Self {
        Self(kubernetes::WriteAccess::new(kubeconfig, SETTINGS, permit))
    }

    pub(crate) fn reader(&self) -> Result<Reader, Error> {
        Ok(Reader(self.0.reader()?))
    }

    pub(crate) fn writer(&self) -> Result<Writer, Error> {
        Ok(Writer(self.0.writer()?))
    }
}

impl Writer {
    pub(crate) fn open(kubeconfig: &Kubeconfig, permit: &WritePermit) -> Result<Self, Error> {
        Ok(Self(kubernetes::Writer::open(kubeconfig, SETTINGS, permit)?))
    }

    /// Applies `object` at `path` by server-side apply.
    pub(crate) fn apply(&self, path: &str, object: &Value) -> Result<(), Error> {
        self.change(path, &Change::apply(path, object))
    }

    /// Changes some fields of the object at `path` by a merge patch (RFC 7396).
    pub(crate) fn merge(&self, path: &str, fields: &Value) -> Result<(), Error> {
        self.change(path, &Change::merge(path, fields))
    }

    /// Creates `object` in the collection at `path`. Returns `false` if an object of that name exists.
    pub(crate) fn create(&self, path: &str, object: &Value) -> Result<bool, Error> {
        self.unless_conflict(&Change::create(path, object))
    }

    /// Replaces the object at `path`. Returns `false` if its `resourceVersion` has changed or it no longer
    /// exists.
    pub(crate) fn replace(&self, path: &str, object: &Value) -> Result<bool, Error> {
        self.unless_conflict(&Change::replace(path, object))
    }

    /// Deletes the object at `path` if it has this UID.
    pub(crate) fn delete(&self, path: &str, uid: &Value) -> Result<(), Error> {
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
        match self.0.send(&Change::delete(path, &options)) {
            Err(kubernetes::Error::NotFound { .. }) => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// Starts `command` in a pod and connects to its streams.
    pub(crate) fn run(
        &self,
        namespace: &str,
        pod: &str,
        command: &[&str],
    ) -> Result<Running, Error> {
        let parameters = AttachParams::default()
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .max_stdout_buf_size(BUFFER_BYTES);
        let request = format!("run {} in {namespace}/{pod}", command.join(" "));
        let runtime = Arc::clone(self.0.runtime());
        let running = self.0.call(&request, async |client| {
            let pods: Api<Pod> = Api::namespaced(client, namespace);
            let process = pods.exec(pod, command.iter().copied(), &parameters).await?;
            // The tasks that read the streams start on the runtime of this call.
            Ok(Running::new(runtime, request.clone(), process))
        })?;
        running.ok_or(Error::Garbled { request })
    }

    fn unless_conflict(&self, change: &Change) -> Result<bool, Error> {
        match self.0.send(change) {
            Ok(_) => Ok(true),
            Err(kubernetes::Error::Conflict { .. } | kubernetes::Error::NotFound { .. }) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn change(&self, path: &str, change: &Change) -> Result<(), Error> {
        match self.0.send(change) {
            Err(kubernetes::Error::NotFound { .. }) => {
                Err(Error::Missing { what: path.to_owned() })
            }
            other => Ok(other.map(drop)?),
        }
    }
}
