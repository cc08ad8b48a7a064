//! Kubernetes client: objects by their identity, over the shared client of plain JSON.
//!
//! **Invariant:** only [`Writer`] changes objects, and a [`Reader`] cannot become a [`Writer`].

pub(crate) mod reads;
pub(crate) mod served;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use documents::{Diagnostic as _, WritePermit};
use kubernetes::{Change, Kubeconfig, Request, Settings, Watches};
use serde_json::{Value, json};

use crate::Error;
use crate::clients::cluster::reads::Reads;
use crate::clients::cluster::served::{Served, ServedKind};
use crate::diff::MANAGER;
use crate::object::Identity;

/// Measured: a CRD of 40 kB takes 50 ms on a busy machine. A webhook may take 30 s
/// (<https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#timeouts>).
const SETTINGS: Settings = Settings { manager: MANAGER, deadline: Duration::from_secs(30) };

/// Most requests that wait for their answers at the same time. An API server permits 400 in all
/// (`--max-requests-inflight`, <https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/>).
const IN_FLIGHT_MAX: usize = 16;

/// Media types that the API server negotiates
/// (<https://kubernetes.io/docs/reference/using-api/api-concepts/#metadata-only-fetches>).
const METADATA: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Kinds of the cluster that this program has looked up.
#[derive(Default)]
struct Resources(Mutex<BTreeMap<(String, String), Resource>>);

/// URL segment and scope of a kind.
#[derive(Clone)]
struct Resource {
    plural: String,
    namespaced: bool,
}

/// Read access to a cluster.
pub(crate) struct Reader {
    api: kubernetes::Reader,
    resources: Resources,
    reads: Reads,
    /// Whether the credentials belong to a reader, to whom the API server denies some objects.
    is_limited: bool,
}

/// Answer of the API of an object.
pub(crate) enum Answer {
    /// The object; `None` if it does not exist.
    Object(Option<Value>),
    /// The server of the API does not answer.
    Silent,
}

/// Write access to a cluster.
pub(crate) struct Writer {
    api: kubernetes::Writer,
    reader: Reader,
}

impl Reader {
    pub(crate) fn open(kubeconfig: &Kubeconfig) -> Result<Self, Error> {
        let api = kubernetes::Reader::open(kubeconfig, SETTINGS)?;
        let (resources, reads) = (Resources::default(), Reads::default());
        Ok(Self { api, resources, reads, is_limited: false })
    }

    /// Connects with `readerKubeconfig` of a Cluster. A denied object is not an error for such a
    /// reader.
    pub(crate) fn open_limited(kubeconfig: &Kubeconfig) -> Result<Self, Error> {
        Ok(Self { is_limited: true, ..Self::open(kubeconfig)? })
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.is_limited
    }

    /// Returns watches over the connection of this reader.
    pub(crate) fn watches(&self) -> Watches {
        self.api.watches()
    }

    /// Returns the collections and objects that this reader has read, so that a wait can watch them.
    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Returns the object, or `None` if it does not exist.
    pub(crate) fn get(&self, identity: &Identity) -> Result<Option<Value>, Error> {
        let Some(path) = self.path(identity)? else { return Ok(None) };
        self.reads.note_object(&path);
        let request = Request::get(&path).named(format!("get {identity}"));
        Ok(self.api.get(&optional_if_custom(request, identity.group()))?)
    }

    /// Calls `read` with each of `items`, in parallel, so that a distant API server is waited for once.
    /// Only the first call of a run is made alone, because failed requests are repeated only after the API
    /// server has answered.
    pub(crate) fn each<I: Send, O: Send>(
        &self,
        items: impl IntoIterator<Item = I>,
        read: impl Fn(&Self, I) -> Result<O, Error> + Sync,
    ) -> Vec<Result<O, Error>> {
        let mut items = items.into_iter();
        let first = if self.api.has_answered() { None } else { items.next() };
        let first = first.map(|item| read(self, item));
        if first.as_ref().is_some_and(Result::is_err) {
            return first.into_iter().collect();
        }
        let others = documents::parallel_map_limited(IN_FLIGHT_MAX, items, |item| read(self, item));
        first.into_iter().chain(others).collect()
    }

    /// Returns the object, or `None` if it does not exist, unless another API server that has to answer for
    /// its API is silent.
    pub(crate) fn get_unless_silent(&self, identity: &Identity) -> Result<Answer, Error> {
        let object = unless_silent(&identity.api_version, |repeats| {
            let Some(path) = self.path(identity)? else { return Ok(None) };
            self.reads.note_object(&path);
            let request = Request::get(&path).named(format!("get {identity}"));
            let request = optional_if_custom(request, identity.group());
            Ok(self.api.get(&if repeats { request } else { request.once() })?)
        })?;
        Ok(object.map_or(Answer::Silent, Answer::Object))
    }

    /// Returns `object` as the API server would store it: with defaults, and as admission rewrites it.
    /// Returns `None` if the API server would reject the object, or does not let these credentials ask.
    pub(crate) fn admitted(&self, object: &Value) -> Result<Option<Value>, Error> {
        let Some(path) = self.path(&Identity::of(object))? else { return Ok(None) };
        let change = Change::apply(&path, object).named(format!("try {}", Identity::of(object)));
        match self.api.dry_run(&change) {
            Ok(stored) => Ok(Some(stored)),
            Err(error) if error.is_transient() => Err(error.into()),
            Err(_) => Ok(None),
        }
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

    /// Lists the objects of a kind that a field selector selects, which is written `key%3Dvalue`.
    pub(crate) fn selected(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        fields: &str,
    ) -> Result<Vec<Value>, Error> {
        self.query(api_version, kind, namespace, &format!("fieldSelector={fields}"))
    }

    fn query(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        query: &str,
    ) -> Result<Vec<Value>, Error> {
        let Some(resource) = self.resource(api_version, kind)? else { return Ok(Vec::new()) };
        let path = collection(api_version, &resource, namespace);
        self.items(api_version, kind, &format!("{path}?{query}"), |request| request)
    }

    /// Whether the API server serves the kind.
    pub(crate) fn serves(&self, api_version: &str, kind: &str) -> Result<bool, Error> {
        Ok(self.resource(api_version, kind)?.is_some())
    }

    /// Lists the objects of a kind that carry `label`, which is written `key%3Dvalue`.
    pub(crate) fn labelled(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        label: &str,
    ) -> Result<Vec<Value>, Error> {
        self.query(api_version, kind, namespace, &format!("labelSelector={label}"))
    }

    /// Lists the objects of a kind with `label`, or returns `None` if another API server that has to answer
    /// for its API is silent.
    pub(crate) fn labelled_unless_silent(
        &self,
        api_version: &str,
        kind: &str,
        label: &str,
    ) -> Result<Option<Vec<Value>>, Error> {
        unless_silent(api_version, |repeats| {
            let Some(resource) = self.resource(api_version, kind)? else { return Ok(Vec::new()) };
            let path = collection(api_version, &resource, None);
            let path = format!("{path}?labelSelector={label}");
            let once = |request: Request| if repeats { request } else { request.once() };
            self.items(api_version, kind, &path, once)
        })
    }

    /// Reads the facts that the data gate needs about the cluster.
    pub(crate) fn gate_facts(&self) -> contract::gate::Facts {
        contract::gate::Facts::ask(|path| {
            let request = Request::get(path).named("list objects that hold data");
            self.api.list(&request).map_err(|error| error.to_string())
        })
    }

    /// Lists one object of a kind, to check that the API server serves the kind.
    pub(crate) fn ask_for_any(&self, api_version: &str, kind: &str) -> Result<(), Error> {
        let Some(resource) = self.resource(api_version, kind)? else { return Ok(()) };
        let path = format!("{}?limit=1", collection(api_version, &resource, None));
        let request = Request::get(&path).named(format!("list {kind}")).of_optional_api();
        Ok(self.api.get(&request).map(drop)?)
    }

    /// Lists every kind that the API server serves, once per group, and the API versions that do not
    /// answer.
    ///
    /// Sends one request per root. Aggregated discovery is available since Kubernetes 1.30
    /// (<https://kubernetes.io/docs/concepts/overview/kubernetes-api/#aggregated-discovery>).
    pub(crate) fn served(&self) -> Result<Served, Error> {
        let mut served = Served::default();
        for root in ["/api", "/apis"] {
            let name = "list the kinds that the API server serves";
            let request = Request::get(root).named(name).accept(DISCOVERY);
            let answer = self.api.get(&request.of_optional_api())?.unwrap_or_default();
            if answer["kind"] != "APIGroupDiscoveryList" {
                return Err(Error::Garbled { request: name.to_owned() });
            }
            served.read(&answer);
        }
        Ok(served)
    }

    /// Lists the metadata of all objects of a kind. Returns `None` if the kind's server does not
    /// answer.
    pub(crate) fn metadata(&self, kind: &ServedKind) -> Result<Option<Vec<Value>>, Error> {
        let resource = Resource { plural: kind.plural.clone(), namespaced: kind.namespaced };
        let path = collection(&kind.api_version, &resource, None);
        let of_metadata = |request: Request| request.accept(METADATA);
        match self.items(&kind.api_version, &kind.kind, &path, of_metadata) {
            // The caller keeps the Namespaces, because objects of an unavailable API may be in them.
            Err(Error::Cluster(error))
                if is_aggregated(&kind.api_version) && is_silence(&error) =>
            {
                Ok(None)
            }
            Err(Error::Cluster(kubernetes::Error::Forbidden { .. })) if self.is_limited => Ok(None),
            other => other.map(Some),
        }
    }

    /// Lists objects of a kind, with `apiVersion` and `kind` filled in, which the API server leaves out
    /// of the items of a list.
    fn items(
        &self,
        api_version: &str,
        kind: &str,
        path: &str,
        refine: impl FnOnce(Request) -> Request,
    ) -> Result<Vec<Value>, Error> {
        self.reads.note_list(path);
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let request = refine(Request::get(path).named(format!("list {kind}")));
        let request = optional_if_custom(request, group);
        let mut objects = self.api.list(&request)?;
        for item in &mut objects {
            item["apiVersion"] = api_version.into();
            item["kind"] = kind.into();
        }
        Ok(objects)
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
        let known = || self.resources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known().get(&key) {
            return Ok(Some(known.clone()));
        }
        for served in self.resources(api_version)?.unwrap_or_default() {
            let plural = served["name"].as_str().unwrap_or_default().to_owned();
            if served["kind"] == kind && !plural.contains('/') {
                let resource = Resource { plural, namespaced: served["namespaced"] == true };
                known().insert(key, resource.clone());
                return Ok(Some(resource));
            }
        }
        Ok(None)
    }

    /// Lists the resources of an API version. Returns `None` if the API server does not serve it.
    fn resources(&self, api_version: &str) -> Result<Option<Vec<Value>>, Error> {
        let mut request = Request::get(&root(api_version)).of_optional_api();
        if is_aggregated(api_version) {
            request = request.once();
        }
        let answer = self.api.get(&request.named(format!("list the kinds of {api_version}")))?;
        Ok(answer.and_then(|mut list| {
            match list.get_mut("resources").map(Value::take).unwrap_or_default() {
                Value::Array(items) => Some(items),
                _ => None,
            }
        }))
    }
}

impl Writer {
    /// Connects a writer, which only the engine's permit allows.
    pub(crate) fn open(kubeconfig: &Kubeconfig, permit: &WritePermit) -> Result<Self, Error> {
        let reader = Reader::open(kubeconfig)?;
        Ok(Self { api: kubernetes::Writer::of(&reader.api, permit), reader })
    }

    /// Applies `object` by server-side apply. The API server records the fields under [`MANAGER`].
    pub(crate) fn apply(&self, object: &Value) -> Result<(), Error> {
        let identity = Identity::of(object);
        self.send(&identity, "apply", |path| Change::apply(path, object))
    }

    /// Changes an object by a JSON patch (RFC 6902), also in fields of other managers.
    pub(crate) fn patch(&self, identity: &Identity, patch: &Value) -> Result<(), Error> {
        self.send(identity, "change", |path| Change::json_patch(path, patch))
    }

    /// Changes some fields by a merge patch (RFC 7396), also fields of other managers.
    pub(crate) fn merge(&self, identity: &Identity, patch: &Value) -> Result<(), Error> {
        self.send(identity, "change", |path| Change::merge(path, patch))
    }

    /// Deletes exactly the observed object. A newer object of the same name has another UID and
    /// stays.
    pub(crate) fn delete(&self, object: &Value) -> Result<(), Error> {
        unless_gone(self.deletion(object)?.map(|change| self.api.send(&change)))
    }

    /// Runs admission for the deletion of an object without deleting it (a server-side dry run).
    pub(crate) fn try_delete(&self, object: &Value) -> Result<(), Error> {
        unless_gone(self.deletion(object)?.map(|change| self.api.dry_run(&change)))
    }

    /// Returns the deletion of exactly this object; `None` if the API server does not know its kind.
    fn deletion(&self, object: &Value) -> Result<Option<Change>, Error> {
        let identity = Identity::of(object);
        let options = json!({
            "propagationPolicy": "Background",
            "preconditions": {"uid": object["metadata"]["uid"]},
        });
        let path = self.reader.path(&identity)?;
        let name = format!("remove {identity}");
        Ok(path.map(|path| Change::delete(&path, &options).named(name)))
    }

    fn send(
        &self,
        identity: &Identity,
        verb: &str,
        change: impl FnOnce(&str) -> Change,
    ) -> Result<(), Error> {
        let missing = || Error::NotKnownYet { object: identity.to_string() };
        let path = self.reader.path(identity)?.ok_or_else(missing)?;
        match self.api.send(&change(&path).named(format!("{verb} {identity}"))) {
            // The API server does not know the kind, or the object's Namespace, yet.
            Err(kubernetes::Error::NotFound { .. } | kubernetes::Error::NotServed { .. }) => {
                Err(missing())
            }
            other => Ok(other.map(drop)?),
        }
    }
}

/// Returns the result of a deletion, which succeeds if the observed object no longer exists: 404, or
/// another UID.
fn unless_gone(end: Option<Result<Value, kubernetes::Error>>) -> Result<(), Error> {
    use kubernetes::Error::{Conflict, NotFound, NotServed};
    match end {
        None | Some(Err(NotFound { .. } | NotServed { .. } | Conflict { .. })) => Ok(()),
        Some(other) => Ok(other.map(drop)?),
    }
}

/// Permits that the API server does not serve a group that a `CustomResourceDefinition` may define.
/// Every server knows the APIs of Kubernetes itself.
fn optional_if_custom(request: Request, group: &str) -> Request {
    if is_custom(group) { request.of_optional_api() } else { request }
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
        ("v1", "Event") => ("events", true),
        ("v1", "PersistentVolumeClaim") => ("persistentvolumeclaims", true),
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

/// Returns the result of `read`, or `None` if another API server that has to answer for the API is silent.
/// `read` is told whether to repeat a request: an API without a server answers 503 until a person mends it,
/// and any other failed request is repeated.
fn unless_silent<T>(
    api_version: &str,
    read: impl Fn(bool) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    if !is_aggregated(api_version) {
        return read(true).map(Some);
    }
    match read(false) {
        Err(Error::Cluster(error)) if is_silence(&error) => Ok(None),
        Err(error) if error.is_transient() => read(true).map(Some),
        other => other.map(Some),
    }
}

/// Whether the API server passes on that the server of an API does not answer.
fn is_silence(error: &kubernetes::Error) -> bool {
    use kubernetes::Error::{Busy, RateLimited, TimedOut};
    matches!(error, Busy { .. } | RateLimited { .. } | TimedOut { .. })
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
