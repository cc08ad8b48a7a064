//! What is there, as far as a document can speak of it. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use documents::Deferred;

use crate::Error;
use crate::build_plan::BuildPlan;
use crate::bundle::Public;
use crate::nix::BuildResult;
use crate::oci::{Digest, Manifest, Package};
use crate::plan::{Owner, Publication, Wanted, World};
use crate::registry::{Reader, Signed};
use crate::statement::{self, Names, Predicate, Statements};

/// What is wanted and what is there, side by side.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) wanted: Wanted,
    pub(crate) world: World,
    /// The manifest, as it is or as it will be; empty, if only building can tell.
    pub(crate) manifest: Vec<u8>,
    /// What building has told, now or before.
    pub(crate) built: BuildResult,
    /// Word for word, what must be said of it; empty, if only building can tell.
    pub(crate) statements: Statements,
}

/// Looks whether what `recipe` makes is published. `made` is what has just been made by it, if it
/// has; without it, what is published is believed as far as our own signature says what it was
/// made from, and what it came out as.
pub(crate) fn observe(
    reader: &Reader,
    recipe: &BuildPlan,
    key: &Public,
    made: Option<(&Package, &BuildResult)>,
) -> Result<Seen, Error> {
    let tag = recipe.tag()?;
    let found = reader.manifest(&tag)?;
    let tagged = found.as_ref().map(|it| it.digest.clone());
    let unknown = |tagged| Seen {
        wanted: Wanted {
            build: recipe.build(),
            digest: Deferred::AfterApply,
            tag: Deferred::Value(tag.clone()),
            statements: recipe.predicates(),
        },
        world: World { tagged, ..World::default() },
        manifest: Vec::new(),
        built: BuildResult::default(),
        statements: Statements::new(),
    };
    let manifest = match (made, found) {
        (Some((package, _)), _) => package.manifest.clone(),
        (None, Some(found)) => found.bytes,
        (None, None) => return Ok(unknown(None)),
    };
    let digest = Digest::of(&manifest);
    let whole = whole(reader, recipe, &digest, &manifest)?;
    // Until it is known what was built, any provenance may be the one: all are read.
    let known = made.map(|(_, built)| recipe.statements(&digest, built)).unwrap_or_default();
    let known: Vec<_> = known.values().map(Vec::as_slice).collect();
    let signed = reader.signed(&digest, &[key], &known)?;
    let built = match made {
        Some((_, built)) => Some(built.clone()),
        None if whole => proven(recipe, &digest, &signed),
        None => None,
    };
    let Some(built) = built else { return Ok(unknown(tagged)) };
    let statements = recipe.statements(&digest, &built);
    let said = |statement: &Vec<u8>| {
        signed.iter().any(|signed| signed.is_accepted && signed.statement == *statement)
    };
    let attested = statements.iter().filter(|it| said(it.1)).map(|it| *it.0).collect();
    Ok(Seen {
        wanted: Wanted {
            build: None,
            digest: Deferred::Value(digest),
            tag: Deferred::Value(tag),
            statements: statements.keys().copied().collect(),
        },
        world: World { tagged, whole, attested },
        manifest,
        built,
        statements,
    })
}

/// Whether the manifest is there, is one that `recipe` makes, and has all of its blobs.
fn whole(
    reader: &Reader,
    recipe: &BuildPlan,
    digest: &Digest,
    manifest: &[u8],
) -> Result<bool, Error> {
    if reader.manifest(digest.as_str())?.is_none() {
        return Ok(false);
    }
    let Ok(Manifest { config, layers, .. }) = serde_json::from_slice(manifest) else {
        return Ok(false);
    };
    let Some(config) = reader.blob(&config.digest)? else { return Ok(false) };
    if !recipe.fits(manifest, &config) {
        return Ok(false);
    }
    for layer in &layers {
        if !reader.has(&layer.digest)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What building told, if we have said so of this manifest, and of this recipe.
fn proven(recipe: &BuildPlan, digest: &Digest, signed: &[Signed]) -> Option<BuildResult> {
    signed.iter().find_map(|it| {
        let built = statement::built(&it.statement)?;
        let twice = recipe.build().is_some_and(|it| it.twice);
        let expected = recipe.statements(digest, &built);
        let same = expected.get(&Predicate::Provenance) == Some(&it.statement);
        (same && (built.rebuilt || !twice)).then_some(built)
    })
}

/// Reads every blob of a manifest to its end, and compares.
pub(crate) fn check(reader: &Reader, manifest: &[u8]) -> Result<usize, Error> {
    let manifest: Manifest = serde_json::from_slice(manifest)
        .map_err(|_| Error::Unproven { what: "the manifest is not one of OCI".to_owned() })?;
    let blobs = || manifest.layers.iter().chain([&manifest.config]);
    for blob in blobs() {
        documents::check_interrupt()?;
        reader.check(blob)?;
    }
    Ok(blobs().count())
}

/// Every manifest in the repository that a tag names, that others refer to, or that `more` is; and
/// which document published it.
pub(crate) fn publications(
    reader: &Reader,
    keys: &[&Public],
    names: impl Fn(&[u8]) -> (Predicate, Names),
    more: Option<Digest>,
) -> Result<Vec<Publication>, Error> {
    let mut subjects: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
    subjects.extend(more.map(|digest| (digest, BTreeSet::new())));
    for tag in reader.tags()? {
        documents::check_interrupt()?;
        if let Some(subject) = Digest::from_fallback_tag(&tag) {
            subjects.entry(subject).or_default();
        } else if let Some(found) = reader.manifest(&tag)? {
            subjects.entry(found.digest).or_default().insert(tag);
        }
    }
    let mut publications = Vec::new();
    for (digest, tags) in subjects {
        documents::check_interrupt()?;
        let there = reader.manifest(digest.as_str())?.is_some();
        let signed = reader.signed(&digest, keys, &[])?;
        let signed: Vec<_> =
            signed.into_iter().map(|signed| (signed.referrer, names(&signed.statement))).collect();
        let (mut owner, mut bundles) = owned(&signed);
        if !there && owner != Owner::Others {
            bundles.splice(0..0, reader.dangling(&digest)?);
        } else if !there && signed.is_empty() && reader.lists_nothing(&digest)? {
            // A list of nothing, about nothing: what a `destroy` left that was cut off at its end.
            (owner, bundles) = (Owner::This, reader.dangling(&digest)?);
        }
        publications.push(Publication { digest, there, tags, owner, bundles });
    }
    publications.retain(|known| known.there || !known.bundles.is_empty());
    Ok(publications)
}

/// Which document published a manifest about which all of `signed` was signed, and the bundles that
/// are that document's alone.
fn owned(signed: &[(Digest, (Predicate, Names))]) -> (Owner, Vec<Digest>) {
    let says = |names| signed.iter().any(|(_, said)| *said == (Predicate::Provenance, names));
    let owner = match (says(Names::This), says(Names::Another)) {
        (true, false) => Owner::This,
        (true, true) => Owner::Shared,
        (false, _) => Owner::Others,
    };
    let is_own = |(predicate, names): &(Predicate, Names)| match owner {
        Owner::This => true,
        // The signature is every document's; a bill of materials that bears this one's name may
        // be of another system.
        Owner::Shared => *predicate == Predicate::Provenance && *names == Names::This,
        Owner::Others => false,
    };
    let mut bundles: Vec<_> = signed.iter().filter(|(_, said)| is_own(said)).collect();
    bundles.sort_by_key(|(_, (predicate, _))| *predicate == Predicate::Provenance);
    (owner, bundles.into_iter().map(|(referrer, _)| referrer.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every set of at most three statements about one manifest.
    #[test]
    fn a_manifest_is_this_documents_only_when_no_provenance_names_another() {
        let kinds = [
            (Predicate::Provenance, Names::This),
            (Predicate::Provenance, Names::Another),
            (Predicate::Sbom, Names::This),
            (Predicate::Signature, Names::Any),
        ];
        for bits in 0..16_u8 {
            let all = kinds.iter().enumerate().filter(|(index, _)| bits & (1 << index) != 0);
            let signed: Vec<_> = all
                .map(|(index, kind)| (Digest::of(&[u8::try_from(index).unwrap_or(9)]), *kind))
                .collect();
            let (owner, bundles) = owned(&signed);
            match (bits & 1 != 0, bits & 2 != 0) {
                (true, false) => {
                    assert_eq!((owner, bundles.len()), (Owner::This, signed.len()));
                    assert_eq!(bundles.last(), Some(&Digest::of(&[0])), "the provenance last");
                }
                (true, true) => {
                    assert_eq!((owner, bundles), (Owner::Shared, vec![Digest::of(&[0])]));
                }
                (false, _) => assert_eq!((owner, bundles), (Owner::Others, vec![])),
            }
        }
    }
}
