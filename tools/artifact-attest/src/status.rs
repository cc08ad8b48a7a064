//! Facts and evidence of a status, and how a status is built.

use documents::{Condition, Deferred, Reason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::build_plan::BuildPlan;
use crate::nix;
use crate::observe::Published;
use crate::oci::Digest;
use crate::plan::Publication;
use crate::session::Session;
use crate::stanzas::Verification;
use crate::statement::Predicate;
use crate::step::Step;

/// Facts about the published artifact.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Reference by digest, for example `ghcr.io/zabronax/greeter@sha256:…`. A digest cannot be
    /// moved to other content.
    pub reference: Deferred<String>,
    /// Digest of the published manifest.
    pub digest: Deferred<Digest>,
    /// Tag of the published manifest, made from the commit and the derivation, for example
    /// `f00dcaf-1a2b3c4d`.
    pub tag: Deferred<String>,
    /// Size of the published manifest in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Git commit that the artifact was made from; of an index, the newest of its images' commits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Version of the flake's package, if it has one; of an index, if all of its images have the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Platform of the image in OCI's names, for example `linux/arm64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Declared tags that name the manifest, for example `latest`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Deferred<String>>,
    /// Hash of the build result's NAR, in Nix's SRI notation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nar_hash: Option<String>,
    /// Whether a second build was bit-identical to the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reproducible: Option<bool>,
    /// Binary cache with the build result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary_cache: Option<CachedResult>,
    /// Public key that verifies the signatures, in PEM.
    pub public_key: String,
    /// Command that verifies the signature, with `publicKey` saved as `cosign.pub`.
    pub verify_with: Deferred<String>,
    /// Configurations of programs that verify the artifact; absent before the first `apply`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verification>,
}

/// Build result in a binary cache.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CachedResult {
    /// URL of the cache, for the setting `substituters` of Nix.
    pub url: String,
    /// Store path of the build result.
    pub path: String,
    /// Name of the key that signs, for example `holistic-1`. `artifact-attest derive` prints its public half for the
    /// setting `trusted-public-keys`.
    pub key: String,
}

/// Proof that binds the published artifact to its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Subject of the proof: `source`, `provenance`, `sbom` or `signature`.
    #[serde(rename = "type")]
    pub about: String,
    /// Git commit that was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// SHA-256 digest of the signed statement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// SHA-256 digest of the public key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Generation of the signing key, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
}

/// Status of an Artifact.
pub(crate) type Status = documents::Status<Facts, Evidence, Step>;

/// Returns the status of an artifact for which `steps` are left.
pub(crate) fn of(session: &Session<'_>, published: &Published, steps: Vec<Step>) -> Status {
    let facts = facts(session, published);
    if !steps.is_empty() {
        return Status::planned(Some(facts), steps);
    }
    let message = format!("{} is signed and attested", facts.reference);
    let ready = Condition::ready(true, Reason::Published, message);
    Status { evidence: evidence(session, published), observed: Some(facts), ..Status::new(ready) }
}

/// Returns the facts about the artifact that is, or will be, published.
fn facts(session: &Session<'_>, published: &Published) -> Facts {
    let (digest, built) = (published.desired.digest.clone(), &published.built);
    let reference =
        |digest: &Digest| format!("{}/{}@{digest}", session.url.host(), session.repository);
    let reference = Deferred::from(digest.value().map(reference));
    let plain = "--allow-http-registry --allow-insecure-registry ";
    let plain = if session.url.is_plain() { plain } else { "" };
    let command = |reference: &String| {
        format!("cosign verify --key cosign.pub --insecure-ignore-tlog {plain}{reference}")
    };
    let repository = format!("{}/{}", session.url.host(), session.repository);
    let verify = digest.value().map(|digest| {
        let pem = session.keys.current.pem();
        Verification::new(&repository, digest.as_str(), &pem, session.url.is_plain())
    });
    let build_plan = session.build_plan.as_ref();
    let was_built = !built.nar_sha256.is_empty();
    Facts {
        digest,
        tag: published.desired.tag.clone(),
        size: (!published.manifest.is_empty()).then_some(published.manifest.len()),
        commit: build_plan.map(|build_plan| build_plan.source.rev.clone()),
        version: build_plan.and_then(BuildPlan::version),
        platform: build_plan.and_then(BuildPlan::platform),
        tags: published.desired.tags.clone(),
        nar_hash: nix::inputs::sri(&built.nar_sha256).filter(|_| was_built),
        reproducible: (was_built && built.rebuilt).then_some(true),
        binary_cache: cached_result(session),
        public_key: session.keys.current.pem(),
        verify_with: Deferred::from(reference.value().map(command)),
        verify,
        reference,
    }
}

/// Returns the build result in the binary cache, if the document declares one.
fn cached_result(session: &Session<'_>) -> Option<CachedResult> {
    let (cache, build_plan) = (session.binary_cache.as_ref()?, session.build_plan.as_ref()?);
    let (url, path) = (cache.url().to_owned(), build_plan.out().to_owned());
    Some(CachedResult { url, path, key: cache.key().to_owned() })
}

/// Returns the status after `destroy`. `left` are the publications that stay.
pub(crate) fn removed(left: &[Publication]) -> Status {
    let others = left.iter().filter(|publication| publication.there).count();
    Status::destroyed(format!(
        "manifests left in place, which other documents or other keys published: {others}"
    ))
}

/// Returns the evidence for a published artifact: its commit, its statements, and the key.
pub(crate) fn evidence(session: &Session<'_>, published: &Published) -> Vec<Evidence> {
    let about = |about: &str| Evidence {
        about: about.to_owned(),
        git_commit: None,
        sha256: None,
        key_id: None,
        generation: None,
    };
    let commit = session.build_plan.as_ref().map(|build_plan| build_plan.source.rev.clone());
    let source = Evidence { git_commit: commit, ..about("source") };
    let statements = published.statements.iter();
    let statements = statements.filter(|(predicate, _)| **predicate != Predicate::Signature);
    let statements = statements.map(|(predicate, statement)| Evidence {
        sha256: Some(Digest::of(statement).hex().to_owned()),
        ..about(&predicate.to_string())
    });
    let key = &session.keys.current;
    let (key_id, generation) = (Some(key.id()), Some(key.generation));
    let signature = Evidence { key_id, generation, ..about("signature") };
    [source].into_iter().chain(statements).chain([signature]).collect()
}

/// Returns the difference that `verify` reports for a step that is left.
pub(crate) fn difference(step: &Step) -> String {
    match step {
        Step::Attest { statements, .. } => {
            let statements: Vec<_> = statements.iter().map(ToString::to_string).collect();
            format!("no {} that our key signed", statements.join(", no "))
        }
        Step::Tag { tag, .. } => format!("the tag {tag} is absent or names another manifest"),
        Step::Cache { path, cache } => {
            format!("{cache} lacks {path}, or the signature of our key")
        }
        Step::Build { .. } => {
            "no published provenance of our key says that the artifact is the declared one"
                .to_owned()
        }
        Step::Rebuild { .. }
        | Step::Publish { .. }
        | Step::Withdraw { .. }
        | Step::Detach { .. } => format!("not done: {step}"),
    }
}
