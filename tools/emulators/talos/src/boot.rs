//! The boot of a configured machine: containerd, etcd, the control plane and the kubelet start, and the
//! machine then watches them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use talos_api::machine::machine_status_event::MachineStage;
use talos_api::machine::sequence_event::Action;
use tokio::time::sleep;

use crate::config::{Configuration, ControlPlane};
use crate::control_plane::{self, NodeContext, peer_url};
use crate::error::Error;
use crate::kind::Kind;
use crate::kubernetes::Kubernetes;
use crate::machine::Machine;
use crate::network::PodNetwork;
use crate::node::{self, HEALTH_PORT, Node};
use crate::settings::Node as NodeKind;
use crate::tls::{self, Question};
use crate::{etcd, manifests, process};

const PAUSE: Duration = Duration::from_millis(100);
const WATCH: Duration = Duration::from_secs(2);
/// Message of etcd's service while it waits, as in Talos v1.13.9.
const ETCD_WAITS_FOR: &str =
    "Waiting for volumes to be mounted, service \"cri\" to be \"up\", time sync, network";
/// Message of etcd's service after etcd has ended by itself, as in Talos v1.13.9
/// (`runner/restart/restart.go`).
const ETCD_CRASHED: &str = "Error running Containerd(etcd), going to restart forever: \
     task \"etcd\" failed: exit code 1";

impl Machine {
    /// Starts every component, retries after a failure, and then watches the components until the task is
    /// aborted.
    pub(crate) async fn boot_services(self: Arc<Self>, config: Arc<Configuration>) {
        loop {
            match self.try_boot(&config).await {
                Ok(()) => return,
                Err(error) => {
                    self.view.sequence_failed("boot", &error.to_string(), "");
                    sleep(WATCH).await;
                }
            }
        }
    }

    async fn try_boot(&self, config: &Arc<Configuration>) -> Result<(), Error> {
        let context = self.context();
        self.shared.start_kubeprism(config).await;
        let pods = self.pods(config).await?;
        if let Some(control_plane) = &config.control_plane {
            if !self.processes.runs("etcd") {
                self.view.service("etcd", "Starting", None, "Starting service");
                self.view.service("etcd", "Waiting", None, ETCD_WAITS_FOR);
            }
            control_plane::write(&context, config, control_plane)?;
        }
        self.start_containerd(config, &context, &pods).await?;
        self.run_state().accepts_bootstrap = true;
        if let Some(control_plane) = &config.control_plane {
            self.start_etcd(config, control_plane, &context).await?;
            self.start_control_plane(config, &context).await?;
        }
        let ((), joined) = tokio::join!(
            self.apply_manifests(config, &context),
            self.start_kubelet(config, &context, &pods),
        );
        joined?;
        self.watch(config, &context, &pods).await
    }

    /// Returns the machine's pod network. While the node runs, the network must not change.
    async fn pods(&self, config: &Configuration) -> Result<PodNetwork, Error> {
        let number = self.directory.label().and_then(|label| label.pods);
        match number {
            Some(number) if self.processes.runs(node::PROCESS) => {
                Ok(PodNetwork::new(self.address, config.pods(), number))
            }
            _ => self.shared.pod_network(self.id, self.address, config).await,
        }
        .map(|pods| pods.with_node(config.cloud_address(&self.private_ipv4)))
    }

    fn node<'a>(
        &'a self,
        config: &Configuration,
        context: &'a NodeContext,
        pods: &'a PodNetwork,
    ) -> Node<'a> {
        let prism = config.main["machine"]["features"]["kubePrism"]["enabled"] == true;
        let server = match self.shared.kubeprism() {
            Some(address) if prism => format!("https://{address}"),
            _ => config.endpoint.clone(),
        };
        let settings = &self.shared.settings;
        Node {
            context,
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
        context: &NodeContext,
        pods: &PodNetwork,
    ) -> Result<(), Error> {
        if let NodeKind::ControlPlaneOnly(why) = &self.shared.settings.node {
            for service in ["containerd", "cri", "kubelet"] {
                self.view.service(service, "Skipped", None, why);
            }
            return Ok(());
        }
        if self.processes.runs(node::PROCESS) {
            return self.node(config, context, pods).write_registries(config);
        }
        for service in ["containerd", "cri"] {
            self.view.service(service, "Starting", None, "");
        }
        self.view.service("kubelet", "Waiting", None, "waiting for an API server");
        pods.make().await?;
        self.shared.hold_back(&config.services().0).await;
        self.node(config, context, pods).start(config, &self.processes).await?;
        for service in ["containerd", "cri"] {
            self.view.service(service, "Running", Some(true), "");
        }
        Ok(())
    }

    /// Starts etcd: with the data on the disk, or as a further member, or as the first member.
    async fn start_etcd(
        &self,
        config: &Configuration,
        control_plane: &ControlPlane,
        context: &NodeContext,
    ) -> Result<(), Error> {
        let client = etcd::Etcd::at(self.address, control_plane)?;
        let alone = format!("{}={}", context.hostname, peer_url(self.address));
        // Held until the new member votes, because etcd allows only one learner at a time.
        let mut joining = None;
        if !self.processes.runs("etcd") {
            // With or without data, `ServiceRunner.Run` in Talos v1.13.9 goes from Starting through
            // Waiting and Preparing to Running on every boot.
            sleep(self.shared.etcd_waits(&self.name, self.directory.has_etcd_data())).await;
            self.view.service("etcd", "Preparing", None, "Running pre state");
            if self.directory.has_etcd_data() {
                sleep(PAUSE * 2).await;
            }
            let (cluster, state) = loop {
                if self.directory.has_etcd_data() {
                    break (alone, "existing");
                }
                if self.run_state().bootstrap_asked {
                    break (alone, "new");
                }
                let turn = self.shared.joining.lock().await;
                if let Some(peer) = self.shared.etcd_peer(self.id, config) {
                    match peer.add(&context.hostname, self.address).await {
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
            self.processes.start(control_plane::etcd(context, config, &cluster, state))?;
        }
        let (mut started, mut learner_since) = (false, None);
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
                let since =
                    status.is_learner.then(|| *learner_since.get_or_insert_with(Instant::now));
                if since.is_some_and(|since| since.elapsed() >= self.shared.learning())
                    && let Some(peer) = self.shared.etcd_peer(self.id, config)
                {
                    // etcd refuses to promote a learner that lags behind, so the loop asks again.
                    let _ = peer.promote(status.member_id).await;
                } else if status.leader != 0 && !status.is_learner {
                    break;
                }
            }
            sleep(PAUSE).await;
        }
        drop(joining);
        self.run_state().etcd = Some(client);
        self.view.service("etcd", "Running", Some(true), "Health check successful");
        Ok(())
    }

    async fn start_control_plane(
        &self,
        config: &Configuration,
        context: &NodeContext,
    ) -> Result<(), Error> {
        if !self.processes.runs("kube-apiserver") {
            self.processes.start(control_plane::api_server(context, config))?;
        }
        let kubernetes = Kubernetes::of(config, self.address)?;
        while !kubernetes.is_ready().await {
            let pod = format!("kube-system/kube-apiserver-{} not ready", context.hostname);
            self.view.condition("staticPods", Some(&pod));
            sleep(PAUSE).await;
        }
        // The token must exist before the first kubelet asks: a kubelet that the API server refuses waits
        // before it asks again.
        for object in manifests::bootstrap(config)["items"].as_array().into_iter().flatten() {
            kubernetes.apply(object).await?;
        }
        self.run_state().serves_kubernetes = true;
        self.view.condition("staticPods", None);
        for program in control_plane::controllers(context, config) {
            if !self.processes.runs(program.name) {
                self.processes.start(program)?;
            }
        }
        Ok(())
    }

    /// Applies the configuration's own manifests, and reports each failure in a boot event, as Talos does.
    async fn apply_manifests(&self, config: &Configuration, context: &NodeContext) {
        if config.control_plane.is_none() {
            return;
        }
        for manifest in manifests::inline(config) {
            let (kubeconfig, cache) = (
                context.directory.text("kubernetes/admin.kubeconfig"),
                context.directory.text("kubernetes/cache"),
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
            let kubectl = context.binaries.join("kubectl");
            let applied = process::run(
                &kubectl,
                &arguments,
                Some(manifest.as_bytes()),
                Duration::from_secs(30),
            )
            .await;
            if let Err(error) = applied {
                self.view.sequence_failed("boot", &error.to_string(), "");
            }
        }
    }

    /// Starts the kubelet once an API server serves, and labels the node.
    async fn start_kubelet(
        &self,
        config: &Arc<Configuration>,
        context: &NodeContext,
        pods: &PodNetwork,
    ) -> Result<(), Error> {
        if self.shared.settings.node != NodeKind::Real {
            return Ok(());
        }
        let kubernetes = loop {
            match self.shared.kubernetes(config) {
                Some(found) => break found,
                None => sleep(PAUSE).await,
            }
        };
        let node = self.node(config, context, pods);
        if !self.directory.at("node/kubelet.run").exists() {
            self.view.service("kubelet", "Starting", None, "");
            pods.give_node_address().await?;
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
        let path = format!("/api/v1/nodes/{}", context.hostname);
        loop {
            let body = Some(("application/merge-patch+json", change.as_bytes()));
            let question = Question { method: "PATCH", path: &path, body };
            if kubernetes.ask(&question).await.is_ok_and(|(status, _)| status == 200) {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    /// Checks every component repeatedly, and shows the results in the view.
    async fn watch(
        &self,
        config: &Arc<Configuration>,
        context: &NodeContext,
        pods: &PodNetwork,
    ) -> Result<(), Error> {
        let server = config
            .control_plane
            .is_some()
            .then(|| Kubernetes::of(config, self.address))
            .transpose()?;
        // Kept while the node is ready, because each new client needs a new certificate.
        let mut cluster: Option<Kubernetes> = None;
        loop {
            if self.shared.settings.node == NodeKind::Real {
                let health = SocketAddr::from((pods.gateway, HEALTH_PORT));
                let is_healthy =
                    tls::ask_plainly(health, "/healthz").await.is_ok_and(|status| status == 200);
                let message =
                    if is_healthy { "Health check successful" } else { "Health check failed" };
                self.view.service("kubelet", "Running", Some(is_healthy), message);
                let reason = format!("node \"{}\" status is not available yet", context.hostname);
                cluster = cluster.or_else(|| self.shared.kubernetes(config));
                let ready = match &cluster {
                    Some(kubernetes) => kubernetes.node_is_ready(&context.hostname).await,
                    None => false,
                };
                cluster = cluster.filter(|_| ready);
                self.view.condition("nodeReady", (!ready).then_some(&reason));
            }
            if let Some(kubernetes) = &server {
                let client = self.run_state().etcd.clone();
                let is_healthy = match client {
                    Some(client) => client.is_healthy().await,
                    None => false,
                };
                if self.processes.runs("etcd") {
                    let message =
                        if is_healthy { "Health check successful" } else { "etcd does not answer" };
                    self.view.service("etcd", "Running", Some(is_healthy), message);
                } else {
                    self.view.service("etcd", "Waiting", Some(false), ETCD_CRASHED);
                }
                let ready = kubernetes.is_ready().await;
                self.run_state().serves_kubernetes = ready;
                let pod = format!("kube-system/kube-apiserver-{} not ready", context.hostname);
                self.view.condition("staticPods", (!ready).then_some(&pod));
            }
            let has_booted = self.view.is_healthy("apid")
                && (config.kind == Kind::Worker || self.view.is_healthy("etcd"))
                && (self.shared.settings.node != NodeKind::Real || self.view.is_healthy("kubelet"));
            if has_booted && self.view.status().0.stage() == MachineStage::Booting {
                self.view.stage(MachineStage::Running);
                self.view.sequence("boot", Action::Stop, "");
            }
            let (status, _) = self.view.status();
            let ready = status.status.is_some_and(|status| status.ready);
            sleep(if ready { WATCH * 2 } else { WATCH / 8 }).await;
        }
    }
}
