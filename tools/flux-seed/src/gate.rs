//! Asks the data gate before a deletion and annotates the objects of a hold with their receipt.
//!
//! Two computations must both allow a removal. [`crate::graph`] computes from all live objects which
//! claims are deleted. [`contract::gate`] reads the cluster itself and judges these claims and the
//! ones that it finds in addition.

use std::collections::BTreeSet;
use std::time::Duration;

use contract::VerifiedReceipt;
use contract::gate::{DataOnDestroy, Loss, Verdict, judge};
use contract::labels::RECEIPT;
use documents::{Reason, Refusal};
use serde_json::{Value, json};

use crate::Error;
use crate::clients::cluster::{Reader, Writer};
use crate::graph::{Because, ClusterFacts, Going, Graph, remote};
use crate::object::Identity;
use crate::status::LostClaim;
use crate::wait::poll;

/// Longest time until the API server enforces a changed admission policy. It reloads policies once a
/// second (k8s.io/apiserver 0.36, `policy_source.go`, `policyRefreshIntervalDefault`). Every server of
/// a control plane reloads by itself, and a busy one takes longer.
const POLICY_MAX: Duration = Duration::from_secs(30);

/// Data policy and receipts of a Delivery's cluster.
pub(crate) struct Gate<'a> {
    pub(crate) policy: &'a DataOnDestroy,
    /// Reads and verifies the receipts. Called only if an operation would lose data, because a plan
    /// without losses must work without receipts.
    pub(crate) receipts: Box<dyn Fn() -> Result<Vec<VerifiedReceipt>, Error> + 'a>,
}

/// Lists the claims whose data `going` would lose.
pub(crate) fn losses(facts: &ClusterFacts, going: &Going) -> Vec<LostClaim> {
    let graph = Graph::new(facts);
    let lost = graph.lost(going).into_iter().map(|doomed| LostClaim {
        claim: claim_name(&doomed.id),
        uid: doomed.uid.clone(),
        because: doomed.because.to_string(),
    });
    lost.collect()
}

impl Gate<'_> {
    /// Judges `going`. The refusals name each claim that would be lost without permission.
    pub(crate) fn refusals(
        &self,
        reader: &Reader,
        facts: &ClusterFacts,
        going: &Going,
    ) -> Result<(Verdict, Vec<Refusal>), Error> {
        let loss = loss(facts, going);
        let verdict = if loss == Loss::default() {
            Verdict { closed: None, claims: Vec::new() }
        } else {
            judge(&loss, self.policy, &(self.receipts)()?, &reader.gate_facts())
        };
        let mut refusals = verdict.refusals();
        for refusal in &mut refusals {
            // The gate does not know why the claim would be deleted: add the cause.
            let doomed = going
                .values()
                .find(|doomed| doomed.is_claim() && claim_name(&doomed.id) == refusal.object);
            if let Some(doomed) = doomed {
                refusal.message = format!("{} ({})", refusal.message, doomed.because);
            }
        }
        for name in remote(facts, going) {
            refusals.push(Refusal {
                object: name.clone(),
                reason: Reason::OtherCluster,
                message: format!(
                    "{name} delivers to another cluster, whose claims are not visible from here; remove \
                     it with the tools of that cluster first"
                ),
            });
        }
        Ok((verdict, refusals))
    }

    /// Permits the deletion of `going`, or fails with every refusal. Claims, volumes and Namespaces
    /// that a receipt covers get an annotation with its digest, because the drain's hold denies their
    /// deletion without it.
    pub(crate) fn pass(
        &self,
        (reader, writer): (&Reader, &Writer),
        facts: &ClusterFacts,
        going: &Going,
    ) -> Result<(), Error> {
        let (verdict, refusals) = self.refusals(reader, facts, going)?;
        if !refusals.is_empty() {
            return Err(Error::DataAtRisk { refusals });
        }
        let mut marked = Vec::new();
        for (id, receipt) in marks(facts, going, &verdict) {
            let Some(live) = reader.get(&id)? else { continue };
            if live["metadata"]["annotations"][RECEIPT] != receipt.as_str() {
                let mark = json!({"metadata": {"annotations": {RECEIPT: receipt}}});
                writer.merge(&id, &mark)?;
            }
            marked.push(live);
        }
        marked.iter().try_for_each(|live| wait_released(writer, live))
    }
}

/// Waits until the drain's hold permits the deletion of the object. data-drain may have signed the
/// receipt a moment ago, and the API server enforces the changed policy later. Without this wait, a
/// deletion would be denied halfway.
fn wait_released(writer: &Writer, live: &Value) -> Result<(), Error> {
    let mut denied = None;
    let released = poll(POLICY_MAX, || match writer.try_delete(live) {
        Err(error @ Error::Cluster(kubernetes::Error::Denied { .. })) => {
            denied = Some(error);
            Ok(None)
        }
        other => other.map(Some),
    })?;
    match (released, denied) {
        (None, Some(error)) => Err(error),
        _ => Ok(()),
    }
}

/// Converts `going` into the loss that the gate judges.
fn loss(facts: &ClusterFacts, going: &Going) -> Loss {
    let graph = Graph::new(facts);
    let claims = graph.lost(going).into_iter().map(|doomed| claim_name(&doomed.id));
    let of_kind = |kind: &str| {
        let all = going.values();
        let all = all.filter(move |doomed| doomed.id.kind == kind && doomed.id.group().is_empty());
        all.map(|doomed| doomed.id.name.clone()).collect::<BTreeSet<_>>()
    };
    // The volume of a deleted claim is judged with that claim.
    let direct = going.values().filter(|doomed| {
        doomed.id.kind == "PersistentVolume" && !matches!(doomed.because, Because::Owner(_))
    });
    Loss {
        claims: claims.collect(),
        namespaces: of_kind("Namespace"),
        volumes: direct.map(|doomed| doomed.id.name.clone()).collect(),
        ..Loss::default()
    }
}

/// Pairs each object of a drained claim with the digest of its receipt.
fn marks(facts: &ClusterFacts, going: &Going, verdict: &Verdict) -> Vec<(Identity, String)> {
    let mut marks = Vec::new();
    for claim in &facts.claims {
        let id = Identity::of(claim);
        let Some(receipt) = verdict.receipt_of(&claim_name(&id)) else { continue };
        let volume = facts
            .volumes
            .iter()
            .find(|volume| volume["metadata"]["name"] == claim["spec"]["volumeName"]);
        marks.extend(volume.map(|volume| (Identity::of(volume), receipt.to_owned())));
        let namespace = going.values().find(|doomed| {
            doomed.id.kind == "Namespace" && Some(&doomed.id.name) == id.namespace.as_ref()
        });
        marks.extend(namespace.map(|doomed| (doomed.id.clone(), receipt.to_owned())));
        marks.push((id, receipt.to_owned()));
    }
    marks
}

pub(crate) fn claim_name(id: &Identity) -> String {
    format!("{}/{}", id.namespace.as_deref().unwrap_or_default(), id.name)
}
