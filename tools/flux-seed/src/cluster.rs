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
use crate::response;
use crate::served::{Served, ServedKind};

/// How long one answer may take; a CRD of 40 kB takes 50 ms on a busy machine.
const ANSWER_SECONDS: u64 = 30;
/// How many objects one page of a list holds, and how many pages are read.
const PAGE: usize = 500;
const PAGES: usize = 200;

/// Representations, as the API server negotiates them
/// (<https://kubernetes.io/docs/reference/using-api/api-concepts/#metadata-only-fetches>).
const JSON: &str = "application/json";
const METADATA: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// One request.
struct Ask<'a> {
    method: Method,
    path: &'a str,
    accept: &'static str,
    content: &'static str,
    body: Option<&'a Value>,
    /// What an error calls the request.
    request: &'a str,
    /// Whether a 404 without the reason `NotFound` is an error: the API must be known.
    strict: bool,
}

impl<'a> Ask<'a> {
    fn get(path: &'a str, request: &'a str) -> Self {
        let (method, body, strict) = (Method::GET, None, false);
        Self { method, path, accept: JSON, content: JSON, body, request, strict }
    }
}

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
pub(crate) struct Reader {
    link: Link,
    /// Whether the credentials are a reader's, which the API server denies some objects.
    is_limited: bool,
}

/// Changes.
pub(crate) struct Writer(Link);

impl Reader {
    pub(crate) fn open(kubeconfig: &Secret) -> Result<Self, Error> {
        Ok(Self { link: Link::open(kubeconfig)?, is_limited: false })
    }

    /// Connects with `readerKubeconfig` of a Cluster. What the API server denies it is no error.
    pub(crate) fn open_limited(kubeconfig: &Secret) -> Result<Self, Error> {
        Ok(Self { is_limited: true, ..Self::open(kubeconfig)? })
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.is_limited
    }

    /// The object, if it is there.
    pub(crate) fn get(&self, identity: &Identity) -> Result<Option<Value>, Error> {
        let Some(path) = self.link.path(identity)? else { return Ok(None) };
        let request = format!("get {identity}");
        self.link.ask(&Ask { strict: !is_custom(identity.group()), ..Ask::get(&path, &request) })
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
        let Some(resource) = self.link.resource(api_version, kind)? else { return Ok(Vec::new()) };
        self.link.pages(api_version, kind, (&resource, namespace), label, JSON)
    }

    /// What the data gate wants to know of the cluster.
    pub(crate) fn gate_facts(&self) -> keyring::gate::Facts {
        keyring::gate::Facts::ask(|path| {
            self.link
                .items(path, "list what holds data", true, JSON)
                .map_err(|error| error.to_string())
        })
    }

    /// Asks whether there are objects of a kind, by listing one of them.
    pub(crate) fn ask_for_any(&self, api_version: &str, kind: &str) -> Result<(), Error> {
        let Some(resource) = self.link.resource(api_version, kind)? else { return Ok(()) };
        let path = format!("{}?limit=1", collection(api_version, &resource, None));
        let request = format!("list {kind}");
        self.link.ask(&Ask::get(&path, &request)).map(|_| ())
    }

    /// Every kind that the API server serves, once per group, and the API versions that do not
    /// answer.
    ///
    /// One request per root: aggregated discovery, which every server since Kubernetes 1.30 has
    /// (<https://kubernetes.io/docs/concepts/overview/kubernetes-api/#aggregated-discovery>).
    pub(crate) fn served(&self) -> Result<Served, Error> {
        let mut served = Served::default();
        for root in ["/api", "/apis"] {
            let request = "list what the API server serves";
            let ask = Ask { accept: DISCOVERY, ..Ask::get(root, request) };
            let answer = self.link.ask(&ask)?.unwrap_or_default();
            if answer["kind"] != "APIGroupDiscoveryList" {
                return Err(Error::Garbled { request: request.to_owned() });
            }
            served.read(&answer);
        }
        Ok(served)
    }

    /// The metadata of all objects of a kind; `None` if the kind does not answer.
    pub(crate) fn metadata(&self, kind: &ServedKind) -> Result<Option<Vec<Value>>, Error> {
        let resource = Resource { plural: kind.plural.clone(), namespaced: kind.namespaced };
        match self.link.pages(&kind.api_version, &kind.kind, (&resource, None), "", METADATA) {
            // The Namespace of an API that cannot be asked is kept: the caller knows which it is.
            Err(Error::Busy { .. } | Error::Slow { .. }) if is_aggregated(&kind.api_version) => {
                Ok(None)
            }
            Err(Error::Forbidden { .. }) if self.is_limited => Ok(None),
            other => other.map(Some),
        }
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
        let content = "application/apply-patch+yaml";
        self.change(Method::PATCH, &identity, &query, content, object, "apply")
    }

    /// Changes an object by a JSON patch (RFC 6902), whoever owns its fields.
    pub(crate) fn patch(&self, identity: &Identity, patch: &Value) -> Result<(), Error> {
        let query = format!("?fieldManager={MANAGER}");
        let content = "application/json-patch+json";
        self.change(Method::PATCH, identity, &query, content, patch, "change")
    }

    /// Changes some fields, whoever owns them.
    pub(crate) fn merge(&self, identity: &Identity, patch: &Value) -> Result<(), Error> {
        let query = format!("?fieldManager={MANAGER}");
        let content = "application/merge-patch+json";
        self.change(Method::PATCH, identity, &query, content, patch, "change")
    }

    /// Removes the very object that was looked at, not one that has its name by now.
    pub(crate) fn delete(&self, object: &Value) -> Result<(), Error> {
        self.delete_with(object, "")
    }

    /// Asks every admission policy whether the object may be removed, and does not remove it.
    pub(crate) fn try_delete(&self, object: &Value) -> Result<(), Error> {
        self.delete_with(object, "?dryRun=All")
    }

    fn delete_with(&self, object: &Value, query: &str) -> Result<(), Error> {
        let identity = Identity::of(object);
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": object["metadata"]["uid"]},
        });
        match self.change(Method::DELETE, &identity, query, JSON, &options, "remove") {
            // Another object has the name by now (its UID differs): the one that was seen is gone.
            Err(Error::NotKnownYet { .. } | Error::Changed { .. }) => Ok(()),
            other => other,
        }
    }

    fn change(
        &self,
        method: Method,
        identity: &Identity,
        query: &str,
        content: &'static str,
        body: &Value,
        verb: &str,
    ) -> Result<(), Error> {
        let gone = || Error::NotKnownYet { object: identity.to_string() };
        let path = self.0.path(identity)?.ok_or_else(gone)?;
        let request = format!("{verb} {identity}");
        let path = format!("{path}{query}");
        let ask = Ask { method, content, body: Some(body), ..Ask::get(&path, &request) };
        let answer = self.0.ask(&ask)?;
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
    fn ask(&self, ask: &Ask<'_>) -> Result<Option<Value>, Error> {
        let request = ask.request.to_owned();
        let garbled = || Error::Garbled { request: ask.request.to_owned() };
        let body = ask.body.map(ToString::to_string).unwrap_or_default().into_bytes();
        let http = Request::builder().method(&ask.method).uri(ask.path);
        let http = http.header("content-type", ask.content).header("accept", ask.accept);
        let http = http.body(body).map_err(|_| garbled())?;
        documents::detail("-", format_args!("{} {}", ask.method, ask.path));
        let answer = self.runtime.block_on(async {
            let limit = Duration::from_secs(ANSWER_SECONDS);
            tokio::time::timeout(limit, self.client.request_text(http)).await
        });
        match answer {
            Err(_) => Err(Error::Slow { request, seconds: ANSWER_SECONDS }),
            // Anything but an object with metadata is no answer of an API server.
            Ok(Ok(text)) => serde_json::from_str(&text)
                .ok()
                .filter(is_object_of_an_api)
                .map(Some)
                .ok_or_else(garbled),
            Ok(Err(kube::Error::Api(status)))
                if status.code == 404 && (status.reason == "NotFound" || !ask.strict) =>
            {
                Ok(None)
            }
            Ok(Err(kube::Error::Api(status))) => Err(response::error(request, &status)),
            Ok(Err(source)) => Err(response::failure(request, source)),
        }
    }

    /// All objects of a kind.
    fn pages(
        &self,
        api_version: &str,
        kind: &str,
        (resource, namespace): (&Resource, Option<&str>),
        label: &str,
        accept: &'static str,
    ) -> Result<Vec<Value>, Error> {
        let path = collection(api_version, resource, namespace);
        let path = format!("{path}?labelSelector={label}");
        let strict = !is_custom(api_version.split_once('/').map_or("", |(group, _)| group));
        let mut objects = self.items(&path, &format!("list {kind}"), strict, accept)?;
        for item in &mut objects {
            // Items of a list do not say what they are.
            item["apiVersion"] = api_version.into();
            item["kind"] = kind.into();
        }
        Ok(objects)
    }

    /// The items of a list, page by page; none if its API is unknown and need not be known.
    fn items(
        &self,
        path: &str,
        request: &str,
        strict: bool,
        accept: &'static str,
    ) -> Result<Vec<Value>, Error> {
        let join = if path.contains('?') { '&' } else { '?' };
        let (mut objects, mut next) = (Vec::new(), String::new());
        for _ in 0..PAGES {
            let page = format!("{path}{join}limit={PAGE}&continue={next}");
            let answer = self.ask(&Ask { accept, strict, ..Ask::get(&page, request) })?;
            let Some(mut answer) = answer else { return Ok(objects) };
            let items = match answer.get_mut("items").map(Value::take).unwrap_or_default() {
                Value::Array(items) => items,
                // Measured, 1.36.3: a list of metadata without items holds null in their place.
                Value::Null if answer["metadata"].is_object() => Vec::new(),
                _ => return Err(Error::Garbled { request: request.to_owned() }),
            };
            objects.extend(items.into_iter().filter(is_object_of_an_api));
            answer["metadata"]["continue"].as_str().unwrap_or_default().clone_into(&mut next);
            if next.is_empty() {
                return Ok(objects);
            }
        }
        Err(Error::Garbled { request: format!("{request}: more than {} objects", PAGE * PAGES) })
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
        let answer = self.ask(&Ask::get(&path, &request))?;
        Ok(answer.and_then(|mut it| {
            match it.get_mut("resources").map(Value::take).unwrap_or_default() {
                Value::Array(items) => Some(items),
                _ => None,
            }
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

/// Whether an API server other than the cluster's own may answer for this API version.
fn is_aggregated(api_version: &str) -> bool {
    api_version.split_once('/').is_some_and(|(group, _)| {
        group.contains('.')
            && (is_custom(group) || group.ends_with(".metrics.k8s.io") || group == "metrics.k8s.io")
    })
}

/// Whether an API may be unknown to a server that is right: one of a group that somebody defined.
fn is_custom(group: &str) -> bool {
    group.contains('.') && !group.ends_with(".k8s.io")
}

fn is_object_of_an_api(value: &Value) -> bool {
    value.is_object() && (value["metadata"].is_object() || value["metadata"].is_null())
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
