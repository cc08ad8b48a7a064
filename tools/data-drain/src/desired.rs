//! The declared state: a Drain with its references resolved, as data.

use std::collections::{BTreeMap, BTreeSet};

use contract::{Project, ReceiptKey, Store, facts};
use documents::{Context, Declared, Name, Stream};
use git::Url;
use secrets::{AgeRecipient, PhaseKey, Secret};

use crate::Error;
use crate::clients::store;
use crate::pack::Key;
use crate::plan::{ActualState, Hold, SourceState};
use crate::spec::{Drain, Source};

/// A Drain with its references resolved.
pub(crate) struct Desired<'a> {
    pub(crate) project: &'a str,
    pub(crate) drain: &'a str,
    pub(crate) cluster: &'a str,
    pub(crate) bucket: &'a str,
    pub(crate) sources: &'a [Source],
    pub(crate) recipients: Vec<AgeRecipient>,
    /// Keys of which one must have signed a receipt.
    pub(crate) receipts: Vec<ReceiptKey>,
    /// Clone URL and token of each repository, by the name of its document.
    pub(crate) forges: BTreeMap<&'a str, (Url, Secret)>,
    /// Claims that any Drain of this cluster names: `namespace/name`.
    pub(crate) covered: BTreeSet<String>,
}

/// Keys of a run that writes.
pub(crate) struct Keys {
    pub(crate) phase: PhaseKey,
    /// Key of fingerprints.
    pub(crate) fingerprint: Key,
    /// Key of the proof that this program wrote an object.
    pub(crate) proof: Key,
}

impl Keys {
    pub(crate) fn new(phase: PhaseKey, project: &str) -> Self {
        let fingerprint = phase.bytes(project, "fingerprint");
        let proof = phase.bytes(project, "proof");
        Self { phase, fingerprint, proof }
    }
}

impl<'a> Desired<'a> {
    /// Resolves the references of a document.
    ///
    /// # Errors
    ///
    /// The Project lacks an endpoint, a secret cannot be resolved, or a Repository is not ready.
    pub(crate) fn resolve(
        context: &Context<'a, Drain>,
        project: &'a Declared<Project>,
    ) -> Result<Self, Error> {
        let document = context.document;
        let recipient = |name: &String| -> Option<AgeRecipient> {
            let mut recipients = project.spec.recipients.iter();
            let named = recipients.find(|recipient| recipient.name.to_string() == *name);
            named.map(|recipient| recipient.age.clone())
        };
        let Store::S3 { bucket, .. } = store::declared(&project.spec)?;
        let mut forges = BTreeMap::new();
        for forge in document.spec.sources.iter().filter_map(|source| source.forge.as_ref()) {
            forges.insert(forge.as_str(), origin(context.stream, &project.spec, forge)?);
        }
        Ok(Self {
            project: project.name.as_str(),
            drain: document.name.as_str(),
            cluster: document.spec.cluster.as_str(),
            bucket,
            sources: &document.spec.sources,
            recipients: document.spec.recipients.iter().filter_map(recipient).collect(),
            receipts: contract::receipt_keys(project)?,
            forges,
            covered: facts::drained_claims(context.stream, document.spec.cluster.as_str()),
        })
    }
}

/// Returns the clone URL and the token of a repository of the forge.
fn origin(stream: &Stream, project: &Project, forge: &Name) -> Result<(Url, Secret), Error> {
    let url = facts::repository(stream, forge.as_str())?.clone_url;
    let endpoint = project.endpoints.forge.as_ref().ok_or(Error::NoEndpoint("forge"))?;
    let (contract::Forge::Github { token, .. } | contract::Forge::Gitea { token, .. }) = endpoint;
    // A status is only a file, so it does not decide to which server the token goes.
    endpoint.owns(&url)?;
    Ok((url, token.resolve()?))
}

/// Image of the pods that read volumes.
#[derive(Default)]
pub(crate) struct ReaderImage {
    /// Reference with the attested digest; empty when no source is a claim.
    pub(crate) reference: String,
    /// Secrets with which the kubelet pulls the image.
    pub(crate) pull_secrets: Vec<Name>,
}

/// Returns the image that reads volumes.
pub(crate) fn image(context: &Context<'_, Drain>) -> Result<ReaderImage, Error> {
    let spec = &context.document.spec;
    if spec.sources.iter().all(|source| source.claim.is_none()) {
        return Ok(ReaderImage::default());
    }
    let reference = facts::artifact(context.stream, spec.reader.as_str())?.reference;
    Ok(ReaderImage { reference, pull_secrets: spec.image_pull_secrets.clone() })
}

/// Whether the cluster and the repositories exist, as far as their documents tell.
pub(crate) fn sources_exist(context: &Context<'_, Drain>) -> bool {
    let is_ready = |kind, name: &Name| context.stream.ready(kind, name.as_str()).is_ok();
    let mut forges =
        context.document.spec.sources.iter().filter_map(|source| source.forge.as_ref());
    is_ready("Cluster", &context.document.spec.cluster)
        && forges.all(|forge| is_ready("Repository", forge))
}

/// Returns a world in which no source exists yet.
pub(crate) fn world_without_sources(spec: &Drain) -> ActualState {
    let found = spec.sources.iter().map(|source| SourceState {
        source: match (&source.claim, &source.forge) {
            (Some(claim), _) => claim.to_string(),
            (None, forge) => format!("forge {}", forge.as_ref().map_or("", Name::as_str)),
        },
        is_claim: source.claim.is_some(),
        node: None,
        workload: None,
    });
    let any_claim = spec.sources.iter().any(|source| source.claim.is_some());
    let hold = if any_claim { Hold::Absent } else { Hold::Needless };
    ActualState { found: found.collect(), hold, receipted: false, recorded: false }
}
