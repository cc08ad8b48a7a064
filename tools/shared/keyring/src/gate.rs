//! The data gate: whether an operation may remove what holds data.
//!
//! Every program asks it before it removes claims, Namespaces, machines or a cluster:
//!
//! ```text
//! Loss (what the operation removes) ─┐
//! DataOnDestroy (the document) ──────┤
//! VerifiedReceipt (the drains) ──────┼─► judge ──► Verdict: one decision per claim, with its reason
//! Facts (the live cluster) ──────────┘
//! ```
//!
//! **Invariant:** [`judge`] is a function of its arguments: it asks nothing and opens nothing.
//! **Invariant:** a cluster that cannot be asked closes the gate. A single inventory is never asked.
//! **Invariant:** only a receipt of this cluster, of this claim by UID, whose hold is unbroken, or
//! a document that discards the claim by name, lets a claim go.

mod facts;
mod policy;
#[cfg(test)]
mod tests;

pub use facts::{Facts, HoldObject, LiveClaim, LiveCluster, LiveMount, LiveVolume, LiveWorkload};
pub use policy::{DataOnDestroy, DataPolicy};

use std::collections::BTreeSet;

use crate::receipt::{Source, VerifiedReceipt};

/// Annotation of a claim, a `PersistentVolume` or a Namespace that may be deleted although a drain
/// holds it; its value is the digest of the receipt ([`VerifiedReceipt::digest`]).
pub const RECEIPT_ANNOTATION: &str = "data-drain.holistic/receipt";

/// What an operation removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// The whole cluster.
    pub cluster: bool,
    /// Namespaces, with every claim in them.
    pub namespaces: BTreeSet<String>,
    /// Claims as `namespace/name`.
    pub claims: BTreeSet<String>,
    /// `PersistentVolume`s by name, whether or not a claim owns them.
    pub volumes: BTreeSet<String>,
    /// Machines by the name of their node, with every volume that is only there.
    pub nodes: BTreeSet<String>,
    /// UIDs of objects whose removal lets the garbage collector remove the claims that they own,
    /// also by way of other objects.
    pub owners: BTreeSet<String>,
}

/// Answer of the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why nothing may be removed, whatever the claims: the cluster could not be asked.
    pub closed: Option<String>,
    /// One entry for each claim or volume that the operation would remove, in order of name.
    pub claims: Vec<ClaimVerdict>,
}

/// Decision about one claim, or one volume that no claim owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimVerdict {
    /// `namespace/name` of the claim, or `volume/NAME` of a volume that no claim owns.
    pub claim: String,
    /// Name of the `PersistentVolume`; empty when the claim is not bound.
    pub volume: String,
    /// Whether the data may go, and why.
    pub decision: Decision,
}

/// Whether the data of a claim may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A receipt proves that it was copied and has not changed since.
    Receipted {
        /// Digest of that receipt.
        receipt: String,
    },
    /// The document discards it by name.
    Discarded,
    /// It must stay.
    Refused {
        /// One word in `CamelCase`.
        reason: &'static str,
        /// Sentence for people, which ends with what to do.
        message: String,
    },
}

impl Verdict {
    /// Whether the operation may go on.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.refusals().is_empty()
    }

    /// Everything that must stay, for the status of the document.
    #[must_use]
    pub fn refusals(&self) -> Vec<documents::Refusal> {
        let closed = self.closed.iter().map(|why| documents::Refusal {
            object: "the cluster".to_owned(),
            reason: "FactsUnknown".to_owned(),
            message: why.clone(),
        });
        let claims = self.claims.iter().filter_map(|claim| match &claim.decision {
            Decision::Refused { reason, message } => Some(documents::Refusal {
                object: claim.claim.clone(),
                reason: (*reason).to_owned(),
                message: message.clone(),
            }),
            Decision::Receipted { .. } | Decision::Discarded => None,
        });
        closed.chain(claims).collect()
    }

    /// The digest that must be written on the claim called `claim`, on its volume and on its
    /// Namespace before the hold lets anybody delete them; `None` when no receipt names it.
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

/// Decides what of `loss` may go.
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
            let closed = format!(
                "the cluster does not tell which volumes it holds, so nothing is removed: {why}"
            );
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

/// One thing that holds data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// `namespace/name`, or `volume/NAME`.
    name: String,
    namespace: String,
    /// UID of the claim; empty for a volume that no claim owns.
    uid: String,
    /// Name of the `PersistentVolume`; empty when the claim is not bound.
    volume: String,
    /// Whether the claim itself is still there; a released volume outlives its claim.
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
    let drain_again = "run `data-drain apply` again before this";
    let name_it = format!(
        "copy it with a Drain, or write `dataOnDestroy: {{{}: discard}}` if nobody needs it",
        subject.name
    );
    if subject.uid.is_empty() {
        let why = "no claim owns this volume, so no drain can read it".to_owned();
        return refused("Unclaimed", why, &name_it);
    }
    let mut reason = ("NoReceipt", "no receipt names this claim".to_owned());
    for receipt in receipts {
        let entries = receipt.sources.iter().filter_map(|copied| match &copied.from {
            Source::Claim(entry) if entry.claim == subject.name => Some(entry),
            Source::Claim(_) | Source::Forge { .. } => None,
        });
        for entry in entries {
            if receipt.cluster.uid != live.uid {
                let other = &receipt.cluster.uid;
                let why = format!("the receipt is for another cluster of that name ({other})");
                reason = ("OtherCluster", why);
            } else if entry.uid != subject.uid {
                let why =
                    format!("the receipt is for an earlier claim of that name ({})", entry.uid);
                reason = ("OtherClaim", why);
            } else if !entry.volume.is_empty() && entry.volume != subject.volume {
                let why = format!(
                    "the receipt is for the volume {}, not {}",
                    entry.volume, subject.volume
                );
                reason = ("OtherVolume", why);
            } else if let Some((word, why)) = changed_since(entry, live) {
                return refused(word, why, drain_again);
            } else {
                return Decision::Receipted { receipt: receipt.digest.clone() };
            }
        }
    }
    refused(reason.0, reason.1, &name_it)
}

/// Why the volume may have changed after the receipt, whoever changed it.
fn changed_since(
    entry: &crate::receipt::ClaimSource,
    live: &LiveCluster,
) -> Option<(&'static str, String)> {
    let Some(hold) = &entry.hold else {
        return Some(("NotHeld", "the receipt was signed without a hold on the claim".to_owned()));
    };
    for (what, held, found) in [
        ("ValidatingAdmissionPolicy", &hold.policy, live.policy(&hold.policy.name)),
        ("ValidatingAdmissionPolicyBinding", &hold.binding, live.binding(&hold.binding.name)),
    ] {
        let name = &held.name;
        match found {
            None => {
                let why = format!("the hold was removed after the receipt: no {what} {name}");
                return Some(("HoldBroken", why));
            }
            Some(found) if found != held => {
                let why = format!("the hold was changed after the receipt: {what} {name}");
                return Some(("HoldBroken", why));
            }
            Some(_) => {}
        }
    }
    if let Some(mount) = live.writer_of(&entry.claim) {
        let why = format!("the pod {mount} has mounted it since the receipt");
        return Some(("InUse", why));
    }
    let stopped = entry.stopped.as_ref()?;
    let namespace = entry.claim.split('/').next().unwrap_or_default();
    let workload = live.workload(namespace, &stopped.workload)?;
    let is_as_left = workload.uid == stopped.uid && workload.generation == stopped.generation;
    (!is_as_left).then(|| {
        let why = format!("{} in {namespace} was changed after the receipt", stopped.workload);
        ("WorkloadChanged", why)
    })
}
