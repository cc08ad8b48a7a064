//! Receipts of the Drains in the input.

use documents::{Declared, Stream};
use secrets::Error;
use serde_json::Value;

use crate::keys::phase_key;
use crate::project::Project;
use crate::receipt::{Copied, Envelope, Source, VerifiedReceipt, refused};
use crate::verification::{RECEIPT_PHASE, ReceiptKey};
use crate::{ContractError, facts};

/// Returns the public keys of which one must have signed a receipt of `project`: the keys that its
/// document names, or else the key that derives from the phase `data-drain`.
///
/// # Errors
///
/// The document names no key, and neither `DATA_DRAIN_KEY` nor the root can be read.
pub fn receipt_keys(project: &Declared<Project>) -> Result<Vec<ReceiptKey>, Error> {
    let named = &project.spec.verification_keys.receipts;
    if named.is_empty() {
        return Ok(vec![ReceiptKey::of(
            &phase_key(project, RECEIPT_PHASE)?,
            project.name.as_str(),
        )]);
    }
    named
        .iter()
        .map(|pem| {
            ReceiptKey::parse(pem).map_err(|why| ContractError::VerificationKey { why }.into())
        })
        .collect()
}

/// Returns the receipt of each Drain in `stream` that is Ready and whose spec satisfies `which`. Each
/// receipt is signed by this project's data-drain, and covers the cluster and every source that its
/// document names.
///
/// # Errors
///
/// [`ContractError::Receipt`], and the errors of [`receipt_keys`].
pub fn receipts(
    stream: &Stream,
    project: &Declared<Project>,
    which: impl Fn(&Value) -> bool,
) -> Result<Vec<VerifiedReceipt>, Error> {
    let name = |drain: &Value| drain["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let drains = facts::documents_of_kind(stream, "Drain").filter(|drain| which(&drain["spec"]));
    let drains: Vec<_> =
        drains.filter(|drain| stream.ready("Drain", &name(drain)).is_ok()).collect();
    if drains.is_empty() {
        return Ok(Vec::new());
    }
    let keys = receipt_keys(project)?;
    let mut receipts = Vec::new();
    for document in drains {
        let name = name(document);
        let refused = |why: &str| refused(&name, why);
        let envelope = document.pointer("/status/evidence/0/envelope");
        let envelope = envelope.ok_or_else(|| refused("its document has no receipt"))?;
        let envelope: Envelope = serde_json::from_value(envelope.clone())
            .map_err(|_| refused("its document has no envelope in place of the receipt"))?;
        let receipt = envelope.open(&name, project.name.as_str(), &keys)?;
        if document["spec"]["cluster"] != receipt.cluster.name.as_str() {
            return Err(refused("it is for another cluster than its document"));
        }
        for source in document["spec"]["sources"].as_array().into_iter().flatten() {
            let is_covered = |copied: &Copied| match &copied.from {
                Source::Claim(entry) => source["claim"] == entry.claim.as_str(),
                Source::Forge { repository, .. } => source["forge"] == repository.as_str(),
            };
            if !receipt.sources.iter().any(is_covered) {
                return Err(refused(&format!("it does not cover {source}")));
            }
        }
        receipts.push(receipt);
    }
    Ok(receipts)
}

/// Returns the receipt of each Drain of the cluster called `cluster`.
///
/// # Errors
///
/// The errors of [`receipts`].
pub fn receipts_of_cluster(
    stream: &Stream,
    project: &Declared<Project>,
    cluster: &str,
) -> Result<Vec<VerifiedReceipt>, Error> {
    receipts(stream, project, |spec| spec["cluster"] == cluster)
}

/// Returns the receipt of each Drain that copies the repository called `repository`.
///
/// # Errors
///
/// The errors of [`receipts`].
pub fn receipts_of_repository(
    stream: &Stream,
    project: &Declared<Project>,
    repository: &str,
) -> Result<Vec<VerifiedReceipt>, Error> {
    receipts(stream, project, |spec| {
        let sources = spec["sources"].as_array().into_iter().flatten();
        sources.into_iter().any(|source| source["forge"] == repository)
    })
}
