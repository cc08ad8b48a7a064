//! Servers that run their user data, and what snapshots of their disks contain.
//!
//! Needs root and `unshare`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use emulator_hcloud::{Contents, Machines, Server, StockMachines};

/// Records the machines whose disk holds Talos.
#[derive(Default)]
struct Talos(Mutex<Vec<u64>>);

impl Machines for Talos {
    fn power_on(&self, server: &Server) {
        self.0.lock().expect("no test panics with it").push(server.id);
    }
    fn power_off(&self, _: u64) {}
    fn delete(&self, _: u64) {}
}

fn server(id: u64, user_data: &str, image_contents: Contents) -> Server {
    Server {
        id,
        name: format!("s-{id}"),
        ipv4: "127.72.3.4".parse().expect("an address"),
        private_ipv4: Vec::new(),
        user_data: Some(user_data.to_owned()),
        labels: [].into(),
        image: Some("debian-13".to_owned()),
        image_labels: [].into(),
        image_contents,
        disk: 1,
        architecture: "x86".to_owned(),
        server_type: "cx23".to_owned(),
        location: "fsn1".to_owned(),
        rescue: false,
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn console(folder: &Path, id: u64) -> String {
    std::fs::read_to_string(folder.join(format!("{id}/console"))).unwrap_or_default()
}

fn machines() -> (tempfile::TempDir, PathBuf, Arc<Talos>, StockMachines) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let talos = Arc::<Talos>::default();
    let machines = StockMachines::new(path.clone(), talos.clone());
    (folder, path, talos, machines)
}

#[test]
fn user_data_runs_once_and_sees_no_device_but_its_disk() {
    let (_folder, path, talos, machines) = machines();
    let program = "#!/bin/sh\necho devices: $(ls /dev)\ntouch /usr/x || echo protected\n\
                   echo u > /proc/sysrq-trigger\nuntil ! touch /tmp/x 2>/dev/null; do sleep 0.05; done\n\
                   echo read-only\nprintf half > /dev/sda\necho end\n";
    let once = server(1, program, Contents::Stock);
    machines.power_on(&once);
    until("the end", || console(&path, 1).ends_with("end\n"));
    let said = console(&path, 1);
    assert!(said.starts_with("devices: null sda urandom\n"), "{said}");
    assert!(said.contains("protected\nread-only\nend\n"), "{said}");
    assert_eq!(machines.contents(1), Some(Contents::Unknown), "half an image is no Talos");

    machines.power_off(1);
    machines.power_on(&once);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(console(&path, 1), said, "user data does not run at the second boot");
    machines.delete(1);
    assert!(!path.join("1").exists());
    assert_eq!(*talos.0.lock().expect("no test panics with it"), [0_u64; 0]);
}

#[test]
fn user_data_runs_with_an_interpreter_that_this_computer_has_in_another_folder() {
    let (_folder, path, _, machines) = machines();
    machines.power_on(&server(5, "#!/nowhere/python3 -u\nprint('by Python')\n", Contents::Stock));
    until("the output", || console(&path, 5) == "by Python\n");
}

// hazard: The lab ends, and a server continues to write its disk and to listen at its address.
// class: A process outlives the process that started it.
// members: SIGKILL, the end of the process
// now: the server ends when its standard input is closed
#[test]
fn user_data_ends_with_the_process_of_the_emulator() {
    let folder = tempfile::tempdir().expect("a folder");
    let (disk, data) = (folder.path().join("disk"), folder.path().join("user-data"));
    std::fs::write(disk, "").expect("a disk");
    std::fs::write(data, "#!/bin/sh\necho begin\nsleep 600\n").expect("user data");
    std::fs::write(folder.path().join("sitecustomize.py"), "").expect("a module");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c"]);
    command.arg(include_str!("../src/boot.sh")).arg("boot").arg(folder.path()).arg("127.72.3.4");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a machine");
    let mut said = [0; 6];
    let mut output = child.stdout.take().expect("its output");
    output.read_exact(&mut said).expect("the first line");
    drop(child.stdin.take());
    until("the end", || child.try_wait().expect("a status").is_some());
}

#[test]
fn a_machine_starts_only_from_a_disk_with_talos() {
    let (_folder, _, talos, machines) = machines();
    let contents = Contents::Talos {
        version: "v1.13.9".to_owned(),
        schematic: "x".to_owned(),
        architecture: "amd64".to_owned(),
    };
    machines.power_on(&server(2, "", contents));
    machines.power_on(&server(3, "", Contents::Unknown));
    machines.power_on(&server(4, "#cloud-config\n", Contents::Stock));
    assert_eq!(*talos.0.lock().expect("no test panics with it"), [2]);
    assert_eq!(machines.contents(4), Some(Contents::Stock), "a disk that nothing was written to");
    assert_eq!(machines.contents(2), None);
}
