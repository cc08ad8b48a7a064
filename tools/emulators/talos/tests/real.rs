//! A cluster of real components, from a machine configuration that `talosctl` generated.
//!
//! Needs `LAB_BIN`; a node and its pods need root, docker-registry, gcc, containerd and crun.

#![expect(clippy::print_stderr, reason = "times are measured here")]

mod common;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use common::{
    CONTROL_PLANE, Talos, WORKER, binaries, configuration, fleet, is_root, issue, issue_talos, pem,
    run, server, until,
};
use data_encoding::BASE64;
use emulator_talos::Machines;
use prost::Message;
use talos_api::machine::apply_configuration_request::Mode;
use talos_api::machine::{
    ApplyConfiguration, ApplyConfigurationRequest, BootstrapRequest, EtcdMemberListRequest,
    ReadRequest, VersionResponse,
};
use talos_api::resource::config::MachineConfigSpec;
use talos_api::talos::resource::definitions::enums::RuntimeMachineStage as Stage;
use talos_api::talos::resource::definitions::runtime::MachineStatusSpec;
use talos_api::{ACTIVE_CONFIGURATION, MACHINE_STATUS};
use tonic::{Code, Status};

const ONE: Ipv4Addr = Ipv4Addr::new(127, 73, 1, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(127, 73, 1, 2);
const PRISM: Ipv4Addr = Ipv4Addr::new(127, 73, 1, 9);
const REGISTRY: &str = "127.73.1.8:5000";

#[test]
#[expect(clippy::too_many_lines, reason = "one life cycle, in order")]
fn a_configuration_becomes_a_cluster_that_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let (place, machines) = (directory.path(), directory.path().join("machines"));
    let _registry = is_root().then(|| Registry::start(place));
    issue_talos(place, "admin", "os:admin");
    issue_talos(place, "reader", "os:reader");
    let kubectl = Kubectl::new(place);
    let began = Instant::now();
    let took = |what: &str| eprintln!("{:>7.1} s  {what}", began.elapsed().as_secs_f64());

    let fleet = fleet(&machines, REGISTRY, PRISM);
    fleet.power_on(&server(1, "one", ONE, None));
    let worker = BASE64.encode(configuration(WORKER, ONE).as_bytes());
    fleet.power_on(&server(2, "two", TWO, Some(worker)));

    // In maintenance mode, every client may read, and no client is an administrator.
    let stranger = Talos::stranger(ONE);
    until("maintenance mode", 10, || version(&stranger).ok());
    until("the stage", 10, || {
        (stage(&stranger) == Some(Stage::MachineStageMaintenance)).then_some(())
    });
    assert_eq!(bootstrap(&stranger).expect_err("refused").code(), Code::PermissionDenied);
    let bad = apply(&stranger, b"version: v1alpha1\nmachine: {type: router}\n", Mode::Auto);
    assert_eq!(bad.expect_err("refused").code(), Code::InvalidArgument);
    let config = configuration(CONTROL_PLANE, ONE);
    apply(&stranger, config.as_bytes(), Mode::Auto).expect("applied");
    took("applied");

    // Afterwards, only clients with a certificate of the configuration's authority have access.
    let (admin, reader) = (Talos::known(ONE, place, "admin"), Talos::known(ONE, place, "reader"));
    until("the node's own API", 20, || version(&admin).ok());
    assert!(version(&stranger).is_err());
    assert_eq!(bootstrap(&reader).expect_err("refused").code(), Code::PermissionDenied);
    assert_eq!(active(&admin), config.as_bytes());
    assert_eq!(stage(&admin), Some(Stage::MachineStageBooting));

    until("bootstrap", 60, || match bootstrap(&admin) {
        Ok(()) => Some(()),
        Err(status) => {
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
            None
        }
    });
    took("bootstrapped");
    let bootstrapped = Instant::now();
    assert_eq!(bootstrap(&admin).expect_err("refused").code(), Code::AlreadyExists);

    until("an API server", 120, || kubectl.try_run(&["get", "--raw", "/readyz"]));
    eprintln!("bootstrap to readyz: {:.1} s", bootstrapped.elapsed().as_secs_f64());
    let request = EtcdMemberListRequest::default();
    let members = admin.call(async |mut talos| talos.etcd_member_list(request).await);
    let members = members.expect("members");
    assert_eq!(members.messages[0].members[0].hostname, "one");
    if is_root() {
        until("two nodes", 120, || {
            let nodes = kubectl.try_run(&["get", "nodes", "-o", "name"])?;
            (nodes.lines().count() == 2).then_some(())
        });
        kubectl.run(&["wait", "node", "--all", "--for=condition=Ready", "--timeout=120s"]);
        eprintln!("bootstrap to both nodes Ready: {:.1} s", bootstrapped.elapsed().as_secs_f64());
        until("the machine to be ready", 60, || {
            (stage(&admin) == Some(Stage::MachineStageRunning)).then_some(())
        });
        kubectl.run(&["create", "namespace", "machines"]);
        kubectl.run(&[
            "label",
            "namespace",
            "machines",
            "pod-security.kubernetes.io/enforce=privileged",
        ]);
        kubectl.run(&[
            "-n",
            "machines",
            "run",
            "hello",
            "--image",
            &format!("{REGISTRY}/hello:1"),
            "--overrides",
            POD,
        ]);
        kubectl.run(&[
            "-n",
            "machines",
            "wait",
            "pod/hello",
            "--for=condition=Ready",
            "--timeout=60s",
        ]);
        took("a pod runs");
        let node = kubectl.run(&[
            "-n",
            "machines",
            "get",
            "pod",
            "hello",
            "-o",
            "jsonpath={.spec.nodeName}",
        ]);
        assert_eq!(node, "two", "a control plane takes no pods");
        assert!(kubectl.run(&["-n", "machines", "logs", "hello"]).contains("hello"));
        assert!(machines.join("two/var/mnt/greeting").is_dir(), "a host path is the machine's own");
    }
    assert!(
        fs::read_to_string(machines.join("one/audit.log"))
            .expect("an audit log")
            .contains("kubectl")
    );
    let request = ReadRequest { path: "/proc/sys/kernel/random/boot_id".to_owned() };
    let boot = admin.first(async |mut talos| talos.read(request).await).expect("read");
    assert_eq!(boot.bytes.len(), 37, "a UUID and a new line: {:?}", boot.bytes);

    let ending = Instant::now();
    fleet.shutdown();
    eprintln!("shutdown: {:.1} s", ending.elapsed().as_secs_f64());
    nothing_is_left(&machines);
    assert_eq!(containers(&machines).is_empty(), !is_root(), "the pod ran until then");

    // Only the disks are left. Deleting a machine deletes its disk.
    let fleet = common::fleet(&machines, REGISTRY, PRISM);
    for (id, name) in [(1, "one"), (2, "two")] {
        assert!(machines.join(name).exists());
        fleet.delete(id);
        assert!(!machines.join(name).exists());
    }
    fleet.shutdown();
    nothing_is_left(&machines);
}

const POD: &str = r#"{"spec": {"containers": [{"name": "hello", "image": "127.73.1.8:5000/hello:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}], "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1, "volumes": [{"name": "v", "hostPath": {"path": "/var/mnt/greeting", "type": "DirectoryOrCreate"}}]}}"#;

fn version(talos: &Talos) -> Result<VersionResponse, Status> {
    talos.call(async |mut talos| talos.version(()).await)
}

fn bootstrap(talos: &Talos) -> Result<(), Status> {
    talos.call(async |mut talos| talos.bootstrap(BootstrapRequest {}).await).map(drop)
}

fn apply(talos: &Talos, data: &[u8], mode: Mode) -> Result<ApplyConfiguration, Status> {
    let request = ApplyConfigurationRequest {
        data: data.to_vec(),
        mode: mode.into(),
        ..ApplyConfigurationRequest::default()
    };
    let answer = talos.call(async |mut talos| talos.apply_configuration(request).await)?;
    Ok(answer.messages.into_iter().next().expect("a message"))
}

fn stage(talos: &Talos) -> Option<Stage> {
    let spec = talos.resource(MACHINE_STATUS).ok()?.spec?;
    Some(MachineStatusSpec::decode(spec.proto_spec.as_slice()).ok()?.stage())
}

fn active(talos: &Talos) -> Vec<u8> {
    let resource = talos.resource(ACTIVE_CONFIGURATION).expect("a configuration");
    let spec = resource.spec.expect("a spec");
    MachineConfigSpec::decode(spec.proto_spec.as_slice()).expect("a configuration").yaml_marshalled
}

/// Asserts that no process, mount, interface or cgroup of the machines is left.
fn nothing_is_left(machines: &Path) {
    let place = machines.display().to_string();
    for process in fs::read_dir("/proc").expect("/proc").flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(!line.contains(&place), "left behind: {line}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&place), "a mount is left behind");
    assert!(!run("ip", &["-o", "link"]).contains("lab7f4901"), "a bridge is left behind");
    let containers =
        containers(machines).into_iter().map(|container| format!("k8s.io/{container}"));
    for name in containers.chain(["lab7f490101".to_owned()]) {
        for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            assert!(!controller.path().join(&name).exists(), "a cgroup is left behind: {name}");
        }
    }
}

/// Returns the containers that ran when the machines were powered off.
fn containers(machines: &Path) -> Vec<String> {
    let machines = fs::read_dir(machines).into_iter().flatten().flatten();
    let state = "var/lib/containerd/io.containerd.runtime.v2.task/k8s.io";
    let states = machines.filter_map(|machine| fs::read_dir(machine.path().join(state)).ok());
    states
        .flatten()
        .flatten()
        .map(|container| container.file_name().to_string_lossy().into_owned())
        .collect()
}

/// kubectl with a certificate that openssl issued from the configuration's authority.
struct Kubectl(PathBuf);

impl Kubectl {
    fn new(place: &Path) -> Self {
        let authority =
            (pem(CONTROL_PLANE, "\ncluster:", "crt:"), pem(CONTROL_PLANE, "\ncluster:", "key:"));
        let curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
        issue(
            place,
            "kubernetes",
            "/O=system:masters/CN=admin",
            (&authority.0, &authority.1),
            &curve,
        );
        let at = |file: &str| place.join(file).display().to_string();
        let kubeconfig = format!(
            "{{apiVersion: v1, kind: Config, current-context: x, clusters: [{{name: x, cluster: {{server: 'https://{ONE}:6443', certificate-authority: '{}'}}}}], users: [{{name: x, user: {{client-certificate: '{}', client-key: '{}'}}}}], contexts: [{{name: x, context: {{cluster: x, user: x}}}}]}}",
            at("kubernetes.ca.crt"),
            at("kubernetes.crt"),
            at("kubernetes.key"),
        );
        let path = place.join("kubeconfig");
        fs::write(&path, kubeconfig).expect("written");
        Self(path)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binaries().join("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(&self.0)
            .arg("--cache-dir")
            .arg(self.0.with_extension("cache"))
            .args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn try_run(&self, arguments: &[&str]) -> Option<String> {
        let output = self.command(arguments).output().expect("kubectl");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("kubectl");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A registry with a pause image and an image that prints `hello`.
struct Registry(Child);

impl Registry {
    fn start(place: &Path) -> Self {
        let config = place.join("registry.yml");
        let root = place.join("registry");
        fs::write(&config, format!("version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{REGISTRY}'}}\n", root.display())).expect("written");
        let mut command = Command::new("docker-registry");
        command
            .args(["serve", &config.display().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().expect("docker-registry");
        let registry = Self(child);
        let crane = binaries().join("crane").display().to_string();
        for (name, body) in [
            ("pause", "for(;;)pause();"),
            ("hello", "puts(\"hello\");fflush(stdout);for(;;)pause();"),
        ] {
            let source = place.join(format!("{name}.c"));
            fs::write(
                &source,
                format!("#include <stdio.h>\n#include <unistd.h>\nint main(){{{body}}}\n"),
            )
            .expect("written");
            let (place, source) = (place.display().to_string(), source.display().to_string());
            run("gcc", &["-static", "-O2", "-o", &format!("{place}/{name}"), &source]);
            run("tar", &["cf", &format!("{place}/{name}.tar"), "-C", &place, name]);
            let (raw, image) = (format!("{REGISTRY}/{name}:0"), format!("{REGISTRY}/{name}:1"));
            until("the registry", 20, || {
                let append = [
                    "append",
                    "--insecure",
                    "--oci-empty-base",
                    "-f",
                    &format!("{place}/{name}.tar"),
                    "-t",
                    &raw,
                ];
                Command::new(&crane)
                    .args(append)
                    .output()
                    .expect("crane")
                    .status
                    .success()
                    .then_some(())
            });
            run(
                &crane,
                &[
                    "mutate",
                    "--insecure",
                    &raw,
                    "--entrypoint",
                    &format!("/{name}"),
                    "--set-platform",
                    "linux/amd64",
                    "-t",
                    &image,
                ],
            );
        }
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
