//! Executes each step. Together with `may_write` of [`crate::clients::registry::writer`], the only code that writes to
//! a registry.

use std::collections::BTreeSet;

use documents::WritePermit;
use serde_json::{Value, json};

use crate::Error;
use crate::bundle;
use crate::clients::registry::writer::{Pushed, Writer};
use crate::nix::BuildResult;
use crate::observe::{Observation, Published};
use crate::oci::{Blob, Descriptor, Digest, EMPTY, MANIFEST, Package};
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
            publish(package, &session.writer(permit))
        }
        Step::Attest { statements, .. } => {
            attest(session, observation.published()?, statements, &session.writer(permit))
        }
        Step::Tag { tag, .. } => {
            let tag = tag.value().ok_or_else(documents::Error::out_of_order)?;
            let manifest = &observation.published()?.manifest;
            session.writer(permit).put(tag, MANIFEST, manifest)?;
            Ok(String::new())
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

/// Uploads the blobs that the repository lacks, then the manifest.
fn publish(package: &Package, writer: &Writer) -> Result<String, Error> {
    let mut sent = 0;
    for blob in &package.blobs {
        documents::check_interrupt()?;
        sent += usize::from(writer.push(blob)? == Pushed::Sent);
    }
    let digest = package.digest();
    writer.put(digest.as_str(), MANIFEST, &package.manifest)?;
    Ok(format!("blobs sent: {sent}, already there: {}", package.blobs.len() - sent))
}

/// Signs the statements of the kinds `about`, uploads them, and lists them as referrers.
fn attest(
    session: &Session<'_>,
    published: &Published,
    about: &BTreeSet<Predicate>,
    writer: &Writer,
) -> Result<String, Error> {
    let signing = &session.signer()?.signing;
    let subject = Descriptor::of(MANIFEST, &published.manifest);
    writer.push(&Blob::new(EMPTY, bundle::EMPTY_CONFIG.to_vec()))?;
    let mut entries = Vec::new();
    let statements = published.statements.iter();
    for (predicate, statement) in statements.filter(|(predicate, _)| about.contains(predicate)) {
        documents::check_interrupt()?;
        let bundle = signing.sign(statement);
        let referrer = bundle::referrer(&subject, *predicate, &bundle);
        let bytes = referrer.bytes();
        writer.push(&Blob::new(bundle::MEDIA_TYPE, bundle))?;
        let descriptor = Descriptor::of(MANIFEST, &bytes);
        writer.put(descriptor.digest.as_str(), MANIFEST, &bytes)?;
        let mut entry: Value = json!(descriptor);
        entry["artifactType"] = json!(referrer.artifact_type);
        entry["annotations"] = json!(referrer.annotations);
        entries.push(entry);
    }
    writer.list(&subject.digest, &entries, &[])?;
    if about.contains(&Predicate::Signature) {
        writer.sign(&subject.digest, &session.payload(&subject.digest), signing)?;
    }
    Ok(format!("key {}", signing.public.id()))
}

/// Removes the bundles, then their entries in the list. The list comes last, because an interrupted
/// `destroy` finds the remaining bundles through it.
fn detach(subject: &Digest, bundles: &[Digest], writer: &Writer) -> Result<(), Error> {
    for bundle in bundles {
        documents::check_interrupt()?;
        writer.delete(bundle)?;
    }
    writer.list(subject, &[], bundles)
}
