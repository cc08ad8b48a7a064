//! What will change: pure functions, data in, data out.

use std::collections::BTreeSet;
use std::fmt;

use documents::Deferred;
use schemars::JsonSchema;
use serde::Serialize;

use crate::oci::Digest;
use crate::statement::Predicate;

/// What is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What must be built first, when nothing that is published tells what it comes out as.
    pub build: Option<Build>,
    /// Of the manifest.
    pub digest: Deferred<Digest>,
    /// Under which it is found.
    pub tag: Deferred<String>,
    /// What must be said of it, signed.
    pub statements: BTreeSet<Predicate>,
}

/// Something to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// The path of the derivation.
    pub derivation: String,
    /// Whether to build it twice.
    pub twice: bool,
}

/// What a registry holds of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// What the tag names.
    pub tagged: Option<Digest>,
    /// Whether the manifest and all of its blobs are there.
    pub whole: bool,
    /// What is said of it, word for word as it should be, signed by us.
    pub attested: BTreeSet<Predicate>,
}

/// One manifest of ours in a registry, and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Of the manifest.
    pub digest: Digest,
    /// Whether the manifest itself is there.
    pub there: bool,
    /// Tags that name it.
    pub tags: BTreeSet<String>,
    /// Which document published it, by what our key signed.
    pub owner: Owner,
    /// The manifests of the bundles that belong to this document, in the order in which they are
    /// removed: the provenance last, because it proves whose they are.
    pub bundles: Vec<Digest>,
}

/// Which document published a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This document alone: every signed provenance names it.
    This,
    /// This document and others: their sources gave the same bytes.
    Shared,
    /// Others; or it is unknown, because no signed provenance names a document.
    Others,
}

/// One change. In a plan they come in the order in which nobody ever sees a tag that names
/// something unsigned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// Build it.
    Build {
        /// The path of the derivation.
        derivation: String,
    },
    /// Build it again, and compare.
    Rebuild {
        /// The path of the derivation.
        derivation: String,
    },
    /// Upload the blobs, and the manifest under its digest.
    Publish {
        /// Of the manifest.
        digest: Deferred<Digest>,
    },
    /// Sign statements, and upload them as referrers of the manifest.
    Attest {
        /// Of the manifest.
        digest: Deferred<Digest>,
        /// What they are about.
        statements: BTreeSet<Predicate>,
    },
    /// Make the tag name the manifest.
    Tag {
        /// Which.
        tag: Deferred<String>,
        /// What it names until now.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<Digest>,
        /// What it will name.
        to: Deferred<Digest>,
    },
    /// Remove the manifest, and the tags that name it.
    Withdraw {
        /// Of the manifest.
        digest: Digest,
        /// What names it.
        tags: BTreeSet<String>,
    },
    /// Remove the bundles that our key signed for this document.
    Detach {
        /// Of the manifest that they are about.
        digest: Digest,
        /// Their manifests.
        bundles: Vec<Digest>,
    },
}

/// The steps from `world` to one that holds `wanted`.
#[must_use]
pub fn plan(wanted: &Wanted, world: &World) -> Vec<Step> {
    let Wanted { build, digest, tag, statements } = wanted;
    let mut steps = Vec::new();
    if let Some(Build { derivation, twice }) = build {
        steps.push(Step::Build { derivation: derivation.clone() });
        if *twice {
            steps.push(Step::Rebuild { derivation: derivation.clone() });
        }
    }
    let known = digest.value();
    if known.is_none() || !world.whole {
        steps.push(Step::Publish { digest: digest.clone() });
    }
    let none = BTreeSet::new();
    let attested = if known.is_some() { &world.attested } else { &none };
    let missing: BTreeSet<_> = statements.difference(attested).copied().collect();
    if !missing.is_empty() {
        steps.push(Step::Attest { digest: digest.clone(), statements: missing });
    }
    if known.is_none() || world.tagged.as_ref() != known {
        let (tag, from) = (tag.clone(), world.tagged.clone());
        steps.push(Step::Tag { tag, from, to: digest.clone() });
    }
    steps
}

/// The steps that take away what [`plan`] made for this document, in every version of it, and
/// nothing that another document or another key published.
#[must_use]
pub fn plan_destroy(world: &[Publication]) -> Vec<Step> {
    // The manifest first: once its bundles are gone, nothing proves any more that it is ours.
    let steps = world.iter().flat_map(|Publication { digest, there, tags, owner, bundles }| {
        let withdraw = Step::Withdraw { digest: digest.clone(), tags: tags.clone() };
        let detach = Step::Detach { digest: digest.clone(), bundles: bundles.clone() };
        let withdraw = (*owner == Owner::This && *there).then_some(withdraw);
        let detach = (*owner != Owner::Others && !bundles.is_empty()).then_some(detach);
        withdraw.into_iter().chain(detach)
    });
    steps.collect()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Build { .. } => "build",
            Self::Rebuild { .. } => "rebuild",
            Self::Publish { .. } => "publish",
            Self::Attest { .. } => "attest",
            Self::Tag { .. } => "tag",
            Self::Withdraw { .. } => "withdraw",
            Self::Detach { .. } => "detach",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Predicate; 3] = [Predicate::Provenance, Predicate::Sbom, Predicate::Signature];

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn subsets() -> Vec<BTreeSet<Predicate>> {
        let subset =
            |bits: usize| (0..3).filter(|it| bits & (1 << it) != 0).map(|it| ALL[it]).collect();
        (0..8).map(subset).collect()
    }

    fn worlds() -> Vec<World> {
        let mut worlds = Vec::new();
        for tagged in [None, Some(digest("this")), Some(digest("that"))] {
            for whole in [false, true] {
                for attested in subsets() {
                    worlds.push(World { tagged: tagged.clone(), whole, attested });
                }
            }
        }
        worlds
    }

    fn wanted(statements: BTreeSet<Predicate>, digest: Deferred<Digest>) -> Wanted {
        let derivation = "/nix/store/x.drv".to_owned();
        let build = digest.value().is_none().then_some(Build { derivation, twice: true });
        Wanted { build, digest, tag: Deferred::Value("f00-1".to_owned()), statements }
    }

    /// The world after `step`. Whoever looks at it must never see a tag that names what is not
    /// wholly there and signed.
    fn after(wanted: &Wanted, mut world: World, step: &Step) -> World {
        match step {
            Step::Build { .. } | Step::Rebuild { .. } => {}
            Step::Publish { .. } => world.whole = true,
            Step::Attest { statements, .. } => world.attested.extend(statements),
            Step::Tag { to, .. } => {
                assert!(world.whole && world.attested.is_superset(&wanted.statements), "unsigned");
                world.tagged = to.value().cloned();
            }
            Step::Withdraw { .. } | Step::Detach { .. } => unreachable!("no step of a plan"),
        }
        world
    }

    #[test]
    fn a_plan_reaches_what_is_declared_then_rests_and_leaves_the_rest_alone() {
        for statements in subsets() {
            let wanted = wanted(statements, Deferred::Value(digest("this")));
            for before in worlds() {
                let steps = plan(&wanted, &before);
                let end = steps.iter().fold(before.clone(), |world, it| after(&wanted, world, it));
                assert_eq!(end.tagged, Some(digest("this")), "reaches");
                assert!(end.whole && end.attested.is_superset(&wanted.statements), "reaches");
                assert_eq!(plan(&wanted, &end), [], "rests");
                let more: BTreeSet<_> = end.attested.difference(&wanted.statements).collect();
                let before: BTreeSet<_> = before.attested.difference(&wanted.statements).collect();
                assert_eq!(more, before, "leaves alone");
            }
        }
    }

    #[test]
    fn what_is_not_built_yet_is_built_twice_whatever_is_there() {
        let wanted = wanted(ALL.into(), Deferred::AfterApply);
        for world in worlds() {
            let names: Vec<_> = plan(&wanted, &world).iter().map(ToString::to_string).collect();
            assert_eq!(names, ["build", "rebuild", "publish", "attest", "tag"]);
        }
    }

    /// Every publication: there or not, tagged or not, of every owner, with or without bundles.
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
    fn undoing_reaches_absence_then_rests_and_leaves_what_others_published() {
        let all = publications();
        for first in &all {
            for second in all.iter().filter(|second| second.digest != first.digest) {
                let before = vec![first.clone(), second.clone()];
                let mut world = before.clone();
                for step in plan_destroy(&before) {
                    match step {
                        Step::Withdraw { digest, .. } => {
                            for known in world.iter_mut().filter(|known| known.digest == digest) {
                                assert_eq!(known.owner, Owner::This, "only our own");
                                known.there = false;
                                known.tags.clear();
                            }
                        }
                        Step::Detach { digest, .. } => {
                            for known in world.iter_mut().filter(|known| known.digest == digest) {
                                assert_ne!(known.owner, Owner::Others, "only our own");
                                known.bundles.clear();
                            }
                        }
                        _ => unreachable!("no step of an undo"),
                    }
                }
                assert_eq!(plan_destroy(&world), [], "reaches, rests");
                for (before, after) in before.iter().zip(&world) {
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
