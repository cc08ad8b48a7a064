//! The vendor's own Python client drives every family of resources and every action.
//!
//! The client was written independently, so it does not repeat mistakes of the emulator.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod emulator;

use std::path::{Path, PathBuf};
use std::process::Command;

use emulator::Emulator;

/// Returns the folder for the client's installation: `LAB_CACHE`, or a folder below `target`.
fn cache() -> PathBuf {
    std::env::var_os("LAB_CACHE")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}

/// Returns a Python interpreter that has the pinned client, and installs the client if necessary.
fn python(directory: &Path) -> PathBuf {
    let wanted = include_str!("requirements.txt");
    let venv = directory.join("hetzner-python-client");
    let installed = venv.join("installed.txt");
    let python = venv.join("bin/python");
    if std::fs::read_to_string(&installed).ok().as_deref() != Some(wanted) {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
        run(Command::new(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/requirements.txt"),
        ]));
        std::fs::write(installed, wanted).unwrap();
    }
    python
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{command:?}\n{text}");
    text
}

#[test]
fn the_vendors_python_client_drives_every_family_and_every_action() {
    let emulator = Emulator::start("python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hcloud_client.py");
    let text = run(Command::new(python(&cache()))
        .env_remove("PYTHONPATH")
        .arg(script)
        .arg(emulator.endpoint())
        .arg(emulator::TOKEN));
    assert!(text.contains(" passed, 0 failed"), "{text}");
}
