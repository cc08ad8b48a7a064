//! The node: containerd, crun and the kubelet, in namespaces of their own.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::config::Configuration;
use crate::control_plane::{Arguments, NodeContext, kubeconfig};
use crate::directory::MachineDirectory;
use crate::error::{Attempt, Error};
use crate::kind::Kind;
use crate::network::PodNetwork;
use crate::process::{Processes, Program, child_of, end_child};
use crate::registries;

/// Name of the process that holds the namespaces.
pub(crate) const PROCESS: &str = "node";
/// Port of the kubelet's health check.
pub(crate) const HEALTH_PORT: u16 = 10248;

const SCRIPT: &str = include_str!("node.sh");
const CONTAINERD: &str = include_str!("containerd.toml");
const CONTROL_PLANE_ROLE: &str = "node-role.kubernetes.io/control-plane";

/// Values that a node needs in addition to its configuration.
pub(crate) struct Node<'a> {
    pub(crate) context: &'a NodeContext,
    pub(crate) pods: &'a PodNetwork,
    pub(crate) plain_registries: &'a [String],
    pub(crate) pause_image: &'a str,
    pub(crate) cni: &'a Path,
    /// URL of the API server that the kubelet uses.
    pub(crate) server: String,
}

impl Node<'_> {
    /// Starts containerd, and waits until containerd answers.
    pub(crate) async fn start(
        &self,
        config: &Configuration,
        processes: &Processes,
    ) -> Result<(), Error> {
        let directory = &self.context.directory;
        for stale in ["node/containerd.up", "node/kubelet.run", "var/lib/cni"] {
            directory.remove(stale);
        }
        fs::create_dir_all(directory.at("logs")).attempt("cannot make a directory for logs")?;
        for log in ["containerd", "kubelet"] {
            let log = directory.at("logs").join(format!("{log}.log"));
            let _ = fs::rename(&log, log.with_extension("log.old"));
        }
        directory.write("node/node.sh", SCRIPT)?;
        directory.write("node/containerd.toml", self.containerd(config))?;
        self.write_registries(config)?;
        directory.remove("node/cni");
        fs::create_dir_all(directory.at("node/cni"))
            .attempt("cannot make a directory for the CNI")?;
        if config.text("/cluster/network/cni/name") != Some("none") {
            directory.write_json("node/cni/10-lab.conflist", &self.cni())?;
        }
        let mut arguments: Vec<String> = [
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
            "sh",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend([directory.text("node/node.sh"), directory.0.display().to_string()]);
        let path = PathBuf::from("unshare");
        processes.start(Program { name: PROCESS, path, arguments, environment: Vec::new() })?;
        for _ in 0..300 {
            if directory.at("node/containerd.up").exists() {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(Error::new("containerd did not answer in 30 s"))
    }

    /// Writes the files of the kubelet and starts it. A kubelet that runs already restarts with the new files.
    pub(crate) fn run_kubelet(
        &self,
        config: &Configuration,
        processes: &Processes,
    ) -> Result<(), Error> {
        let directory = &self.context.directory;
        directory.write("node/ca.crt", config.accepted("/cluster/acceptedCAs", &config.cluster))?;
        directory.write_json("node/kubelet.json", &self.kubelet(config))?;
        let (id, secret) = &config.token;
        let user = json!({"token": format!("{id}.{secret}")});
        let authority = config.accepted("/cluster/acceptedCAs", &config.cluster);
        directory.write_json(
            "node/bootstrap.kubeconfig",
            &kubeconfig(&self.server, &authority, &user),
        )?;
        let mut arguments = Arguments::default();
        arguments.set("config", directory.text("node/kubelet.json"));
        arguments.set("kubeconfig", "/var/lib/kubelet/kubeconfig");
        arguments.set("bootstrap-kubeconfig", directory.text("node/bootstrap.kubeconfig"));
        arguments.set("cert-dir", "/var/lib/kubelet/pki");
        arguments.set("hostname-override", &self.context.hostname);
        arguments.set("node-ip", self.pods.node.to_string());
        if config.has_external_cloud_provider() {
            arguments.set("cloud-provider", "external");
        }
        arguments.add(config.extra_arguments("/machine/kubelet/extraArgs"));
        let mut lines = vec![self.context.binaries.join("kubelet").display().to_string()];
        lines.extend(arguments.list());
        directory.write("node/kubelet.run", lines.join("\n") + "\n")?;
        if let Some(init) = processes.pid(PROCESS).and_then(child_of) {
            end_child(init, "kubelet");
        }
        Ok(())
    }

    /// Writes what containerd reads for each image. A running containerd uses a change, except for
    /// credentials.
    pub(crate) fn write_registries(&self, config: &Configuration) -> Result<(), Error> {
        registries::write(&self.context.directory, self.plain_registries, config)
    }

    fn containerd(&self, config: &Configuration) -> String {
        let folder = registries::folder(&self.context.directory);
        let quoted = |value: Value| value.to_string();
        CONTAINERD
            .replace("\"@PAUSE@\"", &quoted(json!(self.pause_image)))
            .replace("\"@PLUGINS@\"", &quoted(json!(self.cni)))
            .replace("\"@CNI@\"", &quoted(json!(self.context.directory.text("node/cni"))))
            + &registries::containerd(CRI, &folder, config)
    }

    fn cni(&self) -> Value {
        let ranges = json!([[{"subnet": self.pods.subnet}]]);
        json!({"cniVersion": "0.4.0", "name": "lab", "plugins": [{
            "type": "bridge", "bridge": self.pods.bridge, "isGateway": true, "ipMasq": false,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]},
        }]})
    }

    fn kubelet(&self, config: &Configuration) -> Value {
        let (.., dns) = config.services();
        let mut taints: Vec<Value> = config
            .map("/machine/nodeTaints")
            .into_iter()
            .map(|(key, value)| match value.rsplit_once(':') {
                Some((value, effect)) => json!({"key": key, "value": value, "effect": effect}),
                None => json!({"key": key, "effect": value}),
            })
            .collect();
        if is_reserved(config) {
            taints.push(json!({"key": CONTROL_PLANE_ROLE, "effect": "NoSchedule"}));
        }
        let mut kubelet = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "address": self.pods.node,
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": self.context.directory.text("node/ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup(self.context.address),
            "cgroupsPerQOS": false,
            "clusterDNS": [dns],
            "clusterDomain": config.dns_domain(),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "enforceNodeAllocatable": [],
            // The machine shares the host's disk, so that a full disk says nothing about the machine.
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "0%", "memory.available": "0%"},
            "failCgroupV1": false,
            "failSwapOn": false,
            "healthzBindAddress": self.pods.gateway,
            "healthzPort": HEALTH_PORT,
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "registerWithTaints": taints,
            "resolvConf": "",
            // Without rotation, the kubelet asks for its first certificate before it does anything else. With
            // rotation, it starts without a certificate, the API server refuses it, and it waits longer after
            // each attempt: the node is ready 2 to 4 s later. The certificate is valid for a year, and no lab
            // lasts as long.
            "rotateCertificates": false,
            "serializeImagePulls": false,
        });
        let extra = config.main.pointer("/machine/kubelet/extraConfig").and_then(Value::as_object);
        for (field, value) in extra.into_iter().flatten() {
            kubelet[field] = value.clone();
        }
        kubelet
    }
}

/// Folder of the cgroups: one hierarchy (version 2), or one for each controller (version 1).
const CGROUPS: &str = "/sys/fs/cgroup";
/// Folder of containerd's running containers, below the machine's directory.
const CONTAINERS: &str = "var/lib/containerd/io.containerd.runtime.v2.task/k8s.io";
const CRI: &str = r#""io.containerd.grpc.v1.cri""#;

/// Returns the cgroup of a machine's pods.
fn cgroup(machine: Ipv4Addr) -> String {
    format!("/{}", crate::network::bridge(machine))
}

fn is_reserved(config: &Configuration) -> bool {
    config.kind == Kind::ControlPlane && !config.schedules_on_control_planes()
}

/// Returns the labels of the node: the labels of the configuration, and its role.
pub(crate) fn labels(config: &Configuration) -> Vec<(String, String)> {
    let mut labels = config.map("/machine/nodeLabels");
    if config.kind == Kind::ControlPlane {
        labels.push((CONTROL_PLANE_ROLE.to_owned(), String::new()));
    }
    labels
}

/// Removes the cgroups of a machine whose processes have ended, and of its containers. The machine's next
/// kubelet would otherwise search each of them for processes for three seconds.
pub(crate) fn remove_cgroups(directory: &MachineDirectory, machine: Ipv4Addr) {
    let containers = fs::read_dir(directory.at(CONTAINERS)).into_iter().flatten().flatten();
    let containers = containers.map(|entry| Path::new("k8s.io").join(entry.file_name()));
    let machine_cgroup = PathBuf::from(cgroup(machine).trim_start_matches('/'));
    let names: Vec<_> = containers.chain([machine_cgroup]).collect();
    let controllers = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    for hierarchy in controllers.map(|entry| entry.path()).chain([PathBuf::from(CGROUPS)]) {
        for name in &names {
            remove_cgroup(&hierarchy.join(name), 0);
        }
    }
}

fn remove_cgroup(cgroup: &Path, depth: u8) {
    if depth > 8 || !cgroup.is_dir() {
        return;
    }
    for inner in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&inner.path(), depth + 1);
        }
    }
    let _ = fs::remove_dir(cgroup);
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const CONTROL_PLANE: &str = include_str!("../tests/fixtures/v1.13/base-controlplane.yaml");

    fn kubelet(text: &str) -> (Value, Vec<(String, String)>) {
        let config = Configuration::read(text.as_bytes()).expect("a configuration");
        let address = Ipv4Addr::new(127, 73, 0, 11);
        let context = NodeContext {
            directory: MachineDirectory(PathBuf::from("/machine")),
            binaries: PathBuf::from("/binaries"),
            address,
            hostname: "base-1".to_owned(),
            kubeprism: SocketAddr::from(([127, 0, 0, 1], 7445)),
        };
        let pods = PodNetwork::new(address, config.pods(), 7);
        let registries = ["127.77.0.1:5000".to_owned()];
        let node = Node {
            context: &context,
            pods: &pods,
            plain_registries: &registries,
            pause_image: "pause",
            cni: Path::new("/usr/lib/cni"),
            server: "https://127.0.0.1:7445".to_owned(),
        };
        (node.kubelet(&config), labels(&config))
    }

    #[test]
    fn a_control_plane_is_tainted_unless_the_configuration_allows_pods() {
        let (kubelet_config, labels) = kubelet(CONTROL_PLANE);
        assert_eq!(
            kubelet_config["registerWithTaints"],
            json!([{"key": CONTROL_PLANE_ROLE, "effect": "NoSchedule"}])
        );
        assert!(labels.iter().any(|(key, _)| key == CONTROL_PLANE_ROLE));
        let open = CONTROL_PLANE.replace(
            "    clusterName:",
            "    allowSchedulingOnControlPlanes: true\n    clusterName:",
        );
        assert_eq!(kubelet(&open).0["registerWithTaints"], json!([]));
    }
}
