//! The document `Project`: valid specs, validation errors and the schema.

use std::fs;

use contract::{Cloud, Forge, Projects, S3Credentials, Store};
use documents::{Diagnostic as _, Reason, Stream};

const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

/// Reads a Project with this `spec` in YAML; the error lists every validation error.
fn read(spec: &str) -> Result<Projects, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let document = folder.path().join("project.yaml");
    let head =
        "---\napiVersion: holistic/v1alpha1\nkind: Project\nmetadata: {name: holistic}\nspec:\n";
    fs::write(&document, head.to_owned() + &spec.replace("RECIPIENT", RECIPIENT)).expect("written");
    let mut stream = Stream::read(&[document]);
    let projects = Projects::read(&mut stream);
    stream.accept().map_err(|error| error.to_string()).map(|()| projects)
}

const FULL: &str = "
  root: {sops: project/secrets.yaml, key: root}
  recipients:
    - {name: founder, age: RECIPIENT}
  generations: {artifact-attest/signing: 2, flux-seed: 3}
  endpoints:
    forge: {github: {url: https://api.github.com, token: {sops: project/secrets.yaml, key: github}}}
    registry: {url: https://ghcr.io/zabronax, user: zabronax, token: {env: GHCR_TOKEN}}
    cloud: {hetzner: {url: https://api.hetzner.cloud/v1, token: {command: [op, read, op://a/b]}}}
    store: {s3: {url: https://fsn1.your-objectstorage.com, region: fsn1, bucket: b, credentials: {file: s3.json}}}
    flux: {url: https://ghcr.io/fluxcd}
    nix:
      inputs: {nixpkgs: 'path:/tmp/x'}
      cache: {url: 's3://holistic-cache?region=eu', credentials: {file: s3.json}, reader: {env: CACHE}}
";

#[test]
fn a_project_with_every_field_is_read() {
    let projects = read(FULL).expect("right");
    let project = &projects.get("holistic").expect("the project").spec;
    assert_eq!(project.recipients[0].age.as_str(), RECIPIENT);
    let endpoints = &project.endpoints;
    assert!(
        matches!(&endpoints.forge, Some(Forge::Github { url, .. }) if url.host() == "api.github.com")
    );
    assert!(matches!(&endpoints.cloud, Some(Cloud::Hetzner { url, .. }) if url.path() == "v1"));
    assert!(matches!(&endpoints.store, Some(Store::S3 { bucket, .. }) if bucket == "b"));
    let nix = endpoints.nix.as_ref().expect("nix");
    assert_eq!(nix.inputs["nixpkgs"], "path:/tmp/x");
    let cache = nix.cache.as_ref().expect("a cache");
    assert_eq!(cache.url.as_str(), "s3://holistic-cache?region=eu");
    let error = projects.get("other").expect_err("no such project");
    assert_eq!(error.reason(), Reason::ProjectMissing);
    assert_eq!(error.to_string(), "the input has no Project called `other`");
}

#[test]
fn a_project_needs_only_a_root_and_a_recipient() {
    let minimal = "  root: {env: ROOT}\n  recipients: [{name: founder, age: RECIPIENT}]\n";
    assert!(read(minimal).expect("right").get("holistic").is_ok());
}

#[test]
fn every_validation_error_is_reported_and_quotes_no_value() {
    let errors = read(
        "
  root: hunter2
  recipients:
    - {name: founder, age: RECIPIENT}
    - {name: founder, age: RECIPIENT}
    - {name: ci, age: AGE-SECRET-KEY-1HUNTER2}
    - {name: vault, age: hunter2}
  generations: {artifact-atest/signing: 2, flux-seed: 0, flux-seed/: 2}
  endpoints:
    forge: {github: {url: 'https://me:hunter2@api.github.com', token: hunter2}}
    registry: {url: http://ghcr.io, tokn: {env: A}}
    cloud: {hetzner: {url: https://api.hetzner.cloud/v1, token: {hunter2: hunter2}}}
    store: {s4: {url: https://a}}
",
    )
    .expect_err("wrong");
    for message in [
        "spec.root: a reference to a secret is one of {env: NAME}",
        "`age` of ci is an identity, which is secret",
        "`age` of vault is not an age recipient",
        "an address holds no user and no password",
        "http is for 127.0.0.0/8",
        "unknown field",
        "spec.endpoints.cloud.hetzner.token: a reference to a secret is one of",
    ] {
        assert!(errors.contains(message), "{message}:\n{errors}");
    }
    assert!(!errors.to_lowercase().contains("hunter2"), "{errors}");
}

#[test]
fn validation_errors_across_fields_are_reported() {
    let errors = read(
        "
  root: {env: ROOT}
  recipients:
    - {name: founder, age: RECIPIENT}
    - {name: founder, age: RECIPIENT}
  generations: {artifact-atest/signing: 2, flux-seed: 0, flux-seed/: 2}
",
    )
    .expect_err("wrong");
    for message in [
        "spec.recipients.1.name: another recipient has this name",
        "no key has this name: write <phase> or <phase>/<item>, where a phase is one of vcs-bootstrap,",
        "generations start at 1",
        "mistakes: 4,",
    ] {
        assert!(errors.contains(message), "{message}:\n{errors}");
    }
    let errors = read("  root: {env: ROOT}\n  recipients: []\n").expect_err("wrong");
    assert!(
        errors.contains("no recipient could decrypt credentials of administrators"),
        "{errors}"
    );
}

#[test]
fn the_schema_requires_the_fields_that_the_parser_requires() {
    let schema = documents::schema::<contract::Project>();
    let recipient = &schema["$defs"]["Recipient"];
    assert_eq!(recipient["required"], serde_json::json!(["name", "age"]), "{schema:#}");
    assert!(schema["$defs"]["Reference"]["oneOf"].is_array(), "{schema:#}");
}

#[test]
fn credentials_of_a_store_are_a_map_with_two_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("s3.json");
    let read = |text: &str| {
        fs::write(&file, text).expect("written");
        S3Credentials::resolve(&secrets::Reference::File { file: file.clone() })
    };
    let right = read(r#"{"accessKeyId": "a", "secretAccessKey": "hunter2"}"#).expect("right");
    assert_eq!(right.secret_access_key.expose(), b"hunter2");
    assert!(!format!("{right:?}").contains("hunter2"));
    for wrong in [
        "hunter2",
        r#"{"accessKeyId": "hunter2"}"#,
        r#"{"accessKeyId": "", "secretAccessKey": "hunter2"}"#,
        "[]",
    ] {
        let error = read(wrong).expect_err(wrong);
        assert!(
            !error.to_string().contains("hunter2")
                && error.to_string().ends_with("is not the credentials of an S3 store")
        );
    }
}

/// The environment variable `SNAPSHOTS=overwrite` updates the committed schema.
#[test]
fn the_committed_schema_is_the_schema_of_a_project() {
    let schema = documents::schema::<contract::Project>();
    let schema = serde_json::to_string_pretty(&schema).expect("JSON") + "\n";
    snapbox::assert_data_eq!(schema, snapbox::file!["../schema.json"].raw());
}
