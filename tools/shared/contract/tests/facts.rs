//! Facts of documents: `tests/facts/documents.yaml` has the statuses that the programs write, and the
//! schemas of the programs have every path that the facts are read from.

use std::fs;
use std::path::{Path, PathBuf};

use contract::facts::{
    self, ArtifactFacts, ArtifactOrigin, ClusterFacts, RepositoryFacts, RepositorySlug,
    in_any_state,
};
use documents::Stream;
use serde_json::Value;

fn stream() -> Stream {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    Stream::read(&[folder.join("tests/facts/documents.yaml")])
}

/// Reads one document, given as YAML below `apiVersion`.
fn stream_of(document: &str) -> Stream {
    let folder = tempfile::tempdir().expect("a folder");
    let file: PathBuf = folder.path().join("document.yaml");
    fs::write(&file, format!("---\napiVersion: holistic/v1alpha1\n{document}")).expect("written");
    Stream::read(&[file])
}

const READY: &str = "conditions: [{type: Ready, status: 'True', reason: Ready, message: ''}]";
const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

#[test]
fn facts_are_read_from_documents_that_are_ready() {
    let stream = stream();
    let repository = facts::repository(&stream, "holistic").expect("facts");
    assert_eq!(repository.clone_url.as_str(), "https://github.com/zabronax/holistic.git");
    let artifact = facts::artifact(&stream, "deployments").expect("facts");
    assert_eq!(artifact.digest, DIGEST);
    assert_eq!(artifact.reference, format!("ghcr.io/zabronax/deployments@{DIGEST}"));
    assert_eq!(artifact.repository(), Some("ghcr.io/zabronax/deployments"));
    assert!(artifact.public_key.starts_with("-----BEGIN PUBLIC KEY-----"));
    let cluster = facts::cluster(&stream, "prod").expect("facts");
    let expected = ClusterFacts {
        endpoint: Some("https://192.0.2.1:6443".to_owned()),
        kubeconfig: "sealed administrator".to_owned(),
        reader_kubeconfig: Some("sealed reader".to_owned()),
    };
    assert_eq!(cluster, expected);
}

#[test]
fn an_error_says_why_the_facts_are_not_known() {
    let stream = stream();
    let error = facts::artifact(&stream, "absent").expect_err("absent");
    assert_eq!(error.to_string(), "Artifact/absent is not Ready: it is not in the stream");
    let error = facts::artifact(&stream, "planned").expect_err("planned");
    assert!(error.to_string().starts_with("Artifact/planned is not Ready: "), "{error}");
    let error = facts::cluster(&stream, "degraded").expect_err("degraded");
    assert!(error.to_string().contains("etcd has no quorum"), "{error}");
    for (kind, status, why) in [
        ("Artifact", "", "its status lacks /observed/reference"),
        ("Artifact", "observed: {reference: a, digest: 5}", "its status lacks /observed/digest"),
        ("Artifact", "observed: {reference: a, digest: b}", "its status lacks /observed/publicKey"),
        ("Repository", "observed: {}", "its status lacks /observed/cloneUrl"),
        (
            "Repository",
            "observed: {cloneUrl: 'http://10.0.0.1/x.git'}",
            "its clone URL is http is for 127.0.0.0/8, [::1] and localhost only: use https",
        ),
        ("Cluster", "observed: {endpoint: a}", "its status lacks /sealed/kubeconfig"),
    ] {
        let document = format!(
            "kind: {kind}\nmetadata: {{name: a}}\nspec: {{}}\nstatus:\n  {READY}\n  {status}\n"
        );
        let stream = stream_of(&document);
        let error = match kind {
            "Artifact" => facts::of::<ArtifactFacts>(&stream, "a").expect_err(why),
            "Repository" => facts::of::<RepositoryFacts>(&stream, "a").expect_err(why),
            _ => facts::of::<ClusterFacts>(&stream, "a").expect_err(why),
        };
        assert_eq!(error.to_string(), format!("{kind}/a is not Ready: {why}"));
    }
}

#[test]
fn the_credentials_of_a_degraded_cluster_are_readable() {
    let stream = stream();
    let cluster: ClusterFacts = in_any_state(&stream, "degraded").expect("facts");
    assert_eq!(cluster.kubeconfig, "sealed administrator");
    assert_eq!((cluster.endpoint, cluster.reader_kubeconfig), (None, None));
    assert_eq!(facts::reader_kubeconfig(&stream, "degraded"), None);
    assert_eq!(facts::reader_kubeconfig(&stream, "prod"), Some("sealed reader"));
    let error = in_any_state::<ClusterFacts>(&stream, "absent").expect_err("absent");
    assert_eq!(error.to_string(), "Cluster/absent is not Ready: it is not in the stream");
}

#[test]
fn only_a_document_whose_destroy_has_completed_is_destroyed() {
    let stream = stream();
    assert!(facts::is_destroyed(&stream, "Cluster", "old"));
    for (kind, name) in [("Cluster", "prod"), ("Cluster", "degraded"), ("Cluster", "absent")] {
        assert!(!facts::is_destroyed(&stream, kind, name), "{name}");
    }
}

#[test]
fn declarations_of_other_programs_are_read_from_documents_of_the_group_only() {
    let stream = stream();
    assert_eq!(facts::project_of_cluster(&stream, "prod"), Some("holistic"));
    assert_eq!(facts::project_of_cluster(&stream, "foreign"), None);
    assert_eq!(facts::documents_of_kind(&stream, "Cluster").count(), 3);
    let slug = RepositorySlug { owner: "zabronax", name: "holistic" };
    assert_eq!(facts::repository_of_project(&stream, "holistic"), Some(slug));
    assert_eq!(facts::repository_of_project(&stream, "other"), None);
    assert_eq!(facts::owners_of_project(&stream, "holistic"), ["zabronax"].into());
    assert_eq!(facts::owners_of_project(&stream, "other"), [].into());
    assert_eq!(facts::attested_digests(&stream), [DIGEST.to_owned()].into());
    let folder = facts::manifests_folder(&stream, "deployments");
    assert_eq!(folder, Some(Path::new("deployments")));
    assert_eq!(facts::manifests_folder(&stream, "planned"), None);
    let images = facts::pinned_images(&stream, "deployments");
    let images: Vec<_> = images.iter().map(|image| image.repository()).collect();
    assert_eq!(images, [Some("ghcr.io/zabronax/deployments")], "`planned` is not Ready");
    assert!(facts::pinned_images(&stream, "planned").is_empty());
    assert_eq!(facts::flakes(&stream).collect::<Vec<_>>(), [Path::new("examples/greeter")]);
    let claims = facts::drained_claims(&stream, "prod");
    assert_eq!(claims, ["default/data".to_owned(), "shop/orders".to_owned()].into());
}

#[test]
fn origin_of_an_artifact_is_what_its_document_and_status_state() {
    let stream = stream();
    let stated = ArtifactOrigin {
        key_id: Some("dcba"),
        provenance: Some("abcd"),
        commit: Some("f00dcafe"),
        source: Some("zabronax/holistic".to_owned()),
        is_source_checked: true,
    };
    assert_eq!(facts::artifact_origin(&stream, "deployments"), Some(stated));
    let source = Some("https://git.example/greeter".to_owned());
    let unstated = ArtifactOrigin { source, ..ArtifactOrigin::default() };
    assert_eq!(facts::artifact_origin(&stream, "planned"), Some(unstated));
    assert_eq!(facts::artifact_origin(&stream, "absent"), None);
    assert_eq!(facts::artifact_of_digest(&stream, DIGEST), Some("deployments"));
    assert_eq!(facts::artifact_of_digest(&stream, "known after apply"), None, "it is not Ready");
}

#[test]
fn the_number_of_a_repository_is_read_from_its_own_status_only() {
    let stream = stream();
    let status = &stream.document("Repository", "holistic").expect("a document")["status"];
    let id = |owner, name| facts::repository_id(status, RepositorySlug { owner, name });
    assert_eq!(id("zabronax", "holistic"), Some(42));
    assert_eq!(id("zabronax", "copy"), None);
    assert_eq!(id("other", "holistic"), None);
    let slug = RepositorySlug { owner: "zabronax", name: "holistic" };
    assert_eq!(facts::repository_id(&Value::Null, slug), None);
}

/// Returns the schema of the object at `path` below the document, following references.
fn resolve<'a>(root: &'a Value, path: &[&str]) -> &'a Value {
    let mut schema = root;
    for field in path {
        schema = &dereference(root, schema)["properties"][field];
    }
    dereference(root, schema)
}

/// Follows `$ref`.
fn dereference<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(target) = schema["$ref"].as_str() {
        return dereference(root, root.pointer(&target[1..]).expect("a definition"));
    }
    schema
}

#[test]
fn every_path_of_a_fact_is_in_the_schema_of_the_program_that_writes_it() {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (program, path, fields) in [
        ("vcs-bootstrap", &["status", "observed"][..], &["cloneUrl", "owner", "name", "id"][..]),
        ("vcs-bootstrap", &["spec"], &["project", "owner"]),
        ("artifact-attest", &["status", "observed"], &["reference", "digest", "publicKey"]),
        ("artifact-attest", &["spec"], &["project"]),
        ("artifact-attest", &["spec", "manifests"], &["path"]),
        ("artifact-attest", &["spec", "build"], &["flake"]),
        ("talos-provision", &["status", "observed"], &["endpoint"]),
        ("talos-provision", &["spec"], &["project"]),
        ("data-drain", &["spec"], &["cluster", "sources"]),
        ("artifact-attest", &["status", "evidence"], &["type"]),
    ] {
        let file = tools.join(program).join("schema.json");
        let schema = fs::read_to_string(&file).expect("a schema");
        let schema: Value = serde_json::from_str(&schema).expect("JSON");
        let object = resolve(&schema, path);
        let object = object.get("items").map_or(object, |items| dereference(&schema, items));
        let required = object["required"].as_array().expect("required fields");
        let optional: &[&str] = match (program, path) {
            ("artifact-attest", ["spec", "manifests"]) => &["images"],
            ("artifact-attest", ["spec"]) => &["source", "sourceCheck"],
            ("artifact-attest", ["status", "evidence"]) => &["gitCommit", "sha256", "keyId"],
            ("artifact-attest", ["status", ..]) => &["size", "platform", "commit", "version"],
            _ => &[],
        };
        for field in optional {
            assert!(object["properties"][field].is_object(), "{program}: {field}");
        }
        for field in fields {
            let is_required = required.iter().any(|name| name == field);
            assert!(is_required, "{program}: {path:?} does not require `{field}`: {object:#}");
        }
    }
}
