//! How does one talk to the cluster? Plain JSON over kube's client; all its quirks stay here.
//!
//! **Invariant:** the kubeconfig is read from memory only, and names neither files nor programs.
//! **Invariant:** [`Writer`] alone changes anything, and [`Reader`] cannot be made into one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request};
use keyring::Secret;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::Error;
use crate::diff::MANAGER;
use crate::object::Identity;

/// How long one answer may take; a CRD of 40 kB takes 50 ms on a busy machine.
const ANSWER_SECONDS: u64 = 30;
/// How many objects one page of a list holds, and how many pages are read.
const PAGE: usize = 500;
const PAGES: usize = 40;

/// One connection.
#[derive(Clone)]
struct Link {
    runtime: Rc<Runtime>,
    client: Client,
    resources: Rc<RefCell<BTreeMap<(String, String), Resource>>>,
}

/// Where objects of a kind are, under the path of their API.
#[derive(Clone)]
struct Resource {
    plural: String,
    namespaced: bool,
}

/// Looks.
pub(crate) struct Reader(Link);

/// Changes.
pub(crate) struct Writer(Link);

impl Reader {
    pub(crate) fn open(kubeconfig: &Secret) -> Result<Self, Error> {
        Link::open(kubeconfig).map(Self)
    }

    /// The object, if it is there.
    pub(crate) fn get(&self, identity: &Identity) -> Result<Option<Value>, Error> {
        let Some(path) = self.0.path(identity)? else { return Ok(None) };
        let request = format!("get {identity}");
        self.0.ask(Method::GET, &path, None, None, &request, !is_custom(identity.group()))
    }

    /// All objects of a kind, in a namespace or anywhere.
    pub(crate) fn list(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>, Error> {
        self.labelled(api_version, kind, namespace, "")
    }

    /// Those of them that carry `label`, as `key%3Dvalue`.
    pub(crate) fn labelled(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        label: &str,
    ) -> Result<Vec<Value>, Error> {
        let Some(resource) = self.0.resource(api_version, kind)? else { return Ok(Vec::new()) };
        let path = collection(api_version, &resource, namespace);
        let strict = !is_custom(api_version.split_once('/').map_or("", |it| it.0));
        let mut objects = Vec::new();
        let mut next = String::new();
        for _ in 0..PAGES {
            let page = format!("{path}?limit={PAGE}&labelSelector={label}&continue={next}");
            let request = format!("list {kind}");
            let answer = self.0.ask(Method::GET, &page, None, None, &request, strict)?;
            let Some(mut answer) = answer else { return Ok(objects) };
            let Value::Array(items) = answer["items"].take() else {
                return Err(Error::Garbled { request });
            };
            objects.extend(items.into_iter().map(|mut it| {
                // Items of a list do not say what they are.
                it["apiVersion"] = api_version.into();
                it["kind"] = kind.into();
                it
            }));
            answer["metadata"]["continue"].as_str().unwrap_or_default().clone_into(&mut next);
            if next.is_empty() {
                return Ok(objects);
            }
        }
        Err(Error::Garbled { request: format!("list {kind}: more than {} objects", PAGE * PAGES) })
    }

    /// The kinds of which a namespace can hold objects, each with its API version.
    pub(crate) fn namespaced_kinds(&self) -> Result<Vec<(String, String)>, Error> {
        let request = "list the APIs";
        let answer = self.0.ask(Method::GET, "/apis", None, None, request, true)?;
        let groups = answer.as_ref().and_then(|it| it["groups"].as_array());
        let groups = groups.ok_or_else(|| Error::Garbled { request: request.to_owned() })?;
        let versions =
            groups.iter().filter_map(|it| it["preferredVersion"]["groupVersion"].as_str());
        let mut kinds = Vec::new();
        for version in std::iter::once("v1").chain(versions) {
            for it in self.0.resources(version)?.unwrap_or_default() {
                let verbs = it["verbs"].as_array().into_iter().flatten();
                let lists = verbs.into_iter().any(|it| it == "list");
                if it["namespaced"] == true && lists {
                    let kind = it["kind"].as_str().unwrap_or_default().to_owned();
                    kinds.push((version.to_owned(), kind));
                }
            }
        }
        Ok(kinds)
    }
}

impl Writer {
    pub(crate) fn open(kubeconfig: &Secret) -> Result<Self, Error> {
        Link::open(kubeconfig).map(Self)
    }

    /// Makes `object` what is declared of it. The API server tells what is ours by our name.
    pub(crate) fn apply(&self, object: &Value) -> Result<(), Error> {
        let identity = Identity::of(object);
        let query = format!("?fieldManager={MANAGER}&force=true&fieldValidation=Strict");
        let content = Some("application/apply-patch+yaml");
        self.change(Method::PATCH, &identity, &query, content, object, "apply")
    }

    /// Changes some fields, whoever owns them.
    pub(crate) fn merge(&self, identity: &Identity, patch: &Value) -> Result<(), Error> {
        let query = format!("?fieldManager={MANAGER}");
        let content = Some("application/merge-patch+json");
        self.change(Method::PATCH, identity, &query, content, patch, "change")
    }

    /// Removes the very object that was looked at, not one that has its name by now.
    pub(crate) fn delete(&self, object: &Value) -> Result<(), Error> {
        let identity = Identity::of(object);
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": object["metadata"]["uid"]},
        });
        match self.change(
            Method::DELETE,
            &identity,
            "",
            Some("application/json"),
            &options,
            "remove",
        ) {
            Err(Error::NotKnownYet { .. }) => Ok(()),
            other => other,
        }
    }

    fn change(
        &self,
        method: Method,
        identity: &Identity,
        query: &str,
        content: Option<&'static str>,
        body: &Value,
        verb: &str,
    ) -> Result<(), Error> {
        let gone = || Error::NotKnownYet { object: identity.to_string() };
        let path = self.0.path(identity)?.ok_or_else(gone)?;
        let request = format!("{verb} {identity}");
        let path = format!("{path}{query}");
        let answer = self.0.ask(method, &path, content, Some(body), &request, false)?;
        answer.map(|_| ()).ok_or_else(gone)
    }
}

impl Link {
    fn open(kubeconfig: &Secret) -> Result<Self, Error> {
        let refuse = |why| Error::Kubeconfig { why };
        let kubeconfig =
            Kubeconfig::from_yaml(kubeconfig.text()?).map_err(|_| refuse("it is not one"))?;
        for user in kubeconfig.auth_infos.iter().filter_map(|it| it.auth_info.as_ref()) {
            if user.exec.is_some() || user.auth_provider.is_some() {
                return Err(refuse("it wants to run a program"));
            }
            if user.token_file.is_some()
                || user.client_certificate.is_some()
                || user.client_key.is_some()
            {
                return Err(refuse("it names files"));
            }
        }
        for cluster in kubeconfig.clusters.iter().filter_map(|it| it.cluster.as_ref()) {
            if cluster.certificate_authority.is_some() {
                return Err(refuse("it names files"));
            }
            if cluster.insecure_skip_tls_verify == Some(true) {
                return Err(refuse("it does not want the server to prove who it is"));
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|_| refuse("this machine cannot run a client"))?;
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            let mut config =
                config.map_err(|_| refuse("it lacks a server, a user or a context"))?;
            // Proxies that an environment names are for the web, not for a control plane.
            config.proxy_url = None;
            Client::try_from(config).map_err(|_| refuse("its certificates or keys are not right"))
        })?;
        Ok(Self { runtime: Rc::new(runtime), client, resources: Rc::default() })
    }

    /// Asks once; kube asks again when it is told to (429, 503, 504). `None`: it is not there.
    fn ask(
        &self,
        method: Method,
        path: &str,
        content: Option<&'static str>,
        body: Option<&Value>,
        request: &str,
        strict: bool,
    ) -> Result<Option<Value>, Error> {
        let garbled = || Error::Garbled { request: request.to_owned() };
        let body = body.map(ToString::to_string).unwrap_or_default().into_bytes();
        let content = content.unwrap_or("application/json");
        let http = Request::builder().method(method).uri(path);
        let http = http.header("content-type", content).body(body).map_err(|_| garbled())?;
        let answer = self.runtime.block_on(async {
            let limit = Duration::from_secs(ANSWER_SECONDS);
            tokio::time::timeout(limit, self.client.request_text(http)).await
        });
        let request = request.to_owned();
        match answer {
            Err(_) => Err(Error::Slow { request, seconds: ANSWER_SECONDS }),
            Ok(Ok(text)) => serde_json::from_str(&text).map(Some).map_err(|_| garbled()),
            Ok(Err(kube::Error::Api(status))) => {
                // What is said of a secret may quote it.
                let secret = request.contains(" Secret ");
                let message = if secret { status.reason.clone() } else { status.message.clone() };
                match status.code {
                    404 if status.reason == "NotFound" || !strict => Ok(None),
                    401 | 403 => Err(Error::Forbidden { request, message }),
                    404 => Err(Error::Garbled { request }),
                    409 | 429 | 500.. => {
                        let source = Box::new(kube::Error::Api(status));
                        Err(Error::Unreachable { request, source })
                    }
                    _ => Err(Error::Rejected { request, message }),
                }
            }
            Ok(Err(source)) => Err(Error::Unreachable { request, source: Box::new(source) }),
        }
    }

    /// Where the object is; `None` if the API server knows nothing of its kind.
    fn path(&self, identity: &Identity) -> Result<Option<String>, Error> {
        let Some(resource) = self.resource(&identity.api_version, &identity.kind)? else {
            return Ok(None);
        };
        let namespace = identity.namespace.as_deref().filter(|_| resource.namespaced);
        let collection = collection(&identity.api_version, &resource, namespace);
        Ok(Some(format!("{collection}/{}", identity.name)))
    }

    fn resource(&self, api_version: &str, kind: &str) -> Result<Option<Resource>, Error> {
        if let Some((plural, namespaced)) = well_known(api_version, kind) {
            return Ok(Some(Resource { plural: plural.to_owned(), namespaced }));
        }
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some(known) = self.resources.borrow().get(&key) {
            return Ok(Some(known.clone()));
        }
        for it in self.resources(api_version)?.unwrap_or_default() {
            let plural = it["name"].as_str().unwrap_or_default().to_owned();
            if it["kind"] == kind && !plural.contains('/') {
                let resource = Resource { plural, namespaced: it["namespaced"] == true };
                self.resources.borrow_mut().insert(key, resource.clone());
                return Ok(Some(resource));
            }
        }
        Ok(None)
    }

    /// What an API version serves; `None` if the API server does not know it.
    fn resources(&self, api_version: &str) -> Result<Option<Vec<Value>>, Error> {
        let path = root(api_version);
        let request = format!("list what {api_version} serves");
        let answer = self.ask(Method::GET, &path, None, None, &request, false)?;
        Ok(answer.and_then(|mut it| match it["resources"].take() {
            Value::Array(items) => Some(items),
            _ => None,
        }))
    }
}

/// The kinds that this program declares: known without asking, and before they are served.
fn well_known(api_version: &str, kind: &str) -> Option<(&'static str, bool)> {
    Some(match (api_version, kind) {
        ("v1", "Namespace") => ("namespaces", false),
        ("v1", "ResourceQuota") => ("resourcequotas", true),
        ("v1", "Secret") => ("secrets", true),
        ("v1", "Service") => ("services", true),
        ("v1", "ServiceAccount") => ("serviceaccounts", true),
        ("v1", "Pod") => ("pods", true),
        ("apps/v1", "Deployment") => ("deployments", true),
        ("apps/v1", "ReplicaSet") => ("replicasets", true),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
            ("customresourcedefinitions", false)
        }
        ("networking.k8s.io/v1", "NetworkPolicy") => ("networkpolicies", true),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => ("clusterroles", false),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => ("clusterrolebindings", false),
        ("source.toolkit.fluxcd.io/v1", "OCIRepository") => ("ocirepositories", true),
        ("kustomize.toolkit.fluxcd.io/v1", "Kustomization") => ("kustomizations", true),
        _ => return None,
    })
}

/// Whether an API may be unknown to a server that is right: one of a group that somebody defined.
fn is_custom(group: &str) -> bool {
    group.contains('.') && !group.ends_with(".k8s.io")
}

fn root(api_version: &str) -> String {
    let root = if api_version.contains('/') { "apis" } else { "api" };
    format!("/{root}/{api_version}")
}

fn collection(api_version: &str, resource: &Resource, namespace: Option<&str>) -> String {
    let root = root(api_version);
    match namespace {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{}", resource.plural),
        None => format!("{root}/{}", resource.plural),
    }
}
