//! Kubernetes client: plain JSON over kube's client. Everything specific to kube stays in this file.
//!
//! **Invariant:** the kubeconfig is read from memory only and refers to no file and no program.
//! **Invariant:** only [`Writer`] changes objects, and a [`Reader`] cannot become a [`Writer`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use documents::WritePermit;
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use secrets::Secret;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::Error;
use crate::diff::MANAGER;
use crate::object::Identity;
use crate::response;
use crate::served::{Served, ServedKind};

/// Deadline of one response. Measured: a CRD of 40 kB takes 50 ms on a busy machine.
const RESPONSE_SECONDS: u64 = 30;
/// Objects on one page of a list.
const PAGE: usize = 500;
/// Maximum pages of one list, so that a faulty `continue` token cannot loop for ever.
const PAGES_MAX: usize = 200;

/// Media types that the API server negotiates
/// (<https://kubernetes.io/docs/reference/using-api/api-concepts/#metadata-only-fetches>).
const JSON: &str = "application/json";
const METADATA: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// An HTTP request to the API server.
struct Ask<'a> {
    method: Method,
    path: &'a str,
    accept: &'static str,
    content: &'static str,
    body: Option<&'a Value>,
    /// Description of the request in errors, for example `get Namespace flux-system`.
    request: &'a str,
    /// Whether a 404 without the reason `NotFound` is an error. Such a 404 means that the server does
    /// not know the API, and every server knows the APIs of Kubernetes itself.
    strict: bool,
}

impl<'a> Ask<'a> {
    fn get(path: &'a str, request: &'a str) -> Self {
        let (method, body, strict) = (Method::GET, None, false);
        Self { method, path, accept: JSON, content: JSON, body, request, strict }
    }
}

/// A connection to one API server.
#[derive(Clone)]
struct Link {
    runtime: Rc<Runtime>,
    client: Client,
    resources: Rc<RefCell<BTreeMap<(String, String), Resource>>>,
}

/// URL segment and scope of a kind.
#[derive(Clone)]
struct Resource {
    plural: String,
    namespaced: bool,
}

/// Read access to a cluster.
pub(crate) struct Reader {
    link: Link,
    /// Whether the credentials belong to a reader, to whom the API server denies some objects.
    is_limited: bool,
}

/// Write access to a cluster.
pub(crate) struct Writer(Link);

impl Reader {
    pub(crate) fn open(kubeconfig: &Secret) -> Result<Self, Error> {
        Ok(Self { link: Link::open(kubeconfig)?, is_limited: false })
    }

    /// Connects with `readerKubeconfig` of a Cluster. A denied object is not an error for such a
    /// reader.
    pub(crate) fn open_limited(kubeconfig: &Secret) -> Result<Self, Error> {
        Ok(Self { is_limited: true, ..Self::open(kubeconfig)? })
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.is_limited
    }

    /// Returns the object, or `None` if it does not exist.
    pub(crate) fn get(&self, identity: &Identity) -> Result<Option<Value>, Error> {
        let Some(path) = self.link.path(identity)? else { return Ok(None) };
        let request = format!("get {identity}");
        self.link.ask(&Ask { strict: !is_custom(identity.group()), ..Ask::get(&path, &request) })
    }

    /// Lists all objects of a kind, in one namespace or in all.
    pub(crate) fn list(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>, Error> {
        self.labelled(api_version, kind, namespace, "")
    }

    /// Lists the objects of a kind that carry `label`, which is written `key%3Dvalue`.
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

    /// Reads the facts that the data gate needs about the cluster.
    pub(crate) fn gate_facts(&self) -> contract::gate::Facts {
        contract::gate::Facts::ask(|path| {
            self.link
                .items(path, "list objects that hold data", true, JSON)
                .map_err(|error| error.to_string())
        })
    }

    /// Lists one object of a kind, to check that the API server serves the kind.
    pub(crate) fn ask_for_any(&self, api_version: &str, kind: &str) -> Result<(), Error> {
        let Some(resource) = self.link.resource(api_version, kind)? else { return Ok(()) };
        let path = format!("{}?limit=1", collection(api_version, &resource, None));
        let request = format!("list {kind}");
        self.link.ask(&Ask::get(&path, &request)).map(|_| ())
    }

    /// Lists every kind that the API server serves, once per group, and the API versions that do not
    /// answer.
    ///
    /// Sends one request per root. Aggregated discovery is available since Kubernetes 1.30
    /// (<https://kubernetes.io/docs/concepts/overview/kubernetes-api/#aggregated-discovery>).
    pub(crate) fn served(&self) -> Result<Served, Error> {
        let mut served = Served::default();
        for root in ["/api", "/apis"] {
            let request = "list the kinds that the API server serves";
            let ask = Ask { accept: DISCOVERY, ..Ask::get(root, request) };
            let answer = self.link.ask(&ask)?.unwrap_or_default();
            if answer["kind"] != "APIGroupDiscoveryList" {
                return Err(Error::Garbled { request: request.to_owned() });
            }
            served.read(&answer);
        }
        Ok(served)
    }

    /// Lists the metadata of all objects of a kind. Returns `None` if the kind's server does not
    /// answer.
    pub(crate) fn metadata(&self, kind: &ServedKind) -> Result<Option<Vec<Value>>, Error> {
        let resource = Resource { plural: kind.plural.clone(), namespaced: kind.namespaced };
        match self.link.pages(&kind.api_version, &kind.kind, (&resource, None), "", METADATA) {
            // The caller keeps the Namespaces, because objects of an unavailable API may be in them.
            Err(Error::Busy { .. } | Error::Slow { .. }) if is_aggregated(&kind.api_version) => {
                Ok(None)
            }
            Err(Error::Forbidden { .. }) if self.is_limited => Ok(None),
            other => other.map(Some),
        }
    }
}

impl Writer {
    /// Connects a writer, which only the engine's permit allows.
    pub(crate) fn open(kubeconfig: &Secret, _permit: &WritePermit) -> Result<Self, Error> {
        Link::open(kubeconfig).map(Self)
    }

    /// Applies `object` by server-side apply. The API server records the fields under [`MANAGER`].
    pub(crate) fn apply(&self, object: &Value) -> Result<(), Error> {
        let identity = Identity::of(object);
        let query = format!("?fieldManager={MANAGER}&force=true&fieldValidation=Strict");
        let content = "application/apply-patch+yaml";
        self.change(Method::PATCH, &identity, &query, content, object, "apply")
    }

    /// Changes an object by a JSON patch (RFC 6902), also in fields of other managers.
    pub(crate) fn patch(&self, identity: &Identity, patch: &Value) -> Result<(), Error> {
        let query = format!("?fieldManager={MANAGER}");
        let content = "application/json-patch+json";
        self.change(Method::PATCH, identity, &query, content, patch, "change")
    }

    /// Changes some fields by a merge patch (RFC 7396), also fields of other managers.
    pub(crate) fn merge(&self, identity: &Identity, patch: &Value) -> Result<(), Error> {
        let query = format!("?fieldManager={MANAGER}");
        let content = "application/merge-patch+json";
        self.change(Method::PATCH, identity, &query, content, patch, "change")
    }

    /// Deletes exactly the observed object. A newer object of the same name has another UID and
    /// stays.
    pub(crate) fn delete(&self, object: &Value) -> Result<(), Error> {
        self.delete_with(object, "")
    }

    /// Runs admission for the deletion of an object without deleting it (a server-side dry run).
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
            // 404, or the UID differs: the observed object no longer exists.
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
        let missing = || Error::NotKnownYet { object: identity.to_string() };
        let path = self.0.path(identity)?.ok_or_else(missing)?;
        let request = format!("{verb} {identity}");
        let path = format!("{path}{query}");
        let ask = Ask { method, content, body: Some(body), ..Ask::get(&path, &request) };
        let answer = self.0.ask(&ask)?;
        answer.map(|_| ()).ok_or_else(missing)
    }
}

impl Link {
    fn open(kubeconfig: &Secret) -> Result<Self, Error> {
        let invalid = |why| Error::Kubeconfig { why };
        let kubeconfig = Kubeconfig::from_yaml(kubeconfig.text()?)
            .map_err(|_| invalid("its YAML is not a valid kubeconfig"))?;
        for user in kubeconfig.auth_infos.iter().filter_map(|user| user.auth_info.as_ref()) {
            if user.exec.is_some() || user.auth_provider.is_some() {
                return Err(invalid("it has `exec` or `auth-provider`, which run programs"));
            }
            if user.token_file.is_some()
                || user.client_certificate.is_some()
                || user.client_key.is_some()
            {
                return Err(invalid("it refers to files; keys and certificates must be embedded"));
            }
        }
        for cluster in kubeconfig.clusters.iter().filter_map(|cluster| cluster.cluster.as_ref()) {
            if cluster.certificate_authority.is_some() {
                return Err(invalid("it refers to files; keys and certificates must be embedded"));
            }
            if cluster.insecure_skip_tls_verify == Some(true) {
                return Err(invalid("it has `insecure-skip-tls-verify`"));
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|_| invalid("the HTTP client cannot start"))?;
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            let mut config =
                config.map_err(|_| invalid("it lacks a server, a user or a context"))?;
            // The proxy in the environment serves the web and cannot reach a private control plane.
            config.proxy_url = None;
            Client::try_from(config).map_err(|_| invalid("its certificates or keys are invalid"))
        })?;
        Ok(Self { runtime: Rc::new(runtime), client, resources: Rc::default() })
    }

    /// Sends one request. kube itself retries on 429, 503 and 504. Returns `None` on a 404.
    fn ask(&self, ask: &Ask<'_>) -> Result<Option<Value>, Error> {
        let request = ask.request.to_owned();
        let garbled = || Error::Garbled { request: ask.request.to_owned() };
        let body = ask.body.map(ToString::to_string).unwrap_or_default().into_bytes();
        let http = Request::builder().method(&ask.method).uri(ask.path);
        let http = http.header("content-type", ask.content).header("accept", ask.accept);
        let http = http.body(body).map_err(|_| garbled())?;
        documents::detail("-", format_args!("{} {}", ask.method, ask.path));
        let answer = self.runtime.block_on(async {
            let limit = Duration::from_secs(RESPONSE_SECONDS);
            tokio::time::timeout(limit, self.client.request_text(http)).await
        });
        match answer {
            Err(_) => Err(Error::Slow { request, seconds: RESPONSE_SECONDS }),
            // Every response of an API server is an object. Anything else comes from another server,
            // for example from a proxy.
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

    /// Lists all objects of a kind, with `apiVersion` and `kind` filled in.
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
            // The API server leaves these two fields out of the items of a list.
            item["apiVersion"] = api_version.into();
            item["kind"] = kind.into();
        }
        Ok(objects)
    }

    /// Reads the items of a list page by page. An unknown API gives no items unless `strict`.
    fn items(
        &self,
        path: &str,
        request: &str,
        strict: bool,
        accept: &'static str,
    ) -> Result<Vec<Value>, Error> {
        let join = if path.contains('?') { '&' } else { '?' };
        let (mut objects, mut next) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
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
        Err(Error::Garbled {
            request: format!("{request}: more than {} objects", PAGE * PAGES_MAX),
        })
    }

    /// Returns the URL path of the object, or `None` if the API server does not know its kind.
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
        for served in self.resources(api_version)?.unwrap_or_default() {
            let plural = served["name"].as_str().unwrap_or_default().to_owned();
            if served["kind"] == kind && !plural.contains('/') {
                let resource = Resource { plural, namespaced: served["namespaced"] == true };
                self.resources.borrow_mut().insert(key, resource.clone());
                return Ok(Some(resource));
            }
        }
        Ok(None)
    }

    /// Lists the resources of an API version. Returns `None` if the API server does not serve it.
    fn resources(&self, api_version: &str) -> Result<Option<Vec<Value>>, Error> {
        let path = root(api_version);
        let request = format!("list the kinds of {api_version}");
        let answer = self.ask(&Ask::get(&path, &request))?;
        Ok(answer.and_then(|mut list| {
            match list.get_mut("resources").map(Value::take).unwrap_or_default() {
                Value::Array(items) => Some(items),
                _ => None,
            }
        }))
    }
}

/// Returns the plural of a kind that this program declares, and whether it is namespaced. The table
/// also serves before the definitions of these kinds exist.
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

/// Whether a `CustomResourceDefinition` may define the group. A correct server may lack such an API.
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
