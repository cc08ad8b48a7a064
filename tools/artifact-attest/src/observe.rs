//! Observes what a registry holds of a document. Only reads.

use std::collections::{BTreeMap, BTreeSet};

use documents::Deferred;

use crate::Error;
use crate::build_plan::BuildPlan;
use crate::bundle::Public;
use crate::clients::registry::{Reader, Signed};
use crate::desired::Desired;
use crate::legacy;
use crate::nix::BuildResult;
use crate::oci::{Digest, Manifest, Package};
use crate::plan::{ActualState, Owner, Publication};
use crate::statement::{self, Names, Predicate, Statements};

/// Result of one observation.
#[derive(Debug)]
pub(crate) enum Observation {
    /// State of the declared artifact.
    Artifact(Box<Published>),
    /// Every publication in the repository, for a removal.
    Publications(Vec<Publication>),
}

impl Observation {
    /// Returns the state of the declared artifact.
    ///
    /// # Errors
    ///
    /// The observation was made for a removal. Only a mistake in `plan` causes this.
    pub(crate) fn published(&self) -> Result<&Published, Error> {
        match self {
            Self::Artifact(published) => Ok(published),
            Self::Publications(_) => Err(documents::Error::out_of_order().into()),
        }
    }
}

/// The declared artifact, and its state in the registry.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) desired: Desired,
    pub(crate) actual: ActualState,
    /// Bytes of the declared manifest; empty if only a build can tell.
    pub(crate) manifest: Vec<u8>,
    /// Result of the build, from this run or from a published provenance.
    pub(crate) built: BuildResult,
    /// Statements that must be signed, byte for byte; empty if only a build can tell.
    pub(crate) statements: Statements,
}

impl Published {
    /// Returns an artifact of which nothing but its tags is known before a build.
    fn unknown(desired: Desired, tagged: Option<Digest>, named: BTreeMap<String, Digest>) -> Self {
        Self {
            desired,
            actual: ActualState { tagged, named, ..ActualState::default() },
            manifest: Vec::new(),
            built: BuildResult::default(),
            statements: Statements::new(),
        }
    }

    /// Returns the artifact of a document that waits for the reference of another document.
    pub(crate) fn waiting(tags: usize) -> Self {
        let (digest, tag) = (Deferred::AfterApply, Deferred::AfterApply);
        let statements = [Predicate::Provenance, Predicate::Signature].into();
        let tags = vec![Deferred::AfterApply; tags];
        let desired = Desired { build: None, digest, tag, tags, statements };
        Self::unknown(desired, None, BTreeMap::new())
    }
}

/// Observes whether the result of `build_plan` is published.
///
/// `made` is a package that was made from `build_plan`, with the result of its build. Without it,
/// the published manifest counts if our own signed provenance binds it to `build_plan`.
pub(crate) fn observe(
    reader: &Reader,
    build_plan: &BuildPlan,
    key: &Public,
    made: Option<(&Package, &BuildResult)>,
    payload: impl Fn(&Digest) -> Vec<u8>,
) -> Result<Published, Error> {
    let tag = build_plan.tag()?;
    let found = reader.manifest(&tag)?;
    let tags = build_plan.tags()?;
    let named = reader.resolve(&tags)?;
    let tags: Vec<_> = tags.into_iter().map(Deferred::Value).collect();
    let tagged = found.as_ref().map(|found| found.digest.clone());
    let unknown = |tagged| {
        let desired = Desired {
            build: build_plan.needed_build(),
            digest: Deferred::AfterApply,
            tag: Deferred::Value(tag.clone()),
            tags: tags.clone(),
            statements: build_plan.predicates(),
        };
        Published::unknown(desired, tagged, named.clone())
    };
    let manifest = match (made, found) {
        (Some((package, _)), _) => package.manifest.clone(),
        (None, Some(found)) => found.bytes,
        (None, None) => return Ok(unknown(None)),
    };
    let digest = Digest::of(&manifest);
    // The cache counts only for a manifest that the registry has just named.
    let uncached = reader.clone().uncached();
    let reader = if tagged.as_ref() == Some(&digest) { reader } else { &uncached };
    let whole = is_whole(reader, build_plan, &tag, &digest, &manifest)?;
    // Before a build, any published provenance may be the right one, so all are read.
    let known = made.map(|(_, built)| build_plan.statements(&digest, built)).unwrap_or_default();
    let known: Vec<_> = known.values().map(Vec::as_slice).collect();
    let signed = reader.signed(&digest, &[key], &known)?;
    let built = match made {
        Some((_, built)) => Some(built.clone()),
        None if whole => proven_build(build_plan, &digest, &signed),
        None => None,
    };
    let Some(built) = built else { return Ok(unknown(tagged)) };
    let statements = build_plan.statements(&digest, &built);
    let is_signed = |statement: &Vec<u8>| {
        signed.iter().any(|signed| signed.is_accepted && signed.statement == *statement)
    };
    let attested = statements.iter().filter(|(_, statement)| is_signed(statement));
    let mut attested: BTreeSet<_> = attested.map(|(predicate, _)| *predicate).collect();
    let signatures = reader.signatures(&digest)?.unwrap_or_default();
    if !signatures.has(&payload(&digest), &[key]) {
        attested.remove(&Predicate::Signature);
    }
    Ok(Published {
        desired: Desired {
            build: None,
            digest: Deferred::Value(digest),
            tag: Deferred::Value(tag),
            tags: tags.clone(),
            statements: statements.keys().copied().collect(),
        },
        actual: ActualState { tagged, named: named.clone(), whole, attested },
        manifest,
        built,
        statements,
    })
}

/// Whether the manifest exists, could be the result of `build_plan`, and has all of its blobs.
fn is_whole(
    reader: &Reader,
    build_plan: &BuildPlan,
    tag: &str,
    digest: &Digest,
    manifest: &[u8],
) -> Result<bool, Error> {
    if reader.is_known_whole(digest, tag) {
        return Ok(true);
    }
    if reader.manifest(digest.as_str())?.is_none() {
        return Ok(false);
    }
    let Ok(Manifest { config, layers, .. }) = serde_json::from_slice(manifest) else {
        return Ok(false);
    };
    let Some(config) = reader.blob(&config.digest)? else { return Ok(false) };
    if !build_plan.fits(manifest, &config) {
        return Ok(false);
    }
    for layer in &layers {
        if !reader.has(&layer.digest)? {
            return Ok(false);
        }
    }
    reader.keep_whole(digest, tag);
    Ok(true)
}

/// Returns the build result from a signed provenance that binds this manifest to `build_plan`.
fn proven_build(build_plan: &BuildPlan, digest: &Digest, signed: &[Signed]) -> Option<BuildResult> {
    let twice = build_plan.needed_build().is_some_and(|build| build.twice);
    signed.iter().find_map(|signed| {
        let built = statement::built(&signed.statement)?;
        let expected = build_plan.statements(digest, &built);
        let is_same = expected.get(&Predicate::Provenance) == Some(&signed.statement);
        (is_same && (built.rebuilt || !twice)).then_some(built)
    })
}

/// Reads every blob of a manifest to its end, compares its digest, and returns the number of blobs.
pub(crate) fn check(reader: &Reader, manifest: &[u8]) -> Result<usize, Error> {
    let manifest: Manifest = serde_json::from_slice(manifest)
        .map_err(|_| Error::Unproven { what: "the manifest is not an OCI manifest".to_owned() })?;
    let blobs = || manifest.layers.iter().chain([&manifest.config]);
    for blob in blobs() {
        documents::check_interrupt()?;
        reader.check(blob)?;
    }
    Ok(blobs().count())
}

/// Returns the publications in the repository, each with its owner: every manifest that a tag names
/// or that a list of referrers is about, and `more`.
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
        if let Some(subject) = legacy::subject(&tag) {
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
            // A list without live entries about a missing manifest is the remainder of an
            // interrupted `destroy`.
            (owner, bundles) = (Owner::This, reader.dangling(&digest)?);
        }
        publications.push(Publication { digest, there, tags, owner, bundles });
    }
    publications.retain(|publication| publication.there || !publication.bundles.is_empty());
    Ok(publications)
}

/// Returns the owner of a manifest from the statements `signed` about it, and the bundles that belong
/// to this document alone.
fn owned(signed: &[(Digest, (Predicate, Names))]) -> (Owner, Vec<Digest>) {
    let is_named_by =
        |names| signed.iter().any(|(_, said)| *said == (Predicate::Provenance, names));
    let owner = match (is_named_by(Names::This), is_named_by(Names::Another)) {
        (true, false) => Owner::This,
        (true, true) => Owner::Shared,
        (false, _) => Owner::Others,
    };
    let is_own = |(predicate, names): &(Predicate, Names)| match owner {
        Owner::This => true,
        // Every owner shares the signature. A bill of materials with this document's name may be
        // about another system.
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
