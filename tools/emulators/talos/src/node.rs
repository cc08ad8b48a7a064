//! The node: containerd, crun and the kubelet, in namespaces of their own.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::config::{Configuration, Kind};
use crate::control_plane::{Arguments, Setting, kubeconfig};
use crate::network::PodNetwork;
use crate::place::Place;
use crate::process::{Processes, Program, child_of, end_child};
use crate::trouble::{Attempt, Trouble};

/// The name of the process that holds the namespaces.
pub(crate) const PROCESS: &str = "node";
/// Where the kubelet says that it is well.
pub(crate) const HEALTH_PORT: u16 = 10248;

const SCRIPT: &str = include_str!("node.sh");
const CONTROL_PLANE_ROLE: &str = "node-role.kubernetes.io/control-plane";

/// What a node needs to know beside its configuration.
pub(crate) struct Node<'a> {
    pub(crate) setting: &'a Setting,
    pub(crate) pods: &'a PodNetwork,
    pub(crate) plain_registries: &'a [String],
    pub(crate) pause_image: &'a str,
    pub(crate) cni: &'a Path,
    /// Where the kubelet reaches an API server.
    pub(crate) server: String,
}

impl Node<'_> {
    /// Starts containerd, and waits until it answers.
    pub(crate) async fn start(
        &self,
        config: &Configuration,
        processes: &Processes,
    ) -> Result<(), Trouble> {
        let place = &self.setting.place;
        for stale in ["node/containerd.up", "node/kubelet.run", "var/lib/cni"] {
            place.remove(stale);
        }
        fs::create_dir_all(place.at("logs")).attempt("cannot make a directory for logs")?;
        for log in ["containerd", "kubelet"] {
            let log = place.at("logs").join(format!("{log}.log"));
            let _ = fs::rename(&log, log.with_extension("log.old"));
        }
        place.write("node/node.sh", SCRIPT)?;
        place.write("node/containerd.toml", self.containerd(config))?;
        place.remove("node/cni");
        fs::create_dir_all(place.at("node/cni")).attempt("cannot make a directory for the CNI")?;
        if config.text("/cluster/network/cni/name") != Some("none") {
            place.write_json("node/cni/10-lab.conflist", &self.cni())?;
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
        arguments.extend([place.text("node/node.sh"), place.0.display().to_string()]);
        let path = PathBuf::from("unshare");
        processes.start(Program { name: PROCESS, path, arguments, environment: Vec::new() })?;
        for _ in 0..300 {
            if place.at("node/containerd.up").exists() {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(Trouble::new("containerd did not answer in 30 s"))
    }

    /// Writes what the kubelet needs, and lets it run; one that runs already starts again with it.
    pub(crate) fn run_kubelet(
        &self,
        config: &Configuration,
        processes: &Processes,
    ) -> Result<(), Trouble> {
        let place = &self.setting.place;
        place.write("node/ca.crt", config.accepted("/cluster/acceptedCAs", &config.cluster))?;
        place.write_json("node/kubelet.json", &self.kubelet(config))?;
        let (id, secret) = &config.token;
        let user = json!({"token": format!("{id}.{secret}")});
        let authority = config.accepted("/cluster/acceptedCAs", &config.cluster);
        place.write_json(
            "node/bootstrap.kubeconfig",
            &kubeconfig(&self.server, &authority, &user),
        )?;
        let mut arguments = Arguments::default();
        arguments.set("config", place.text("node/kubelet.json"));
        arguments.set("kubeconfig", "/var/lib/kubelet/kubeconfig");
        arguments.set("bootstrap-kubeconfig", place.text("node/bootstrap.kubeconfig"));
        arguments.set("cert-dir", "/var/lib/kubelet/pki");
        arguments.set("hostname-override", &self.setting.hostname);
        arguments.set("node-ip", self.pods.gateway.to_string());
        arguments.add(config.extra_arguments("/machine/kubelet/extraArgs"));
        let mut lines = vec![self.setting.binaries.join("kubelet").display().to_string()];
        lines.extend(arguments.list());
        place.write("node/kubelet.run", lines.join("\n") + "\n")?;
        if let Some(init) = processes.pid(PROCESS).and_then(child_of) {
            end_child(init, "kubelet");
        }
        Ok(())
    }

    fn containerd(&self, config: &Configuration) -> String {
        let mut mirrors = Vec::new();
        let mut mirror = |host: &str, endpoints: &[String]| {
            let (host, endpoints) = (json!(host), json!(endpoints));
            mirrors.push(format!(
                "  [plugins.{CRI}.registry.mirrors.{host}]\n    endpoint = {endpoints}\n"
            ));
        };
        for host in self.plain_registries {
            mirror(host, &[format!("http://{host}")]);
        }
        for (host, endpoints) in registry_mirrors(config) {
            if !self.plain_registries.contains(&host) {
                mirror(&host, &endpoints);
            }
        }
        format!(
            r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.{CRI}]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  sandbox_image = {pause}
  [plugins.{CRI}.cni]
    bin_dir = {plugins}
    conf_dir = {cni}
  [plugins.{CRI}.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.{CRI}.containerd.runtimes.runc.options]
      SystemdCgroup = false
      BinaryName = "crun"
{mirrors}"#,
            pause = json!(self.pause_image),
            plugins = json!(self.cni),
            cni = json!(self.setting.place.text("node/cni")),
            mirrors = mirrors.concat(),
        )
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
            "address": self.pods.gateway,
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": self.setting.place.text("node/ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup(self.setting.address),
            "cgroupsPerQOS": false,
            "clusterDNS": [dns],
            "clusterDomain": config.dns_domain(),
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "enforceNodeAllocatable": [],
            // The disk is the host's: how full it is says nothing about this machine.
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "0%", "memory.available": "0%"},
            "failCgroupV1": false,
            "failSwapOn": false,
            "healthzBindAddress": self.pods.gateway,
            "healthzPort": HEALTH_PORT,
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "registerWithTaints": taints,
            "resolvConf": "",
            // So that it asks for its first certificate before all else. With rotation it begins
            // without one, is sent away by its API server, and waits longer each time: a node is
            // ready 2 to 4 s later. A year, for which that certificate is good, no lab lasts.
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

/// Where cgroups are: the one hierarchy, or one for each controller.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where containerd names the containers that run.
const CONTAINERS: &str = "var/lib/containerd/io.containerd.runtime.v2.task/k8s.io";
const CRI: &str = r#""io.containerd.grpc.v1.cri""#;

/// Where the pods of a machine are counted.
fn cgroup(machine: Ipv4Addr) -> String {
    format!("/{}", crate::network::bridge(machine))
}

fn is_reserved(config: &Configuration) -> bool {
    config.kind == Kind::ControlPlane && !config.schedules_on_control_planes()
}

/// Labels of the node: those of the configuration, and its role.
pub(crate) fn labels(config: &Configuration) -> Vec<(String, String)> {
    let mut labels = config.map("/machine/nodeLabels");
    if config.kind == Kind::ControlPlane {
        labels.push((CONTROL_PLANE_ROLE.to_owned(), String::new()));
    }
    labels
}

/// Mirrors of registries, old form and new.
fn registry_mirrors(config: &Configuration) -> Vec<(String, Vec<String>)> {
    let texts = |list: Option<&Value>, field: Option<&str>| {
        let list = list.and_then(Value::as_array).into_iter().flatten();
        let text = list.filter_map(|it| field.map_or(it, |field| &it[field]).as_str());
        text.map(str::to_owned).collect::<Vec<_>>()
    };
    let old = config.main.pointer("/machine/registries/mirrors").and_then(Value::as_object);
    let old = old
        .into_iter()
        .flatten()
        .map(|(host, it)| (host.clone(), texts(it.get("endpoints"), None)));
    let new = config.others("RegistryMirrorConfig").filter_map(|it| {
        Some((it["name"].as_str()?.to_owned(), texts(it.get("endpoints"), Some("url"))))
    });
    old.chain(new).collect()
}

/// Removes the cgroups of a machine whose processes are gone, and of its containers: for each of
/// these its next kubelet would try three seconds long to find what runs in it.
pub(crate) fn remove_cgroups(place: &Place, machine: Ipv4Addr) {
    let containers = fs::read_dir(place.at(CONTAINERS)).into_iter().flatten().flatten();
    let containers = containers.map(|it| Path::new("k8s.io").join(it.file_name()));
    let own = PathBuf::from(cgroup(machine).trim_start_matches('/'));
    let names: Vec<_> = containers.chain([own]).collect();
    let controllers = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    for hierarchy in controllers.map(|it| it.path()).chain([PathBuf::from(CGROUPS)]) {
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
        if inner.file_type().is_ok_and(|it| it.is_dir()) {
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

    fn kubelet(text: &str) -> (Value, Vec<(String, String)>, String) {
        let config = Configuration::read(text.as_bytes()).expect("a configuration");
        let address = Ipv4Addr::new(127, 73, 0, 11);
        let setting = Setting {
            place: Place(PathBuf::from("/machine")),
            binaries: PathBuf::from("/binaries"),
            address,
            hostname: "base-1".to_owned(),
            kubeprism: SocketAddr::from(([127, 0, 0, 1], 7445)),
        };
        let pods = PodNetwork::new(address, config.pods(), 7);
        let registries = ["127.77.0.1:5000".to_owned()];
        let node = Node {
            setting: &setting,
            pods: &pods,
            plain_registries: &registries,
            pause_image: "pause",
            cni: Path::new("/usr/lib/cni"),
            server: "https://127.0.0.1:7445".to_owned(),
        };
        (node.kubelet(&config), labels(&config), node.containerd(&config))
    }

    #[test]
    fn a_control_plane_is_tainted_and_labelled_unless_pods_may_run_there() {
        let (kubelet_config, labels, _) = kubelet(CONTROL_PLANE);
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

    #[test]
    fn mirrors_of_the_configuration_and_of_the_lab_both_reach_containerd() {
        let text = format!(
            "{CONTROL_PLANE}---\napiVersion: v1alpha1\nkind: RegistryMirrorConfig\nname: ghcr.io\nendpoints:\n    - url: http://127.77.0.1:5000\n"
        );
        let (.., containerd) = kubelet(&text);
        assert!(
            containerd.contains(
                "mirrors.\"127.77.0.1:5000\"]\n    endpoint = [\"http://127.77.0.1:5000\"]"
            )
        );
        assert!(
            containerd
                .contains("mirrors.\"ghcr.io\"]\n    endpoint = [\"http://127.77.0.1:5000\"]")
        );
    }
}
