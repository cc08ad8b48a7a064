//! The only writer.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::Error;
use crate::bundle::{self, Signing};
use crate::oci::{Blob, Descriptor, Digest, EMPTY, MANIFEST, Package};
use crate::plan::Step;
use crate::statement::{Predicate, Statements};
use crate::writer::{Pushed, Writer};

/// What the steps of a plan are taken with.
pub(crate) struct Hand<'a> {
    pub(crate) document: &'a str,
    pub(crate) signing: &'a Signing,
    /// The manifest.
    pub(crate) manifest: &'a [u8],
    /// What it was read from, if something must be uploaded.
    pub(crate) package: Option<&'a Package>,
    pub(crate) statements: &'a Statements,
}

/// Takes `steps` in order, and stops at the first that fails.
pub(crate) fn apply(steps: &[Step], hand: &Hand<'_>, writer: &Writer) -> Result<(), Error> {
    for step in steps {
        documents::check_interrupt()?;
        match step {
            Step::Publish { .. } => publish(hand, writer)?,
            Step::Attest { statements, .. } => attest(statements, hand, writer)?,
            Step::Tag { tag, .. } => {
                let Some(tag) = tag.value() else { continue };
                let step = documents::step(hand.document, step);
                writer.put(tag, MANIFEST, hand.manifest)?;
                step.done(tag);
            }
            // The first two are taken before: the plan of the others depends on what comes of them.
            Step::Build { .. }
            | Step::Rebuild { .. }
            | Step::Withdraw { .. }
            | Step::Detach { .. } => {}
        }
    }
    Ok(())
}

fn publish(hand: &Hand<'_>, writer: &Writer) -> Result<(), Error> {
    let Some(package) = hand.package else { return Ok(()) };
    let step = documents::step(hand.document, "publish");
    let mut sent = 0;
    for blob in &package.blobs {
        documents::check_interrupt()?;
        sent += usize::from(writer.push(blob)? == Pushed::Sent);
    }
    let digest = package.digest();
    writer.put(digest.as_str(), MANIFEST, &package.manifest)?;
    step.done(format_args!("{digest}, blobs sent: {sent}, there: {}", package.blobs.len() - sent));
    Ok(())
}

fn attest(about: &BTreeSet<Predicate>, hand: &Hand<'_>, writer: &Writer) -> Result<(), Error> {
    let step = documents::step(hand.document, "attest");
    let subject = Descriptor::of(MANIFEST, hand.manifest);
    writer.push(&Blob::new(EMPTY, bundle::EMPTY_CONFIG.to_vec()))?;
    let mut entries = Vec::new();
    for (predicate, statement) in hand.statements.iter().filter(|it| about.contains(it.0)) {
        documents::check_interrupt()?;
        let bundle = hand.signing.sign(statement);
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
    let names: Vec<_> = about.iter().map(ToString::to_string).collect();
    step.done(names.join(", "));
    Ok(())
}

/// Takes the steps of an undo in order, and stops at the first that fails.
pub(crate) fn destroy(document: &str, steps: &[Step], writer: &Writer) -> Result<(), Error> {
    for it in steps {
        documents::check_interrupt()?;
        let step = documents::step(document, it);
        match it {
            Step::Withdraw { digest, tags } => {
                for tag in tags {
                    writer.delete_tag(tag, digest)?;
                }
                writer.delete(digest)?;
                step.done(digest);
            }
            Step::Detach { digest, bundles } => {
                detach(digest, bundles, writer)?;
                step.done(format_args!("bundles of {digest}: {}", bundles.len()));
            }
            Step::Build { .. }
            | Step::Rebuild { .. }
            | Step::Publish { .. }
            | Step::Attest { .. }
            | Step::Tag { .. } => {}
        }
    }
    Ok(())
}

/// The list last: as long as it is there, what is left of the bundles is found by it.
fn detach(subject: &Digest, bundles: &[Digest], writer: &Writer) -> Result<(), Error> {
    for bundle in bundles {
        documents::check_interrupt()?;
        writer.delete(bundle)?;
    }
    writer.list(subject, &[], bundles)
}
