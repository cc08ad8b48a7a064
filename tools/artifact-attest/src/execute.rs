//! Executes each step. Together with `may_write` of [`crate::clients::registry::writer`], the only code that writes to
//! a registry.

use std::collections::BTreeSet;

use documents::WritePermit;
use serde_json::{Value, json};

use crate::Error;
use crate::bundle;
use crate::clients::registry::Referrers;
use crate::clients::registry::writer::{Pushed, Writer};
use crate::image_index::media_type;
use crate::legacy;
use crate::nix::BuildResult;
use crate::observe::{Observation, Published};
use crate::oci::{Blob, Descriptor, Digest, EMPTY, MANIFEST, Package};
use crate::parallel::{self, Job};
use crate::session::Session;
use crate::statement::Predicate;
use crate::step::Step;

/// Values that a step hands to later steps and observations of the same run.
#[derive(Default)]
pub(crate) struct StepContext {
    /// Result of this run's build, until [`finish`] packs it.
    built: Option<BuildResult>,
    /// Image that this run built, with the result of the build.
    pub(crate) package: Option<(Package, BuildResult)>,
    /// Whether this run has passed the check that others can fetch the commit.
    pub(crate) is_contained: bool,
    /// Whether this run has uploaded the configuration of the bundles' manifests.
    has_bundle_config: bool,
}

/// Executes `step`, and returns a detail for people.
pub(crate) fn execute(
    session: &Session<'_>,
    observation: &Observation,
    step: &Step,
    step_context: &mut StepContext,
    permit: &WritePermit,
) -> Result<String, Error> {
    match step {
        Step::Build { .. } => {
            let build_plan = session.build_plan()?;
            step_context.built = Some(build_plan.build(&session.nix(), permit)?);
            Ok(build_plan.out().to_owned())
        }
        Step::Rebuild { .. } => {
            let built = step_context.built.as_mut().ok_or_else(documents::Error::out_of_order)?;
            let (nix, cache) = (session.nix(), &session.signer()?.rebuild_cache);
            let detail = session.build_plan()?.rebuild(&nix, cache, built, permit)?;
            Ok(detail.to_owned())
        }
        Step::Publish { .. } => {
            let built = step_context.package.as_ref().map(|(package, _)| package);
            let prebuilt = session.build_plan()?.prebuilt();
            let package = built.or(prebuilt).ok_or_else(documents::Error::out_of_order)?;
            let detail = publish(package, &session.writer(permit))?;
            step_context.has_bundle_config = true;
            Ok(detail)
        }
        Step::Attest { statements, .. } => {
            let published = observation.published()?;
            let has_config = step_context.has_bundle_config;
            attest(session, published, statements, has_config, &session.writer(permit))
        }
        Step::Tag { tag, .. } => {
            let tag = tag.value().ok_or_else(documents::Error::out_of_order)?;
            let manifest = &observation.published()?.manifest;
            session.writer(permit).put(tag, media_type(manifest), manifest)?;
            Ok(String::new())
        }
        Step::Cache { .. } => {
            // The store has the result of another run only until its garbage is collected.
            let built = session.build_plan()?.build(&session.nix(), permit)?;
            session.copy_to_cache(&built, observation.published()?, permit)?;
            Ok(format!("store paths: {}", built.closure.len()))
        }
        Step::Withdraw { digest, tags } => {
            let remover = session.writer(permit);
            for tag in tags {
                remover.delete_tag(tag, digest)?;
            }
            remover.delete(digest)?;
            Ok(String::new())
        }
        Step::Detach { digest, bundles, signature } => {
            let writer = session.writer(permit);
            if *signature {
                writer.unsign(digest, &session.payload(digest), &session.keys.all())?;
            }
            detach(digest, bundles, &writer)?;
            Ok(String::new())
        }
    }
}

/// Packs what a round has built. The digest is known afterwards.
pub(crate) fn finish(session: &Session<'_>, step_context: &mut StepContext) -> Result<(), Error> {
    let Some(built) = step_context.built.take() else { return Ok(()) };
    documents::check_interrupt()?;
    let package = session.build_plan()?.pack(&built)?;
    step_context.package = Some((package, built));
    Ok(())
}

/// Uploads the blobs that the repository lacks, then the manifest. The configuration of the bundles'
/// manifests goes with them, because here it costs no round trip of its own.
fn publish(package: &Package, writer: &Writer) -> Result<String, Error> {
    let config = bundle_config();
    let blobs = package.blobs.iter().chain([&config]);
    let pushed = parallel::all(blobs.map(|blob| push(writer, blob)).collect())?;
    let own = &pushed[..package.blobs.len()];
    let sent = own.iter().filter(|pushed| **pushed == Pushed::Sent).count();
    let digest = package.digest();
    writer.put(digest.as_str(), media_type(&package.manifest), &package.manifest)?;
    Ok(format!("blobs sent: {sent}, already there: {}", own.len() - sent))
}

fn bundle_config() -> Blob {
    Blob::new(EMPTY, bundle::EMPTY_CONFIG.to_vec())
}

fn push<'a>(writer: &'a Writer, blob: &'a Blob) -> Job<'a, Pushed> {
    Box::new(move || writer.push(blob))
}

/// A signed statement, ready to be published.
struct Referrer {
    bundle: Blob,
    manifest: Vec<u8>,
    /// Entry in the list of referrers.
    entry: Value,
}

/// Signs the statements of the kinds `about`, uploads them, and lists them as referrers.
///
/// ```text
/// bundles ─┐
/// payload ─┼─► manifests, the list is read ─► list
/// older signatures: read, configuration ─┘
/// ```
fn attest(
    session: &Session<'_>,
    published: &Published,
    about: &BTreeSet<Predicate>,
    has_bundle_config: bool,
    writer: &Writer,
) -> Result<String, Error> {
    let signing = &session.signer()?.signing;
    let subject = Descriptor::of(media_type(&published.manifest), &published.manifest);
    let digest = &subject.digest;
    let statements = published.statements.iter();
    let statements = statements.filter(|(predicate, _)| about.contains(predicate));
    let referrer = |(predicate, statement): (&Predicate, &Vec<u8>)| {
        let bundle = signing.sign(statement);
        let referrer = bundle::referrer(&subject, *predicate, &bundle);
        let manifest = referrer.bytes();
        let mut entry = json!(Descriptor::of(MANIFEST, &manifest));
        entry["artifactType"] = json!(referrer.artifact_type);
        entry["annotations"] = json!(referrer.annotations);
        Referrer { bundle: Blob::new(bundle::MEDIA_TYPE, bundle), manifest, entry }
    };
    let referrers: Vec<_> = statements.map(referrer).collect();
    let payload = session.payload(digest);
    let is_signature = about.contains(&Predicate::Signature);

    // Registries reject a manifest whose blobs are missing.
    let (config, layer) = (bundle_config(), Blob::new(legacy::PAYLOAD, payload.clone()));
    let config = (!has_bundle_config).then_some(&config);
    let layer = is_signature.then_some(&layer);
    let bundles = referrers.iter().map(|referrer| &referrer.bundle);
    let blobs = config.into_iter().chain(layer).chain(bundles);
    // The longest job first.
    let mut jobs: Vec<Job<'_, Option<Vec<u8>>>> = Vec::new();
    if is_signature {
        jobs.push(Box::new(|| writer.prepare_signatures(digest, &payload, signing)));
    }
    jobs.extend(blobs.map(|blob| -> Job<'_, Option<Vec<u8>>> {
        Box::new(move || writer.push(blob).map(|_| None))
    }));
    let signatures = parallel::all(jobs)?.into_iter().flatten().next();

    let mut jobs: Vec<Job<'_, Option<Referrers>>> = vec![Box::new(|| writer.known_list(digest))];
    jobs.extend(referrers.iter().map(|Referrer { manifest, .. }| -> Job<'_, Option<Referrers>> {
        let name = Digest::of(manifest);
        Box::new(move || writer.put(name.as_str(), MANIFEST, manifest).map(|()| None))
    }));
    jobs.extend(signatures.iter().map(|manifest| -> Job<'_, Option<Referrers>> {
        Box::new(move || writer.put_signatures(digest, manifest).map(|()| None))
    }));
    let known = parallel::all(jobs)?.into_iter().flatten().next();
    let entries: Vec<_> = referrers.into_iter().map(|referrer| referrer.entry).collect();
    writer.list(digest, &entries, &[], known)?;
    Ok(format!("key {}", signing.public.id()))
}

/// Removes the bundles, then their entries in the list. The list comes last, because an interrupted
/// `destroy` finds the remaining bundles through it.
fn detach(subject: &Digest, bundles: &[Digest], writer: &Writer) -> Result<(), Error> {
    for bundle in bundles {
        documents::check_interrupt()?;
        writer.delete(bundle)?;
    }
    writer.list(subject, &[], bundles, None)
}
