//! Facts, evidence and the status of a `Drain`.

use contract::{Copied, Envelope, VerifiedReceipt};
use documents::{Condition, Deferred, Reason};
use schemars::JsonSchema;
use serde::Serialize;

use crate::desired::Desired;
use crate::observe::Observation;
use crate::step::Step;

/// The status of a Drain.
pub(crate) type Status = documents::Status<Facts, Evidence, Step>;

/// Facts about a Drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// UID of the cluster's namespace `kube-system`.
    pub cluster_uid: Deferred<String>,
    /// Prefix of every object in the bucket, for example `holistic/prod/0123456789abcdef`.
    pub prefix: Deferred<String>,
    /// Sources that were copied.
    pub copied: Vec<CopiedSource>,
    /// Claims of the cluster, bound to a volume, that no Drain of it names: `namespace/name`. Their
    /// data is not copied.
    pub uncovered: Vec<String>,
}

/// One source that was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopiedSource {
    /// The claim (`default/data`) or the repository (`forge web`).
    pub source: String,
    /// Size of its archive, in bytes.
    pub bytes: u64,
    /// Number of files and folders.
    pub entries: u64,
    /// Number of objects in the store that hold the archive.
    pub packs: usize,
    /// Properties that the copy does not keep, for example sockets and holes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_kept: Vec<String>,
}

/// Evidence with which other programs may destroy what was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Type of the evidence: `receipt`.
    #[serde(rename = "type")]
    pub of: String,
    /// Key of the receipt in the bucket.
    pub object: String,
    /// The signed receipt.
    pub envelope: Envelope,
}

/// Returns the status of a Drain whose sources are copied. `reason` says whether this is the result of a
/// run (`Drained`) or of a proof (`Verified`).
pub(crate) fn drained(desired: &Desired<'_>, observation: &Observation, reason: Reason) -> Status {
    let message = format!(
        "{} is copied for {} recipients, read back and receipted",
        desired.cluster,
        desired.recipients.len()
    );
    Status {
        observed: Some(facts(desired, observation)),
        evidence: evidence(desired, observation),
        ..Status::new(Condition::ready(true, reason, message))
    }
}

/// Returns the status of a Drain for which `steps` are left.
pub(crate) fn planned(
    desired: &Desired<'_>,
    observation: &Observation,
    steps: Vec<Step>,
) -> Status {
    Status::planned(Some(facts(desired, observation)), steps)
}

/// Returns one line for each claim whose data no Drain copies.
pub(crate) fn uncovered(observation: &Observation) -> Vec<String> {
    let line = |claim: &String| {
        format!("{claim} is a bound claim that no Drain names: its data is not copied")
    };
    observation.uncovered.iter().map(line).collect()
}

fn facts(desired: &Desired<'_>, observation: &Observation) -> Facts {
    let copied = |copied: &Copied| CopiedSource {
        source: match &copied.from {
            contract::Source::Claim(entry) => entry.claim.clone(),
            contract::Source::Forge { repository, .. } => format!("forge {repository}"),
        },
        bytes: copied.bytes,
        entries: copied.entries,
        packs: copied.packs.len(),
        not_kept: copied.not_kept.clone(),
    };
    let sources = observation.receipt.iter().flat_map(|(receipt, _)| &receipt.sources);
    Facts {
        cluster_uid: Deferred::Value(observation.uid.clone()),
        prefix: Deferred::Value(observation.prefix(desired)),
        copied: sources.map(copied).collect(),
        uncovered: observation.uncovered.clone(),
    }
}

fn evidence(desired: &Desired<'_>, observation: &Observation) -> Vec<Evidence> {
    let evidence = |(receipt, envelope): &(VerifiedReceipt, Envelope)| Evidence {
        of: "receipt".to_owned(),
        object: observation.receipt_object(desired, &receipt.run),
        envelope: envelope.clone(),
    };
    observation.receipt.iter().map(evidence).collect()
}
