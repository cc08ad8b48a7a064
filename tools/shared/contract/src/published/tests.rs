use std::fs;
use std::path::{Path, PathBuf};

use secrets::{Secret, new_root, phase_recipient};
use serde_json::{Value, json};

use super::*;
use crate::Projects;

const STRANGER: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
/// Root in the file `project/secrets.yaml`.
const HOLISTIC_ROOT: &str = "R4WH/+lTRezrj60Vw35cSxR+Q0aF9RdxhhZ7dz9c6KQ=";
/// Root in the file `templates/project/project/secrets.yaml`.
const EXAMPLE_ROOT: &str = "vluEM5zmlt2g7jJUJL3q+pQpwkV5SlNuLoAbuVxfMXc=";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

#[test]
fn the_recipient_of_a_phase_in_this_repository_is_published_and_that_of_a_new_root_is_not() {
    let root = Secret::new(HOLISTIC_ROOT.into());
    let recipient = phase_recipient(&root, "holistic", "flux-seed").expect("a root");
    let project = fs::read_to_string(repository().join("project/project.yaml"));
    assert!(project.expect("the project").contains(recipient.as_str()), "{recipient}");
    assert!(is_published(recipient.as_str()));
    let new = phase_recipient(&new_root().expect("a root"), "holistic", "flux-seed");
    assert!(!is_published(new.expect("a root").as_str()));
}

/// Reads a Project with this root, recipient, forge and Cluster endpoint; the error lists every
/// validation error.
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
fn a_published_secret_is_an_error_unless_every_endpoint_is_on_this_machine() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    fs::write(&root, HOLISTIC_ROOT).expect("written");
    let root = json!({"file": root});
    let sops = repository().join("templates/project/project/secrets.yaml");
    let sops = json!({"sops": sops, "key": "root"});
    let unset = json!({"env": "NOT_SET"});
    let derived = published::roots().next().expect("a root").derive("mine", "flux-seed", 1);
    let derived = derived_recipient(&derived, "mine").to_string();
    let published = [
        (&root, STRANGER, "spec.root: /"),
        (&sops, STRANGER, "spec.root: an identity that opens"),
        (
            &unset,
            published::recipients()[0],
            "spec.recipients.0.age: the identity of this recipient",
        ),
        (&unset, &derived, "spec.recipients.0.age: the identity of this recipient"),
    ];
    for (root, recipient, message) in published {
        for (forge, cluster) in [
            (AWAY, "known after apply"),
            (HERE, "https://192.0.2.1:6443"),
            (HERE, "https://prod.example.org"),
        ] {
            let errors = read(root, recipient, forge, cluster).expect_err(message);
            assert!(errors.contains(message), "{message}:\n{errors}");
            assert!(errors.contains("`./tasks/init NAME OWNER` creates"), "{errors}");
        }
        for cluster in ["known after apply", "https://127.99.0.5:6443"] {
            let read = read(root, recipient, HERE, cluster);
            assert!(read.is_ok(), "{message}: {read:?}");
        }
    }
    assert!(read(&unset, STRANGER, AWAY, "https://192.0.2.1:6443").is_ok());
}

#[test]
fn a_verification_key_with_a_published_private_half_is_an_error() {
    let keys = |root: &str, name: &str| {
        let (artifacts, receipts) =
            crate::verification_keys(&Secret::new(root.into()), name).expect("keys");
        json!({"artifacts": [artifacts], "receipts": [receipts]})
    };
    let project = fs::read_to_string(repository().join("project/project.yaml")).expect("a project");
    let shipped = keys(HOLISTIC_ROOT, "holistic");
    for key in [&shipped["artifacts"][0], &shipped["receipts"][0]] {
        assert!(
            project.contains(key.as_str().expect("text")),
            "{key} is in the Project of this repository"
        );
    }
    let new = new_root().expect("a root");
    let new = keys(new.text().expect("text"), "mine");
    for (keys, count) in [(shipped, 2), (keys(EXAMPLE_ROOT, "mine"), 2), (new, 0)] {
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
        let errors = stream.accept().err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(errors.matches("the private half of this key").count(), count, "{errors}");
    }
}

#[test]
fn a_published_root_from_a_command_is_an_error_when_it_is_resolved() {
    let command = json!({"command": ["printf", EXAMPLE_ROOT]});
    let projects = read(&command, STRANGER, AWAY, "known after apply")
        .expect("a valid Project, whose command has not run yet");
    let project = projects.get("mine").expect("the project");
    let error = crate::root_key(project).expect_err("published");
    assert!(matches!(error, Error::Published(_)), "{error}");
    assert_eq!(documents::Diagnostic::exit(&error), documents::Exit::Usage);
    let projects = read(&command, STRANGER, HERE, "known after apply").expect("right");
    assert!(crate::root_key(projects.get("mine").expect("the project")).is_ok());
}

#[test]
fn a_phase_key_that_derives_from_a_published_root_is_an_error() {
    let unset = json!({"env": "NOT_SET"});
    let (away, here) = (read(&unset, STRANGER, AWAY, ""), read(&unset, STRANGER, HERE, HERE));
    let (away, here) = (away.expect("right"), here.expect("right"));
    let (away, here) = (away.get("mine").expect("one"), here.get("mine").expect("one"));
    for root in published::roots() {
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
