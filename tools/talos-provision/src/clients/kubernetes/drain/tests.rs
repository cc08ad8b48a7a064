//! kubectl's rules as a table, and the order of a removal against a fake API server.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use ::kubernetes::Kubeconfig;
use secrets::Secret;

use super::*;

fn removal(empty_dir: EmptyDir, seconds: u32) -> Removal {
    let seconds = serde_json::from_value(json!(seconds)).expect("a limit");
    Removal { eviction_seconds: seconds, empty_dir }
}

fn pod(name: &str, controller: Option<&str>, more: Value) -> Value {
    let owner = controller.map(|kind| json!({"kind": kind, "name": "owner", "controller": true}));
    let owners: Vec<_> = owner.into_iter().collect();
    let meta = json!({"namespace": "n", "name": name, "uid": format!("uid-{name}"),
        "ownerReferences": owners});
    let mut pod =
        json!({"metadata": meta, "spec": {"volumes": []}, "status": {"phase": "Running"}});
    merge(&mut pod, more);
    pod
}

fn merge(to: &mut Value, from: Value) {
    match (to, from) {
        (Value::Object(to), Value::Object(from)) => {
            from.into_iter()
                .for_each(|(key, value)| merge(to.entry(key).or_insert(Value::Null), value));
        }
        (to, from) => *to = from,
    }
}

fn empty_dir() -> Value {
    json!({"spec": {"volumes": [{"name": "cache", "emptyDir": {}}]}})
}

#[test]
fn eviction_follows_the_rules_of_kubectl() {
    let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}});
    let phase = |phase: &str| json!({"status": {"phase": phase}});
    let finished = |phase_: &str| {
        let mut more = empty_dir();
        merge(&mut more, phase(phase_));
        more
    };
    let stopping = json!({"metadata": {"deletionTimestamp": "2026-11-28T00:00:00Z"}});
    let none = || json!({});
    let table = [
        ("of a Deployment", Some("ReplicaSet"), none(), PodAction::Evict),
        ("of a StatefulSet", Some("StatefulSet"), none(), PodAction::Evict),
        ("of a Job", Some("Job"), none(), PodAction::Evict),
        ("of a DaemonSet", Some("DaemonSet"), none(), PodAction::Keep),
        ("of a DaemonSet, with emptyDir", Some("DaemonSet"), empty_dir(), PodAction::Keep),
        ("of a DaemonSet, finished", Some("DaemonSet"), phase("Failed"), PodAction::Evict),
        ("from a file", None, mirror, PodAction::Keep),
        ("without controller", None, none(), PodAction::Block(Loss::Pod)),
        ("without controller, succeeded", None, finished("Succeeded"), PodAction::Evict),
        ("without controller, failed", None, finished("Failed"), PodAction::Evict),
        ("without controller, pending", None, phase("Pending"), PodAction::Block(Loss::Pod)),
        ("without controller, stopping", None, stopping, PodAction::Evict),
        ("with emptyDir", Some("ReplicaSet"), empty_dir(), PodAction::Block(Loss::EmptyDir)),
    ];
    for (what, controller, more, desired) in table {
        assert_eq!(
            pod_action(&pod("p", controller, more), EmptyDir::Refuse),
            desired,
            "a pod {what}"
        );
    }
    let local = pod("p", Some("ReplicaSet"), empty_dir());
    assert_eq!(pod_action(&local, EmptyDir::Discard), PodAction::Evict);
    // An owner that is not the controller starts no other pod.
    let mut owned = pod("p", Some("ReplicaSet"), json!({}));
    owned["metadata"]["ownerReferences"][0]["controller"] = json!(false);
    assert_eq!(pod_action(&owned, EmptyDir::Discard), PodAction::Block(Loss::Pod));
}

/// State of a fake cluster with one node.
#[derive(Default)]
struct Cluster {
    pods: Vec<Value>,
    attachments: Vec<Value>,
    volumes: Vec<Value>,
    /// Number of eviction requests that the budget still rejects.
    blocked: u32,
    /// Number of writes before the API closes one connection without an answer.
    dies_at: Option<usize>,
    /// Writes in their order.
    writes: Vec<String>,
}

impl Cluster {
    fn answer(&mut self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let list = |items: &[Value]| Some((200, json!({"items": items})));
        let path = path.split('?').next().unwrap_or_default();
        if method == "GET" {
            return match path {
                "/api/v1/pods" => {
                    let shown = list(&self.pods);
                    // A terminating pod is gone at the next request, and its volume is detached.
                    let ended = |pod: &Value| !is_terminating(pod);
                    self.pods.retain(ended);
                    if !self
                        .pods
                        .iter()
                        .any(|pod| pod_action(pod, EmptyDir::Discard) == PodAction::Evict)
                    {
                        self.attachments
                            .retain(|attachment| attachment["metadata"]["name"] != "web");
                    }
                    shown
                }
                "/apis/storage.k8s.io/v1/volumeattachments" => list(&self.attachments),
                "/api/v1/persistentvolumes" => list(&self.volumes),
                _ => Some((404, json!({"message": "not found"}))),
            };
        }
        if self.dies_at == Some(self.writes.len()) {
            self.dies_at = None;
            return None;
        }
        let name = path.split('/').nth(6).unwrap_or_default();
        if path.ends_with("/eviction") {
            assert_eq!(body["deleteOptions"]["preconditions"]["uid"], format!("uid-{name}"));
            if name.starts_with("web") && self.blocked > 0 {
                self.blocked -= 1;
                let cause = json!({"reason": "DisruptionBudget",
                    "message": "The disruption budget web-budget needs 1 healthy pods and has 1 currently"});
                return Some((
                    429,
                    json!({"message": "Cannot evict pod as it would violate the pod's disruption budget.", "details": {"causes": [cause]}}),
                ));
            }
            self.writes.push(format!("evict {name}"));
            let pod = self.pods.iter_mut().find(|pod| pod["metadata"]["name"] == name);
            pod?["metadata"]["deletionTimestamp"] = json!("2026-11-28T00:00:00Z");
            return Some((201, json!({"kind": "Status"})));
        }
        assert_eq!((method, path), ("PATCH", "/api/v1/nodes/c-w-1"));
        self.writes.push(if body["spec"]["unschedulable"] == true {
            assert!(body["metadata"]["annotations"][super::super::CORDONED].is_string());
            "cordon".to_owned()
        } else {
            "uncordon".to_owned()
        });
        Some((200, json!({})))
    }
}

/// Serves `cluster` until the test ends.
fn serve(cluster: Cluster) -> (Reader, Arc<Mutex<Cluster>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let cluster = Arc::new(Mutex::new(cluster));
    let served = Arc::clone(&cluster);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut cluster = served.lock().expect("the cluster");
            let _ = answer_one(&stream, &mut cluster);
        }
    });
    let kubeconfig = json!({
        "current-context": "c", "clusters": [{"name": "c", "cluster": {"server": endpoint}}],
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
    });
    let kubeconfig = Secret::new(kubeconfig.to_string().into_bytes());
    let kubeconfig = Kubeconfig::parse(&kubeconfig).expect("an accepted kubeconfig");
    (Reader::open(&kubeconfig).expect("a reader"), cluster)
}

/// Returns a writer to the fake cluster. Only the engine grants a permit to write; a dry run sends the
/// same request, which the fake cluster carries out.
fn writer(reader: &Reader) -> Writer<'_> {
    Writer { reader, send: Box::new(|change| reader.0.dry_run(change)) }
}

fn answer_one(stream: &TcpStream, cluster: &mut Cluster) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or_default();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let Some((status, answer)) = cluster.answer(method, path, &body) else { return Ok(()) };
    let text = answer.to_string();
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

fn node(unschedulable: bool) -> RegisteredNode {
    let name = "c-w-1".to_owned();
    RegisteredNode { name, ready: true, unschedulable, ..RegisteredNode::default() }
}

/// Returns a cluster with two pods under a budget, a finished pod, a pod of a `DaemonSet` and a
/// static pod. Of the two volumes, one belongs to a pod that is evicted and one to a pod that
/// stays.
fn busy() -> Cluster {
    let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}});
    let mounts = |claim: &str| json!({"spec": {"volumes": [{"persistentVolumeClaim": {"claimName": claim}}]}});
    let volume = |name: &str| json!({"metadata": {"name": name}, "spec": {"claimRef": {"namespace": "n", "name": name}}});
    let attachment = |name: &str| {
        json!({"metadata": {"name": name},
            "spec": {"nodeName": "c-w-1", "source": {"persistentVolumeName": name}}})
    };
    let elsewhere = json!({"metadata": {"name": "other"},
        "spec": {"nodeName": "c-w-2", "source": {"persistentVolumeName": "web"}}});
    Cluster {
        pods: vec![
            pod("web-1", Some("ReplicaSet"), mounts("web")),
            pod("web-2", Some("ReplicaSet"), json!({})),
            pod("done", None, json!({"status": {"phase": "Succeeded"}})),
            pod("agent", Some("DaemonSet"), mounts("agent")),
            pod("static", None, mirror),
        ],
        attachments: vec![attachment("web"), attachment("agent"), elsewhere],
        volumes: vec![volume("web"), volume("agent")],
        ..Cluster::default()
    }
}

fn writes(cluster: &Mutex<Cluster>) -> Vec<String> {
    cluster.lock().expect("the cluster").writes.clone()
}

#[test]
fn drain_cordons_a_machine_and_evicts_each_pod_once_its_budget_allows_it() {
    let (reader, cluster) = serve(Cluster { blocked: 1, ..busy() });
    drain(&writer(&reader), &node(false), removal(EmptyDir::Refuse, 30)).expect("drained");
    assert_eq!(writes(&cluster), ["cordon", "evict web-2", "evict done", "evict web-1"]);
    let left = cluster.lock().expect("the cluster").pods.clone();
    let left: Vec<_> = left.iter().map(|pod| pod["metadata"]["name"].clone()).collect();
    assert_eq!(left, ["agent", "static"]);
}

// hazard: A machine is removed under pods that a PodDisruptionBudget protects.
// class: A removal ignores rules of others.
// members: finished, mirror and DaemonSet pods, a lost kubelet
// now: pods are evicted; `NotEvicted` names the budget, exit 111
#[test]
fn drain_names_the_blocking_budget_after_the_declared_limit() {
    let (reader, cluster) = serve(Cluster { blocked: u32::MAX, ..busy() });
    let error =
        drain(&writer(&reader), &node(false), removal(EmptyDir::Refuse, 1)).expect_err("blocked");
    let text = error.to_string();
    assert!(text.contains("n/web-1") && text.contains("web-budget"), "{text}");
    assert!(text.contains("c-w-1 is not removed"), "{text}");
    assert_eq!(writes(&cluster), ["cordon", "evict done"]);
}

// hazard: Scaling down, renaming a pool or changing a type removes machines with the only copy of
// a volume.
// class: Removal of a part is not asked about.
// members: pods without a controller, `emptyDir`
// now: `NotDrained`, one line for each claim or pod; nothing touched
#[test]
fn drain_changes_nothing_when_pods_or_volumes_would_be_lost() {
    let lone = pod("lone", None, json!({}));
    let local = pod("local", Some("ReplicaSet"), empty_dir());
    for (pod, code) in [(lone, "n/lone"), (local, "n/local")] {
        let mut busy = busy();
        busy.pods.push(pod);
        let (reader, cluster) = serve(busy);
        let error = drain(&writer(&reader), &node(false), removal(EmptyDir::Refuse, 30));
        let text = error.expect_err("refused").to_string();
        assert!(text.contains(code), "{text}");
        assert_eq!(writes(&cluster), [""; 0]);
    }
}

// hazard: A removal is killed half-way, and the next run forgets the cordoned machine.
// class: A step is not visible in the world.
// members: a removal that is given up, a cordon that a person made
// now: the next run goes on, or uncordons what it cordoned itself
#[test]
fn drain_continues_after_an_interruption_at_any_step() {
    for step in 0..4 {
        let (reader, cluster) = serve(Cluster { dies_at: Some(step), ..busy() });
        let unschedulable = || writes(&cluster).contains(&"cordon".to_owned());
        let limit = removal(EmptyDir::Refuse, 30);
        let _first = drain(&writer(&reader), &node(unschedulable()), limit);
        drain(&writer(&reader), &node(unschedulable()), limit).expect("drained");
        let mut done = writes(&cluster);
        done.sort();
        assert_eq!(done, ["cordon", "evict done", "evict web-1", "evict web-2"], "{step}");
    }
}

#[test]
fn drain_does_not_mark_a_node_that_a_person_cordoned() {
    let (reader, cluster) = serve(busy());
    drain(&writer(&reader), &node(true), removal(EmptyDir::Refuse, 30)).expect("drained");
    assert!(!writes(&cluster).contains(&"cordon".to_owned()));
}

#[test]
fn drain_does_not_wait_for_the_pods_of_a_lost_machine() {
    let (reader, cluster) = serve(busy());
    let lost = RegisteredNode { ready: false, ..node(false) };
    // The kubelet of a lost machine never confirms the end of a pod. In this test the budget still
    // counts.
    drain(&writer(&reader), &lost, removal(EmptyDir::Refuse, 30)).expect("drained");
    assert_eq!(writes(&cluster).len(), 4);
}
