//! The API with a client that was written independently: `talos-linux-api-v1-6-0` of `PyPI`.
//!
//! Needs `LAB_BIN`, and Python 3 with pip, which fetches the package.

mod common;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{
    CONTROL_PLANE, binaries, configuration, control_plane_fleet, issue_talos, run, server, until,
};
use emulator_talos::Machines;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 73, 2, 1);
const PACKAGE: &str = "talos-linux-api-v1-6-0==0.1.0";

#[test]
fn an_independent_client_bootstraps_a_cluster() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path();
    issue_talos(place, "admin", "os:admin");
    fs::write(place.join("config.yaml"), configuration(CONTROL_PLANE, ADDRESS)).expect("written");
    let fleet = control_plane_fleet(&place.join("machines"), Ipv4Addr::new(127, 73, 2, 9));
    fleet.power_on(&server(1, "foreign", ADDRESS, None));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign.py");
    run(
        &python().display().to_string(),
        &[script, &ADDRESS.to_string(), &place.display().to_string()],
    );
    until("the kubeconfig to open the cluster", 60, || {
        let mut kubectl = Command::new(binaries().join("kubectl"));
        kubectl
            .arg("--kubeconfig")
            .arg(place.join("kubeconfig"))
            .arg("--cache-dir")
            .arg(place.join("cache"));
        let output = kubectl.args(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]);
        let output = output.stdin(Stdio::null()).output().expect("kubectl");
        (output.stdout == b"admin").then_some(())
    });
    fleet.shutdown();
}

/// Returns a Python interpreter that has the client, and installs the client once.
fn python() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign-talos");
    let python = place.join("bin/python");
    let has_client = |python: &Path| {
        let import =
            Command::new(python).args(["-c", "import talos_linux_api.v1_6_0.machine"]).output();
        import.is_ok_and(|output| output.status.success())
    };
    if !has_client(&python) {
        run("python3", &["-m", "venv", &place.display().to_string()]);
        run(&python.display().to_string(), &["-m", "pip", "install", "--quiet", "--pre", PACKAGE]);
    }
    python
}
