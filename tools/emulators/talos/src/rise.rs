//! How a configured machine comes up: containerd, etcd, the control plane, the kubelet; then it is
//! watched.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use talos_provision::wire::{SequenceAction, Stage};
use tokio::time::sleep;

use crate::config::{Configuration, ControlPlane, Kind};
use crate::control_plane::{self, Setting, peer_url};
use crate::fleet::Node as NodeKind;
use crate::machine::Machine;
use crate::network::PodNetwork;
use crate::node::{self, HEALTH_PORT, Node};
use crate::tls::{self, Question};
use crate::trouble::Trouble;
use crate::{etcd, manifests, process};

const PAUSE: Duration = Duration::from_millis(100);
const WATCH: Duration = Duration::from_secs(2);
/// What etcd waits for, as Talos v1.13.9 says it.
const ETCD_WAITS_FOR: &str =
    "Waiting for volumes to be mounted, service \"cri\" to be \"up\", time sync, network";
/// What Talos v1.13.9 says of etcd that ended by itself (`runner/restart/restart.go`).
const ETCD_CRASHED: &str = "Error running Containerd(etcd), going to restart forever: \
     task \"etcd\" failed: exit code 1";

impl Machine {
    /// Brings everything up, trying again whatever fails, and then watches it; until aborted.
    pub(crate) async fn rise(self: Arc<Self>, config: Arc<Configuration>) {
        loop {
            match self.try_rise(&config).await {
                Ok(()) => return,
                Err(trouble) => {
                    self.view.sequence_failed("boot", &trouble.to_string(), "");
                    sleep(WATCH).await;
                }
            }
        }
    }

    async fn try_rise(&self, config: &Arc<Configuration>) -> Result<(), Trouble> {
        let setting = self.setting();
        self.fleet.raise_kubeprism(config).await;
        let pods = self.pods(config).await?;
        if let Some(own) = &config.control_plane {
            if !self.processes.runs("etcd") {
                self.view.service("etcd", "Starting", None, "Starting service");
                self.view.service("etcd", "Waiting", None, ETCD_WAITS_FOR);
            }
            control_plane::write(&setting, config, own)?;
        }
        self.start_containerd(config, &setting, &pods).await?;
        self.live().accepts_bootstrap = true;
        if let Some(own) = &config.control_plane {
            self.start_etcd(config, own, &setting).await?;
            self.start_control_plane(config, &setting).await?;
        }
        let ((), joined) = tokio::join!(
            self.apply_manifests(config, &setting),
            self.start_kubelet(config, &setting, &pods),
        );
        joined?;
        self.watch(config, &setting, &pods).await
    }

    /// The machine's pod network: the one it has, when its node runs.
    async fn pods(&self, config: &Configuration) -> Result<PodNetwork, Trouble> {
        let number = self.place.label().and_then(|it| it.pods);
        match number {
            Some(number) if self.processes.runs(node::PROCESS) => {
                Ok(PodNetwork::new(self.address, config.pods(), number))
            }
            _ => self.fleet.pod_network(self, config).await,
        }
    }

    fn node<'a>(
        &'a self,
        config: &Configuration,
        setting: &'a Setting,
        pods: &'a PodNetwork,
    ) -> Node<'a> {
        let prism = config.main["machine"]["features"]["kubePrism"]["enabled"] == true;
        let server = match self.fleet.kubeprism() {
            Some(address) if prism => format!("https://{address}"),
            _ => config.endpoint.clone(),
        };
        let settings = &self.fleet.settings;
        Node {
            setting,
            pods,
            plain_registries: &settings.plain_registries,
            pause_image: &settings.pause_image,
            cni: &settings.cni,
            server,
        }
    }

    async fn start_containerd(
        &self,
        config: &Configuration,
        setting: &Setting,
        pods: &PodNetwork,
    ) -> Result<(), Trouble> {
        if let NodeKind::ControlPlaneOnly(why) = &self.fleet.settings.node {
            for service in ["containerd", "cri", "kubelet"] {
                self.view.service(service, "Skipped", None, why);
            }
            return Ok(());
        }
        if self.processes.runs(node::PROCESS) {
            return Ok(());
        }
        for service in ["containerd", "cri"] {
            self.view.service(service, "Starting", None, "");
        }
        self.view.service("kubelet", "Waiting", None, "waiting for an API server");
        pods.make().await?;
        self.fleet.hold_back(&config.services().0).await;
        self.node(config, setting, pods).start(config, &self.processes).await?;
        for service in ["containerd", "cri"] {
            self.view.service(service, "Running", Some(true), "");
        }
        Ok(())
    }

    /// Starts etcd: with the data on the disk, as one more member, or as the first.
    async fn start_etcd(
        &self,
        config: &Configuration,
        own: &ControlPlane,
        setting: &Setting,
    ) -> Result<(), Trouble> {
        let client = etcd::Etcd::at(self.address, own)?;
        let alone = format!("{}={}", setting.hostname, peer_url(self.address));
        // Only one machine at a time may join, and only until it votes.
        let mut joining = None;
        if !self.processes.runs("etcd") {
            // With data or without: `ServiceRunner.Run` in Talos v1.13.9 goes from Starting through
            // Waiting and Preparing to Running on every boot.
            sleep(self.fleet.etcd_waits(self)).await;
            self.view.service("etcd", "Preparing", None, "Running pre state");
            if self.place.has_etcd_data() {
                sleep(PAUSE * 2).await;
            }
            let (cluster, state) = loop {
                if self.place.has_etcd_data() {
                    break (alone, "existing");
                }
                if self.live().bootstrap_asked {
                    break (alone, "new");
                }
                let turn = self.fleet.joining.lock().await;
                if let Some(peer) = self.fleet.etcd_peer(self, config) {
                    match peer.add(&setting.hostname, self.address).await {
                        Ok((_, cluster)) => {
                            joining = Some(turn);
                            break (cluster, "existing");
                        }
                        Err(status) => {
                            let message = format!("cannot join: {}", status.message());
                            self.view.service("etcd", "Preparing", None, &message);
                        }
                    }
                }
                drop(turn);
                tokio::select! {
                    () = self.bootstrap.notified() => {}
                    () = sleep(Duration::from_millis(500)) => {}
                }
            };
            self.view.service("etcd", "Preparing", None, "Creating service runner");
            self.processes.start(control_plane::etcd(setting, config, &cluster, state))?;
        }
        let mut started = false;
        loop {
            let answer = client.status().await;
            let runs = self.processes.runs("etcd");
            started |= runs;
            if started && !runs {
                self.view.service("etcd", "Waiting", Some(false), ETCD_CRASHED);
            } else if answer.is_err() {
                self.view.service("etcd", "Running", None, "Started task etcd");
            }
            if let Ok(status) = answer {
                if status.is_learner
                    && let Some(peer) = self.fleet.etcd_peer(self, config)
                {
                    // Refused until it has caught up: asked again.
                    let _ = peer.promote(status.member_id).await;
                } else if status.leader != 0 && !status.is_learner {
                    break;
                }
            }
            sleep(PAUSE).await;
        }
        drop(joining);
        self.live().etcd = Some(client);
        self.view.service("etcd", "Running", Some(true), "Health check successful");
        Ok(())
    }

    async fn start_control_plane(
        &self,
        config: &Configuration,
        setting: &Setting,
    ) -> Result<(), Trouble> {
        if !self.processes.runs("kube-apiserver") {
            self.processes.start(control_plane::api_server(setting, config))?;
        }
        let kubernetes = Kubernetes::of(config, self.address)?;
        while !kubernetes.is_ready().await {
            let pod = format!("kube-system/kube-apiserver-{} not ready", setting.hostname);
            self.view.condition("staticPods", Some(&pod));
            sleep(PAUSE).await;
        }
        // A kubelet that came before its token would be sent away, and wait before it asks again.
        for object in manifests::bootstrap(config)["items"].as_array().into_iter().flatten() {
            kubernetes.apply(object).await?;
        }
        self.live().serves_kubernetes = true;
        self.view.condition("staticPods", None);
        for program in control_plane::controllers(setting, config) {
            if !self.processes.runs(program.name) {
                self.processes.start(program)?;
            }
        }
        Ok(())
    }

    /// What the configuration brings for Kubernetes itself. Tells what was refused, as Talos does.
    async fn apply_manifests(&self, config: &Configuration, setting: &Setting) {
        if config.control_plane.is_none() {
            return;
        }
        for manifest in manifests::inline(config) {
            let (kubeconfig, cache) = (
                setting.place.text("kubernetes/admin.kubeconfig"),
                setting.place.text("kubernetes/cache"),
            );
            let arguments = [
                "--kubeconfig",
                &kubeconfig,
                "--cache-dir",
                &cache,
                "apply",
                "--server-side",
                "--force-conflicts",
                "-f",
                "-",
            ];
            let kubectl = setting.binaries.join("kubectl");
            let applied = process::run(
                &kubectl,
                &arguments,
                Some(manifest.as_bytes()),
                Duration::from_secs(30),
            )
            .await;
            if let Err(trouble) = applied {
                self.view.sequence_failed("boot", &trouble.to_string(), "");
            }
        }
    }

    /// Starts the kubelet once there is an API server it can join, and labels the node.
    async fn start_kubelet(
        &self,
        config: &Arc<Configuration>,
        setting: &Setting,
        pods: &PodNetwork,
    ) -> Result<(), Trouble> {
        if self.fleet.settings.node != NodeKind::Real {
            return Ok(());
        }
        let kubernetes = loop {
            match self.fleet.kubernetes(config) {
                Some(found) => break found,
                None => sleep(PAUSE).await,
            }
        };
        let node = self.node(config, setting, pods);
        if !self.place.at("node/kubelet.run").exists() {
            self.view.service("kubelet", "Starting", None, "");
            node.run_kubelet(config, &self.processes)?;
        }
        let labels: serde_json::Map<_, _> = node::labels(config)
            .into_iter()
            .map(|(key, value)| (key, Value::String(value)))
            .collect();
        let annotations = config.main.pointer("/machine/nodeAnnotations").cloned();
        let metadata =
            json!({"labels": labels, "annotations": annotations.unwrap_or_else(|| json!({}))});
        let change = json!({"metadata": metadata}).to_string();
        let path = format!("/api/v1/nodes/{}", setting.hostname);
        loop {
            let body = Some(("application/merge-patch+json", change.as_bytes()));
            let question = Question { method: "PATCH", path: &path, body };
            if kubernetes.ask(&question).await.is_ok_and(|(status, _)| status == 200) {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    /// Looks at everything again and again, and shows what is seen.
    async fn watch(
        &self,
        config: &Arc<Configuration>,
        setting: &Setting,
        pods: &PodNetwork,
    ) -> Result<(), Trouble> {
        let own = config
            .control_plane
            .is_some()
            .then(|| Kubernetes::of(config, self.address))
            .transpose()?;
        // Kept while the node is ready: each has a certificate of its own.
        let mut cluster: Option<Kubernetes> = None;
        loop {
            if self.fleet.settings.node == NodeKind::Real {
                let health = SocketAddr::from((pods.gateway, HEALTH_PORT));
                let well = tls::ask_plainly(health, "/healthz").await.is_ok_and(|it| it == 200);
                let message = if well { "Health check successful" } else { "Health check failed" };
                self.view.service("kubelet", "Running", Some(well), message);
                let reason = format!("node \"{}\" status is not available yet", setting.hostname);
                cluster = cluster.or_else(|| self.fleet.kubernetes(config));
                let ready = match &cluster {
                    Some(kubernetes) => kubernetes.node_is_ready(&setting.hostname).await,
                    None => false,
                };
                cluster = cluster.filter(|_| ready);
                self.view.condition("nodeReady", (!ready).then_some(&reason));
            }
            if let Some(kubernetes) = &own {
                let client = self.live().etcd.clone();
                let well = match client {
                    Some(client) => client.is_healthy().await,
                    None => false,
                };
                let message = if well { "Health check successful" } else { "etcd does not answer" };
                self.view.service("etcd", "Running", Some(well), message);
                let ready = kubernetes.is_ready().await;
                self.live().serves_kubernetes = ready;
                let pod = format!("kube-system/kube-apiserver-{} not ready", setting.hostname);
                self.view.condition("staticPods", (!ready).then_some(&pod));
            }
            let risen = self.view.is_well("apid")
                && (config.kind == Kind::Worker || self.view.is_well("etcd"))
                && (self.fleet.settings.node != NodeKind::Real || self.view.is_well("kubelet"));
            if risen && self.view.status().0.stage() == Stage::Booting {
                self.view.stage(Stage::Running);
                self.view.sequence("boot", SequenceAction::Stop, "");
            }
            let (status, _) = self.view.status();
            let ready = status.status.is_some_and(|it| it.ready);
            sleep(if ready { WATCH * 2 } else { WATCH / 8 }).await;
        }
    }
}

/// An API server, asked with the cluster's own authority.
pub(crate) struct Kubernetes {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

impl Kubernetes {
    /// The API server at `address`, of a cluster whose authority `config` holds with its key.
    pub(crate) fn of(config: &Configuration, address: std::net::Ipv4Addr) -> Result<Self, Trouble> {
        let issued =
            config.cluster.issue(&crate::pki::Leaf::client("talos:admin", &["system:masters"]))?;
        let tls = tls::client(&config.cluster.der, issued.certificate, issued.key, b"http/1.1")?;
        Ok(Self { address: SocketAddr::from((address, 6443)), tls })
    }

    async fn ask(&self, question: &Question<'_>) -> Result<(u16, Vec<u8>), Trouble> {
        tls::ask(self.address, self.tls.clone(), question).await
    }

    pub(crate) async fn is_ready(&self) -> bool {
        self.ask(&Question::get("/readyz")).await.is_ok_and(|(status, _)| status == 200)
    }

    async fn node_is_ready(&self, name: &str) -> bool {
        let path = format!("/api/v1/nodes/{name}");
        let answer = self.ask(&Question::get(&path)).await;
        let node: Value =
            answer.ok().and_then(|(_, it)| serde_json::from_slice(&it).ok()).unwrap_or_default();
        let conditions = node["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|it| it["type"] == "Ready" && it["status"] == "True")
    }

    /// Server-side apply of one of the objects that Talos itself makes.
    async fn apply(&self, object: &Value) -> Result<(), Trouble> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let kind = match object["kind"].as_str() {
            Some("Secret") => "/api/v1/namespaces/kube-system/secrets",
            _ => "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        };
        let path = format!("{kind}/{name}?fieldManager=talos&force=true");
        let body = object.to_string();
        let body = Some(("application/apply-patch+yaml", body.as_bytes()));
        let (status, _) = self.ask(&Question { method: "PATCH", path: &path, body }).await?;
        if matches!(status, 200 | 201) {
            Ok(())
        } else {
            Err(Trouble::new(format!("{name} was refused with {status}")))
        }
    }
}
