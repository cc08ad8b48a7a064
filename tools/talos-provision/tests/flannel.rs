//! Pods on two machines, with real flanneld and etcd, in a network like Hetzner's.
//!
//! Each machine is a network namespace. Its interface `eth0` is public, has the default route, and drops
//! VXLAN, as the firewall of a Cluster does. Its interface `eth1` is private: every address is behind the
//! gateway, the first address of the network
//! (<https://docs.hetzner.com/networking/networks/technical-concepts/architecture>).
//!
//! Needs root, iptables, curl, Python 3, and `LAB_BIN`, the folder with the built components.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

const ETCD: &str = "http://192.0.2.1:2379";
/// Base64 of flannel's key in etcd, `/coreos.com/network/config`.
const KEY: &str = "L2NvcmVvcy5jb20vbmV0d29yay9jb25maWc=";
/// Base64 of `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","Port":4789}}`, as Talos v1.13.9 writes it
/// (`k8stemplates/flannel.go`).
const NETWORK: &str =
    "eyJOZXR3b3JrIjoiMTAuMjQ0LjAuMC8xNiIsIkJhY2tlbmQiOnsiVHlwZSI6InZ4bGFuIiwiUG9ydCI6NDc4OX19";

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = fs::File::create(log).expect("a log");
        let error = log.try_clone().expect("a log");
        let command = command.stdin(Stdio::null()).stdout(log).stderr(error);
        Self(command.spawn().expect("started"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network of its own, which exists as long as its process.
struct Namespace(Process);

impl Namespace {
    fn new(folder: &Path) -> Self {
        let mut command = Command::new("unshare");
        let namespace =
            Self(Process::start(command.args(["--net", "sleep", "300"]), &folder.join("log")));
        let (own, other) = ("/proc/self/ns/net".to_owned(), namespace.path());
        until("a network", || Some(fs::read_link(&other).ok()? != fs::read_link(&own).ok()?));
        namespace.run("ip link set lo up");
        namespace
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    fn pid(&self) -> u32 {
        self.0.0.id()
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program);
        command
    }

    /// Runs each line as a command.
    fn run(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.split_whitespace();
            let output = self.command(words.next().expect("a program")).args(words).output();
            let output = output.expect("nsenter");
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

fn until(what: &str, mut look: impl FnMut() -> Option<bool>) {
    let end = Instant::now() + Duration::from_secs(60);
    while look() != Some(true) {
        assert!(Instant::now() < end, "{what}: not within 60 s");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn component(name: &str) -> PathBuf {
    let folder =
        std::env::var_os("LAB_BIN").expect("LAB_BIN names the folder with etcd and flanneld");
    PathBuf::from(folder).join(name)
}

/// Returns the arguments of flanneld in the configuration that the program derives for a control plane.
fn derived_arguments() -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    support::write(folder.path(), "http://127.0.0.1:1/v1");
    let endpoint = "  endpoint: https://prod.example.org:6443\n  firewall: {talos: [anywhere], kubernetes: []}\n";
    let cluster = support::cluster("prod", &[support::CONTROL], endpoint);
    fs::write(folder.path().join("cluster.yaml"), cluster).expect("written");
    let mut command = Command::new(cargo_bin!("talos-provision"));
    command.args(["derive", "project.yaml", "cluster.yaml", "--to", "derived"]);
    let output = command.current_dir(folder.path()).output().expect("talos-provision");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let derived = folder.path().join("derived");
    let file = find(&derived, "prod-control-1.yaml").expect("the configuration");
    let text = fs::read_to_string(file).expect("the configuration");
    let root = text.split("\n---").next().expect("a document");
    let root: Value = serde_saphyr::from_str(root).expect("YAML");
    let arguments = root["cluster"]["network"]["cni"]["flannel"]["extraArgs"].as_array();
    let arguments = arguments.expect("arguments").iter();
    arguments.map(|argument| argument.as_str().expect("a text").to_owned()).collect()
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()).find_map(|path| {
        if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) }
    })
}

/// Two machines, the gateway between them, and a pod on each machine.
struct Network {
    folder: tempfile::TempDir,
    gateway: Namespace,
    machines: [Namespace; 2],
    pods: [Namespace; 2],
    processes: Vec<Process>,
}

impl Network {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let namespace = || Namespace::new(folder.path());
        let (machines, pods) = ([namespace(), namespace()], [namespace(), namespace()]);
        let gateway = namespace();
        gateway.run("sysctl -qw net.ipv4.ip_forward=1");
        for (index, machine) in machines.iter().enumerate() {
            let (number, pid) = (index + 1, machine.pid());
            gateway.run(&format!(
                "ip link add pub{number} type veth peer name eth0 netns {pid}
                ip link add priv{number} type veth peer name eth1 netns {pid}
                ip addr add 192.0.2.1/32 dev pub{number}
                ip addr add 10.0.0.1/32 dev priv{number}
                ip link set pub{number} up
                ip link set priv{number} up
                ip route add 192.0.2.1{number}/32 dev pub{number}
                ip route add 10.0.1.{number}/32 dev priv{number}"
            ));
            machine.run(&format!(
                "ip addr add 192.0.2.1{number}/32 dev eth0
                ip addr add 10.0.1.{number}/32 dev eth1
                ip link set eth0 up
                ip link set eth1 up
                ip route add 192.0.2.1/32 dev eth0
                ip route add default via 192.0.2.1
                ip route add 10.0.0.1/32 dev eth1
                ip route add 10.0.0.0/16 via 10.0.0.1
                sysctl -qw net.ipv4.ip_forward=1
                iptables -A INPUT -i eth0 -p udp --dport 4789 -j DROP"
            ));
        }
        let mut network = Self { folder, gateway, machines, pods, processes: Vec::new() };
        network.start_etcd();
        network
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start_etcd(&mut self) {
        let mut etcd = self.gateway.command(component("etcd"));
        etcd.arg("--data-dir").arg(self.path("etcd"));
        etcd.args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]);
        etcd.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        self.processes.push(Process::start(&mut etcd, &self.path("etcd.log")));
        let body = format!("{{\"key\": \"{KEY}\", \"value\": \"{NETWORK}\"}}");
        until("etcd", || {
            let mut put = self.gateway.command("curl");
            put.args(["-sf", "--max-time", "5", "-d", &body, &format!("{ETCD}/v3/kv/put")]);
            Some(put.output().ok()?.status.success())
        });
    }

    /// Starts flanneld with these arguments on both machines, gives each pod an address, and returns the
    /// answer of the second pod to the first. Instead of Kubernetes, flanneld keeps its leases in etcd.
    fn connect_pods(&mut self, arguments: &[String]) -> Output {
        for (number, machine) in self.machines.iter().enumerate() {
            let mut flanneld = machine.command(component("flanneld"));
            flanneld.arg("--ip-masq").args(arguments).args(["--etcd-endpoints", ETCD]);
            flanneld.arg("--subnet-file").arg(self.path(&format!("subnet{number}")));
            let log = self.path(&format!("flanneld{number}.log"));
            self.processes.push(Process::start(&mut flanneld, &log));
        }
        let mut addresses = Vec::new();
        for (number, machine) in self.machines.iter().enumerate() {
            let file = self.path(&format!("subnet{number}"));
            let subnet = || {
                let text = fs::read_to_string(&file).ok()?;
                let line = text.lines().find_map(|line| line.strip_prefix("FLANNEL_SUBNET="))?;
                Some(line.strip_suffix(".1/24")?.to_owned())
            };
            until("flanneld", || Some(subnet().is_some()));
            let (subnet, pid) = (subnet().expect("a subnet"), self.pods[number].pid());
            machine.run(&format!(
                "ip link add cni0 type veth peer name eth0 netns {pid}
                ip addr add {subnet}.1/24 dev cni0
                ip link set cni0 up"
            ));
            self.pods[number].run(&format!(
                "ip addr add {subnet}.2/24 dev eth0
                ip link set eth0 up
                ip route add default via {subnet}.1"
            ));
            addresses.push(format!("{subnet}.2"));
        }
        let pages = self.path("pages");
        fs::create_dir(&pages).expect("a folder");
        fs::write(pages.join("index.html"), "hello").expect("written");
        let mut server = self.pods[1].command("python3");
        server.args(["-m", "http.server", "8080"]).current_dir(&pages);
        self.processes.push(Process::start(&mut server, &self.path("server.log")));
        let url = |address: &str| format!("http://{address}:8080/index.html");
        until("the server", || {
            let mut near = self.machines[1].command("curl");
            near.args(["-sf", "--max-time", "5", &url(&addresses[1])]);
            Some(near.output().ok()?.status.success())
        });
        let mut far = self.pods[0].command("curl");
        far.args(["-sS", "--max-time", "5", &url(&addresses[1])]).output().expect("curl")
    }

    /// Returns the interface that flanneld took on a machine.
    fn interface(&self, number: usize) -> String {
        let log = fs::read_to_string(self.path(&format!("flanneld{number}.log"))).expect("a log");
        let (_, rest) = log.split_once("Using interface with name ").expect("an interface");
        rest.split_whitespace().next().expect("a name").to_owned()
    }
}

// hazard: Pods on different machines cannot communicate, and every machine is Ready.
// class: A default of another program does not fit the cloud.
// members: an interface `lo` for the machine whose own address flanneld is given
// now: flanneld runs with the derived arguments, with the public path closed
#[test]
fn pods_on_two_machines_communicate_only_with_the_derived_arguments() {
    let arguments = derived_arguments();
    assert_eq!(arguments, ["--iface-can-reach=10.0.0.1"]);
    let mut network = Network::new();
    let answer = network.connect_pods(&arguments);
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "hello", "{answer:?}");
    assert_eq!([network.interface(0), network.interface(1)], ["eth1", "eth1"]);

    // Without them, flanneld takes the interface with the default route. curl's status 28 is a time-out.
    let mut network = Network::new();
    let answer = network.connect_pods(&[]);
    assert_eq!(answer.status.code(), Some(28), "{answer:?}");
    assert_eq!([network.interface(0), network.interface(1)], ["eth0", "eth0"]);

    // The first address of the subnet is that of the first server, whose route to itself is `lo`.
    let mut network = Network::new();
    network.connect_pods(&["--iface-can-reach=10.0.1.1".to_owned()]);
    assert_eq!([network.interface(0), network.interface(1)], ["lo", "eth1"]);
}
