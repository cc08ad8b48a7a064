//! Reboots of an emulated machine: no etcd and no Kubernetes run on it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use contract::Projects;
use documents::Stream;
use emulator_hcloud::{Machines as _, Server};
use emulator_talos::{Fleet, FleetSettings};

use super::writer::configure_machine;
use super::*;
use crate::config::{Common, Patch};
use crate::pki;
use crate::spec::FirstContact;

const PROJECT: &str = "---
apiVersion: holistic/v1alpha1
kind: Project
metadata: {name: holistic}
spec:
  root: {file: ROOT}
  recipients: [{name: founder, age: age1c8vyyaftwkme6tr4ac3643g9y4nt3x8fs4n88m004g5mh4njf4uslluums}]
";

/// One machine of a cluster, and what it takes to talk to it.
struct Machine {
    fleet: Arc<Fleet>,
    server: Server,
    pki: Pki,
    reader: Reader,
    _folder: tempfile::TempDir,
}

impl Machine {
    fn power_on() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = FleetSettings {
            directory: folder.path().join("machines"),
            binaries: folder.path().join("none"),
            plain_registries: Vec::new(),
            pause_image: String::new(),
            cni: folder.path().join("none"),
            kubeprism: SocketAddr::from((Ipv4Addr::new(127, 72, 0, 10), 7445)),
            node: emulator_talos::Node::ControlPlaneOnly("no pod runs".to_owned()),
        };
        let server = Server {
            id: 1,
            name: "prod-control-1".to_owned(),
            ipv4: Ipv4Addr::new(127, 72, 1, 1),
            private_ipv4: Vec::new(),
            user_data: None,
            labels: BTreeMap::new(),
            image: None,
            image_labels: BTreeMap::new(),
            image_contents: emulator_hcloud::Contents::Unknown,
            disk: 40,
            architecture: "arm".to_owned(),
            server_type: "cax11".to_owned(),
            location: "fsn1".to_owned(),
            rescue: false,
        };
        let root = folder.path().join("root");
        fs::write(&root, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").expect("written");
        let project = folder.path().join("project.yaml");
        let text = PROJECT.replace("ROOT", &root.display().to_string());
        fs::write(&project, text).expect("written");
        let mut stream = Stream::read(&[project]);
        let projects = Projects::read(&mut stream);
        stream.accept().expect("a valid Project");
        let project = projects.get("holistic").expect("the Project");
        let key = contract::phase_key(project, "talos-provision").expect("a key");
        let dates = serde_json::json!({"notBefore": "2026-11-01"});
        let dates = serde_json::from_value(dates).expect("dates");
        let pki = Pki::derive(&key, "prod", &dates, pki::now());
        let reader = Reader::new(&pki).expect("a reader");
        let fleet = Fleet::new(settings).expect("a fleet");
        fleet.power_on(&server);
        Self { fleet, server, pki, reader, _folder: folder }
    }

    fn target(&self) -> Target {
        Target {
            name: self.server.name.clone(),
            role: Role::Controlplane,
            address: self.server.ipv4.to_string(),
            declared: None,
        }
    }

    /// Sends a configuration with this patch, and returns the reboot that the machine announces.
    fn configure(&self, patch: &str) -> Option<Reboot> {
        let common = Common {
            cluster: "prod",
            endpoint: "https://127.72.1.1:6443",
            kubernetes: "1.36.3",
            bundle: &self.pki.bundle,
        };
        let documents = config::generate(&common, Role::Controlplane);
        let patch = Patch::parse(patch).expect("a patch");
        let documents = config::patched(documents, [&patch]).expect("a configuration");
        let request = ConfigureRequest {
            target: self.target(),
            configuration: config::render(&documents),
            alive: false,
            first_contact: FirstContact::TrustOnFirstUse,
            cni: crate::spec::Cni::Flannel,
        };
        let runtime = runtime().expect("a runtime");
        runtime.block_on(configure_machine(&self.reader, &request)).expect("configured")
    }

    fn boot_id(&self) -> String {
        let runtime = runtime().expect("a runtime");
        let id = runtime.block_on(async {
            match self.reader.connect(&self.target()).await {
                Access::Secure(mut connection) => boot_id(&mut connection).await,
                _ => None,
            }
        });
        id.expect("the machine answers")
    }

    fn pending(&self, before: &str) -> Option<String> {
        let reboot = Reboot { target: self.target(), before: before.to_owned() };
        self.reader.rebooting(&[reboot]).expect("a runtime")
    }
}

// hazard: `apply` ends while a machine still reboots to activate its configuration, and the next
// program finds a machine that does not answer.
// class: An answer is taken for the end of the work.
// members: a restart of the Talos API after a change of authorities
// now: the run waits until the machine shows another boot id
#[test]
fn a_run_waits_for_an_announced_reboot_although_the_machine_is_silent_for_three_seconds() {
    let machine = Machine::power_on();
    assert!(
        machine.configure("machine: {}\n").is_none(),
        "the first configuration needs no reboot"
    );
    let before = machine.boot_id();
    let live = machine.configure("machine: {nodeLabels: {shelf: a}}\n");
    assert!(live.is_none(), "a label needs no reboot");
    assert_eq!(machine.boot_id(), before);

    let reboot = machine.configure("machine: {features: {diskQuotaSupport: false}}\n");
    let reboot = reboot.expect("the machine announces a reboot");
    assert_eq!(reboot.before, before);
    assert_ne!(machine.boot_id(), before, "the configuration is active after the reboot");
    assert_eq!(machine.pending(&reboot.before), None);

    let before = machine.boot_id();
    assert!(machine.pending(&before).is_some(), "the machine has not gone down yet");
    machine.fleet.power_off(machine.server.id);
    let began = Instant::now();
    let (fleet, server) = (machine.fleet.clone(), machine.server.clone());
    let silence = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(3));
        fleet.power_on(&server);
    });
    while let Some(reason) = machine.pending(&before) {
        assert_eq!(reason, "prod-control-1 reboots to activate its configuration");
        assert!(began.elapsed() < Duration::from_secs(60), "the machine never came back");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() >= Duration::from_secs(3));
    silence.join().expect("the machine was powered on");
}
