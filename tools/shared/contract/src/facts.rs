//! Facts of documents that other programs read, as types.
//!
//! | kind | facts | readers |
//! |---|---|---|
//! | Repository | [`RepositoryFacts`], [`repository_of_project`], [`owners_of_project`] | data-drain, artifact-attest, lab |
//! | Repository | [`repository_id`] | vcs-bootstrap |
//! | Artifact | [`ArtifactFacts`], [`ImageFacts`], [`attested_digests`], [`artifact_origin`], [`manifests_folder`], [`pinned_images`], [`flakes`] | artifact-attest, data-drain, flux-seed, lab |
//! | Cluster | [`ClusterFacts`], [`reader_kubeconfig`], [`project_of_cluster`], [`is_destroyed`] | data-drain, flux-seed |
//! | Drain | [`drained_claims`] and [`crate::receipts`] | data-drain, flux-seed, talos-provision, vcs-bootstrap |
//!
//! `tests/facts.rs` checks every path against the schema that the writing program publishes.

use std::collections::BTreeSet;
use std::path::Path;

use documents::{Error, Reason, Stream};
use git::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// JSON pointer to the sealed kubeconfig of an administrator in the status of a Cluster, for messages.
pub const KUBECONFIG: &str = "/sealed/kubeconfig";

/// JSON pointer to the sealed kubeconfig that only reads in the status of a Cluster, for messages.
pub const READER_KUBECONFIG: &str = "/sealed/readerKubeconfig";

/// Facts that a program reads from the status of a document.
pub trait Facts: Sized {
    /// Kind of the documents that have these facts, for example `Cluster`.
    const KIND: &'static str;

    /// Reads the facts from `status`.
    ///
    /// # Errors
    ///
    /// Returns why the document is not ready, as a clause about its status.
    fn read(status: &Value) -> Result<Self, String>;
}

/// Facts of an Artifact: where the published content is, and how to verify the content.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactFacts {
    /// Reference by digest, for example `ghcr.io/zabronax/greeter@sha256:…`.
    pub reference: String,
    /// Digest of the manifest, for example `sha256:…`.
    pub digest: String,
    /// Public key in PEM that verifies the signatures.
    pub public_key: String,
}

/// Facts of an Artifact that is an image, which an index of images needs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ImageFacts {
    /// Reference by digest, for example `ghcr.io/zabronax/greeter@sha256:…`.
    pub reference: String,
    /// Digest of the manifest, for example `sha256:…`.
    pub digest: String,
    /// Size of the manifest in bytes.
    pub size: u64,
    /// Platform in OCI's names, for example `linux/arm64`.
    pub platform: String,
    /// Git commit that the image was built from.
    pub commit: String,
    /// Version of the flake's package; empty if the package has none.
    #[serde(default)]
    pub version: String,
}

/// Facts of a Repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryFacts {
    /// URL from which git clones. [`crate::Forge::owns`] must accept the URL before a token is sent there.
    pub clone_url: Url,
}

/// Facts of a Cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFacts {
    /// URL of the API server, for example `https://192.0.2.1:6443`; `None` before `apply` has created the
    /// cluster.
    pub endpoint: Option<String>,
    /// Sealed kubeconfig of an administrator, which [`crate::unseal`] decrypts.
    pub kubeconfig: String,
    /// Sealed kubeconfig that only reads, which [`crate::unseal`] decrypts with the phase
    /// [`crate::READER`].
    pub reader_kubeconfig: Option<String>,
}

impl Facts for ArtifactFacts {
    const KIND: &'static str = "Artifact";

    fn read(status: &Value) -> Result<Self, String> {
        section(status, "observed", &["reference", "digest", "publicKey"])
    }
}

impl Facts for ImageFacts {
    const KIND: &'static str = "Artifact";

    fn read(status: &Value) -> Result<Self, String> {
        section(status, "observed", &["reference", "digest", "platform", "commit"])
    }
}

impl ArtifactFacts {
    /// Returns the reference without the digest, for example `ghcr.io/zabronax/greeter`; `None` when the
    /// reference does not end with the digest.
    #[must_use]
    pub fn repository(&self) -> Option<&str> {
        self.reference.strip_suffix(&self.digest)?.strip_suffix('@')
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObservedRepository {
    clone_url: String,
}

impl Facts for RepositoryFacts {
    const KIND: &'static str = "Repository";

    fn read(status: &Value) -> Result<Self, String> {
        let observed: ObservedRepository = section(status, "observed", &["cloneUrl"])?;
        let clone_url =
            Url::try_from(observed.clone_url).map_err(|why| format!("its clone URL is {why}"))?;
        Ok(Self { clone_url })
    }
}

/// Identity of a repository in the status of its document.
#[derive(Deserialize)]
struct ObservedIdentity {
    owner: String,
    name: String,
    id: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SealedCluster {
    kubeconfig: String,
    reader_kubeconfig: Option<String>,
}

impl Facts for ClusterFacts {
    const KIND: &'static str = "Cluster";

    fn read(status: &Value) -> Result<Self, String> {
        let sealed: SealedCluster = section(status, "sealed", &["kubeconfig"])?;
        let SealedCluster { kubeconfig, reader_kubeconfig } = sealed;
        Ok(Self { endpoint: endpoint(status).map(str::to_owned), kubeconfig, reader_kubeconfig })
    }
}

/// Deserialises the object at `name` of `status`, in which `required` must be text.
fn section<T: DeserializeOwned>(
    status: &Value,
    name: &str,
    required: &[&str],
) -> Result<T, String> {
    let object = &status[name];
    if let Some(field) = required.iter().find(|field| !object[**field].is_string()) {
        return Err(format!("its status lacks /{name}/{field}"));
    }
    T::deserialize(object).map_err(|error| format!("its status has an invalid /{name}: {error}"))
}

fn endpoint(status: &Value) -> Option<&str> {
    status["observed"]["endpoint"].as_str()
}

/// Reads the facts of the document called `name`, which must be Ready.
///
/// # Errors
///
/// [`Error::NotReady`] when the document is absent, is not Ready or lacks a fact.
pub fn of<F: Facts>(stream: &Stream, name: &str) -> Result<F, Error> {
    stream.ready(F::KIND, name)?;
    in_any_state(stream, name)
}

/// Reads the facts of the document called `name`, also when it is not Ready, because `plan` and `destroy`
/// need the credentials of a degraded cluster.
///
/// # Errors
///
/// [`Error::NotReady`] when the document is absent or lacks a fact.
pub fn in_any_state<F: Facts>(stream: &Stream, name: &str) -> Result<F, Error> {
    let not_ready = |why| Error::NotReady { document: format!("{}/{name}", F::KIND), why };
    let document = stream.document(F::KIND, name);
    let document = document.ok_or_else(|| not_ready("it is not in the stream".to_owned()))?;
    F::read(&document["status"]).map_err(not_ready)
}

/// Reads the facts of an Artifact that is Ready.
///
/// # Errors
///
/// The errors of [`of`].
pub fn artifact(stream: &Stream, name: &str) -> Result<ArtifactFacts, Error> {
    of(stream, name)
}

/// Reads the facts of a Repository that is Ready.
///
/// # Errors
///
/// The errors of [`of`].
pub fn repository(stream: &Stream, name: &str) -> Result<RepositoryFacts, Error> {
    of(stream, name)
}

/// Reads the facts of a Cluster that is Ready.
///
/// # Errors
///
/// The errors of [`of`].
pub fn cluster(stream: &Stream, name: &str) -> Result<ClusterFacts, Error> {
    of(stream, name)
}

/// Returns the sealed kubeconfig that only reads, of a Cluster in any state. A plan with the key of a
/// reader has no other credential.
#[must_use]
pub fn reader_kubeconfig<'a>(stream: &'a Stream, cluster: &str) -> Option<&'a str> {
    stream.document("Cluster", cluster)?["status"].pointer(READER_KUBECONFIG)?.as_str()
}

/// Whether `destroy` has completed for the document. An absent document was not destroyed.
#[must_use]
pub fn is_destroyed(stream: &Stream, kind: &str, name: &str) -> bool {
    let conditions = stream
        .document(kind, name)
        .and_then(|document| document["status"]["conditions"].as_array());
    conditions.into_iter().flatten().any(|condition| {
        condition["type"] == "Ready" && condition["reason"] == Reason::Destroyed.as_str()
    })
}

/// Returns every document in the group `holistic`, in any version.
pub fn documents_of_group(stream: &Stream) -> impl Iterator<Item = &Value> {
    stream.documents().filter(|document| {
        document["apiVersion"].as_str().is_some_and(|version| version.starts_with("holistic/"))
    })
}

/// Returns every document of `kind` in the group `holistic`, in any version.
pub fn documents_of_kind<'a>(stream: &'a Stream, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    documents_of_group(stream).filter(move |document| document["kind"] == kind)
}

/// Returns the name of the Project to which a Cluster belongs.
#[must_use]
pub fn project_of_cluster<'a>(stream: &'a Stream, cluster: &str) -> Option<&'a str> {
    stream.document("Cluster", cluster)?["spec"]["project"].as_str()
}

/// Returns the endpoint of each Cluster of the Project called `project` that has one.
pub(crate) fn endpoints_of_project<'a>(
    stream: &'a Stream,
    project: &'a str,
) -> impl Iterator<Item = &'a str> {
    documents_of_kind(stream, "Cluster")
        .filter(move |document| document["spec"]["project"] == project)
        .filter_map(|document| endpoint(&document["status"]))
}

/// Owner and name of a repository at the forge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepositorySlug<'a> {
    /// User or organisation at the forge.
    pub owner: &'a str,
    /// Name of the repository.
    pub name: &'a str,
}

/// Returns the forge's number for the repository `slug`, as an earlier run wrote it into `status`. `None`
/// when the status is of another repository, because people copy documents with their statuses.
#[must_use]
pub fn repository_id(status: &Value, slug: RepositorySlug<'_>) -> Option<u64> {
    let observed = ObservedIdentity::deserialize(&status["observed"]).ok()?;
    let is_same = observed.owner == slug.owner && observed.name == slug.name;
    is_same.then_some(observed.id)
}

/// Returns the repository of the Project called `project`; `None` unless the input has exactly one.
#[must_use]
pub fn repository_of_project<'a>(stream: &'a Stream, project: &str) -> Option<RepositorySlug<'a>> {
    let mut repositories = repository_documents(stream, project);
    let (repository, None) = (repositories.next()?, repositories.next()) else { return None };
    let owner = owner(repository)?;
    // `spec.name` is for names that a document cannot have, for example `example.github.io`.
    let declared = repository["spec"]["name"].as_str();
    let name = declared.or_else(|| repository["metadata"]["name"].as_str());
    Some(RepositorySlug { owner, name: name? })
}

/// Returns the owner of each repository of the Project called `project`: a user or an organisation at the
/// forge.
#[must_use]
pub fn owners_of_project<'a>(stream: &'a Stream, project: &str) -> BTreeSet<&'a str> {
    repository_documents(stream, project).filter_map(owner).collect()
}

fn repository_documents<'a>(stream: &'a Stream, project: &str) -> impl Iterator<Item = &'a Value> {
    documents_of_kind(stream, "Repository")
        .filter(move |document| document["spec"]["project"] == project)
}

fn owner(repository: &Value) -> Option<&str> {
    repository["spec"]["owner"].as_str()
}

/// Returns the digest of every Artifact that is Ready.
#[must_use]
pub fn attested_digests(stream: &Stream) -> BTreeSet<String> {
    let names = documents_of_kind(stream, "Artifact")
        .filter_map(|document| document["metadata"]["name"].as_str());
    names.filter_map(|name| Some(artifact(stream, name).ok()?.digest)).collect()
}

/// Statements of the documents about the origin of an Artifact. A program that reads them has not proven
/// them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArtifactOrigin<'a> {
    /// SHA-256 digest of the public key whose signature was published, in hexadecimal digits.
    pub key_id: Option<&'a str>,
    /// SHA-256 digest of the signed provenance, in hexadecimal digits.
    pub provenance: Option<&'a str>,
    /// Git commit from which the artifact was built.
    pub commit: Option<&'a str>,
    /// URL of the source, or owner and name of the project's repository.
    pub source: Option<String>,
    /// Whether a branch or a tag of `source` must contain the commit before `artifact-attest` signs.
    pub is_source_checked: bool,
}

/// Returns what the document and the status of an Artifact state about its origin. A fact that is absent
/// is not stated. `None` when the stream has no such Artifact.
#[must_use]
pub fn artifact_origin<'a>(stream: &'a Stream, name: &str) -> Option<ArtifactOrigin<'a>> {
    let document = stream.document("Artifact", name)?;
    let evidence = |about: &str, field: &str| {
        let evidence = document["status"]["evidence"].as_array().into_iter().flatten();
        let mut evidence = evidence.filter(|evidence| evidence["type"] == about);
        evidence.find_map(|evidence| evidence[field].as_str())
    };
    let spec = &document["spec"];
    let repository = || {
        let slug = repository_of_project(stream, spec["project"].as_str()?)?;
        Some(format!("{}/{}", slug.owner, slug.name))
    };
    Some(ArtifactOrigin {
        key_id: evidence("signature", "keyId"),
        provenance: evidence("provenance", "sha256"),
        commit: evidence("source", "gitCommit"),
        source: spec["source"].as_str().map(str::to_owned).or_else(repository),
        is_source_checked: spec["sourceCheck"] != "skip",
    })
}

/// Returns the name of the Artifact that is Ready and has `digest`. If there are several, the first one.
#[must_use]
pub fn artifact_of_digest<'a>(stream: &'a Stream, digest: &str) -> Option<&'a str> {
    let mut names = documents_of_kind(stream, "Artifact")
        .filter_map(|document| document["metadata"]["name"].as_str());
    names.find(|name| artifact(stream, name).is_ok_and(|facts| facts.digest == digest))
}

/// Returns the folder from which an Artifact of manifests is built.
#[must_use]
pub fn manifests_folder<'a>(stream: &'a Stream, artifact: &str) -> Option<&'a Path> {
    let document = stream.document("Artifact", artifact)?;
    document["spec"]["manifests"]["path"].as_str().map(Path::new)
}

/// Returns the facts of the images that the Artifact called `artifact` pins in its manifests. Images that
/// are not Ready are left out.
#[must_use]
pub fn pinned_images(stream: &Stream, artifact: &str) -> Vec<ArtifactFacts> {
    let document = stream.document("Artifact", artifact);
    let names = document.and_then(|document| document["spec"]["manifests"]["images"].as_array());
    let names = names.into_iter().flatten().filter_map(Value::as_str);
    names.filter_map(|name| self::artifact(stream, name).ok()).collect()
}

/// Returns the folder of the flake from which each Artifact is built, as the documents name it.
pub fn flakes(stream: &Stream) -> impl Iterator<Item = &Path> {
    documents_of_kind(stream, "Artifact")
        .filter_map(|document| document["spec"]["build"]["flake"].as_str().map(Path::new))
}

/// Returns every claim that a Drain of the cluster called `cluster` copies, as `NAMESPACE/NAME`.
#[must_use]
pub fn drained_claims(stream: &Stream, cluster: &str) -> BTreeSet<String> {
    let drains = documents_of_kind(stream, "Drain")
        .filter(|document| document["spec"]["cluster"] == cluster);
    let sources = drains.filter_map(|document| document["spec"]["sources"].as_array()).flatten();
    sources.filter_map(|source| source["claim"].as_str().map(str::to_owned)).collect()
}
