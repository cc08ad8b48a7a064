//! Keys of a Project: they derive from the names and the generations in its document.

use std::fs;
use std::path::PathBuf;

use contract::{Project, Projects, phase_key, root_key};
use documents::{Declared, Stream};
use secrets::{PhaseKey, RootKey, Secret};

/// Calls `check` with a Project called `name`, whose root is the bytes 0 to 31.
fn with_project<T>(
    name: &str,
    generations: &str,
    check: impl FnOnce(&Declared<Project>) -> T,
) -> T {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    fs::write(&root, (0..32).collect::<Vec<u8>>()).expect("written");
    let document: PathBuf = folder.path().join("project.yaml");
    let recipient = "age1rrphsed8kf5f7amyldf5kg5x04du8znfzrs2pj7h3hu6sr6hmc9q6df5df";
    let text = format!(
        "---\napiVersion: holistic/v1alpha1\nkind: Project\nmetadata: {{name: {name}}}\nspec:\n  root: {{file: '{}'}}\n  \
         recipients: [{{name: founder, age: {recipient}}}]\n  generations: {{{generations}}}\n",
        root.display()
    );
    fs::write(&document, text).expect("written");
    let mut stream = Stream::read(&[document]);
    let projects = Projects::read(&mut stream);
    stream.accept().expect("a valid Project");
    check(projects.get(name).expect("the project"))
}

fn key(phase: &str, generations: &str) -> PhaseKey {
    with_project("holistic", generations, |project| phase_key(project, phase).expect("a key"))
}

#[test]
fn phase_keys_of_a_project_derive_from_its_root_its_name_and_its_generations() {
    let root = RootKey::parse(&Secret::new((0..32).collect()), "the root").expect("a root");
    for (name, phase, generation) in [
        ("holistic", "vcs-bootstrap", 1),
        ("holistic", "talos-provision", 2),
        ("holistic", "reader", 1),
        ("other", "talos-provision", 1),
    ] {
        let key = with_project(name, &format!("{phase}: {generation}"), |project| {
            let key = root_key(project).expect("a root").phase(project, phase);
            assert_eq!(key.expose(), phase_key(project, phase).expect("a key").expose());
            key
        });
        // `tests/derivation.rs` of the crate `secrets` compares these with known keys.
        assert_eq!(key.expose(), root.derive(name, phase, generation).expose(), "{phase}");
    }
    let key = key("talos-provision", "talos-provision/os-ca: 2");
    assert_eq!((key.generation("os-ca"), key.generation("k8s-ca")), (2, 1));
    let expected = root.derive("holistic", "talos-provision", 1).at("os-ca", 2);
    assert_eq!(key.bytes::<32>("prod", "os-ca"), expected.bytes::<32>("prod", "os-ca"));
}

#[test]
fn bumping_one_generation_rotates_one_secret() {
    let (before, after) = (key("flux-seed", ""), key("flux-seed", "flux-seed/sops: 2"));
    assert_ne!(before.bytes::<32>("prod", "sops"), after.bytes::<32>("prod", "sops"));
    assert_eq!(before.bytes::<32>("prod", "webhook"), after.bytes::<32>("prod", "webhook"));
    assert_eq!(before.bytes::<32>("prod", "sops"), after.at("sops", 1).bytes::<32>("prod", "sops"));
    assert_eq!(before.expose(), key("flux-seed", "artifact-attest/sops: 2").expose());
    assert_ne!(before.expose(), key("flux-seed", "flux-seed: 2").expose());
}
