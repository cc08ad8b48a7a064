//! Observes what a registry holds of a document. Only reads.

use std::collections::{BTreeMap, BTreeSet};

use documents::{Deferred, parallel_join};

use crate::Error;
use crate::build_plan::BuildPlan;
use crate::bundle::Public;
use crate::clients::registry::{Reader, Signed};
use crate::desired::Desired;
use crate::image_index;
use crate::legacy::{self, Signatures};
use crate::nix::BuildResult;
use crate::oci::{Descriptor, Digest, Manifest, Package};
use crate::parallel::{self, Job};
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
        let desired = Desired { build: None, digest, tag, tags, statements, cache: None };
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
    let (tag, tags) = (build_plan.tag()?, build_plan.tags()?);
    let made_from = made.map(|(_, built)| built);
    let inspection =
        Inspection { reader: reader.clone(), build_plan, key, made: made_from, tag: &tag };
    let new = made.map(|(package, _)| (package, package.digest()));
    let new = new.filter(|(_, digest)| !reader.is_known_whole(digest, &tag));
    let (names, manifest, state) = if let Some((package, digest)) = new {
        // The cache knows nothing, so that no answer decides about another question.
        let fresh = inspection.refreshing();
        let (about, names) = parallel_join(
            || fresh.about(&digest),
            || {
                let names = inspection.names(&tags)?;
                let whole = fresh.is_whole(&package.manifest, names.tagged.as_ref())?;
                Ok::<_, Error>((names, whole))
            },
        );
        let ((names, whole), (signed, signatures)) = (names?, about?);
        (names, package.manifest.clone(), State { whole, signed, signatures })
    } else {
        let names = inspection.names(&tags)?;
        let manifest = match (made, &names.found) {
            (Some((package, _)), _) => package.manifest.clone(),
            (None, Some(found)) => found.clone(),
            (None, None) => return Ok(inspection.unknown(tags, names)),
        };
        let digest = Digest::of(&manifest);
        // The cache counts only for a manifest that the registry has just named.
        let is_named = names.tagged.as_ref() == Some(&digest);
        let inspection = if is_named { inspection.clone() } else { inspection.refreshing() };
        let (about, whole) = parallel_join(
            || inspection.about(&digest),
            || inspection.is_whole(&manifest, names.tagged.as_ref()),
        );
        let (whole, (signed, signatures)) = (whole?, about?);
        (names, manifest, State { whole, signed, signatures })
    };
    let digest = Digest::of(&manifest);
    let State { whole, signed, signatures } = state;
    let built = match made {
        Some((_, built)) => Some(built.clone()),
        None if whole => proven_build(build_plan, &digest, &signed),
        None => None,
    };
    let Some(built) = built else { return Ok(inspection.unknown(tags, names)) };
    let statements = build_plan.statements(&digest, &built);
    let is_signed = |statement: &Vec<u8>| {
        signed.iter().any(|signed| signed.is_accepted && signed.statement == *statement)
    };
    let attested = statements.iter().filter(|(_, statement)| is_signed(statement));
    let mut attested: BTreeSet<_> = attested.map(|(predicate, _)| *predicate).collect();
    if !signatures.has(&payload(&digest), &[key]) {
        attested.remove(&Predicate::Signature);
    }
    let TaggedManifests { tagged, named, .. } = names;
    Ok(Published {
        desired: Desired {
            build: None,
            digest: Deferred::Value(digest),
            tag: Deferred::Value(tag),
            tags: tags.into_iter().map(Deferred::Value).collect(),
            statements: statements.keys().copied().collect(),
            cache: None,
        },
        actual: ActualState { tagged, named, whole, attested, cached: false },
        manifest,
        built,
        statements,
    })
}

/// Parameters of one observation.
#[derive(Clone)]
struct Inspection<'a> {
    reader: Reader,
    build_plan: &'a BuildPlan,
    key: &'a Public,
    made: Option<&'a BuildResult>,
    tag: &'a str,
}

/// Manifests that the tags name.
struct TaggedManifests {
    /// Digest that the artifact's own tag names.
    tagged: Option<Digest>,
    /// Bytes of the manifest that the artifact's own tag names.
    found: Option<Vec<u8>>,
    /// Digests that the declared tags name.
    named: BTreeMap<String, Digest>,
}

/// State of one manifest.
struct State {
    whole: bool,
    signed: Vec<Signed>,
    signatures: Signatures,
}

impl Inspection<'_> {
    fn refreshing(&self) -> Self {
        Self { reader: self.reader.clone().refreshing(), ..self.clone() }
    }

    fn names(&self, tags: &[String]) -> Result<TaggedManifests, Error> {
        let (named, found) =
            parallel_join(|| self.reader.resolve(tags), || self.reader.manifest(self.tag));
        let (tagged, found) = found?.map(|found| (found.digest, found.bytes)).unzip();
        Ok(TaggedManifests { tagged, found, named: named? })
    }

    /// Returns what is signed about a manifest, in both forms.
    fn about(&self, digest: &Digest) -> Result<(Vec<Signed>, Signatures), Error> {
        // Before a build, any published provenance may be the right one, so all are read.
        let known = self.made.map(|built| self.build_plan.statements(digest, built));
        let known = known.unwrap_or_default();
        let known: Vec<_> = known.values().map(Vec::as_slice).collect();
        let (signed, signatures) = parallel_join(
            || self.reader.signed(digest, &[self.key], &known),
            || self.reader.signatures(digest),
        );
        Ok((signed?, signatures?.unwrap_or_default()))
    }

    /// Whether the manifest exists, could be the result of the build plan, and has all of its blobs.
    /// `tagged` is the manifest that the registry has just named.
    fn is_whole(&self, manifest: &[u8], tagged: Option<&Digest>) -> Result<bool, Error> {
        let Self { reader, build_plan, tag, .. } = self;
        let digest = Digest::of(manifest);
        if reader.is_known_whole(&digest, tag) {
            return Ok(true);
        }
        if tagged != Some(&digest) && reader.manifest(digest.as_str())?.is_none() {
            return Ok(false);
        }
        if image_index::is_index(manifest) {
            // The documents of its images are ready, so their manifests are there.
            let is_there = reader.manifest(digest.as_str())?.is_some();
            let is_whole = is_there && build_plan.fits(manifest, b"");
            if is_whole {
                reader.keep_whole(&digest, tag);
            }
            return Ok(is_whole);
        }
        let Ok(Manifest { config, layers, .. }) = serde_json::from_slice(manifest) else {
            return Ok(false);
        };
        // Some registries keep the tag of a deleted manifest, so that the tag proves nothing.
        let manifest_itself: Job<'_, bool> =
            Box::new(|| Ok(reader.manifest(digest.as_str())?.is_some()));
        let has = |layer: &Descriptor| -> Job<'_, bool> {
            let digest = layer.digest.clone();
            Box::new(move || reader.has(&digest))
        };
        let is_named = tagged == Some(&digest);
        let jobs = is_named.then_some(manifest_itself).into_iter().chain(layers.iter().map(has));
        let jobs = jobs.collect();
        let (are_there, config) =
            parallel_join(|| parallel::all(jobs), || reader.blob(&config.digest));
        let (config, are_there) = (config?, are_there?);
        let fits = config.is_some_and(|config| build_plan.fits(manifest, &config));
        let is_whole = fits && are_there.into_iter().all(|is_there| is_there);
        if is_whole {
            reader.keep_whole(&digest, tag);
        }
        Ok(is_whole)
    }

    /// Returns an artifact of which nothing but its tags is known before a build.
    fn unknown(&self, tags: Vec<String>, names: TaggedManifests) -> Published {
        let desired = Desired {
            build: self.build_plan.needed_build(),
            digest: Deferred::AfterApply,
            tag: Deferred::Value(self.tag.to_owned()),
            tags: tags.into_iter().map(Deferred::Value).collect(),
            statements: self.build_plan.predicates(),
            cache: None,
        };
        Published::unknown(desired, names.tagged, names.named)
    }
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
    if image_index::is_index(manifest) {
        return Ok(0); // the documents of its images read their blobs
    }
    let manifest: Manifest = serde_json::from_slice(manifest)
        .map_err(|_| Error::Unproven { what: "the manifest is not an OCI manifest".to_owned() })?;
    let blobs = manifest.layers.iter().chain([&manifest.config]);
    let jobs = blobs.map(|blob| -> Job<'_, ()> { Box::new(move || reader.check(blob)) });
    Ok(parallel::all(jobs.collect())?.len())
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
