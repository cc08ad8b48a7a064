//! `derivation.md` is a promise: every version derives the keys in its tables.

use std::fs;
use std::path::Path;

use age::secrecy::ExposeSecret as _;
use data_encoding::HEXLOWER;
use secrets::{PhaseKey, RootKey, Secret};

/// Returns the rows of the table below the heading `heading`, without their backquotes.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("derivation.md");
    let page = fs::read_to_string(page).expect("the page");
    let section =
        page.split("\n## ").find(|section| section.starts_with(heading)).expect("the section");
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = |row: &str| {
        row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    rows.map(cells).collect()
}

/// Returns the root of the page: the bytes 0 to 31.
fn root() -> RootKey {
    RootKey::parse(&Secret::new((0..32).collect()), "the root").expect("a root")
}

/// Splits an info `<scope>/<item>/<generation>`.
fn parts(info: &str) -> (&str, &str, u32) {
    let parts: Vec<_> = info.split('/').collect();
    let [scope, item, generation] = parts.as_slice() else { panic!("{info}") };
    (scope, item, generation.parse().expect("a number"))
}

#[test]
fn phase_keys_are_those_of_the_page() {
    let rows = rows("Phase keys");
    assert_eq!(rows.len(), 6);
    for row in rows {
        let [info, expected] = row.as_slice() else { panic!("{row:?}") };
        let (project, phase, generation) = parts(info);
        let key = root().derive(project, phase, generation);
        assert_eq!(HEXLOWER.encode(key.expose()), *expected, "{info}");
        let parsed = PhaseKey::parse(&Secret::new(key.expose().to_vec()), "a key").expect("a key");
        assert_eq!(parsed.expose(), key.expose());
    }
}

#[test]
fn keys_of_a_phase_are_those_of_the_page() {
    let rows = rows("Keys of a phase");
    assert_eq!(rows.len(), 11);
    for row in rows {
        let [kind, phase, info, expected] = row.as_slice() else { panic!("{row:?}") };
        let (scope, item, generation) = parts(info);
        let key = root().derive("holistic", phase, 1);
        let key = key.with_generations([(item.to_owned(), generation)].into());
        assert_eq!(key.generation(item), generation);
        let derived = match kind.as_str() {
            "bytes 16" => HEXLOWER.encode(&*key.bytes::<16>(scope, item)),
            "bytes 32" => HEXLOWER.encode(&*key.bytes::<32>(scope, item)),
            "bytes 48" => HEXLOWER.encode(&*key.bytes::<48>(scope, item)),
            "ed25519" => HEXLOWER.encode(key.ed25519(scope, item).as_bytes()),
            "p256" => HEXLOWER.encode(&key.p256(scope, item).to_bytes()),
            "age" => key.age(scope, item).to_string().expose_secret().to_owned(),
            other => panic!("unknown kind: {other}"),
        };
        assert_eq!(derived, *expected, "{kind} {info}");
    }
}
