use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// Returns every file below `folder`, except those that Git ignores.
fn files(folder: &Path) -> Vec<PathBuf> {
    let ignored = [".git", ".cache", ".lab", "target"];
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let entries = entries.filter(|entry| !ignored.iter().any(|name| entry.file_name() == *name));
    let inside = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.map(|entry| entry.path()).filter(|path| !path.is_symlink()).flat_map(inside).collect()
}

#[test]
fn every_identity_in_this_repository_is_known_as_published() {
    const START: &str = "AGE-SECRET-KEY-1";
    let mut found = BTreeSet::new();
    for file in files(&repository()) {
        let text = fs::read(&file).expect("a file");
        let text = String::from_utf8_lossy(&text);
        for (start, _) in text.match_indices(START) {
            let word: String = text[start..].chars().take(START.len() + 58).collect();
            let Ok(identities) = Identities::parse(&Secret::new(word.into_bytes())) else {
                continue; // an example of a wrong identity
            };
            let is_listed = identities.among(&RECIPIENTS).places().is_some();
            assert!(is_listed, "{} contains an identity that is not in RECIPIENTS", file.display());
            found.insert(file.clone());
        }
    }
    assert!(found.len() >= 5, "at least five files hold identities: {found:?}");
}

#[test]
fn every_secret_value_in_this_repository_is_known_as_published() {
    let mut values = 0;
    for folder in ["project", "templates/project/project"] {
        let folder = repository().join(folder);
        let identity = fs::read(folder.join("test-identity.txt")).expect("an identity");
        let identities = Identities::parse(&Secret::new(identity)).expect("an identity");
        let file = folder.join("secrets.yaml");
        let sops = Sops::open(&file, &identities).expect("the file opens");
        for key in sops.keys() {
            let secret = sops.get(&key).expect("a value");
            assert!(is_published(&secret), "`{key}` of {} is not in VALUES", file.display());
            values += count_values(&secret);
        }
        assert!(refuse_file(&file).is_err(), "{}", file.display());
        let root = RootKey::parse(&sops.get("root").expect("a root"), "the root").expect("a root");
        assert!(roots().any(|listed| listed.expose() == root.expose()), "{}", file.display());
    }
    assert_eq!(values, VALUES.len(), "each listed value is still in the repository");
}

/// Returns the number of values in `secret`, and fails unless each is published by itself.
fn count_values(secret: &Secret) -> usize {
    let text = secret.text().expect("text");
    let Ok(value @ Value::Object(_)) = serde_json::from_str::<Value>(text) else { return 1 };
    for text in strings(&value) {
        assert!(is_published(&Secret::new(text.as_bytes().to_vec())), "a part is not in VALUES");
    }
    strings(&value).len()
}

#[test]
fn a_published_secret_is_recognised_in_every_notation() {
    let identity = fs::read_to_string(repository().join("project/test-identity.txt"));
    let root = roots().next().expect("a root");
    let published: [Vec<u8>; 8] = [
        root.expose().to_vec(),
        HEXLOWER.encode(root.expose()).into_bytes(),
        HEXLOWER.encode(root.expose()).to_uppercase().into_bytes(),
        format!("{}\n", ROOTS[1]).into_bytes(),
        ROOTS[0].trim_end_matches('=').as_bytes().to_vec(),
        identity.expect("an identity").into_bytes(),
        b" a-token-of-github\r\n".to_vec(),
        br#"{"accessKeyId": "mine", "secretAccessKey": "a-secret-key"}"#.to_vec(),
    ];
    for secret in published {
        let text = String::from_utf8_lossy(&secret).into_owned();
        assert!(is_published(&Secret::new(secret)), "{text}");
    }
    for secret in [&[7; 32][..], b"ghp_of_a_stranger", br#"{"accessKeyId": "mine"}"#, b"replace-me"]
    {
        assert!(!is_published(&Secret::new(secret.to_vec())), "{secret:?}");
    }
}
