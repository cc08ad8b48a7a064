//! A killed lab leaves processes behind, and the next lab ends them first.
//!
//! Needs `LAB_BIN`, the folder with the built components.

mod common;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::{CONTROL_PLANE, Talos, configuration, fleet, issue_talos, server, until};
use emulator_talos::Machines;
use talos_api::machine::{BootstrapRequest, EtcdMemberListRequest};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 73, 4, 1);
const PRISM: Ipv4Addr = Ipv4Addr::new(127, 73, 4, 9);
const REGISTRY: &str = "127.73.4.8:5000";
/// Variable with the machines' folder, set for the process that the test kills.
const TO_BE_KILLED: &str = "LAB_TO_BE_KILLED";

#[test]
fn the_next_lab_ends_the_processes_of_a_killed_lab() {
    if let Some(machines) = std::env::var_os(TO_BE_KILLED) {
        let fleet = fleet(Path::new(&machines), REGISTRY, PRISM);
        let config = configuration(CONTROL_PLANE, ADDRESS);
        fleet.power_on(&server(1, "killed", ADDRESS, Some(config)));
        loop {
            sleep(Duration::from_secs(1));
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (place, machines) = (directory.path(), directory.path().join("machines"));
    issue_talos(place, "admin", "os:admin");
    let mut lab = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "the_next_lab_ends_the_processes_of_a_killed_lab"])
        .env(TO_BE_KILLED, &machines)
        .stdout(Stdio::null())
        .spawn()
        .expect("a lab");
    let admin = Talos::known(ADDRESS, place, "admin");
    let begun = || admin.call(async |mut talos| talos.bootstrap(BootstrapRequest {}).await).ok();
    until("bootstrap", 60, begun);
    let member = || {
        let request = EtcdMemberListRequest::default();
        admin.call(async |mut talos| talos.etcd_member_list(request).await).ok()
    };
    until("a member of etcd", 60, member);
    until("an API server", 60, || processes(&machines).contains("kube-apiserver").then_some(()));
    lab.kill().expect("killed");
    lab.wait().expect("ended");
    assert!(processes(&machines).contains("etcd"), "no process was left to end");

    let next = fleet(&machines, REGISTRY, PRISM);
    assert_eq!(processes(&machines), "");
    next.shutdown();
    let links = fs::read_dir("/sys/class/net").expect("interfaces").flatten();
    let bridges = links.filter(|link| link.file_name() == "lab7f490401").count();
    assert_eq!(bridges, 0, "a bridge is left behind");
}

/// Returns the command lines of all processes that name `machines`.
fn processes(machines: &Path) -> String {
    let place = machines.display().to_string();
    let lines = fs::read_dir("/proc").expect("/proc").flatten().map(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ")
    });
    lines.filter(|line| line.contains(&place)).collect::<Vec<_>>().join("\n")
}
