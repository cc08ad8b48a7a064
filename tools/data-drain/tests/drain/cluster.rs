//! A simulated API server, with the controllers that a drain relies on, and an object store. Tests of real
//! admission policies are in `tests/hold` and in the lab.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use testing::http::{Request, Response, listen};
use tungstenite::handshake::server::{Request as Handshake, Response as Accepted};
use tungstenite::{Message, WebSocket};

use crate::store::{self, Stored};
use crate::{forge, reader};

/// Content of the simulated cluster and store, and the faults of a test.
#[derive(Default)]
pub(crate) struct World {
    /// Objects of the cluster by their URL path.
    pub(crate) objects: BTreeMap<String, Value>,
    /// Folder of a claim's volume by node and claim (`namespace/name`). Any other node has an empty folder.
    pub(crate) volumes: BTreeMap<(String, String), PathBuf>,
    pub(crate) store: BTreeMap<String, Stored>,
    /// Folder with the forge's bare repositories.
    pub(crate) forge: PathBuf,
    /// Method and path of every writing request.
    pub(crate) writes: Vec<String>,
    pub(crate) faults: Faults,
    number: u64,
}

#[derive(Clone, Default)]
pub(crate) struct Faults {
    /// Message of Pod Security, which denies every reader; `None` admits readers.
    pub(crate) pod_security: Option<String>,
    /// Bytes of an archive that are sent before the connection breaks.
    pub(crate) cut_after: Option<usize>,
    /// Delay before the first byte of an archive.
    pub(crate) delay: Duration,
    /// Faults of the store.
    pub(crate) store: store::Faults,
}

#[derive(Clone)]
pub(crate) struct Server {
    world: Arc<Mutex<World>>,
    pub(crate) url: String,
    empty: PathBuf,
}

const KINDS: [&str; 12] = [
    "pods",
    "persistentvolumeclaims",
    "persistentvolumes",
    "namespaces",
    "deployments",
    "statefulsets",
    "nodes",
    "volumeattachments",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "configmaps",
    "leases",
];

impl Server {
    /// Starts the server on a free port. `empty` is a folder without files.
    pub(crate) fn start(empty: PathBuf) -> std::io::Result<Self> {
        let mut server = Self { world: Arc::default(), url: String::new(), empty };
        let shared = server.clone();
        let address = listen("127.0.0.1:0", move |stream| {
            shared.connection(stream); // `None` closes the connection
        })?;
        server.url = format!("http://{address}");
        Ok(server)
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test has panicked with it")
    }

    fn connection(&self, stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut stream = stream;
        loop {
            // Clients use a connection again, also for a WebSocket.
            if is_websocket(&stream) {
                return self.exec(stream);
            }
            let request = Request::read(&mut reader, &mut stream).ok()??;
            if request.path.starts_with("/drain/") || request.path == "/drain" {
                self.store(&request, &mut stream)?;
                continue;
            }
            if request.path.starts_with("/forge/") {
                let folder = self.world().forge.clone();
                forge::answer(&request, &folder, &mut stream).ok()?;
                continue;
            }
            let (status, answer) = self.world().kubernetes(&request);
            let response = Response::new(status, answer.to_string());
            let response = response.with("Content-Type", "application/json");
            response.write(&request.method, &mut stream).ok()?;
        }
    }

    /// Runs the real reader for `exec` over a WebSocket (`v5.channel.k8s.io`), on the folder that the pod's
    /// node has for the claim.
    #[expect(clippy::result_large_err, reason = "the handshake's own type")]
    fn exec(&self, stream: TcpStream) -> Option<()> {
        let mut target = String::new();
        let accept = |request: &Handshake, mut response: Accepted| {
            target = request.uri().to_string();
            let protocol = "v5.channel.k8s.io".parse().expect("a header");
            response.headers_mut().insert("sec-websocket-protocol", protocol);
            Ok(response)
        };
        let socket = tungstenite::accept_hdr(stream, accept).ok()?;
        let socket = Rc::new(RefCell::new(socket));
        let (path, query) = target.split_once('?')?;
        let (folder, faults) = {
            let world = self.world();
            let pod = &world.objects[path.strip_suffix("/exec")?];
            let claim = format!(
                "{}/{}",
                pod["metadata"]["namespace"].as_str()?,
                pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"].as_str()?
            );
            let node = pod["spec"]["nodeName"].as_str()?.to_owned();
            let folder = world.volumes.get(&(node, claim)).unwrap_or(&self.empty);
            (folder.clone(), world.faults.clone())
        };
        let mut channel = Channel { socket: Rc::clone(&socket), left: faults.cut_after };
        let ended = if query.contains("command=survey") {
            reader::survey(&folder).and_then(|report| {
                reader::Frames::new(Channel { left: None, ..channel })
                    .end(&report.json(), Stdin(&socket))
            })
        } else {
            thread::sleep(faults.delay);
            let mut frames = reader::Frames::new(&mut channel);
            let report = reader::write(&folder, &mut frames);
            report.and_then(|report| frames.end(&report.json(), Stdin(&socket)))
        };
        let status = match ended {
            Ok(()) => json!({"status": "Success"}),
            Err(error) => {
                let said = [&[2], error.to_string().as_bytes()].concat();
                let _ = socket.borrow_mut().send(Message::Binary(said.into()));
                json!({"status": "Failure", "message": "command terminated with exit code 1"})
            }
        };
        let status = [&[3], status.to_string().as_bytes()].concat();
        let _ = socket.borrow_mut().send(Message::Binary(status.into()));
        let _ = socket.borrow_mut().close(None);
        while socket.borrow_mut().read().is_ok() {}
        Some(())
    }
}

/// Whether the next request opens a WebSocket. The stream is only peeked.
fn is_websocket(stream: &TcpStream) -> bool {
    let mut head = [0; 2048];
    for _ in 0..200 {
        let Ok(length) = stream.peek(&mut head) else { return false };
        let text = String::from_utf8_lossy(&head[..length]).to_lowercase();
        if text.contains("\r\n\r\n") || length == head.len() || length == 0 {
            return text.contains("upgrade: websocket");
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Sends standard output of a program in a pod. `left` is the number of bytes before the connection breaks.
struct Channel {
    socket: Rc<RefCell<WebSocket<TcpStream>>>,
    left: Option<usize>,
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(left) = &mut self.left {
            if *left < bytes.len() {
                let _ = self.socket.borrow_mut().get_mut().shutdown(std::net::Shutdown::Both);
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            *left -= bytes.len();
        }
        let message = [&[1], bytes].concat();
        let sent = self.socket.borrow_mut().send(Message::Binary(message.into()));
        sent.map(|()| bytes.len()).map_err(std::io::Error::other)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Stdin<'a>(&'a Rc<RefCell<WebSocket<TcpStream>>>);

impl Read for Stdin<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.0.borrow_mut().read() {
                Ok(Message::Binary(message)) if message.first() == Some(&0) => {
                    let length = buffer.len().min(message.len() - 1);
                    buffer[..length].copy_from_slice(&message[1..=length]);
                    return Ok(length);
                }
                Ok(Message::Close(_)) | Err(_) => return Ok(0),
                Ok(_) => {}
            }
        }
    }
}

impl World {
    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Creates an object as a person would.
    pub(crate) fn put(&mut self, path: &str, mut object: Value) {
        let number = self.next();
        let (collection, name) = path.rsplit_once('/').expect("a path");
        object["metadata"]["name"] = name.into();
        if let Some((_, rest)) = collection.split_once("/namespaces/") {
            object["metadata"]["namespace"] = rest.split('/').next().into();
        }
        object["metadata"]["uid"] = format!("uid-{number}").into();
        object["metadata"]["generation"] = 1.into();
        object["metadata"]["resourceVersion"] = number.to_string().into();
        self.objects.insert(path.to_owned(), object);
        self.control(path);
    }

    fn kubernetes(&mut self, request: &Request) -> (u16, Value) {
        let Request { method, path, query, body, .. } = request;
        let failure = |code: u16, message: &str| {
            let reason = if code == 404 { "NotFound" } else { "R" };
            let status = json!({"kind": "Status", "status": "Failure", "code": code,
                "reason": reason, "message": message, "metadata": {}});
            (code, status)
        };
        let last = path.rsplit('/').next().unwrap_or_default();
        if method == "GET" {
            if KINDS.contains(&last) {
                let items = self.objects.iter().filter(|(key, _)| is_in(key, path));
                let items: Vec<_> = items.map(|(_, object)| object.clone()).collect();
                return (200, json!({"kind": "List", "metadata": {}, "items": items}));
            }
            if last == "events" {
                return (200, json!({"kind": "List", "metadata": {}, "items": []}));
            }
            return match self.objects.get(path) {
                Some(object) => (200, object.clone()),
                None => failure(404, "not found"),
            };
        }
        let object: Value = serde_json::from_slice(body).unwrap_or_default();
        let dry = query.contains("dryRun=All");
        if !dry {
            self.writes.push(format!("{method} {path}"));
        }
        match method.as_str() {
            "POST" => {
                if last == "pods"
                    && let Some(why) = self.refused(path, &object)
                {
                    return failure(403, &why);
                }
                let name = object["metadata"]["name"].as_str().unwrap_or("generated");
                let at = format!("{path}/{name}");
                if self.objects.contains_key(&at) {
                    return failure(409, "already exists");
                }
                if !dry {
                    self.put(&at, object.clone());
                }
                (201, self.objects.get(&at).cloned().unwrap_or(object))
            }
            "PUT" => {
                let Some(there) = self.objects.get(path) else { return failure(404, "not found") };
                let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
                if version(there) != version(&object) {
                    return failure(409, "the object has been modified");
                }
                self.change(path, object)
            }
            "PATCH" => {
                let apply = request.headers["content-type"].contains("apply-patch");
                let Some(there) = self.objects.get(path) else {
                    if !apply {
                        return failure(404, "not found");
                    }
                    self.put(path, object);
                    return (201, self.objects[path].clone());
                };
                let mut object = object;
                let mut there = there.clone();
                if apply {
                    for field in ["spec", "data"] {
                        if let Some(value) =
                            object.as_object_mut().and_then(|map| map.remove(field))
                        {
                            there[field] = value;
                        }
                    }
                }
                merge(&mut there, &object);
                self.change(path, there)
            }
            "DELETE" => {
                if self.objects.remove(path).is_none() {
                    return failure(404, "not found");
                }
                (200, json!({"kind": "Status", "status": "Success", "metadata": {}}))
            }
            _ => failure(405, "no"),
        }
    }

    fn change(&mut self, path: &str, mut object: Value) -> (u16, Value) {
        if self.objects[path]["spec"] != object["spec"] {
            let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
            object["metadata"]["generation"] = (generation + 1).into();
        }
        object["metadata"]["resourceVersion"] = self.next().to_string().into();
        self.objects.insert(path.to_owned(), object);
        self.control(path);
        (200, self.objects[path].clone())
    }

    /// Returns the reason why admission denies a new pod: Pod Security or the hold of a drain.
    fn refused(&self, path: &str, pod: &Value) -> Option<String> {
        if let Some(why) = &self.faults.pod_security
            && pod["spec"]["securityContext"]["runAsUser"] == 0
        {
            return Some(why.clone());
        }
        let namespace = path.split('/').nth(4)?;
        let policies = self.objects.iter().filter(|(key, _)| {
            is_in(key, "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies")
        });
        for (key, policy) in policies {
            if !self.objects.contains_key(&key.replace("policies/", "policybindings/")) {
                continue;
            }
            let held = policy["spec"]["matchConditions"][0]["expression"].as_str()?;
            for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
                let claim = &volume["persistentVolumeClaim"];
                let name = format!("'{namespace}/{}'", claim["claimName"].as_str().unwrap_or("?"));
                let label = &pod["metadata"]["labels"]["holistic/drain"];
                let is_reader = *label == policy["metadata"]["labels"]["holistic/drain"]
                    && claim["readOnly"] == true;
                if held.contains(&name) && !is_reader {
                    let name = policy["metadata"]["name"].as_str()?;
                    return Some(format!(
                        "ValidatingAdmissionPolicy '{name}' denied request: held by the Drain prod: no pod may mount it"
                    ));
                }
            }
        }
        None
    }

    /// Simulates the reaction of controllers, scheduler and kubelet to a change.
    fn control(&mut self, path: &str) {
        let object = self.objects[path].clone();
        if path.contains("/pods/") {
            let affinity = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution\
                            /nodeSelectorTerms/0/matchFields/0/values/0";
            let pod = self.objects.get_mut(path).expect("it was just put there");
            if pod["spec"]["nodeName"].is_null() {
                pod["spec"]["nodeName"] = object.pointer(affinity).cloned().unwrap_or("any".into());
            }
            if pod["status"].is_null() {
                let running = json!([{"state": {"running": {}}}]);
                pod["status"] = json!({"phase": "Running", "containerStatuses": running});
            }
            return;
        }
        let kind = match path {
            path if path.contains("/deployments/") => "ReplicaSet",
            path if path.contains("/statefulsets/") => "StatefulSet",
            _ => return,
        };
        let (namespace, name) = (path.split('/').nth(5), path.rsplit('/').next());
        let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        for (number, at) in object["spec"]["at"].as_array().into_iter().flatten().enumerate() {
            let pod = format!("{pods}/{name}-{number}");
            if number
                >= usize::try_from(object["spec"]["replicas"].as_u64().unwrap_or(1)).unwrap_or(0)
            {
                self.objects.remove(&pod);
                continue;
            }
            let owner = json!({"kind": kind, "name": name, "controller": true,
                "uid": object["metadata"]["uid"]});
            let claim = json!({"claimName": at["claim"]});
            let declared = json!({
                "metadata": {"labels": {"app": name}, "ownerReferences": [owner]},
                "spec": {"nodeName": at["node"],
                    "volumes": [{"name": "data", "persistentVolumeClaim": claim}]},
            });
            if !self.objects.contains_key(&pod) && self.refused(&pods, &declared).is_none() {
                self.put(&pod, declared);
            }
        }
    }
}

/// Whether the object at `key` is in the collection at `path`, of one namespace or of all.
fn is_in(key: &str, path: &str) -> bool {
    let Some((collection, _)) = key.rsplit_once('/') else { return false };
    if collection == path {
        return true;
    }
    let Some((before, after)) = collection.split_once("/namespaces/") else { return false };
    after.split_once('/').is_some_and(|(_, kind)| format!("{before}/{kind}") == path)
}

/// Applies a JSON merge patch (RFC 7396).
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return };
    for (name, value) in patch {
        match value {
            Value::Null => {
                if let Some(fields) = into.as_object_mut() {
                    fields.remove(name);
                }
            }
            Value::Object(_) => {
                if !into[name.as_str()].is_object() {
                    into[name.as_str()] = json!({});
                }
                merge(&mut into[name.as_str()], value);
            }
            value => into[name.as_str()] = value.clone(),
        }
    }
}
