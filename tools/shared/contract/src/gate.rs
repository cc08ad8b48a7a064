//! Data gate: decides whether an operation may delete objects that hold data.
//!
//! Every program calls [`judge`] before it deletes claims, Namespaces, machines or a cluster:
//!
//! ```text
//! Loss (objects to delete) ──────────┐
//! DataOnDestroy (the document) ──────┤
//! VerifiedReceipt (the drains) ──────┼─► judge ──► Verdict: one decision per claim, with its reason
//! Facts (the live cluster) ──────────┘
//! ```
//!
//! **Invariant:** [`judge`] is a pure function of its arguments.
//! **Invariant:** a cluster that does not answer closes the gate. No single inventory is trusted.
//! **Invariant:** a claim may be deleted only with a receipt for this cluster and this claim (by UID) whose
//! hold is unbroken, or with a document that discards the claim by name.

mod facts;
mod policy;
#[cfg(test)]
mod tests;

pub use crate::hold::HoldObject;
pub use facts::{Facts, LiveClaim, LiveCluster, LiveMount, LiveVolume, LiveWorkload, NodeScope};
pub use policy::{DataOnDestroy, DataPolicy};

use documents::Reason;
use std::collections::BTreeSet;

use crate::receipt::{ClaimSource, Source, VerifiedReceipt};

/// Objects that an operation deletes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Whether the operation deletes the whole cluster.
    pub cluster: bool,
    /// Names of Namespaces, with every claim in them.
    pub namespaces: BTreeSet<String>,
    /// Claims, each as `NAMESPACE/NAME`.
    pub claims: BTreeSet<String>,
    /// Names of `PersistentVolume`s, with or without a claim.
    pub volumes: BTreeSet<String>,
    /// Names of nodes whose machines are deleted, with every volume on these nodes only.
    pub nodes: BTreeSet<String>,
    /// UIDs of objects after whose deletion the garbage collector deletes the claims that they own,
    /// directly or through other objects.
    pub owners: BTreeSet<String>,
}

/// Decision of the gate about an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Reason why nothing may be deleted: the cluster did not answer. `None` when the cluster answered.
    pub closed: Option<String>,
    /// One entry for each claim or volume that the operation would delete, in order of name.
    pub claims: Vec<ClaimVerdict>,
}

/// Decision about one claim, or about one volume without a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimVerdict {
    /// Claim as `NAMESPACE/NAME`, or `volume/NAME` for a volume without a claim.
    pub claim: String,
    /// Name of the `PersistentVolume`; empty while the claim is not bound.
    pub volume: String,
    /// Decision and its reason.
    pub decision: Decision,
}

/// Decision whether the data of a claim may be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Deletion is allowed: a receipt proves that the data was copied and has not changed since.
    Receipted {
        /// Digest of the receipt, for example `sha256:…`.
        receipt: String,
    },
    /// Deletion is allowed: the document discards the claim by name.
    Discarded,
    /// Deletion is refused for the given reason.
    Refused {
        /// Cause, for example [`Reason::NoReceipt`].
        reason: Reason,
        /// Sentence for people, which ends with the next action.
        message: String,
    },
}

impl Verdict {
    /// Whether the operation may delete all its objects.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.refusals().is_empty()
    }

    /// Returns one refusal for each object that must not be deleted, for the status of the document.
    #[must_use]
    pub fn refusals(&self) -> Vec<documents::Refusal> {
        let closed = self.closed.iter().map(|why| documents::Refusal {
            object: "the cluster".to_owned(),
            reason: Reason::FactsUnknown,
            message: why.clone(),
        });
        let claims = self.claims.iter().filter_map(|claim| match &claim.decision {
            Decision::Refused { reason, message } => Some(documents::Refusal {
                object: claim.claim.clone(),
                reason: *reason,
                message: message.clone(),
            }),
            Decision::Receipted { .. } | Decision::Discarded => None,
        });
        closed.chain(claims).collect()
    }

    /// Returns the digest that must be written to the annotation [`crate::labels::RECEIPT`] of the claim
    /// called `claim`, its volume and its Namespace, because the hold otherwise denies the deletion.
    /// `None` when no receipt names the claim.
    #[must_use]
    pub fn receipt_of(&self, claim: &str) -> Option<&str> {
        self.claims.iter().find(|entry| entry.claim == claim).and_then(|entry| {
            match &entry.decision {
                Decision::Receipted { receipt } => Some(receipt.as_str()),
                Decision::Discarded | Decision::Refused { .. } => None,
            }
        })
    }
}

/// Decides which objects of `loss` may be deleted.
#[must_use]
pub fn judge(
    loss: &Loss,
    policy: &DataOnDestroy,
    receipts: &[VerifiedReceipt],
    facts: &Facts,
) -> Verdict {
    let live = match facts {
        Facts::NeverBegan => return Verdict { closed: None, claims: Vec::new() },
        Facts::Unknown { why } => {
            let closed =
                format!("the cluster does not report its volumes, so nothing is deleted: {why}");
            return Verdict { closed: Some(closed), claims: Vec::new() };
        }
        Facts::Live(live) => live,
    };
    let mut claims: Vec<_> = live
        .subjects()
        .into_iter()
        .filter(|subject| subject.is_in(loss, live))
        .map(|subject| ClaimVerdict {
            decision: decide(&subject, policy, receipts, live),
            claim: subject.name,
            volume: subject.volume,
        })
        .collect();
    claims.sort_by(|a, b| (&a.claim, &a.volume).cmp(&(&b.claim, &b.volume)));
    Verdict { closed: None, claims }
}

/// Claim or volume that holds data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Claim as `NAMESPACE/NAME`, or `volume/NAME`.
    name: String,
    namespace: String,
    /// UID of the claim; empty for a volume without a claim.
    uid: String,
    /// Name of the `PersistentVolume`; empty while the claim is not bound.
    volume: String,
    /// Whether the claim exists; a released volume outlives its claim.
    is_claimed: bool,
    owners: Vec<String>,
    nodes: facts::NodeScope,
}

impl Subject {
    fn is_in(&self, loss: &Loss, live: &LiveCluster) -> bool {
        if loss.cluster || loss.volumes.contains(&self.volume) || self.nodes.is_in(&loss.nodes) {
            return true;
        }
        let is_owned = || self.owners.iter().any(|owner| live.is_owned(owner, &loss.owners));
        self.is_claimed
            && (loss.namespaces.contains(&self.namespace)
                || loss.claims.contains(&self.name)
                || is_owned())
    }
}

fn decide(
    subject: &Subject,
    policy: &DataOnDestroy,
    receipts: &[VerifiedReceipt],
    live: &LiveCluster,
) -> Decision {
    if policy.discards(&subject.name) {
        return Decision::Discarded;
    }
    let refused = |reason, why: String, help: &str| Decision::Refused {
        reason,
        message: format!("{}: {why}; {help}", subject.name),
    };
    let drain_again = "run `data-drain apply` again, then repeat this operation";
    let discard = format!("write `dataOnDestroy: {{{}: discard}}` to lose the data", subject.name);
    if subject.uid.is_empty() {
        let why = "no claim owns this volume, so no drain can read it".to_owned();
        return refused(Reason::Unclaimed, why, &format!("bind a claim to it, or {discard}"));
    }
    let drain_or_discard = format!("copy its data with a Drain, or {discard}");
    let mut reason = (Reason::NoReceipt, "no receipt names this claim".to_owned());
    for receipt in receipts {
        let entries = receipt.sources.iter().filter_map(|copied| match &copied.from {
            Source::Claim(entry) if entry.claim == subject.name => Some(entry),
            Source::Claim(_) | Source::Forge { .. } => None,
        });
        for entry in entries {
            if receipt.cluster.uid != live.uid {
                let other = &receipt.cluster.uid;
                let why = format!("the receipt is for another cluster of that name ({other})");
                reason = (Reason::OtherCluster, why);
            } else if entry.uid != subject.uid {
                let why =
                    format!("the receipt is for an earlier claim of that name ({})", entry.uid);
                reason = (Reason::OtherClaim, why);
            } else if !entry.volume.is_empty() && entry.volume != subject.volume {
                let why = format!(
                    "the receipt is for the volume {}, not {}",
                    entry.volume, subject.volume
                );
                reason = (Reason::OtherVolume, why);
            } else if let Some((word, why)) = changed_since(entry, live) {
                return refused(word, why, drain_again);
            } else {
                return Decision::Receipted { receipt: receipt.digest.clone() };
            }
        }
    }
    refused(reason.0, reason.1, &drain_or_discard)
}

/// Returns the reason why the volume may have changed after the receipt was signed.
fn changed_since(entry: &ClaimSource, live: &LiveCluster) -> Option<(Reason, String)> {
    let Some(hold) = &entry.hold else {
        return Some((
            Reason::NotHeld,
            "the receipt was signed without a hold on the claim".to_owned(),
        ));
    };
    for (kind, held, found) in [
        ("ValidatingAdmissionPolicy", &hold.policy, live.policy(&hold.policy.name)),
        ("ValidatingAdmissionPolicyBinding", &hold.binding, live.binding(&hold.binding.name)),
    ] {
        let name = &held.name;
        match found {
            None => {
                let why = format!("the hold was removed after the receipt: no {kind} {name}");
                return Some((Reason::HoldBroken, why));
            }
            Some(found) if found != held => {
                let why = format!("the hold was changed after the receipt: {kind} {name}");
                return Some((Reason::HoldBroken, why));
            }
            Some(_) => {}
        }
    }
    if let Some(mount) = live.writer_of(&entry.claim) {
        let why = format!("the pod {mount} has mounted the claim since the receipt");
        return Some((Reason::InUse, why));
    }
    let stopped = entry.stopped.as_ref()?;
    let namespace = entry.claim.split('/').next().unwrap_or_default();
    let workload = live.workload(namespace, &stopped.workload)?;
    let is_unchanged = workload.uid == stopped.uid && workload.generation == stopped.generation;
    (!is_unchanged).then(|| {
        let why = format!("{} in {namespace} was changed after the receipt", stopped.workload);
        (Reason::WorkloadChanged, why)
    })
}
