//! Start of each component, and the simulated kubelet.

use std::collections::BTreeSet;
use std::fs;
use std::io::BufReader;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::spawn;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Lab, Test, bin, run, until};

/// Name of the scheduler whose pods run on a real node.
pub(crate) const SCHEDULER: &str = "lab";

impl Lab {
    /// Creates one certificate authority, and a certificate and kubeconfig for each client.
    pub(super) fn certificates(&self) -> Test {
        let openssl = |line: &str| {
            run(Command::new("openssl").args(line.split(' ')).current_dir(self.folder.path()))
        };
        let curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!("req -x509 {curve} -keyout ca.key -out ca.crt -days 2 -subj /CN=lab"))?;
        openssl("ecparam -name prime256v1 -genkey -noout -out sa.key")?;
        openssl("ec -in sa.key -pubout -out sa.pub")?;
        let address = self.address;
        let certificate = |name: &str, subject: &str, extensions: &str| -> Test {
            fs::write(self.path("extensions"), extensions)?;
            openssl(&format!("req {curve} -keyout {name}.key -out {name}.csr -subj {subject}"))?;
            let sign = "-CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions";
            openssl(&format!("x509 -req -in {name}.csr {sign} -out {name}.crt"))?;
            Ok(())
        };
        let names = format!("subjectAltName=IP:{address},IP:10.96.0.1,DNS:kubernetes.default.svc");
        certificate("server", "/CN=kube-apiserver", &names)?;
        for client in ["program", "person", "controllers"] {
            let subject = format!("/O=system:masters/CN={client}");
            certificate(client, &subject, "extendedKeyUsage=clientAuth")?;
            let data = |name: &str| -> Test<String> {
                Ok(data_encoding::BASE64.encode(&fs::read(self.path(name))?))
            };
            let user = json!({
                "client-certificate-data": data(&format!("{client}.crt"))?,
                "client-key-data": data(&format!("{client}.key"))?,
            });
            let server = json!({
                "server": format!("https://{address}:6443"),
                "certificate-authority-data": data("ca.crt")?,
            });
            let kubeconfig = testing::documents::kubeconfig(&server, &user);
            fs::write(self.path(&format!("{client}.kubeconfig")), kubeconfig.to_string())?;
        }
        Ok(())
    }

    pub(super) fn control_plane(&mut self) -> Test {
        let address = self.address;
        // The Go module builds the binary under this name.
        self.child("etcd", "etcd", |command| {
            command.args(["--data-dir", "etcd", "--unsafe-no-fsync", "--log-level", "error"]);
            for (flag, port) in [
                ("listen-client-urls", 2379),
                ("advertise-client-urls", 2379),
                ("listen-peer-urls", 2380),
                ("initial-advertise-peer-urls", 2380),
            ] {
                command.arg(format!("--{flag}=http://{address}:{port}"));
            }
            command.arg(format!("--initial-cluster=default=http://{address}:2380"));
        })?;
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
            "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}],
        });
        fs::write(self.path("audit.json"), policy.to_string())?;
        self.child("kube-apiserver", "kube-apiserver", |command| {
            command.args([
                format!("--etcd-servers=http://{address}:2379"),
                format!("--bind-address={address}"),
                format!("--advertise-address={address}"),
            ]);
            command.args("--secure-port=6443 --tls-cert-file=server.crt --tls-private-key-file=server.key --client-ca-file=ca.crt --service-account-key-file=sa.pub --service-account-signing-key-file=sa.key --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=RBAC --allow-privileged=true --audit-policy-file=audit.json --audit-log-path=audit.log --audit-log-mode=blocking --cert-dir=server".split(' '));
        })?;
        until("kube-apiserver", || self.kubectl("get --raw /readyz").is_ok())?;
        self.child("kube-controller-manager", "kube-controller-manager", |command| {
            command.args("--kubeconfig=controllers.kubeconfig --service-account-private-key-file=sa.key --root-ca-file=ca.crt --leader-elect=false --secure-port=0".split(' '));
        })
    }

    pub(super) fn registry(&mut self) -> Test {
        self.registry_at("docker-registry", &json!({"addr": format!("{}:5000", self.address)}))
    }

    /// Starts another registry on the same storage, whose certificate the lab's authority has signed.
    #[allow(dead_code, reason = "only the delivery uses this method")]
    pub(crate) fn private_registry(&mut self) -> Test<String> {
        let address = format!("{}:5443", self.address);
        let tls = json!({"certificate": self.path("server.crt"), "key": self.path("server.key")});
        self.registry_at("private-registry", &json!({"addr": address, "tls": tls}))?;
        Ok(address)
    }

    fn registry_at(&mut self, name: &'static str, http: &Value) -> Test {
        let address = http["addr"].as_str().unwrap_or_default().to_owned();
        let config = json!({
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": self.path("registry")}},
            "http": http,
        });
        let file = self.path(&format!("{name}.yml"));
        fs::write(&file, config.to_string())?;
        self.child(name, "docker-registry", |command| {
            command.arg("serve").arg(file);
        })?;
        until(name, || TcpStream::connect(&address).is_ok())
    }

    /// Creates a cosign key pair without a password.
    pub(super) fn keys(&self, name: &str) -> Test {
        let cosign = || {
            let mut cosign = Command::new(bin("cosign"));
            cosign.current_dir(self.folder.path()).env("COSIGN_PASSWORD", "");
            cosign
        };
        run(cosign().args(["generate-key-pair", "--output-key-prefix", name]))?;
        let config = run(cosign().args(["signing-config", "create"]))?;
        Ok(fs::write(self.path("signing.json"), config)?)
    }

    /// Starts the scheduler for pods that name it [`SCHEDULER`]. All other pods stay with the simulated
    /// kubelet.
    #[allow(dead_code, reason = "only the catalogue has a real node")]
    pub(crate) fn schedule(&mut self) -> Test {
        let config = json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
            "clientConnection": {"kubeconfig": "controllers.kubeconfig"},
            "leaderElection": {"leaderElect": false},
            "profiles": [{"schedulerName": SCHEDULER}],
        });
        fs::write(self.path("scheduler.json"), config.to_string())?;
        self.child("kube-scheduler", "kube-scheduler", |command| {
            command.args(["--config=scheduler.json", "--secure-port=0"]);
        })
    }

    /// Simulates the kubelet from now on.
    pub(crate) fn play(&mut self) {
        let stopped = Arc::new(AtomicBool::new(false));
        let (folder, address, stop) =
            (self.folder.path().to_owned(), self.address, stopped.clone());
        let mut kubelet = Kubelet { folder, address, pods: BTreeSet::new(), flux: Vec::new() };
        self.player = Some((stopped, spawn(move || kubelet.run(&stop))));
    }
}

/// Simulated kubelet: reports every pod as running. Flux's controllers do run, as processes, as long as
/// they have a pod.
struct Kubelet {
    folder: PathBuf,
    address: &'static str,
    /// Namespace, name and controllers of Flux of each pod.
    pods: BTreeSet<(String, String, Vec<String>)>,
    flux: Vec<(&'static str, Child)>,
}

impl Kubelet {
    fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.pods.clear();
            let watch = "get pods -A -o json --watch --output-watch-events";
            let watch = self.kubectl(watch).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
            let Ok(mut watch) = watch else { return };
            let Some(events) = watch.stdout.take() else { return };
            let (sender, receiver) = channel();
            let reader = spawn(move || {
                let events = BufReader::new(events);
                let events = serde_json::Deserializer::from_reader(events).into_iter::<Value>();
                events.map_while(Result::ok).try_for_each(|event| sender.send(event))
            });
            while !stop.load(Ordering::Relaxed) {
                match receiver.recv_timeout(Duration::from_millis(100)) {
                    Ok(event) => self.pod(&event),
                    Err(RecvTimeoutError::Timeout) => self.controllers(),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            end(&mut watch);
            let _ = reader.join();
        }
        self.flux.iter_mut().for_each(|(_, child)| end(child));
    }

    fn kubectl(&self, line: &str) -> Command {
        let mut kubectl = Command::new(bin("kubectl"));
        kubectl.arg("--kubeconfig").arg(self.folder.join("controllers.kubeconfig"));
        kubectl.args(line.split(' '));
        kubectl
    }

    fn pod(&mut self, event: &Value) {
        let pod = &event["object"];
        let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
        let metadata = &pod["metadata"];
        if pod["spec"]["schedulerName"] == SCHEDULER {
            return self.controllers();
        }
        let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
        // In the network of the node, one pod has a container for each controller. In the pod network,
        // the label names the only controller.
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let names = containers.map(|container| text(&container["name"]));
        let runs = names.chain([text(&metadata["labels"]["app"])]);
        let pod_of = (namespace.clone(), name.clone(), runs.collect());
        if event["type"] == "DELETED" {
            self.pods.remove(&pod_of);
        } else {
            self.pods.insert(pod_of);
            if pod["status"]["phase"] != "Running" {
                let line =
                    format!("patch pod -n {namespace} {name} --subresource=status --type=merge -p");
                let _ = run(self.kubectl(&line).arg(running_pod(pod).to_string()));
            }
        }
        self.controllers();
    }

    /// Starts each controller that has a pod, and stops each that has none.
    fn controllers(&mut self) {
        for name in ["source-controller", "kustomize-controller"] {
            let mut pods = self.pods.iter().filter(|(namespace, ..)| namespace == "flux-system");
            let wanted = pods.any(|(_, _, runs)| runs.iter().any(|run| run == name));
            let at = self.flux.iter().position(|(running, _)| *running == name);
            let runs = at.is_some_and(|at| matches!(self.flux[at].1.try_wait(), Ok(None)));
            if let Some(at) = at.filter(|_| !wanted || !runs) {
                end(&mut self.flux.remove(at).1);
            }
            if wanted
                && !runs
                && let Some(started) = controller(name, &self.folder, self.address)
            {
                self.flux.push((name, started));
            }
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Returns the status that a kubelet would report for `pod`.
fn running_pod(pod: &Value) -> Value {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let statuses: Value = containers
        .map(|container| {
            json!({"name": container["name"], "image": container["image"],
                "imageID": container["image"], "ready": true,
                "started": true, "restartCount": 0, "state": {"running": {}}})
        })
        .collect();
    let conditions: Value = ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .into_iter()
        .map(|kind| json!({"type": kind, "status": "True"}))
        .collect();
    json!({"status": {"phase": "Running", "conditions": conditions, "containerStatuses": statuses}})
}

fn controller(name: &str, folder: &Path, address: &str) -> Option<Child> {
    let (storage, temporary) = (folder.join("storage"), folder.join(format!("{name}-tmp")));
    fs::create_dir_all(&storage).ok()?;
    fs::create_dir_all(&temporary).ok()?;
    let log =
        fs::File::options().create(true).append(true).open(folder.join(format!("{name}.log")));
    let log = log.ok()?;
    let mut command = Command::new(bin(name));
    command.env("KUBECONFIG", folder.join("controllers.kubeconfig"));
    command.env("RUNTIME_NAMESPACE", "flux-system").env("TMPDIR", temporary);
    command
        .args("--metrics-addr=0 --health-addr=0 --events-addr= --watch-all-namespaces".split(' '));
    if name == "source-controller" {
        command.arg(format!("--storage-path={}", storage.display()));
        command.args(["addr", "adv-addr"].map(|flag| format!("--storage-{flag}={address}:9790")));
    } else {
        command.arg("--requeue-dependency=5s");
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().ok()?).stderr(log);
    command.spawn().ok()
}
