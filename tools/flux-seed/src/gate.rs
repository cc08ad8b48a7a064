//! Asks the data gate before anything goes, and marks what a hold keeps.
//!
//! Two computations must both allow a removal: [`crate::graph`] tells from all live objects which
//! claims go, and [`keyring::gate`] judges them, and what its own look at the cluster adds.

use std::collections::BTreeSet;

use documents::Refusal;
use keyring::VerifiedReceipt;
use keyring::gate::{DataOnDestroy, Loss, RECEIPT_ANNOTATION, Verdict, judge};
use serde_json::{Value, json};

use crate::Error;
use crate::cluster::{Reader, Writer};
use crate::deadline::Deadline;
use crate::graph::{Because, Facts, Going, Graph, remote};
use crate::object::Identity;
use crate::status::LostClaim;

/// Longest time in which the API server takes up a changed admission policy. It looks once a second
/// (k8s.io/apiserver 0.36, `policy_source.go`, `policyRefreshIntervalDefault`); every server of a
/// control plane looks by itself, and a busy one later.
const POLICY_SECONDS: u32 = 30;

/// What the gate needs beside the live objects.
pub(crate) struct Gate<'a> {
    pub(crate) policy: &'a DataOnDestroy,
    /// Reads and verifies the receipts, once something would go.
    pub(crate) receipts: Box<dyn Fn() -> Result<Vec<VerifiedReceipt>, Error> + 'a>,
}

/// The claims that `going` would lose.
pub(crate) fn losses(facts: &Facts, going: &Going) -> Vec<LostClaim> {
    let graph = Graph::new(facts);
    let lost = graph.lost(going).into_iter().map(|doomed| LostClaim {
        claim: claim_name(&doomed.id),
        uid: doomed.uid.clone(),
        because: doomed.because.to_string(),
    });
    lost.collect()
}

impl Gate<'_> {
    /// Every claim that `going` would lose, and why the gate does not let it go.
    pub(crate) fn refusals(
        &self,
        reader: &Reader,
        facts: &Facts,
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
            // Why the claim goes at all is for us to say.
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
                reason: "OtherCluster".to_owned(),
                message: format!(
                    "{name} delivers to another cluster, whose claims cannot be asked for; remove \
                     it with the tools of that cluster first"
                ),
            });
        }
        Ok((verdict, refusals))
    }

    /// Lets `going` go, or fails with every refusal. Claims, volumes and Namespaces that a receipt
    /// lets go are marked with it: without the mark, the drain's hold forbids their deletion.
    pub(crate) fn pass(
        &self,
        (reader, writer): (&Reader, &Writer),
        facts: &Facts,
        going: &Going,
    ) -> Result<(), Error> {
        let (verdict, refusals) = self.refusals(reader, facts, going)?;
        if !refusals.is_empty() {
            return Err(Error::DataAtRisk { refusals });
        }
        let mut marked = Vec::new();
        for (id, receipt) in marks(facts, going, &verdict) {
            let Some(live) = reader.get(&id)? else { continue };
            if live["metadata"]["annotations"][RECEIPT_ANNOTATION] != receipt.as_str() {
                let mark = json!({"metadata": {"annotations": {RECEIPT_ANNOTATION: receipt}}});
                writer.merge(&id, &mark)?;
            }
            marked.push(live);
        }
        let deadline = Deadline::after(POLICY_SECONDS);
        marked.iter().try_for_each(|live| let_go(writer, live, &deadline))
    }
}

/// Waits until the drain's hold lets the object go: the policy names a receipt that data-drain may have
/// signed a moment ago. Afterwards no deletion is denied halfway.
fn let_go(writer: &Writer, live: &Value, deadline: &Deadline) -> Result<(), Error> {
    loop {
        match writer.try_delete(live) {
            Err(denied @ Error::Denied { .. }) => match deadline.wait(Vec::new) {
                Err(Error::NotYet { .. }) => return Err(denied),
                waited => waited?,
            },
            other => return other,
        }
    }
}

/// What the operation removes, as the gate has it.
fn loss(facts: &Facts, going: &Going) -> Loss {
    let graph = Graph::new(facts);
    let claims = graph.lost(going).into_iter().map(|doomed| claim_name(&doomed.id));
    let of_kind = |kind: &str| {
        let all = going.values();
        let all = all.filter(move |doomed| doomed.id.kind == kind && doomed.id.group().is_empty());
        all.map(|doomed| doomed.id.name.clone()).collect::<BTreeSet<_>>()
    };
    // The volumes of claims that go are judged with the claims.
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

/// What must carry the digest of which receipt.
fn marks(facts: &Facts, going: &Going, verdict: &Verdict) -> Vec<(Identity, String)> {
    let mut marks = Vec::new();
    for claim in &facts.claims {
        let id = Identity::of(claim);
        let Some(receipt) = verdict.receipt_of(&claim_name(&id)) else { continue };
        let volume =
            facts.volumes.iter().find(|it| it["metadata"]["name"] == claim["spec"]["volumeName"]);
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
