//! Overrides: fields of the documents that differ in the lab, because a vendor's service has no
//! stand-in there.

use std::path::Path;

use contract::Project;
use documents::{Overridden, Stream};

/// Merges the documents in `folder` into the documents of the same kind and name, as RFC 7386 specifies.
/// Validation errors are reported by [`Stream::accept`].
pub(crate) fn merge(stream: &mut Stream, folder: &Path) -> Vec<Overridden> {
    let overrides = Stream::read(&[folder.to_owned()]);
    let overridden = stream.override_with(overrides, json_patch::merge);
    // The programs behind `lab` would reject a wrong field too, but after other programs have created
    // resources, and without the file of the override.
    for kind in overridden.iter().map(|document| document.kind.as_str()) {
        match kind {
            "Project" => drop(stream.documents_of::<Project>()),
            "Repository" => drop(stream.documents_of::<vcs_bootstrap::spec::Repository>()),
            "Artifact" => drop(stream.documents_of::<artifact_attest::spec::Artifact>()),
            "Cluster" => drop(stream.documents_of::<talos_provision::spec::Cluster>()),
            "Delivery" => drop(stream.documents_of::<flux_seed::spec::Delivery>()),
            "Drain" => drop(stream.documents_of::<data_drain::spec::Drain>()),
            other => unreachable!("`{other}` is no kind of document, so it has no overrides"),
        }
    }
    overridden
}

/// Reports the overridden fields on standard error. Values are left out, because they may be secrets.
pub(crate) fn report(overridden: &[Overridden]) {
    for Overridden { kind, name, fields, file } in overridden {
        let fields = fields.join(", ");
        documents::note(format_args!("{kind}/{name}"), format_args!("{file} overrides {fields}"));
    }
}
