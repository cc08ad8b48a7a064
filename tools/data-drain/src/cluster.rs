//! Kubernetes client: plain JSON over kube's client. Everything specific to kube stays in this file.
//!
//! **Invariant:** the kubeconfig is read from memory only and refers to no file and no program.
//! **Invariant:** only [`Writer`] changes objects, and a [`Reader`] cannot become a [`Writer`].

use std::rc::Rc;
use std::time::Duration;

use documents::WritePermit;
use http::{Method, Request};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use secrets::Secret;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::Error;
use crate::error::API_SERVER;
use crate::exec::Running;

/// Deadline of one response.
const RESPONSE: Duration = Duration::from_secs(30);
/// Maximum bytes of a volume that wait in memory.
const BUFFER_BYTES: usize = 1 << 20;
/// Field manager of this program.
const MANAGER: &str = "data-drain";

#[derive(Clone)]
struct Link {
    runtime: Rc<Runtime>,
    client: Client,
}

/// Read access to a cluster.
pub(crate) struct Reader(Link);

/// Write access to a cluster, which includes running programs in pods.
pub(crate) struct Writer(Link);

impl Reader {
    pub(crate) fn open(kubeconfig: &Secret) -> Result<Self, Error> {
        Link::open(kubeconfig).map(Self)
    }

    /// Returns the object at `path`, or `None` if it does not exist.
    pub(crate) fn get(&self, path: &str) -> Result<Option<Value>, Error> {
        self.0.ask(Method::GET, path, None)
    }

    /// Lists all objects in the collection at `path`.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Value>, Error> {
        let garbled = || Error::Garbled { request: format!("list {path}") };
        let mut answer = self.get(path)?.ok_or_else(garbled)?;
        match answer.get_mut("items").map(Value::take).unwrap_or_default() {
            Value::Array(items) => Ok(items),
            _ => Err(garbled()),
        }
    }

    /// Returns the reason why the API server would not create `object` in the collection at `path`, or
    /// `None` if it would. The request is a dry run.
    pub(crate) fn dry_run(&self, path: &str, object: &Value) -> Result<Option<String>, Error> {
        let path = format!("{path}?fieldManager={MANAGER}&dryRun=All");
        let body = Some(("application/json", object));
        match self.0.ask(Method::POST, &path, body) {
            Ok(Some(_)) => Ok(None),
            Ok(None) => Ok(Some("the namespace does not exist".to_owned())),
            Err(Error::Rejected { message, .. } | Error::Forbidden { message, .. }) => {
                Ok(Some(message))
            }
            Err(error) => Err(error),
        }
    }
}

/// The right to open writers, for a thread that outlives a borrowed permit.
#[derive(Clone)]
pub(crate) struct WriteAccess(Secret);

impl WriteAccess {
    pub(crate) fn new(kubeconfig: &Secret, _: &WritePermit) -> Self {
        Self(kubeconfig.clone())
    }

    pub(crate) fn reader(&self) -> Result<Reader, Error> {
        Reader::open(&self.0)
    }

    pub(crate) fn writer(&self) -> Result<Writer, Error> {
        Link::open(&self.0).map(Writer)
    }
}

impl Writer {
    pub(crate) fn open(kubeconfig: &Secret, permit: &WritePermit) -> Result<Self, Error> {
        WriteAccess::new(kubeconfig, permit).writer()
    }

    /// Applies `object` at `path` by server-side apply.
    pub(crate) fn apply(&self, path: &str, object: &Value) -> Result<(), Error> {
        let path = format!("{path}?fieldManager={MANAGER}&force=true&fieldValidation=Strict");
        self.0.change(Method::PATCH, &path, Some(("application/apply-patch+yaml", object)))
    }

    /// Changes some fields of the object at `path` by a merge patch (RFC 7396).
    pub(crate) fn merge(&self, path: &str, fields: &Value) -> Result<(), Error> {
        let path = format!("{path}?fieldManager={MANAGER}");
        self.0.change(Method::PATCH, &path, Some(("application/merge-patch+json", fields)))
    }

    /// Creates `object` in the collection at `path`. Returns `false` if an object of that name exists.
    pub(crate) fn create(&self, path: &str, object: &Value) -> Result<bool, Error> {
        let path = format!("{path}?fieldManager={MANAGER}&fieldValidation=Strict");
        self.0.unless_conflict(Method::POST, &path, object)
    }

    /// Replaces the object at `path`. Returns `false` if its `resourceVersion` has changed or it no longer
    /// exists.
    pub(crate) fn replace(&self, path: &str, object: &Value) -> Result<bool, Error> {
        let path = format!("{path}?fieldManager={MANAGER}");
        self.0.unless_conflict(Method::PUT, &path, object)
    }

    /// Deletes the object at `path` if it has this UID.
    pub(crate) fn delete(&self, path: &str, uid: &Value) -> Result<(), Error> {
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
            "preconditions": {"uid": uid},
        });
        self.0.ask(Method::DELETE, path, Some(("application/json", &options))).map(drop)
    }

    /// Starts `command` in a pod and connects to its streams.
    pub(crate) fn run(
        &self,
        namespace: &str,
        pod: &str,
        command: &[&str],
    ) -> Result<Running, Error> {
        let Link { runtime, client } = &self.0;
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let parameters = AttachParams::default()
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .max_stdout_buf_size(BUFFER_BYTES);
        runtime.block_on(async {
            let started = pods.exec(pod, command.iter().copied(), &parameters);
            let started = tokio::time::timeout(RESPONSE, started).await;
            let request = format!("run {} in {namespace}/{pod}", command.join(" "));
            let process = match started {
                Err(_) => return Err(slow(request)),
                Ok(Err(error)) => return Err(failed(request, error)),
                Ok(Ok(process)) => process,
            };
            let running = Running::new(Rc::clone(runtime), request.clone(), process);
            running.ok_or(Error::Garbled { request })
        })
    }
}

impl Link {
    fn open(kubeconfig: &Secret) -> Result<Self, Error> {
        let invalid = |why| Error::Kubeconfig { why };
        let kubeconfig = Kubeconfig::from_yaml(kubeconfig.text()?)
            .map_err(|_| invalid("its YAML is not a valid kubeconfig"))?;
        let users = kubeconfig.auth_infos.iter().filter_map(|user| user.auth_info.as_ref());
        let clusters = kubeconfig.clusters.iter().filter_map(|cluster| cluster.cluster.as_ref());
        for user in users {
            if user.exec.is_some() || user.auth_provider.is_some() {
                return Err(invalid("it has `exec` or `auth-provider`, which run programs"));
            }
            let files = [&user.token_file, &user.client_certificate, &user.client_key];
            if files.iter().any(|file| file.is_some()) {
                return Err(invalid("it refers to files; keys and certificates must be embedded"));
            }
        }
        for cluster in clusters {
            if cluster.certificate_authority.is_some() {
                return Err(invalid("it refers to files; keys and certificates must be embedded"));
            }
            if cluster.insecure_skip_tls_verify == Some(true) {
                return Err(invalid("it has `insecure-skip-tls-verify`"));
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Error::Machine)?;
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            let mut config =
                config.map_err(|_| invalid("it lacks a server, a user or a context"))?;
            // The proxy in the environment serves the web and cannot reach a private control plane.
            config.proxy_url = None;
            Client::try_from(config).map_err(|_| invalid("its certificates or keys are invalid"))
        })?;
        Ok(Self { runtime: Rc::new(runtime), client })
    }

    fn unless_conflict(&self, method: Method, path: &str, object: &Value) -> Result<bool, Error> {
        match self.ask(method, path, Some(("application/json", object))) {
            Ok(answer) => Ok(answer.is_some()),
            Err(Error::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn change(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<(), Error> {
        let missing = || Error::Missing { what: path.to_owned() };
        self.ask(method, path, body)?.map(drop).ok_or_else(missing)
    }

    /// Sends one request. kube itself retries on 429, 503 and 504. Returns `None` on a 404.
    fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Option<Value>, Error> {
        let request = format!("{method} {path}");
        documents::detail("-", &request);
        let garbled = || Error::Garbled { request: request.clone() };
        let (content, body) = body.map_or(("application/json", Vec::new()), |(content, body)| {
            (content, body.to_string().into_bytes())
        });
        let http = Request::builder().method(method).uri(path).header("content-type", content);
        let http = http.body(body).map_err(|_| garbled())?;
        let answer = self.runtime.block_on(async {
            tokio::time::timeout(RESPONSE, self.client.request_text(http)).await
        });
        match answer {
            Err(_) => Err(slow(request)),
            Ok(Ok(text)) => serde_json::from_str(&text).map(Some).map_err(|_| garbled()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
            Ok(Err(error)) => Err(failed(request, error)),
        }
    }
}

fn slow(request: String) -> Error {
    let why = format!("no response within {} s", RESPONSE.as_secs());
    Error::Unreachable { who: API_SERVER.to_owned(), request, why }
}

fn failed(request: String, error: kube::Error) -> Error {
    let who = API_SERVER.to_owned();
    match error {
        kube::Error::Api(status) => match status.code {
            401 | 403 => Error::Forbidden { who, request, message: status.message },
            409 => Error::Conflict { request, message: status.message },
            429 | 500.. => Error::Unreachable { who, request, why: status.message },
            _ => Error::Rejected { who, request, message: status.message },
        },
        error => Error::Unreachable { who, request, why: error.to_string() },
    }
}
