//! Plans the steps to the declared state, or to its absence. Pure functions of values.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::{Build, CachedPath, Desired};
use crate::oci::Digest;
use crate::statement::Predicate;
use crate::step::Step;

/// State of one artifact in a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActualState {
    /// Digest that the tag names; `None` when the tag does not exist.
    pub tagged: Option<Digest>,
    /// Digests that the declared tags name, by tag.
    pub named: BTreeMap<String, Digest>,
    /// Whether the manifest and all of its blobs exist.
    pub whole: bool,
    /// Statements that exist byte for byte as declared, signed by the current key.
    pub attested: BTreeSet<Predicate>,
    /// Whether the binary cache has the build result, with a signature of the project's key.
    pub cached: bool,
}

/// A manifest in a registry, with the signed statements about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Whether the manifest itself exists. Statements may outlive it.
    pub there: bool,
    /// Tags that name the manifest.
    pub tags: BTreeSet<String>,
    /// Owner of the manifest, proven by what our key signed.
    pub owner: Owner,
    /// Digests of the bundles' manifests that belong to this document, in the order in which they
    /// are removed: the provenance last, because it proves the owner.
    pub bundles: Vec<Digest>,
}

/// Document that published a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This document alone: every signed provenance names it.
    This,
    /// This document and others, because their sources gave the same bytes.
    Shared,
    /// Others. Also a manifest without a signed provenance that names a document.
    Others,
}

/// Returns the steps from `actual` to one that holds `desired`.
#[must_use]
pub fn plan(desired: &Desired, actual: &ActualState) -> Vec<Step> {
    let Desired { build, digest, tag, tags, statements, cache } = desired;
    let mut steps = Vec::new();
    if let Some(Build { derivation, twice }) = build {
        steps.push(Step::Build { derivation: derivation.clone() });
        if *twice {
            steps.push(Step::Rebuild { derivation: derivation.clone() });
        }
    }
    let known = digest.value();
    if known.is_none() || !actual.whole {
        steps.push(Step::Publish { digest: digest.clone() });
    }
    let none = BTreeSet::new();
    let attested = if known.is_some() { &actual.attested } else { &none };
    let missing: BTreeSet<_> = statements.difference(attested).copied().collect();
    if !missing.is_empty() {
        steps.push(Step::Attest { digest: digest.clone(), statements: missing });
    }
    if known.is_none() || actual.tagged.as_ref() != known {
        let (tag, from) = (tag.clone(), actual.tagged.clone());
        steps.push(Step::Tag { tag, from, to: digest.clone() });
    }
    for tag in tags {
        let from = tag.value().and_then(|tag| actual.named.get(tag)).cloned();
        if known.is_none() || from.as_ref() != known {
            steps.push(Step::Tag { tag: tag.clone(), from, to: digest.clone() });
        }
    }
    if let Some(CachedPath { path, cache }) = cache
        && !actual.cached
    {
        steps.push(Step::Cache { path: path.clone(), cache: cache.clone() });
    }
    steps
}

/// Returns the steps that remove what [`plan`] made for this document, in every version of it.
/// Publications of other documents and other keys stay.
#[must_use]
pub fn plan_destroy(actual: &[Publication]) -> Vec<Step> {
    // The manifest first, because its bundles are the only proof of its owner.
    let steps = actual.iter().flat_map(|Publication { digest, there, tags, owner, bundles }| {
        let withdraw = Step::Withdraw { digest: digest.clone(), tags: tags.clone() };
        let signature = *owner == Owner::This;
        let detach = Step::Detach { digest: digest.clone(), bundles: bundles.clone(), signature };
        let withdraw = (*owner == Owner::This && *there).then_some(withdraw);
        let detach = (*owner != Owner::Others && !bundles.is_empty()).then_some(detach);
        withdraw.into_iter().chain(detach)
    });
    steps.collect()
}

/// Returns the number of first steps that are executed before the next observation: the builds
/// alone, because every later step depends on their result; otherwise all.
#[must_use]
pub fn batch(steps: &[Step]) -> usize {
    let is_build = |step: &&Step| matches!(step, Step::Build { .. } | Step::Rebuild { .. });
    match steps.iter().take_while(is_build).count() {
        0 => steps.len(),
        builds => builds,
    }
}

/// Whether one of `steps` signs that the artifact was made from its source.
#[must_use]
pub fn signs_provenance(steps: &[Step]) -> bool {
    steps.iter().any(|step| match step {
        Step::Attest { statements, .. } => statements.contains(&Predicate::Provenance),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use documents::Deferred;

    use super::*;

    const ALL: [Predicate; 3] = [Predicate::Provenance, Predicate::Sbom, Predicate::Signature];

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn subsets() -> Vec<BTreeSet<Predicate>> {
        let subset = |bits: usize| {
            let chosen = ALL.iter().enumerate().filter(|(index, _)| bits & (1 << index) != 0);
            chosen.map(|(_, predicate)| *predicate).collect()
        };
        (0..8).map(subset).collect()
    }

    fn worlds() -> Vec<ActualState> {
        let mut worlds = Vec::new();
        for tagged in [None, Some(digest("this")), Some(digest("that"))] {
            for whole in [false, true] {
                for attested in subsets() {
                    for latest in [None, Some(digest("this")), Some(digest("that"))] {
                        let named = latest.map(|digest| ("latest".to_owned(), digest));
                        let named: BTreeMap<_, _> = named.into_iter().collect();
                        for cached in [false, true] {
                            let (tagged, named, attested) =
                                (tagged.clone(), named.clone(), attested.clone());
                            worlds.push(ActualState { tagged, named, whole, attested, cached });
                        }
                    }
                }
            }
        }
        worlds
    }

    fn desired(statements: BTreeSet<Predicate>, digest: Deferred<Digest>) -> Desired {
        let derivation = "/nix/store/x.drv".to_owned();
        let build = digest.value().is_none().then_some(Build { derivation, twice: true });
        let tag = |name: &str| Deferred::Value(name.to_owned());
        let tags = vec![tag("v1"), tag("latest")];
        let (path, cache) = ("/nix/store/x".to_owned(), "file:///cache".to_owned());
        let cache = Some(CachedPath { path, cache });
        Desired { build, digest, tag: tag("f00-1"), tags, statements, cache }
    }

    /// Returns the world after `step`, and asserts that no tag names an incomplete or unsigned
    /// manifest.
    fn after(desired: &Desired, mut actual: ActualState, step: &Step) -> ActualState {
        match step {
            Step::Build { .. } | Step::Rebuild { .. } => {}
            Step::Publish { .. } => actual.whole = true,
            Step::Attest { statements, .. } => actual.attested.extend(statements),
            Step::Tag { tag, to, .. } => {
                assert!(
                    actual.whole && actual.attested.is_superset(&desired.statements),
                    "unsigned"
                );
                let to = to.value().cloned();
                match tag.value().map(String::as_str) {
                    Some("f00-1") => actual.tagged = to,
                    tag => actual.named.extend(tag.map(str::to_owned).zip(to)),
                }
            }
            Step::Cache { .. } => {
                assert!(actual.whole, "the image comes first");
                actual.cached = true;
            }
            Step::Withdraw { .. } | Step::Detach { .. } => unreachable!("no step of a plan"),
        }
        actual
    }

    #[test]
    fn a_plan_reaches_what_is_declared_then_rests_and_leaves_the_rest_alone() {
        for statements in subsets() {
            let desired = desired(statements, Deferred::Value(digest("this")));
            for before in worlds() {
                let steps = plan(&desired, &before);
                let end =
                    steps.iter().fold(before.clone(), |actual, step| after(&desired, actual, step));
                assert_eq!(end.tagged, Some(digest("this")), "reaches");
                let names = ["latest", "v1"].map(|name| (name.to_owned(), digest("this")));
                assert_eq!(end.named, names.into(), "reaches");
                assert!(end.whole && end.attested.is_superset(&desired.statements), "reaches");
                assert!(end.cached, "reaches");
                let undeclared = Desired { cache: None, ..desired.clone() };
                let is_cache = |step: &Step| matches!(step, Step::Cache { .. });
                assert!(!plan(&undeclared, &before).iter().any(is_cache), "only if declared");
                assert_eq!(plan(&desired, &end), [], "rests");
                let more: BTreeSet<_> = end.attested.difference(&desired.statements).collect();
                let before: BTreeSet<_> = before.attested.difference(&desired.statements).collect();
                assert_eq!(more, before, "leaves alone");
            }
        }
    }

    #[test]
    fn plan_builds_twice_and_repeats_every_step_while_the_digest_is_unknown() {
        let desired = desired(ALL.into(), Deferred::AfterApply);
        for actual in worlds() {
            let mut steps = plan(&desired, &actual);
            let last = steps.pop_if(|step| matches!(step, Step::Cache { .. }));
            assert_eq!(last.is_some(), !actual.cached);
            assert!(matches!(
                steps.as_slice(),
                [
                    Step::Build { .. },
                    Step::Rebuild { .. },
                    Step::Publish { digest: Deferred::AfterApply },
                    Step::Attest { digest: Deferred::AfterApply, .. },
                    Step::Tag { to: Deferred::AfterApply, .. },
                    Step::Tag { to: Deferred::AfterApply, .. },
                    Step::Tag { to: Deferred::AfterApply, .. },
                ]
            ));
        }
    }

    /// Whether `executed` is the step `shown`. A value that the first plan did not know equals any
    /// value, and of the statements about an unknown manifest, some may exist.
    fn is_same(shown: &Step, executed: &Step) -> bool {
        fn equals<T: PartialEq>(shown: &Deferred<T>, executed: &Deferred<T>) -> bool {
            shown.value().is_none() || shown == executed
        }
        match (shown, executed) {
            (Step::Publish { digest: shown }, Step::Publish { digest }) => equals(shown, digest),
            (
                Step::Attest { digest: Deferred::AfterApply, statements: shown },
                Step::Attest { statements, .. },
            ) => statements.is_subset(shown),
            (
                Step::Tag { tag: shown_tag, from: shown_from, to: shown_to },
                Step::Tag { tag, from, to },
            ) => equals(shown_tag, tag) && shown_from == from && equals(shown_to, to),
            (shown, executed) => shown == executed,
        }
    }

    /// Executes batches until the plan is empty, as the engine does. A build reveals the digest.
    /// Returns the executed steps.
    fn run(mut desired: Desired, mut actual: ActualState) -> Vec<Step> {
        let mut executed = Vec::new();
        loop {
            let steps = plan(&desired, &actual);
            if steps.is_empty() {
                return executed;
            }
            for step in &steps[..batch(&steps)] {
                if matches!(step, Step::Build { .. } | Step::Rebuild { .. }) {
                    desired.digest = Deferred::Value(digest("this"));
                    desired.build = None;
                }
                actual = after(&desired, actual, step);
                executed.push(step.clone());
            }
        }
    }

    #[test]
    fn executed_steps_are_the_steps_that_the_first_plan_showed_in_order() {
        let known = Deferred::Value(digest("this"));
        for statements in subsets() {
            for actual in worlds() {
                let desired = desired(statements.clone(), known.clone());
                assert_eq!(run(desired.clone(), actual.clone()), plan(&desired, &actual));
            }
        }
    }

    /// Before a build, a plan shows every later step. A step whose result turns out to exist, for
    /// example because an earlier run was interrupted before its tag, is not executed.
    #[test]
    fn executed_steps_after_a_build_are_those_shown_except_for_results_that_exist() {
        for statements in subsets() {
            for actual in worlds() {
                let unknown = desired(statements.clone(), Deferred::AfterApply);
                let known = desired(statements.clone(), Deferred::Value(digest("this")));
                let (shown, executed) = (plan(&unknown, &actual), run(unknown, actual.clone()));
                let mut rest = shown.iter();
                for step in &executed {
                    assert!(rest.any(|shown| is_same(shown, step)), "{step}: not in {shown:?}");
                }
                let missing = plan(&known, &actual);
                assert_eq!(executed[2..], missing, "builds, then what the registry lacks");
                let is_tagged = actual.tagged.is_some() || !actual.named.is_empty();
                if !actual.whole && actual.attested.is_empty() && !is_tagged && !actual.cached {
                    assert_eq!(executed.len(), shown.len());
                }
            }
        }
    }

    #[test]
    fn batch_is_never_empty_and_never_mixes_builds_with_writes() {
        for statements in subsets() {
            for digest in [Deferred::AfterApply, Deferred::Value(digest("this"))] {
                let desired = desired(statements.clone(), digest);
                for actual in worlds() {
                    let steps = plan(&desired, &actual);
                    let count = batch(&steps);
                    assert!(steps.is_empty() || count > 0);
                    let is_build =
                        |step: &Step| matches!(step, Step::Build { .. } | Step::Rebuild { .. });
                    let builds = steps[..count].iter().filter(|step| is_build(step)).count();
                    assert!(builds == 0 || builds == count);
                }
            }
        }
    }

    /// Returns every combination of existence, tags, owner and bundles.
    fn publications() -> Vec<Publication> {
        let mut all = Vec::new();
        for owner in [Owner::This, Owner::Shared, Owner::Others] {
            for bits in 0..8 {
                let bundles: Vec<_> =
                    (bits & 1 != 0).then(|| digest("bundle")).into_iter().collect();
                let tags = (bits & 4 != 0).then(|| "tag".to_owned()).into_iter().collect();
                let (digest, there) = (digest(&format!("{owner:?} {bits}")), bits & 2 != 0);
                all.push(Publication { digest, there, tags, owner, bundles });
            }
        }
        all
    }

    #[test]
    fn removal_reaches_absence_then_is_empty_and_leaves_publications_of_others() {
        let all = publications();
        for first in &all {
            for second in all.iter().filter(|second| second.digest != first.digest) {
                let before = vec![first.clone(), second.clone()];
                let mut actual = before.clone();
                for step in plan_destroy(&before) {
                    match step {
                        Step::Withdraw { digest, .. } => {
                            for known in actual.iter_mut().filter(|known| known.digest == digest) {
                                assert_eq!(known.owner, Owner::This, "only our own");
                                known.there = false;
                                known.tags.clear();
                            }
                        }
                        Step::Detach { digest, .. } => {
                            for known in actual.iter_mut().filter(|known| known.digest == digest) {
                                assert_ne!(known.owner, Owner::Others, "only our own");
                                known.bundles.clear();
                            }
                        }
                        _ => unreachable!("no step of a removal"),
                    }
                }
                assert_eq!(plan_destroy(&actual), [], "reaches, rests");
                for (before, after) in before.iter().zip(&actual) {
                    match before.owner {
                        Owner::This => assert!(!after.there && after.bundles.is_empty(), "reaches"),
                        Owner::Shared => {
                            assert_eq!((after.there, &after.tags), (before.there, &before.tags));
                        }
                        Owner::Others => assert_eq!(before, after, "leaves alone"),
                    }
                }
            }
        }
    }
}
