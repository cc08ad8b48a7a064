//! Documents and files of a project with a published root.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::path::Path;

use contract::Projects;
use documents::Stream;
use secrets::PhaseKey;
use testing::documents::ROOT;

const RECIPIENT: &str = "age1c8vyyaftwkme6tr4ac3643g9y4nt3x8fs4n88m004g5mh4njf4uslluums";

/// Private key of the recipient, for tests only.
pub(crate) const IDENTITY: &str =
    "AGE-SECRET-KEY-1SSTF4J46QG2269C7HQVRWLXWMPAU66V8HME8MW94U94Y5UYM0ASSZR8X8P\n";

/// Pool of one control plane.
pub(crate) const CONTROL: &str =
    "name: control, role: controlplane, count: 1, type: cax11, locations: [fsn1]";

/// Pool of two workers.
pub(crate) const WORK: &str = "name: work, role: worker, count: 2, type: cx23, locations: [hel1]";

/// Returns the Project as text, with its cloud at `url`.
pub(crate) fn project(url: &str) -> String {
    format!(
        "---
apiVersion: holistic/v1alpha1
kind: Project
metadata: {{name: holistic}}
spec:
  root: {{file: root}}
  recipients: [{{name: founder, age: {RECIPIENT}}}]
  endpoints:
    cloud: {{hetzner: {{url: {url}, token: {{file: token}}}}}}
"
    )
}

/// Returns the Cluster `name` as text, with these pools and `more` fields. Talos's API is open, unless
/// `more` declares a firewall.
pub(crate) fn cluster(name: &str, pools: &[&str], more: &str) -> String {
    let pools: Vec<_> = pools.iter().map(|pool| format!("    - {{{pool}}}")).collect();
    let pools = pools.join("\n");
    let firewall =
        if more.contains("  firewall:") { "" } else { "  firewall: {talos: [anywhere]}\n" };
    format!(
        "---
apiVersion: holistic/v1alpha1
kind: Cluster
metadata: {{name: {name}}}
spec:
  project: holistic
  talos: v1.13.9
  kubernetes: v1.36.3
  certificates: {{notBefore: 2026-11-01}}
  firstContact: trustOnFirstUse
  pools:
{pools}
{firewall}{more}"
    )
}

/// Writes the Project and its files into `folder`.
pub(crate) fn write(folder: &Path, url: &str) {
    for (name, text) in [("root", ROOT), ("token", "lab")] {
        fs::write(folder.join(name), text).expect("written");
    }
    fs::write(folder.join("project.yaml"), project(url)).expect("project");
}

/// Derives the key of this phase.
pub(crate) fn phase_key(folder: &Path) -> PhaseKey {
    write(folder, "http://127.0.0.1:1/v1");
    let file = folder.join("project.yaml");
    let text = fs::read_to_string(&file).expect("project");
    let root = folder.join("root");
    fs::write(&file, text.replace("{file: root}", &format!("{{file: {}}}", root.display())))
        .expect("project");
    let mut stream = Stream::read(&[file]);
    let projects = Projects::read(&mut stream);
    stream.accept().expect("no mistakes");
    let project = projects.get("holistic").expect("the project");
    contract::root_key(project).expect("a root").phase(project, "talos-provision")
}
