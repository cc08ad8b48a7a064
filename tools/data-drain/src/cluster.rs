//! How does one talk to the cluster? Plain JSON over kube's client; all its quirks stay here.
//!
//! **Invariant:** the kubeconfig is read from memory only, and names neither files nor programs.
//! **Invariant:** [`Writer`] alone changes anything, and [`Reader`] cannot be made into one.

use std::rc::Rc;
use std::time::Duration;

use documents::WritePermit;
use http::{Method, Request};
use k8s_openapi::api::core::v1::Pod;
use keyring::Secret;
use kube::api::{Api, AttachParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::Error;
use crate::error::API_SERVER;
use crate::exec::Running;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How much of a volume waits for us at most.
const BUFFER_BYTES: usize = 1 << 20;
/// By which name the API server knows what we change.
const MANAGER: &str = "data-drain";

#[derive(Clone)]
struct Link {
    runtime: Rc<Runtime>,
    client: Client,
}

/// Looks.
pub(crate) struct Reader(Link);

/// Changes; and runs programs in pods.
pub(crate) struct Writer(Link);

impl Reader {
    pub(crate) fn open(kubeconfig: &Secret) -> Result<Self, Error> {
        Link::open(kubeconfig).map(Self)
    }

    /// The object at `path`, if it is there.
    pub(crate) fn get(&self, path: &str) -> Result<Option<Value>, Error> {
        self.0.ask(Method::GET, path, None)
    }

    /// All objects at `path`.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Value>, Error> {
        let garbled = || Error::Garbled { request: format!("list {path}") };
        let mut answer = self.get(path)?.ok_or_else(garbled)?;
        match answer.get_mut("items").map(Value::take).unwrap_or_default() {
            Value::Array(items) => Ok(items),
            _ => Err(garbled()),
        }
    }

    /// Why the API server would not create `object` in the collection at `path`; `None` if it
    /// would. Nothing is stored.
    pub(crate) fn dry_run(&self, path: &str, object: &Value) -> Result<Option<String>, Error> {
        let path = format!("{path}?fieldManager={MANAGER}&dryRun=All");
        let body = Some(("application/json", object));
        match self.0.ask(Method::POST, &path, body) {
            Ok(Some(_)) => Ok(None),
            Ok(None) => Ok(Some("the namespace is not there".to_owned())),
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

    /// Makes `object` at `path` what is declared.
    pub(crate) fn apply(&self, path: &str, object: &Value) -> Result<(), Error> {
        let path = format!("{path}?fieldManager={MANAGER}&force=true&fieldValidation=Strict");
        self.0.change(Method::PATCH, &path, Some(("application/apply-patch+yaml", object)))
    }

    /// Changes some fields of what is at `path`.
    pub(crate) fn merge(&self, path: &str, fields: &Value) -> Result<(), Error> {
        let path = format!("{path}?fieldManager={MANAGER}");
        self.0.change(Method::PATCH, &path, Some(("application/merge-patch+json", fields)))
    }

    /// Creates `object` in the collection at `path`. `false`: an object of that name is there.
    pub(crate) fn create(&self, path: &str, object: &Value) -> Result<bool, Error> {
        let path = format!("{path}?fieldManager={MANAGER}&fieldValidation=Strict");
        self.0.unless_conflict(Method::POST, &path, object)
    }

    /// Replaces the object at `path`. `false`: its `resourceVersion` is another by now, or it is
    /// gone.
    pub(crate) fn replace(&self, path: &str, object: &Value) -> Result<bool, Error> {
        let path = format!("{path}?fieldManager={MANAGER}");
        self.0.unless_conflict(Method::PUT, &path, object)
    }

    /// Removes what is at `path`, if it has this UID.
    pub(crate) fn delete(&self, path: &str, uid: &Value) -> Result<(), Error> {
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
            "preconditions": {"uid": uid},
        });
        self.0.ask(Method::DELETE, path, Some(("application/json", &options))).map(drop)
    }

    /// Starts `command` in a pod.
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
            let started = tokio::time::timeout(ANSWER, started).await;
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
        let refuse = |why| Error::Kubeconfig { why };
        let kubeconfig =
            Kubeconfig::from_yaml(kubeconfig.text()?).map_err(|_| refuse("it is not one"))?;
        let users = kubeconfig.auth_infos.iter().filter_map(|it| it.auth_info.as_ref());
        let clusters = kubeconfig.clusters.iter().filter_map(|it| it.cluster.as_ref());
        for user in users {
            if user.exec.is_some() || user.auth_provider.is_some() {
                return Err(refuse("it wants to run a program"));
            }
            let files = [&user.token_file, &user.client_certificate, &user.client_key];
            if files.iter().any(|it| it.is_some()) {
                return Err(refuse("it names files"));
            }
        }
        for cluster in clusters {
            if cluster.certificate_authority.is_some() {
                return Err(refuse("it names files"));
            }
            if cluster.insecure_skip_tls_verify == Some(true) {
                return Err(refuse("it does not want the server to prove who it is"));
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Error::Machine)?;
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            let mut config =
                config.map_err(|_| refuse("it lacks a server, a user or a context"))?;
            // Proxies that an environment names are for the web, not for a control plane.
            config.proxy_url = None;
            Client::try_from(config).map_err(|_| refuse("its certificates or keys are not right"))
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
        let gone = || Error::Missing { what: path.to_owned() };
        self.ask(method, path, body)?.map(drop).ok_or_else(gone)
    }

    /// Asks once; kube asks again when it is told to (429, 503, 504). `None`: it is not there.
    fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Option<Value>, Error> {
        let request = format!("{method} {path}");
        let garbled = || Error::Garbled { request: request.clone() };
        let (content, body) = body.map_or(("application/json", Vec::new()), |(content, body)| {
            (content, body.to_string().into_bytes())
        });
        let http = Request::builder().method(method).uri(path).header("content-type", content);
        let http = http.body(body).map_err(|_| garbled())?;
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(ANSWER, self.client.request_text(http)).await });
        match answer {
            Err(_) => Err(slow(request)),
            Ok(Ok(text)) => serde_json::from_str(&text).map(Some).map_err(|_| garbled()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
            Ok(Err(error)) => Err(failed(request, error)),
        }
    }
}

fn slow(request: String) -> Error {
    let why = format!("no answer within {} s", ANSWER.as_secs());
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
