//! Proves that the published artifact is the declared one.

use serde_json::json;

use crate::Error;
use crate::legacy;
use crate::observe::{self, Published};
use crate::oci::{Digest, Manifest};
use crate::session::Session;
use crate::status::{self, Status};
use crate::step::Step;

/// Compares the evidence with the document's, and reads every blob back. `steps` are those left.
pub(crate) fn verify(
    session: &Session<'_>,
    published: &Published,
    steps: Vec<Step>,
) -> Result<Status, Error> {
    let (document, build_plan) = (session.context.document, session.build_plan()?);
    let step = documents::step(&document.name, "verify");
    if !steps.is_empty() {
        let differences: Vec<_> = steps.iter().map(status::difference).collect();
        return Err(Error::Unproven { what: differences.join(", ") });
    }
    let earlier = &session.context.stream.status(document)["evidence"];
    if let Some(earlier) = earlier.as_array().filter(|earlier| !earlier.is_empty()) {
        let now = status::evidence(session, published);
        if let Some(changed) = now.iter().find(|evidence| !earlier.contains(&json!(evidence))) {
            let what = format!("the evidence of its {} has changed since `apply`", changed.about);
            return Err(Error::Unproven { what });
        }
    }
    let reader = session.reader();
    let blobs = observe::check(&reader, &published.manifest)?;
    let subject = Digest::of(&published.manifest);
    if let Some(found) = reader.manifest(&legacy::tag(&subject))? {
        let payload = Digest::of(&session.payload(&subject));
        let Manifest { config, layers, .. } = serde_json::from_slice(&found.bytes)
            .map_err(|_| Error::Unproven { what: "the signature is not a manifest".to_owned() })?;
        let ours = layers.iter().filter(|layer| layer.digest == payload);
        ours.chain([&config]).try_for_each(|blob| reader.check(blob))?;
    }
    if build_plan.prebuilt().is_some() {
        let manifest = serde_json::from_slice::<Manifest>(&published.manifest).ok();
        let layer = manifest.and_then(|manifest| manifest.layers.into_iter().next());
        let layer = layer.map(|layer| reader.blob(&layer.digest)).transpose()?.flatten();
        if let Some(image) = build_plan.unattested_images(&layer.unwrap_or_default())?.first() {
            let what = format!("`{image}` is published, but no Artifact attests it");
            return Err(Error::Unproven { what });
        }
    }
    step.done(format_args!("blobs read back: {blobs}, signed: {}", published.statements.len()));
    Ok(status::of(session, published, steps))
}
