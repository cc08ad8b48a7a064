//! How each component is started.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Lab, Test, bin, run, until};

impl Lab {
    /// One authority, and a certificate for each who talks to the API server.
    pub(super) fn certificates(&self) -> Test {
        let openssl = |line: &str| {
            run(Command::new("openssl").args(line.split(' ')).current_dir(self.folder.path()))
        };
        let curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!("req -x509 {curve} -keyout ca.key -out ca.crt -days 2 -subj /CN=lab"))?;
        openssl("ecparam -name prime256v1 -genkey -noout -out sa.key")?;
        openssl("ec -in sa.key -pubout -out sa.pub")?;
        let address = &self.address;
        let certificate = |name: &str, subject: &str, extensions: &str| -> Test {
            fs::write(self.path("extensions"), extensions)?;
            openssl(&format!("req {curve} -keyout {name}.key -out {name}.csr -subj {subject}"))?;
            let sign = "-CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions";
            openssl(&format!("x509 -req -in {name}.csr {sign} -out {name}.crt"))?;
            Ok(())
        };
        let names = format!("subjectAltName=IP:{address},IP:10.96.0.1,DNS:kubernetes.default.svc");
        certificate("server", "/CN=kube-apiserver", &names)?;
        for who in ["program", "person", "controllers"] {
            let subject = format!("/O=system:masters/CN={who}");
            certificate(who, &subject, "extendedKeyUsage=clientAuth")?;
            let data = |name: &str| -> Test<String> {
                Ok(data_encoding::BASE64.encode(&fs::read(self.path(name))?))
            };
            let user = json!({
                "client-certificate-data": data(&format!("{who}.crt"))?,
                "client-key-data": data(&format!("{who}.key"))?,
            });
            let server = json!({
                "server": format!("https://{address}:6443"),
                "certificate-authority-data": data("ca.crt")?,
            });
            let kubeconfig = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "lab",
                "clusters": [{"name": "lab", "cluster": server}],
                "users": [{"name": "me", "user": user}],
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
            });
            fs::write(self.path(&format!("{who}.kubeconfig")), kubeconfig.to_string())?;
        }
        Ok(())
    }

    pub(super) fn control_plane(&mut self) -> Test {
        let address = self.address.clone();
        // The Go module builds it under this name.
        self.child("etcd", "etcd", |it| {
            it.args(["--data-dir", "etcd", "--unsafe-no-fsync", "--log-level", "error"]);
            for (flag, port) in [
                ("listen-client-urls", 2379),
                ("advertise-client-urls", 2379),
                ("listen-peer-urls", 2380),
                ("initial-advertise-peer-urls", 2380),
            ] {
                it.arg(format!("--{flag}=http://{address}:{port}"));
            }
            it.arg(format!("--initial-cluster=default=http://{address}:2380"));
        })?;
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
            "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}],
        });
        fs::write(self.path("audit.json"), policy.to_string())?;
        self.child("kube-apiserver", "kube-apiserver", |it| {
            it.args([
                format!("--etcd-servers=http://{address}:2379"),
                format!("--bind-address={address}"),
                format!("--advertise-address={address}"),
            ]);
            it.args("--secure-port=6443 --tls-cert-file=server.crt --tls-private-key-file=server.key --client-ca-file=ca.crt --service-account-key-file=sa.pub --service-account-signing-key-file=sa.key --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=RBAC --allow-privileged=true --audit-policy-file=audit.json --audit-log-path=audit.log --audit-log-mode=blocking --cert-dir=server".split(' '));
        })?;
        until("kube-apiserver", || self.kubectl("get --raw /readyz").is_ok())?;
        self.child("kube-controller-manager", "kube-controller-manager", |it| {
            it.args("--kubeconfig=controllers.kubeconfig --service-account-private-key-file=sa.key --root-ca-file=ca.crt --leader-elect=false --secure-port=0".split(' '));
        })
    }

    pub(super) fn registry(&mut self) -> Test {
        let config = json!({
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": self.path("registry")}},
            "http": {"addr": format!("{}:5000", self.address)},
        });
        fs::write(self.path("registry.yml"), config.to_string())?;
        self.child("docker-registry", "docker-registry", |it| {
            it.args(["serve", "registry.yml"]);
        })?;
        let at = format!("{}:5000", self.address);
        until("docker-registry", || TcpStream::connect(&at).is_ok())
    }

    /// A key pair of cosign's own, without a password.
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

    /// Plays the kubelet, and starts Flux's controllers as soon as their definitions are there.
    pub(crate) fn play(&mut self) {
        let stop = Arc::new(AtomicBool::new(false));
        let folder = self.folder.path().to_owned();
        let (address, told) = (self.address.clone(), stop.clone());
        let player = spawn(move || {
            let kubectl = |line: &str| {
                let mut kubectl = Command::new(bin("kubectl"));
                kubectl.arg("--kubeconfig").arg(folder.join("controllers.kubeconfig"));
                run(kubectl.args(line.split(' ')))
            };
            let mut flux: Vec<Child> = Vec::new();
            while !told.load(Ordering::Relaxed) {
                let established = "wait --for=condition=Established --timeout=1s crd \
                     ocirepositories.source.toolkit.fluxcd.io kustomizations.kustomize.toolkit.fluxcd.io";
                let running = |it: &mut Child| matches!(it.try_wait(), Ok(None));
                if !flux.iter_mut().all(running) || flux.is_empty() {
                    flux.iter_mut().for_each(end);
                    flux.clear();
                    if kubectl(&established.split_whitespace().collect::<Vec<_>>().join(" "))
                        .is_ok()
                    {
                        flux = controllers(&folder, &address);
                    }
                }
                let pods = kubectl("get pods -A -o json").unwrap_or_default();
                let pods: Value = serde_json::from_str(&pods).unwrap_or_default();
                for pod in pods["items"].as_array().into_iter().flatten() {
                    if pod["status"]["phase"] == "Running" {
                        continue;
                    }
                    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
                    let line = format!(
                        "patch pod -n {} {} --subresource=status --type=merge -p",
                        text("namespace"),
                        text("name")
                    );
                    let _ = kubectl(&format!("{line} {}", running_pod(pod)));
                }
                sleep(Duration::from_millis(100));
            }
            flux.iter_mut().for_each(end);
        });
        self.player = Some((stop, player));
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// What a kubelet would say of `pod`, without a space in it.
fn running_pod(pod: &Value) -> Value {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let statuses: Value = containers
        .map(|it| {
            json!({"name": it["name"], "image": it["image"], "imageID": it["image"], "ready": true,
                "started": true, "restartCount": 0, "state": {"running": {}}})
        })
        .collect();
    let conditions: Value = ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .into_iter()
        .map(|it| json!({"type": it, "status": "True"}))
        .collect();
    json!({"status": {"phase": "Running", "conditions": conditions, "containerStatuses": statuses}})
}

fn controllers(folder: &std::path::Path, address: &str) -> Vec<Child> {
    let start = |name: &str, flags: &[String]| {
        let temporary = folder.join(format!("{name}-tmp"));
        fs::create_dir_all(&temporary).ok()?;
        let mut log = fs::File::options();
        let log = log.create(true).append(true).open(folder.join(format!("{name}.log"))).ok()?;
        let mut command = Command::new(bin(name));
        command.env("KUBECONFIG", folder.join("controllers.kubeconfig"));
        command.env("RUNTIME_NAMESPACE", "flux-system").env("TMPDIR", temporary);
        command.args(
            "--metrics-addr=0 --health-addr=0 --events-addr= --watch-all-namespaces".split(' '),
        );
        command.args(flags).stdin(Stdio::null()).stdout(log.try_clone().ok()?).stderr(log);
        command.spawn().ok()
    };
    let storage = folder.join("storage");
    let _ = fs::create_dir_all(&storage);
    let at = format!("{address}:9790");
    let source = [
        format!("--storage-path={}", storage.display()),
        format!("--storage-addr={at}"),
        format!("--storage-adv-addr={at}"),
    ];
    let source = start("source-controller", &source);
    let kustomize = start("kustomize-controller", &["--requeue-dependency=5s".to_owned()]);
    [source, kustomize].into_iter().flatten().collect()
}
