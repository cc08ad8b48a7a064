//! The chain of one Delivery, from the comparison of `verify` and the statements of the documents. Pure.

use std::collections::{BTreeMap, BTreeSet};

use contract::facts::{self, ArtifactOrigin};
use documents::{Declared, Reason, Stream};
use serde_json::Value;

use super::text::{DETAILS_MAX, short};
use super::{Chain, Lane, Link, Node, State};
use crate::object::{Identity, NAMESPACE};
use crate::spec::Delivery;
use crate::step::Step;
use crate::verify::{BrokenLink, Check, CheckResult, Deliverer, Proof};

/// The comparison of one Delivery.
pub(crate) struct Comparison<'a> {
    pub(crate) spec: &'a Delivery,
    pub(crate) artifact: ArtifactReference<'a>,
    /// Objects of Flux's installation; empty if another Delivery installs Flux.
    pub(crate) installation: &'a BTreeSet<Identity>,
    pub(crate) source: (&'a Identity, Option<&'a Value>),
    pub(crate) kustomization: (&'a Identity, Option<&'a Value>),
    /// Number of objects that Flux has applied.
    pub(crate) objects: usize,
    /// Steps of the plan.
    pub(crate) left: &'a [Step],
    pub(crate) proof: &'a Proof,
}

/// An artifact by its digest.
#[derive(Clone, Copy)]
pub(crate) struct ArtifactReference<'a> {
    pub(crate) repository: &'a str,
    pub(crate) digest: &'a str,
}

/// Returns the chain of `document` with the verdict of its status.
pub(crate) fn chain(stream: &Stream, document: &Declared<Delivery>, lanes: Vec<Lane>) -> Chain {
    let condition = &stream.status(document)["conditions"][0];
    let text = |field: &str| condition[field].as_str().unwrap_or_default();
    let state = match (text("status"), text("reason")) {
        ("True", _) => State::Proven,
        (_, reason) if reason == Reason::NotConverged.as_str() => State::Pending,
        (_, reason)
            if [Reason::VerificationFailed, Reason::SignatureInvalid]
                .iter()
                .any(|known| reason == known.as_str()) =>
        {
            State::Broken
        }
        _ => State::Unchecked,
    };
    let message = format!("{}: {}", text("reason"), text("message"));
    Chain { document: format!("Delivery/{}", document.name), state, message, lanes }
}

/// Returns the lanes of a Delivery that this run could not compare. Documents may still state its origin.
pub(crate) fn unchecked_lanes(stream: &Stream, document: &Declared<Delivery>) -> Vec<Lane> {
    let spec = &document.spec;
    let name = spec.artifact.as_ref().map(AsRef::as_ref);
    let published = name.and_then(|name| facts::artifact(stream, name).ok());
    let artifact = match (&spec.source, &published) {
        (Some(source), _) => Some((source.repository.as_str(), source.digest.to_string())),
        (None, Some(facts)) => {
            facts.repository().map(|repository| (repository, facts.digest.clone()))
        }
        (None, None) => None,
    };
    let kustomization = Node {
        kind: "Kustomization".to_owned(),
        name: format!("{NAMESPACE}/{}", document.name),
        notes: vec!["not checked".to_owned()],
        ..Node::default()
    };
    let mut head = vec![Link { state: State::Unchecked, to: kustomization }];
    if let Some((repository, digest)) = &artifact {
        let artifact = ArtifactReference { repository, digest };
        head.push(Link { state: State::Unchecked, to: artifact_node(artifact, "not checked") });
        head.extend(origin(stream, name, Signature::Stated));
    }
    vec![Lane { head, rows: Vec::new() }]
}

/// Returns the lanes of a Delivery that this run has compared: the installation of Flux, and its
/// Kustomization.
pub(crate) fn compared_lanes(stream: &Stream, compared: &Comparison<'_>) -> Vec<Lane> {
    let is_installed = |check: &Check| check.by == Deliverer::Installation;
    let checks = &compared.proof.checks;
    let installation = compared.spec.flux.as_ref().map(|flux| {
        let of = |step: &&Step| compared.installation.contains(step.object());
        let (state, notes, details) = differences(compared, of, "as the release declares it");
        let (kind, name) = ("Installation".to_owned(), format!("Flux {}", flux.version));
        let node = Node { kind, name, notes, details, ..Node::default() };
        let rows = rows(stream, checks.iter().filter(|check| is_installed(check)), compared);
        Lane { head: vec![Link { state, to: node }], rows }
    });
    let mut delivered = rows(stream, checks.iter().filter(|check| !is_installed(check)), compared);
    let unreachable = compared.proof.unreachable.iter().map(|(id, why)| {
        let notes = vec![why.clone()];
        vec![Link { state: State::Broken, to: Node { notes, ..object_node(id) } }]
    });
    delivered.splice(..0, unreachable);
    let lane = Lane { head: head(stream, compared), rows: delivered };
    installation.into_iter().chain([lane]).collect()
}

/// Returns the state of a part of the declared objects, from the steps of the plan that concern the part.
fn differences(
    compared: &Comparison<'_>,
    of: impl Fn(&&Step) -> bool,
    otherwise: &str,
) -> (State, Vec<String>, Vec<String>) {
    let steps: Vec<_> = compared.left.iter().filter(of).collect();
    let is_waiting = |step: &&Step| matches!(step, Step::Reconcile { .. });
    let details = steps.iter().take(DETAILS_MAX).map(ToString::to_string).collect();
    match steps.as_slice() {
        [] => (State::Proven, vec![otherwise.to_owned()], details),
        [first, ..] if steps.iter().all(is_waiting) => {
            (State::Pending, vec![first.to_string()], details)
        }
        steps => {
            let first = steps.iter().find(|step| !is_waiting(step));
            let first = first.map_or_else(String::new, ToString::to_string);
            (State::Broken, vec![format!("differences: {}", steps.len()), first], details)
        }
    }
}

/// Returns the chain of the manifests: Kustomization, artifact, signature, provenance, commit and branch.
fn head(stream: &Stream, compared: &Comparison<'_>) -> Vec<Link> {
    let Comparison { installation, source, kustomization, proof, artifact, .. } = compared;
    let is_of_source = |step: &Step| step.object() == source.0;
    let of = |step: &&Step| !installation.contains(step.object()) && !is_of_source(step);
    let (state, mut notes, details) = differences(compared, of, "as declared");
    notes.push(format!("objects: {}", compared.objects));
    let mut head =
        vec![Link { state, to: Node { notes, details, ..object_node(kustomization.0) } }];

    let pulled = source.1.and_then(|live| live["status"]["artifact"]["revision"].as_str());
    let applied = kustomization.1.and_then(|live| live["status"]["lastAppliedRevision"].as_str());
    let (drift, drifted, _) = differences(compared, |step| is_of_source(step), "");
    let (state, note) = match (pulled, applied) {
        _ if drift != State::Proven => (drift, drifted.join("; ")),
        (Some(pulled), Some(applied)) if [pulled, applied] == [artifact.digest; 2] => {
            (State::Proven, "pulled and applied by Flux".to_owned())
        }
        (None, _) => (State::Pending, "not pulled yet".to_owned()),
        (_, None) => (State::Pending, "not applied yet".to_owned()),
        (_, Some(applied)) => (State::Pending, format!("Flux has applied {}", short(applied))),
    };
    head.push(Link { state, to: artifact_node(*artifact, &note) });

    let name = compared.spec.artifact.as_ref().map(AsRef::as_ref);
    let stated = name.and_then(|name| facts::artifact_origin(stream, name)?.key_id);
    let code = stated.map(short).unwrap_or_default();
    let (state, note) = match (&proof.refused, proof.is_signature_verified) {
        (Some(message), _) => (State::Broken, format!("Flux rejects it: {message}")),
        (None, Some(false)) => (State::Broken, "Flux reports no verified signature".to_owned()),
        (None, Some(true)) if state == State::Proven => {
            (State::Proven, "verified by Flux".to_owned())
        }
        (None, Some(true)) => (State::Unchecked, "not checked for this revision".to_owned()),
        (None, None) => (State::Unchecked, "not checked: there is no source".to_owned()),
    };
    let details = vec![note.clone(), source.0.to_string()];
    let to = Node { code, notes: vec![note], details, ..named("Signature", "declared key") };
    head.extend(origin(stream, name, Signature::Known(Link { state, to })));
    head
}

/// The link to a signature.
enum Signature {
    /// Flux has checked it.
    Known(Link),
    /// Only a document states it.
    Stated,
}

/// Returns the links from an artifact to its signature, provenance, commit and branch, as the Artifact
/// called `artifact` states them. Without a document of the artifact they are unknown.
fn origin(stream: &Stream, artifact: Option<&str>, signature: Signature) -> Vec<Link> {
    let origin = artifact.and_then(|name| Some((name, facts::artifact_origin(stream, name)?)));
    let Some((name, origin)) = origin else {
        let why = "not checked: no document states the origin".to_owned();
        let to = |kind: &str| Node { notes: vec![why.clone()], ..named(kind, "unknown") };
        return match signature {
            Signature::Known(link) => {
                vec![link, Link { state: State::Unchecked, to: to("Provenance") }]
            }
            Signature::Stated => vec![Link { state: State::Unchecked, to: to("Signature") }],
        };
    };
    let by = format!("Artifact/{name}");
    let signature = match signature {
        Signature::Known(link) => link,
        Signature::Stated => stated("Signature", origin.key_id, &by, |id| Node {
            code: short(id),
            ..named("Signature", "key")
        }),
    };
    let provenance = stated("Provenance", origin.provenance, &by, |digest| Node {
        code: short(digest),
        ..named("Provenance", "statement")
    });
    let commit = stated("Commit", origin.commit, &by, |commit| named("Commit", &short(commit)));
    vec![signature, provenance, commit, branch(&origin, &by)]
}

/// Returns the link to a fact that the document `by` states; a broken one if the document lacks the fact.
fn stated(kind: &str, fact: Option<&str>, by: &str, node: impl Fn(&str) -> Node) -> Link {
    if let Some(fact) = fact {
        let (notes, details) = (vec![format!("stated by {by}")], vec![fact.to_owned()]);
        return Link { state: State::Stated, to: Node { notes, details, ..node(fact) } };
    }
    let notes = vec![format!("{by} does not state it")];
    Link { state: State::Broken, to: Node { notes, ..named(kind, "missing") } }
}

/// Returns the link from a commit to a branch or a tag. `artifact-attest` signs only after that check,
/// unless the document says `sourceCheck: skip`, and does not say which branch.
fn branch(origin: &ArtifactOrigin<'_>, by: &str) -> Link {
    let source = origin.source.as_deref();
    let name = source.map_or("unknown", |source| {
        let source = source.trim_end_matches('/').trim_end_matches(".git");
        let start = source.rmatch_indices('/').nth(1).map_or(0, |(index, _)| index + 1);
        &source[start..]
    });
    let (state, notes) = match (origin.commit, source) {
        (None, _) => (State::Unchecked, vec!["not checked: no commit is stated".to_owned()]),
        (_, None) => (State::Unchecked, vec!["not checked: no source is stated".to_owned()]),
        _ if !origin.is_source_checked => {
            (State::Unchecked, vec![format!("not checked: {by} has sourceCheck: skip")])
        }
        _ => (State::Stated, vec!["contained the commit".to_owned(), format!("stated by {by}")]),
    };
    let details = source.map(str::to_owned).into_iter().collect();
    Link { state, to: Node { notes, details, ..named("Branch or tag", name) } }
}

/// Returns one row for each group of equal containers: the broken ones first, then by name.
fn rows<'a>(
    stream: &Stream,
    checks: impl Iterator<Item = &'a Check>,
    compared: &Comparison<'_>,
) -> Vec<Vec<Link>> {
    type Group<'a> =
        (&'a Identity, &'a str, &'a str, &'a CheckResult, &'a Option<String>, &'a Deliverer);
    let mut groups: BTreeMap<Group<'_>, Vec<&Identity>> = BTreeMap::new();
    for check in checks {
        let Check { pod, owner, by, container, image, unattested, result } = check;
        let group = (owner, container.as_str(), image.as_str(), result, unattested, by);
        groups.entry(group).or_default().push(pod);
    }
    let row = |((owner, container, image, result, unattested, by), mut pods): (
        Group<'_>,
        Vec<&Identity>,
    )| {
        pods.sort();
        let (state, why) = match (result, unattested) {
            (CheckResult::Wrong(why, BrokenLink::Manifest), _) => (State::Broken, Some(why)),
            (CheckResult::Pending(why), _) => (State::Pending, Some(why)),
            (_, Some(why)) => (State::Unchecked, Some(why)),
            (_, None) => (State::Proven, None),
        };
        let by = match by {
            Deliverer::Kustomization(id) if id != compared.kustomization.0 => {
                Some(format!("applied by {id}"))
            }
            _ => None,
        };
        let count = match pods.as_slice() {
            [pod] if has_to_be_found(result) => format!("pod {}", pod.name),
            [_] => "1 pod".to_owned(),
            pods => format!("{} pods", pods.len()),
        };
        let count =
            if container.is_empty() { count } else { format!("container {container}, {count}") };
        let notes = why.cloned().or(by).into_iter();
        let notes = [count].into_iter().chain(notes).collect();
        let details = pods.iter().take(DETAILS_MAX).map(ToString::to_string).collect();
        let mut row = vec![Link { state, to: Node { notes, details, ..object_node(owner) } }];
        if !image.is_empty() {
            row.extend(image_links(stream, image, result));
        }
        row
    };
    let mut rows: Vec<_> = groups.into_iter().map(row).collect();
    let severity = |row: &Vec<Link>| {
        let worst = row.iter().map(|link| link.state).max();
        worst.map(|state| std::cmp::Reverse(state.max(State::Unchecked)))
    };
    rows.sort_by_key(severity);
    rows
}

/// Whether a person has to look at the pod.
fn has_to_be_found(result: &CheckResult) -> bool {
    matches!(result, CheckResult::Wrong(..) | CheckResult::Pending(_))
}

/// Returns the links from a container to the `image` that its kubelet reports, and on to the image's origin.
fn image_links(stream: &Stream, image: &str, result: &CheckResult) -> Vec<Link> {
    let (repository, digest) = image.rsplit_once('@').unwrap_or((image, ""));
    let artifact = facts::artifact_of_digest(stream, digest);
    let (state, note) = match result {
        CheckResult::Attested => (
            State::Proven,
            artifact.map_or_else(String::new, |name| format!("runs Artifact/{name}")),
        ),
        CheckResult::Pinned => (State::Proven, "pinned by its manifest".to_owned()),
        CheckResult::Wrong(why, BrokenLink::Image) => (State::Broken, why.clone()),
        CheckResult::Wrong(_, BrokenLink::Manifest) => {
            (State::Unchecked, "not compared with a manifest".to_owned())
        }
        CheckResult::Pending(why) => (State::Pending, why.clone()),
    };
    let to = Node {
        code: short(digest),
        notes: vec![note],
        details: vec![image.to_owned()],
        ..named("Image", name_of(repository))
    };
    let mut links = vec![Link { state, to }];
    if artifact.is_some() {
        links.extend(origin(stream, artifact, Signature::Stated));
    } else {
        let notes = vec!["not an Artifact of the input".to_owned()];
        let to = Node { notes, ..named("Signature", "not checked") };
        links.push(Link { state: State::Unchecked, to });
    }
    links
}

fn named(kind: &str, name: &str) -> Node {
    Node { kind: kind.to_owned(), name: name.to_owned(), ..Node::default() }
}

fn object_node(id: &Identity) -> Node {
    let namespace = id.namespace.iter().map(|namespace| format!("{namespace}/"));
    named(&id.kind, &(namespace.collect::<String>() + &id.name))
}

fn artifact_node(artifact: ArtifactReference<'_>, note: &str) -> Node {
    let ArtifactReference { repository, digest } = artifact;
    Node {
        code: short(digest),
        notes: vec![note.to_owned()],
        details: vec![format!("{repository}@{digest}")],
        ..named("Artifact", name_of(repository))
    }
}

/// Returns the last part of a repository, for example `greeter`.
fn name_of(repository: &str) -> &str {
    repository.rsplit('/').next().unwrap_or(repository)
}
