use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::Projects;

const STRANGER: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// Every file below `folder`, except what Git ignores.
fn files(folder: &Path) -> Vec<PathBuf> {
    let ignored = [".git", ".cache", ".lab", "target"];
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let entries = entries.filter(|entry| !ignored.iter().any(|name| entry.file_name() == *name));
    let inside = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.map(|entry| entry.path()).filter(|path| !path.is_symlink()).flat_map(inside).collect()
}

#[test]
fn every_identity_in_this_repository_is_listed() {
    const START: &str = "AGE-SECRET-KEY-1";
    let mut found = BTreeSet::new();
    for file in files(&repository()) {
        let text = fs::read(&file).expect("a file");
        let text = String::from_utf8_lossy(&text);
        for (start, _) in text.match_indices(START) {
            let word: String = text[start..].chars().take(START.len() + 58).collect();
            let Ok(identities) = Identities::parse(&Secret::new(word.into_bytes())) else {
                continue; // an example of a wrong one
            };
            let is_listed = identities.published(&RECIPIENTS).places().is_some();
            assert!(is_listed, "{} contains an identity that is not listed", file.display());
            found.insert(file.clone());
        }
    }
    assert!(found.len() >= 5, "the identities are where they are looked for: {found:?}");
}

#[test]
fn every_value_of_the_secrets_in_this_repository_is_listed() {
    let mut values = 0;
    for folder in ["project", "templates/project/project"] {
        let folder = repository().join(folder);
        let identity = fs::read(folder.join("test-identity.txt")).expect("an identity");
        let identities = Identities::parse(&Secret::new(identity)).expect("an identity");
        let file = folder.join("secrets.yaml");
        let sops = Sops::open(&file, &identities).expect("it opens");
        for key in sops.keys() {
            let secret = sops.get(&key).expect("a value");
            assert!(is_published(&secret), "`{key}` of {} is not listed", file.display());
            values += json_leaves(&secret);
        }
        assert!(refuse_file(&file).is_err(), "{}", file.display());
        let root = RootKey::parse(&sops.get("root").expect("a root")).expect("a root");
        assert!(roots().any(|listed| listed.expose() == root.expose()), "{}", file.display());
    }
    assert_eq!(values, VALUES.len(), "each listed value still ships");
}

/// The number of values in `secret`, each of which must be published by itself.
fn json_leaves(secret: &Secret) -> usize {
    let text = secret.text().expect("text");
    let Ok(value @ Value::Object(_)) = serde_json::from_str::<Value>(text) else { return 1 };
    for leaf in leaves(&value) {
        assert!(is_published(&Secret::new(leaf.as_bytes().to_vec())), "a part is not listed");
    }
    leaves(&value).len()
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
    for secret in [&[7; 32][..], b"ghp_of_somebody", br#"{"accessKeyId": "mine"}"#, b"replace-me"] {
        assert!(!is_published(&Secret::new(secret.to_vec())), "{secret:?}");
    }
}

/// A Project with this root, recipient, forge and Cluster endpoint; or its mistakes.
fn read(root: &Value, recipient: &str, forge: &str, cluster: &str) -> Result<Projects, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let project = json!({
        "apiVersion": "holistic/v1alpha1", "kind": "Project", "metadata": {"name": "mine"},
        "spec": {
            "root": root,
            "recipients": [{"name": "me", "age": recipient}],
            "endpoints": {"forge": {"gitea": {"url": forge, "token": {"env": "NOT_SET"}}}},
        },
    });
    let cluster = json!({
        "apiVersion": "holistic/v1alpha1", "kind": "Cluster", "metadata": {"name": "prod"},
        "spec": {"project": "mine"}, "status": {"observed": {"endpoint": cluster}},
    });
    let file = folder.path().join("documents.json");
    fs::write(&file, format!("{project}\n{cluster}\n")).expect("written");
    let mut stream = Stream::read(&[file]);
    let projects = Projects::read(&mut stream);
    stream.accept().map_err(|error| error.to_string()).map(|()| projects)
}

const HERE: &str = "http://127.0.0.1:3000";
const AWAY: &str = "https://git.example.org";

#[test]
fn a_published_secret_is_a_mistake_unless_every_endpoint_is_on_this_machine() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    fs::write(&root, ROOTS[0]).expect("written");
    let root = json!({"file": root});
    let sops = repository().join("templates/project/project/secrets.yaml");
    let sops = json!({"sops": sops, "key": "root"});
    let own = json!({"env": "NOT_SET"});
    let derived = roots().next().expect("a root").derive("mine", "flux-seed", 1);
    let derived = seal::derived_recipient(&derived, "mine").to_string();
    let published = [
        (&root, STRANGER, "spec.root: /"),
        (&sops, STRANGER, "spec.root: an identity that opens"),
        (&own, RECIPIENTS[0], "spec.recipients.0.age: the identity of this recipient"),
        (&own, &derived, "spec.recipients.0.age: the identity of this recipient"),
    ];
    for (root, recipient, told) in published {
        for (forge, cluster) in [
            (AWAY, "known after apply"),
            (HERE, "https://192.0.2.1:6443"),
            (HERE, "https://prod.example.org"),
        ] {
            let mistakes = read(root, recipient, forge, cluster).expect_err(told);
            assert!(mistakes.contains(told), "{told}:\n{mistakes}");
            assert!(mistakes.contains("`./tasks/init NAME OWNER` creates"), "{mistakes}");
        }
        for cluster in ["known after apply", "https://127.99.0.5:6443"] {
            let read = read(root, recipient, HERE, cluster);
            assert!(read.is_ok(), "{told}: {read:?}");
        }
    }
    assert!(read(&own, STRANGER, AWAY, "https://192.0.2.1:6443").is_ok());
}

#[test]
fn a_verification_key_with_a_published_private_half_is_a_mistake() {
    let keys = |root: &str, name: &str| {
        let (artifacts, receipts) =
            crate::verification_keys(&Secret::new(root.into()), name).expect("keys");
        json!({"artifacts": [artifacts], "receipts": [receipts]})
    };
    let project = fs::read_to_string(repository().join("project/project.yaml")).expect("a project");
    let ours = keys(ROOTS[0], "holistic");
    for key in [&ours["artifacts"][0], &ours["receipts"][0]] {
        assert!(project.contains(key.as_str().expect("text")), "{key} is the one that ships");
    }
    let own = crate::new_root().expect("a root");
    let own = keys(own.text().expect("text"), "mine");
    for (keys, mistakes) in [(ours, 2), (keys(ROOTS[1], "mine"), 2), (own, 0)] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("project.json");
        let document = json!({
            "apiVersion": "holistic/v1alpha1", "kind": "Project", "metadata": {"name": "mine"},
            "spec": {
                "root": {"env": "NOT_SET"}, "recipients": [{"name": "me", "age": STRANGER}],
                "verificationKeys": keys,
                "endpoints": {"forge": {"gitea": {"url": AWAY, "token": {"env": "NOT_SET"}}}},
            },
        });
        fs::write(&file, document.to_string()).expect("written");
        let mut stream = Stream::read(&[file]);
        Projects::read(&mut stream);
        let told = stream.accept().err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(told.matches("the private half of this key").count(), mistakes, "{told}");
    }
}

#[test]
fn a_published_root_from_a_command_is_refused_when_it_is_resolved() {
    let command = json!({"command": ["printf", ROOTS[1]]});
    let projects = read(&command, STRANGER, AWAY, "known after apply").expect("not run yet");
    let project = projects.get("mine").expect("it came in");
    let error = crate::root_key(project).expect_err("published");
    assert!(matches!(error, Error::Published(_)), "{error}");
    assert_eq!(documents::Diagnostic::exit(&error), documents::Exit::Usage);
    let projects = read(&command, STRANGER, HERE, "known after apply").expect("right");
    assert!(crate::root_key(projects.get("mine").expect("it came in")).is_ok());
}

#[test]
fn a_key_that_derives_from_a_published_root_is_refused() {
    let own = json!({"env": "NOT_SET"});
    let (away, here) = (read(&own, STRANGER, AWAY, ""), read(&own, STRANGER, HERE, HERE));
    let (away, here) = (away.expect("right"), here.expect("right"));
    let (away, here) = (away.get("mine").expect("one"), here.get("mine").expect("one"));
    for root in roots() {
        for name in ["holistic", "example", "mine"] {
            let key = root.derive(name, "artifact-attest", 1);
            let refused = refuse_phase_key(away, "artifact-attest", key.expose());
            assert!(matches!(refused, Err(Error::Published(_))), "{name}");
            assert!(refuse_phase_key(here, "artifact-attest", key.expose()).is_ok());
        }
        assert!(refuse_phase_key(away, "artifact-attest", root.expose()).is_err());
    }
    assert!(refuse_phase_key(away, "artifact-attest", &[7; 32]).is_ok());
}

#[test]
fn only_addresses_of_this_machine_are_loopback() {
    let loopback = |text: &str| Url::try_from(text.to_owned()).is_ok_and(|url| url.is_loopback());
    for here in
        ["https://127.0.0.1", "https://127.9.9.9:1/x", "https://[::1]:3", "http://localhost/a"]
    {
        assert!(loopback(here), "{here}");
    }
    for away in [
        "https://128.0.0.1",
        "https://0.0.0.0",
        "https://127.1",
        "https://localhost.example.org",
        "https://127.0.0.1.example.org",
        "https://[::ffff:127.0.0.1]",
        "https://10.0.0.1",
    ] {
        assert!(!loopback(away), "{away}");
    }
}
