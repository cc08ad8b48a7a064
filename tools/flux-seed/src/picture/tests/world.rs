//! A delivered world whose links can be broken one by one.

use std::collections::BTreeSet;

use documents::{Condition, Declared, Reason, Stream};
use serde_json::{Value, json};

use crate::object::Identity;
use crate::picture::{ArtifactReference, Chain, Comparison, Picture, chain, compared_lanes};
use crate::spec::Delivery;
use crate::status::Status;
use crate::step::Step;
use crate::verify::{BrokenLink, Check, CheckResult, Deliverer, Proof};

pub(super) const COMMIT: &str = "f36cf9b5e1d08a7c2b4f6a9d3e5c7b1a0f8d6e4c";

/// A link that the documents or the comparison can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    Drift,
    SourceDrift,
    Unverified,
    SetByHand,
    OtherImage,
    NoSignature,
    NoProvenance,
    NoCommit,
    NoProvenanceOfManifests,
}

impl Fault {
    pub(super) const ALL: [Self; 9] = [
        Self::Drift,
        Self::SourceDrift,
        Self::Unverified,
        Self::SetByHand,
        Self::OtherImage,
        Self::NoSignature,
        Self::NoProvenance,
        Self::NoCommit,
        Self::NoProvenanceOfManifests,
    ];

    /// Returns kind and name of the box to which the broken link leads.
    pub(super) fn broken_box(self) -> &'static str {
        match self {
            Self::Drift => "Kustomization flux-system/prod",
            Self::SourceDrift => "Artifact deployments",
            Self::Unverified => "Signature declared key",
            Self::SetByHand => "Deployment default/shop",
            Self::OtherImage => "Image cache",
            Self::NoSignature => "Signature missing",
            Self::NoProvenance | Self::NoProvenanceOfManifests => "Provenance missing",
            Self::NoCommit => "Commit missing",
        }
    }
}

pub(super) fn digest(letter: char) -> String {
    let digits = format!("{letter}3b7e09c5d21").repeat(6);
    format!("sha256:{}", &digits[..64])
}

fn id(api_version: &str, kind: &str, name: &str) -> Identity {
    let (namespace, name) = name.split_once('/').expect("a namespace");
    let (api_version, kind) = (api_version.to_owned(), kind.to_owned());
    Identity { api_version, kind, namespace: Some(namespace.to_owned()), name: name.to_owned() }
}

fn artifact(name: &str, letter: char, evidence: &[Value]) -> Value {
    let reference = format!("ghcr.io/zabronax/{name}@{}", digest(letter));
    json!({"apiVersion": "holistic/v1alpha1", "kind": "Artifact", "metadata": {"name": name},
    "spec": {"project": "holistic", "source": "https://github.com/zabronax/holistic"},
    "status": {
        "conditions": [{"type": "Ready", "status": "True", "reason": "Published", "message": ""}],
        "observed": {"reference": reference, "digest": digest(letter), "publicKey": "a key"},
        "evidence": evidence,
    }})
}

/// Reads the documents of the world.
pub(super) fn stream(faults: &BTreeSet<Fault>) -> Stream {
    let commit = json!({"type": "source", "gitCommit": COMMIT});
    let provenance = json!({"type": "provenance", "sha256": "9b1c7d".repeat(10)});
    let signature = json!({"type": "signature", "keyId": "3f2a91c0d4e5".repeat(5)});
    let stated = |missing: &[(&Value, Fault)]| -> Vec<Value> {
        let there = missing.iter().filter(|(_, fault)| !faults.contains(fault));
        there.map(|(fact, _)| (*fact).clone()).collect()
    };
    let of_image = stated(&[
        (&commit, Fault::NoCommit),
        (&provenance, Fault::NoProvenance),
        (&signature, Fault::NoSignature),
    ]);
    let mut of_manifests = stated(&[(&provenance, Fault::NoProvenanceOfManifests)]);
    of_manifests.extend([commit, signature]);
    let delivery = json!({"apiVersion": "holistic/v1alpha1", "kind": "Delivery", "metadata": {"name": "prod"},
        "spec": {"cluster": "prod", "artifact": "deployments", "flux": {"version": "2.9.5"}}});
    let documents = [
        artifact("deployments", 'd', &of_manifests),
        artifact("greeter", 'a', &of_image),
        delivery,
    ];
    read(&documents)
}

pub(super) fn read(documents: &[Value]) -> Stream {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("documents.json");
    let text = documents.iter().map(|document| format!("{document}\n"));
    std::fs::write(&file, text.collect::<String>()).expect("written");
    Stream::read(&[file])
}

/// Returns the check of one container of the Deployment `name`.
pub(super) fn check(name: &str, pod: &str, image: &str, result: CheckResult) -> Check {
    Check {
        pod: id("v1", "Pod", &format!("{name}-{pod}")),
        owner: id("apps/v1", "Deployment", name),
        by: Deliverer::Kustomization(kustomization()),
        container: name.split_once('/').expect("a namespace").1.to_owned(),
        image: image.to_owned(),
        unattested: None,
        result,
    }
}

pub(super) fn kustomization() -> Identity {
    id("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "flux-system/prod")
}

pub(super) fn source() -> Identity {
    id("source.toolkit.fluxcd.io/v1", "OCIRepository", "flux-system/prod")
}

/// Containers that run in every world: an artifact, an image of others, and a controller of Flux.
fn checks(faults: &BTreeSet<Fault>) -> Vec<Check> {
    let (greeter, proxy) = (
        format!("ghcr.io/zabronax/greeter@{}", digest('a')),
        format!("docker.io/library/proxy@{}", digest('b')),
    );
    let cache = format!("docker.io/library/cache@{}", digest('c'));
    let controller = format!("ghcr.io/fluxcd/source-controller@{}", digest('e'));
    let mut checks: Vec<_> = ["5f6", "9xk", "q2w"]
        .map(|pod| check("default/greeter", pod, &greeter, CheckResult::Attested))
        .into();
    checks.push(check("default/proxy", "7d5", &proxy, CheckResult::Pinned));
    let installed = check("flux-system/flux", "0", &controller, CheckResult::Pinned);
    let container = "source-controller".to_owned();
    checks.push(Check { by: Deliverer::Installation, container, ..installed });
    if faults.contains(&Fault::SetByHand) {
        let why = "its image was set by kubectl-set instead of Flux".to_owned();
        let result = CheckResult::Wrong(why, BrokenLink::Manifest);
        checks.push(check("default/shop", "1", &proxy, result));
    }
    if faults.contains(&Fault::OtherImage) {
        let why = format!("its manifest names docker.io/library/cache:7@{}", digest('f'));
        checks.push(check(
            "default/cache",
            "1",
            &cache,
            CheckResult::Wrong(why, BrokenLink::Image),
        ));
    }
    checks
}

/// Compares the world of `faults`, with more checks.
pub(super) fn world(faults: &BTreeSet<Fault>, more: &[Check]) -> Chain {
    let mut checks = checks(faults);
    checks.extend_from_slice(more);
    let is_verified = !faults.contains(&Fault::Unverified);
    drawn(faults, &Proof { checks, is_signature_verified: Some(is_verified), ..Proof::default() })
}

/// Returns the chain of a comparison with this result.
pub(super) fn drawn(faults: &BTreeSet<Fault>, proof: &Proof) -> Chain {
    let step =
        |object: Identity, field: &str| Step::Update { object, changed: vec![field.to_owned()] };
    let left =
        [(Fault::Drift, kustomization(), "spec.path"), (Fault::SourceDrift, source(), "spec.url")];
    let left = left.into_iter().filter(|(fault, ..)| faults.contains(fault));
    let left: Vec<_> = left.map(|(_, object, field)| step(object, field)).collect();
    drawn_after(faults, proof, &left)
}

/// Returns the chain of a comparison with this result, for which these steps are left.
pub(super) fn drawn_after(faults: &BTreeSet<Fault>, proof: &Proof, left: &[Step]) -> Chain {
    let mut stream = stream(faults);
    let declared = stream.documents_of::<Delivery>();
    let document: &Declared<Delivery> = declared.first().expect("a Delivery");
    let live_source = json!({"status": {"artifact": {"revision": digest('d')}}});
    let live = json!({"status": {"lastAppliedRevision": digest('d')}});
    let (source, kustomization, digest) = (source(), kustomization(), digest('d'));
    let compared = Comparison {
        spec: &document.spec,
        artifact: ArtifactReference { repository: "ghcr.io/zabronax/deployments", digest: &digest },
        installation: &BTreeSet::new(),
        source: (&source, Some(&live_source)),
        kustomization: (&kustomization, Some(&live)),
        objects: 12,
        left,
        proof,
    };
    let lanes = compared_lanes(&stream, &compared);
    let revision = "Kustomization flux-system/prod delivers the declared revision to Cluster/prod";
    let ready = if faults.is_empty() && proof.refused.is_none() {
        Condition::ready(true, Reason::Verified, revision)
    } else {
        Condition::ready(false, Reason::VerificationFailed, "not proven: see the broken links")
    };
    stream.set_status(document, &Status::new(ready));
    chain(&stream, document, lanes)
}

pub(super) fn picture(chain: Chain) -> Picture {
    Picture { chains: vec![chain] }
}
