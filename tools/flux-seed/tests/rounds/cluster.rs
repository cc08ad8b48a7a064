//! A simulated API server, whose controllers act at the moment of a write.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testing::http::{Request, Response, listen_to_requests};

/// API version, kind, plural, and whether its objects are in a Namespace.
const KINDS: [(&str, &str, &str, bool); 15] = [
    ("v1", "Namespace", "namespaces", false),
    ("v1", "ResourceQuota", "resourcequotas", true),
    ("v1", "Secret", "secrets", true),
    ("v1", "Service", "services", true),
    ("v1", "ServiceAccount", "serviceaccounts", true),
    ("v1", "Pod", "pods", true),
    ("v1", "ConfigMap", "configmaps", true),
    ("apps/v1", "Deployment", "deployments", true),
    ("apps/v1", "ReplicaSet", "replicasets", true),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", false),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", true),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", false),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", false),
    ("source.toolkit.fluxcd.io/v1", "OCIRepository", "ocirepositories", true),
    ("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "kustomizations", true),
];

/// Kind, Namespace and name of an object.
type Key = (String, String, String);

/// A fault of the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Every write after this number of them is denied.
    DeniedAfter(usize),
    /// The response to the write with this number is lost.
    LostAt(usize),
    /// After the read with this number, every connection is closed for [`OUTAGE`].
    OutAfterRead(usize),
    /// After the write with this number, every connection is closed for [`OUTAGE`].
    OutAfter(usize),
}

/// Length of an outage: the restart of an API server.
pub(crate) const OUTAGE: Duration = Duration::from_secs(3);

/// Number of `ConfigMap` objects in the folder `./many` of the artifact.
pub(crate) const MANY: usize = 300;

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    /// Writes, each as `PATCH Secret flux-system/prod-sops`.
    writes: Vec<String>,
    fault: Option<Fault>,
    /// Number of requests of every method.
    requests: usize,
    /// End of the outage that has begun.
    out_until: Option<Instant>,
    /// A label that admission sets on every Deployment, and its value.
    admission: Option<(&'static str, &'static str)>,
    version: u64,
    /// Number of reads since the fault was set.
    reads: usize,
}

/// The server, which runs until the test ends.
pub(crate) struct Cluster {
    state: Arc<Mutex<State>>,
    pub(crate) address: String,
    /// Host and port of a registry that serves nothing now. It names a long pause, so that no run waits.
    pub(crate) registry: String,
}

impl Cluster {
    pub(crate) fn start() -> std::io::Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let address = listen_to_requests("127.0.0.1:0", move |request, stream| {
            let response = respond(&shared, request);
            response.map_or(Ok(false), |response| {
                response.write(&request.method, stream).map(|()| true)
            })
        })?;
        let registry = listen_to_requests("127.0.0.1:0", |request, stream| {
            let busy = Response::new(429, "").with("Retry-After", "3600");
            busy.write(&request.method, stream).map(|()| true)
        })?;
        let (address, registry) = (format!("http://{address}"), registry.to_string());
        let cluster = Self { state, address, registry };
        // The data gate identifies a cluster by the UID of this Namespace.
        let metadata = json!({"name": "kube-system"});
        cluster.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
        Ok(cluster)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates an object as another program would.
    pub(crate) fn create(&self, object: Value) {
        self.state().put(object, "kubectl");
    }

    /// Forgets the writes, and has this fault from now on.
    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        let mut state = self.state();
        (state.fault, state.writes, state.reads) = (fault, Vec::new(), 0);
    }

    /// Lets admission set a label on every Deployment that is written from now on.
    pub(crate) fn set_admission(&self, label: &'static str, value: &'static str) {
        self.state().admission = Some((label, value));
    }

    /// Changes an object without its controllers.
    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        let object = state
            .objects
            .iter_mut()
            .find(|((kind, namespace, own_name), _)| text(kind, namespace, own_name) == name);
        edit(object.expect("the object exists").1);
    }

    /// Returns an object by its name, for example `Secret flux-system/prod-sops`.
    pub(crate) fn object(&self, name: &str) -> Option<Value> {
        let state = self.state();
        let mut objects = state.objects.iter();
        let found = objects.find(|((kind, namespace, own), _)| text(kind, namespace, own) == name);
        found.map(|(_, object)| object.clone())
    }

    /// Returns the names of the objects, each as `Secret flux-system/prod-sops`.
    pub(crate) fn objects(&self) -> Vec<String> {
        self.state()
            .objects
            .keys()
            .map(|(kind, namespace, name)| text(kind, namespace, name))
            .collect()
    }

    /// Returns the number of requests since the last call.
    pub(crate) fn take_requests(&self) -> usize {
        std::mem::take(&mut self.state().requests)
    }

    /// Returns the writes since the last call.
    pub(crate) fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().writes)
    }
}

fn text(kind: &str, namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        format!("{kind} {name}")
    } else {
        format!("{kind} {namespace}/{name}")
    }
}

/// Answers a request, or returns `None` when the response is lost.
fn respond(state: &Mutex<State>, request: &Request) -> Option<Response> {
    let (method, body) = (request.method.as_str(), serde_json::from_slice(&request.body));
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.requests += 1;
    if state.out_until.is_some_and(|until| Instant::now() < until) {
        return None;
    }
    if method == "GET" {
        state.reads += 1;
        if state.fault == Some(Fault::OutAfterRead(state.reads)) {
            state.out_until = Some(Instant::now() + OUTAGE);
        }
    }
    let before = state.writes.len();
    let failure = |code: u16, reason: &str| {
        let status = json!({"kind": "Status", "metadata": {}, "status": "Failure", "code": code,
            "reason": reason, "message": reason});
        (code, status)
    };
    let (code, answer) = match state.fault {
        Some(Fault::DeniedAfter(count)) if method != "GET" && before == count => {
            failure(403, "Forbidden")
        }
        _ => match state.answer(method, &request.target, &body.unwrap_or_default()) {
            Some(answer) => (200, answer),
            None => failure(404, "NotFound"),
        },
    };
    let has_written = state.writes.len() > before;
    let is_lost = has_written && state.fault == Some(Fault::LostAt(state.writes.len()));
    if has_written && state.fault == Some(Fault::OutAfter(state.writes.len())) {
        state.out_until = Some(Instant::now() + OUTAGE);
    }
    let response = Response::new(code, answer.to_string());
    (!is_lost).then(|| response.with("Content-Type", "application/json"))
}

impl State {
    fn answer(&mut self, method: &str, uri: &str, body: &Value) -> Option<Value> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let segments: Vec<_> = path.trim_matches('/').split('/').collect();
        let (version, rest) = match segments.as_slice() {
            ["api"] => return Some(discovery(false)),
            ["apis"] => return Some(discovery(true)),
            ["api", version, rest @ ..] => ((*version).to_owned(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => return None,
        };
        let (namespace, plural, name) = match rest {
            [] => return Some(resources(&version)),
            [plural] => ("", *plural, None),
            [plural, name] => ("", *plural, Some(*name)),
            ["namespaces", namespace, plural] => (*namespace, *plural, None),
            ["namespaces", namespace, plural, name] => (*namespace, *plural, Some(*name)),
            _ => return None,
        };
        let (_, kind, ..) = KINDS.iter().find(|(_, _, known, _)| *known == plural)?;
        let Some(name) = name else { return Some(self.list(kind, namespace, query)) };
        let key = ((*kind).to_owned(), namespace.to_owned(), name.to_owned());
        if method == "GET" {
            return self.objects.get(&key).cloned();
        }
        if query.contains("dryRun") {
            let mut object = self.objects.get(&key).cloned().unwrap_or_default();
            merge(&mut object, body);
            self.admit(&mut object);
            return Some(object);
        }
        self.writes.push(format!("{method} {}", text(kind, namespace, name)));
        match method {
            "PATCH" if body["apiVersion"].is_string() => self.put(body.clone(), "flux-seed"),
            "PATCH" => {
                let mut object = self.objects.get(&key)?.clone();
                merge(&mut object, body);
                let manager = object["metadata"]["managedFields"][0]["manager"].take();
                self.put(object, manager.as_str().unwrap_or_default());
            }
            "DELETE" => self.delete(&key)?,
            _ => return None,
        }
        Some(json!({"kind": "Status", "metadata": {}, "status": "Success"}))
    }

    fn list(&self, kind: &str, namespace: &str, query: &str) -> Value {
        let selector = query.split('&').find_map(|part| part.strip_prefix("labelSelector="));
        let selector = selector.unwrap_or_default().replace("%2F", "/").replace("%3D", "=");
        let is_listed = |(key, object): &(&Key, &Value)| {
            let label = selector.split_once('=');
            let has = label.is_none_or(|(key, value)| object["metadata"]["labels"][key] == value);
            key.0 == kind && (namespace.is_empty() || key.1 == namespace) && has
        };
        let items: Vec<_> =
            self.objects.iter().filter(is_listed).map(|(_, object)| object.clone()).collect();
        json!({"kind": "List", "metadata": {}, "items": items})
    }

    /// Rewrites an object, as a mutating webhook does.
    fn admit(&self, object: &mut Value) {
        if let Some((label, value)) = self.admission.filter(|_| object["kind"] == "Deployment") {
            object["metadata"]["labels"][label] = value.into();
        }
    }

    /// Writes an object, and lets its controller act.
    fn put(&mut self, mut object: Value, manager: &str) {
        self.version += 1;
        self.admit(&mut object);
        let metadata = &object["metadata"];
        let part = |name: &str| metadata[name].as_str().unwrap_or_default().to_owned();
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let key = (kind.clone(), part("namespace"), part("name"));
        let uid = match self.objects.get(&key) {
            Some(live) => live["metadata"]["uid"].clone(),
            None => format!("uid-{}", self.version).into(),
        };
        object["metadata"]["uid"] = uid;
        object["metadata"]["generation"] = self.version.into();
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        object["metadata"]["managedFields"] =
            json!([{"manager": manager, "operation": "Apply", "fieldsV1": {}}]);
        let asked = &object["metadata"]["annotations"]["reconcile.fluxcd.io/requestedAt"];
        let mut status = json!({
            "observedGeneration": self.version, "lastHandledReconcileAt": asked,
            "conditions": [{"type": "Ready", "status": "True"}],
        });
        match kind.as_str() {
            "CustomResourceDefinition" => {
                status["conditions"] = json!([
                    {"type": "NamesAccepted", "status": "True"},
                    {"type": "Established", "status": "True"},
                ]);
            }
            "Deployment" => {
                for count in ["replicas", "updatedReplicas", "availableReplicas", "readyReplicas"] {
                    status[count] = 1.into();
                }
                status["conditions"] = json!([
                    {"type": "Available", "status": "True"},
                    {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
                ]);
            }
            "OCIRepository" => {
                status["artifact"] = json!({"revision": object["spec"]["ref"]["digest"]});
                status["conditions"] = json!([
                    {"type": "Ready", "status": "True"},
                    {"type": "SourceVerified", "status": "True", "observedGeneration": self.version},
                ]);
            }
            "Kustomization" => self.deliver(&object, &mut status),
            _ => status = Value::Null,
        }
        if !status.is_null() {
            object["status"] = status;
        }
        self.objects.insert(key, object);
    }

    /// Applies the artifact: a Deployment, named after the last folder of the path, with its
    /// `ReplicaSet`.
    fn deliver(&mut self, kustomization: &Value, status: &mut Value) {
        let name = &kustomization["metadata"]["name"];
        let path = kustomization["spec"]["path"].as_str().unwrap_or_default();
        let delivered = match path.trim_start_matches("./") {
            "" => "greeter",
            folder => folder,
        };
        let source = self.objects.iter().find(|((kind, _, source), _)| {
            kind == "OCIRepository" && *source == kustomization["spec"]["sourceRef"]["name"]
        });
        let digest = source.map(|(_, source)| source["spec"]["ref"]["digest"].clone());
        status["lastAppliedRevision"] = digest.unwrap_or_default();
        let id = format!("default_{delivered}_apps_Deployment");
        let maps = if delivered == "many" { MANY } else { 0 };
        let entries = (0..maps).map(|number| format!("default_many-{number}__ConfigMap"));
        let entries = entries.chain([id]).map(|id| json!({"id": id, "v": "v1"}));
        status["inventory"] = json!({"entries": entries.collect::<Vec<_>>()});
        if kustomization["spec"]["suspend"] == true {
            return;
        }
        let labels = json!({
            "kustomize.toolkit.fluxcd.io/name": name,
            "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
        });
        if delivered == "nested" {
            let spec = json!({"path": "./apps", "sourceRef": kustomization["spec"]["sourceRef"]});
            let metadata = json!({"name": "apps", "namespace": "flux-system", "labels": labels});
            let nested = json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1",
                "kind": "Kustomization", "metadata": metadata, "spec": spec});
            self.put(nested, "kustomize-controller");
            let entry = "flux-system_apps_kustomize.toolkit.fluxcd.io_Kustomization";
            if let Some(entries) = status["inventory"]["entries"].as_array_mut() {
                entries.push(json!({"id": entry, "v": "v1"}));
            }
        }
        for number in 0..maps {
            let name = format!("many-{number}");
            let metadata = json!({"name": name, "namespace": "default", "labels": labels});
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
            self.put(map, "kustomize-controller");
        }
        let greeter = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": delivered, "namespace": "default", "labels": labels}, "spec": {}});
        self.put(greeter, "kustomize-controller");
        let key = ("Deployment".to_owned(), "default".to_owned(), delivered.to_owned());
        let owner = &self.objects[&key]["metadata"]["uid"];
        let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {
            "name": format!("{delivered}-1"), "namespace": "default",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "uid": owner}]}});
        self.put(set, "kube-controller-manager");
    }

    fn delete(&mut self, key: &Key) -> Option<()> {
        let object = self.objects.get_mut(key)?;
        if object["metadata"]["finalizers"].is_array() {
            object["metadata"]["deletionTimestamp"] = "2026-11-01T00:00:00Z".into();
            return Some(());
        }
        let uid = self.objects.remove(key)?["metadata"]["uid"].clone();
        let (kind, _, name) = key;
        self.objects.retain(|(other, namespace, _), object| {
            let is_owned = object["metadata"]["ownerReferences"][0]["uid"] == uid;
            let is_content = kind == "Namespace" && namespace == name;
            let plural = KINDS.iter().find(|(_, known, ..)| known == other);
            let is_defined = kind == "CustomResourceDefinition"
                && plural.is_some_and(|(_, _, plural, _)| name.starts_with(&format!("{plural}.")));
            !(is_owned || is_content || is_defined)
        });
        Some(())
    }
}

fn merge(object: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten() {
        if value.is_object() && object[key].is_object() {
            merge(&mut object[key], value);
        } else {
            object[key] = value.clone();
        }
    }
}

/// Returns the aggregated discovery of the core group or of the others.
fn discovery(has_group: bool) -> Value {
    let kinds = KINDS.iter().filter(|(version, ..)| version.contains('/') == has_group);
    let items = kinds.map(|(version, kind, plural, namespaced)| {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let scope = if *namespaced { "Namespaced" } else { "Cluster" };
        json!({"metadata": {"name": group}, "versions": [{"version": version, "resources": [{
            "resource": plural, "responseKind": {"kind": kind}, "scope": scope,
            "verbs": ["list"]}]}]})
    });
    let items: Vec<_> = items.collect();
    json!({"kind": "APIGroupDiscoveryList", "metadata": {}, "items": items})
}

fn resources(version: &str) -> Value {
    let kinds = KINDS.iter().filter(|(known, ..)| *known == version);
    let resources: Vec<_> = kinds
        .map(|(_, kind, plural, namespaced)| {
            json!({"name": plural, "kind": kind, "namespaced": namespaced})
        })
        .collect();
    json!({"kind": "APIResourceList", "resources": resources})
}
