//! `derivation.md` is a promise: what it shows is derived, today and in every later version.

use std::fs;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret as _;
use data_encoding::HEXLOWER;
use documents::{Declared, Stream};
use keyring::{PhaseKey, Project, Projects, phase_key, root_key};

/// The rows of the table below the heading `heading`, without their backquotes.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("derivation.md");
    let page = fs::read_to_string(page).expect("the page");
    let section = page.split("\n## ").find(|it| it.starts_with(heading)).expect("the section");
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells =
        |row: &str| row.trim_matches('|').split('|').map(|it| it.trim().replace('`', "")).collect();
    rows.map(cells).collect()
}

/// A project called `name`, as a document has it; its root is the bytes 0 to 31.
fn with_project<T>(
    name: &str,
    generations: &str,
    use_it: impl FnOnce(&Declared<Project>) -> T,
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
    stream.accept().expect("no mistakes");
    use_it(projects.get(name).expect("the project"))
}

fn key(phase: &str, generations: &str) -> PhaseKey {
    with_project("holistic", generations, |project| phase_key(project, phase).expect("a key"))
}

#[test]
fn phase_keys_are_those_of_the_page() {
    let rows = rows("Phase keys");
    assert_eq!(rows.len(), 6);
    for row in rows {
        let [info, expected] = row.as_slice() else { panic!("{row:?}") };
        let way: Vec<_> = info.split('/').collect();
        let generations = format!("{}: {}", way[1], way[2]);
        let key = with_project(way[0], &generations, |project| {
            let key = root_key(project).expect("a root").phase(project, way[1]);
            assert_eq!(key.expose(), phase_key(project, way[1]).expect("a key").expose());
            key
        });
        assert_eq!(HEXLOWER.encode(key.expose()), *expected, "{info}");
    }
}

#[test]
fn keys_of_a_phase_are_those_of_the_page() {
    let rows = rows("Keys of a phase");
    assert_eq!(rows.len(), 10);
    for row in rows {
        let [kind, phase, info, expected] = row.as_slice() else { panic!("{row:?}") };
        let way: Vec<_> = info.split('/').collect();
        let (scope, item, generation) = (way[0], way[1], way[2]);
        let key = key(phase, &format!("{phase}/{item}: {generation}"));
        assert_eq!(key.generation(item).to_string(), generation);
        let derived = match kind.as_str() {
            "bytes 16" => HEXLOWER.encode(&*key.bytes::<16>(scope, item)),
            "bytes 32" => HEXLOWER.encode(&*key.bytes::<32>(scope, item)),
            "bytes 48" => HEXLOWER.encode(&*key.bytes::<48>(scope, item)),
            "ed25519" => HEXLOWER.encode(key.ed25519(scope, item).as_bytes()),
            "p256" => HEXLOWER.encode(&key.p256(scope, item).to_bytes()),
            "age" => key.age(scope, item).to_string().expose_secret().to_owned(),
            other => panic!("no such kind: {other}"),
        };
        assert_eq!(derived, *expected, "{kind} {info}");
    }
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
