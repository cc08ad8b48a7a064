//! Project with a published root.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::path::Path;

use contract::Projects;
use documents::Stream;
use secrets::PhaseKey;

/// Public key of an age recipient.
pub(crate) const RECIPIENT: &str = "age1c8vyyaftwkme6tr4ac3643g9y4nt3x8fs4n88m004g5mh4njf4uslluums";

/// Returns the Project as text, with its cloud at `url`.
#[must_use]
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

/// Writes the Project and its files into `folder`.
///
/// # Panics
///
/// The folder cannot be written.
pub(crate) fn write(folder: &Path, url: &str) {
    fs::write(folder.join("root"), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").expect("root");
    fs::write(folder.join("token"), "lab").expect("token");
    fs::write(folder.join("project.yaml"), project(url)).expect("project");
}

/// Derives the key of this phase.
///
/// # Panics
///
/// The Project cannot be read.
#[must_use]
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
