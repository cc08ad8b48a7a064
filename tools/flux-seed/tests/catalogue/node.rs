//! A real node: containerd, crun and a kubelet. Needs root, gcc, and Debian's containerd, crun and
//! containernetworking-plugins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::lab::{Lab, Test, bin, run, until};

/// Address of the bridge, which is the address of the node. A kubelet does not accept a loopback address.
const GATEWAY: &str = "10.78.0.1";
/// Folder of the node's cgroups.
const CGROUP: &str = "flux-seed-catalogue";

/// A program for containers: `pause`, `exit CODE MESSAGE` or `eat`, which allocates memory without end.
const ACTOR: &str = r#"#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **words) {
  const char *act = count > 1 ? words[1] : "pause";
  if (!strcmp(act, "exit") && count > 3) {
    fprintf(stderr, "%s\n", words[3]);
    return atoi(words[2]);
  }
  while (!strcmp(act, "eat")) {
    char *memory = malloc(1 << 20);
    if (memory) memset(memory, 1, 1 << 20);
  }
  for (;;) pause();
}
"#;

pub(crate) struct Node {
    process: Child,
    directory: PathBuf,
}

impl Node {
    /// Starts the node, and waits until it is ready. Registries in `plain` are reached by plain HTTP.
    pub(crate) fn start(lab: &Lab, registry: &str, plain: &[&str]) -> Test<Self> {
        push_actor(lab, registry)?;
        for line in [
            "link add lab0 type bridge".to_owned(),
            format!("address add {GATEWAY}/24 dev lab0"),
            "link set lab0 up".to_owned(),
        ] {
            run(Command::new("ip").args(line.split(' ')))?;
        }
        let directory = lab.path("node");
        fs::create_dir_all(directory.join("cni"))?;
        fs::copy(lab.path("controllers.kubeconfig"), directory.join("kubeconfig"))?;
        fs::write(directory.join("node.sh"), include_str!("node.sh"))?;
        fs::write(directory.join("kubelet.json"), kubelet(lab))?;
        fs::write(directory.join("containerd.toml"), containerd(&directory, registry, plain))?;
        let range = json!([[{"subnet": "10.78.0.0/24"}]]);
        let network = json!({"cniVersion": "0.4.0", "name": "lab", "plugins": [{
            "type": "bridge", "bridge": "lab0", "isGateway": true,
            "ipam": {"type": "host-local", "ranges": range}}]});
        fs::write(directory.join("cni/10-lab.conflist"), network.to_string())?;
        let mut unshare = Command::new("unshare");
        unshare.args(
            "--mount --pid --fork --kill-child --mount-proc --propagation private".split(' '),
        );
        unshare.arg("sh").arg(directory.join("node.sh")).arg(&directory).arg(bin("kubelet"));
        unshare.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let node = Self { process: unshare.spawn()?, directory };
        until("the node", || {
            let conditions = lab.get("node node")["status"]["conditions"].take();
            let mut conditions = conditions.as_array().into_iter().flatten();
            conditions
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        })?;
        Ok(node)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        #[expect(clippy::print_stderr, reason = "the log of the kubelet explains the failure")]
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.join("kubelet.log")).unwrap_or_default();
            for line in log.lines().rev().take(10) {
                eprintln!("kubelet: {line}");
            }
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for hierarchy in hierarchies {
            for name in [CGROUP, "k8s.io"] {
                remove_cgroup(&hierarchy.path().join(name), 0);
            }
        }
    }
}

/// Removes a cgroup whose processes have ended. The kernel keeps one that has processes.
fn remove_cgroup(cgroup: &Path, depth: u8) {
    let inner = fs::read_dir(cgroup).into_iter().flatten().flatten();
    for inner in inner.filter(|inner| inner.path().is_dir() && depth < 8) {
        remove_cgroup(&inner.path(), depth + 1);
    }
    let _ = fs::remove_dir(cgroup);
}

fn push_actor(lab: &Lab, registry: &str) -> Test {
    let (source, folder) = (lab.path("actor.c"), lab.path("actor"));
    fs::create_dir_all(&folder)?;
    fs::write(&source, ACTOR)?;
    let (program, layer) = (folder.join("actor"), lab.path("actor.tar"));
    run(Command::new("gcc").args(["-static", "-O1", "-o"]).arg(&program).arg(&source))?;
    run(Command::new("tar").arg("cf").arg(&layer).arg("-C").arg(&folder).arg("actor"))?;
    let crane =
        |line: &str| run(Command::new(bin("crane")).arg("--insecure").args(line.split(' ')));
    let image = format!("{registry}/zabronax/actor");
    crane(&format!("append --oci-empty-base -f {} -t {image}:0", layer.display()))?;
    let platform = "--set-platform linux/amd64";
    crane(&format!("mutate {image}:0 --entrypoint /actor {platform} -t {image}:1"))?;
    Ok(())
}

fn kubelet(lab: &Lab) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": GATEWAY, "healthzPort": 0,
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": false},
            "x509": {"clientCAFile": lab.path("ca.crt")}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{CGROUP}"),
        "cgroupsPerQOS": false, "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "0%",
            "memory.available": "0%"},
        "failCgroupV1": false, "failSwapOn": false, "resolvConf": "", "serializeImagePulls": false,
    })
    .to_string()
}

fn containerd(directory: &Path, registry: &str, plain: &[&str]) -> String {
    let mirrors = plain.iter().map(|host| {
        format!(
            "  [plugins.{CRI}.registry.mirrors.\"{host}\"]\n    endpoint = [\"http://{host}\"]\n"
        )
    });
    let cni = directory.join("cni").display().to_string();
    SETTINGS
        .replace("@PAUSE@", &format!("{registry}/zabronax/actor:1"))
        .replace("@PLUGINS@", "/usr/lib/cni")
        .replace("@CNI@", &cni)
        + &mirrors.collect::<String>()
}

/// Settings of containerd, which the lab's emulator of Talos uses, too.
const SETTINGS: &str = include_str!("../../../emulators/talos/src/containerd.toml");
const CRI: &str = r#""io.containerd.grpc.v1.cri""#;
