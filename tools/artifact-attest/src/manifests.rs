//! Manifests for Flux: the files of a commit, with images pinned to attested digests.

mod images;

use std::collections::BTreeMap;
use std::io::{self, Read as _};

use serde_json::json;

use crate::Error;
use crate::image;
use crate::oci::{Blob, Descriptor, FLUX_CONFIG, FLUX_LAYER, Manifest, Package};
use crate::tree::{Files, is_yaml};
use images::images;

/// Largest published archive that is read back, in bytes.
const ARCHIVE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Returns the text of a manifest file.
fn text(content: &[u8]) -> Result<&str, String> {
    str::from_utf8(content).map_err(|_| "not UTF-8".to_owned())
}

/// Returns the YAML files among `files`.
fn yaml(files: &Files) -> impl Iterator<Item = (&String, &[u8])> {
    files.iter().filter(|(path, _)| is_yaml(path)).map(|(path, content)| (path, content.as_slice()))
}

/// Returns the validation errors of the images in `files`. Images called `listed` will be pinned.
pub(crate) fn mistakes(files: &Files, listed: &[impl AsRef<str>]) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut used = Vec::new();
    for (path, content) in yaml(files) {
        match text(content).and_then(images) {
            Err(why) => mistakes.push(format!("{path} is not YAML: {why}")),
            Ok(images) => {
                for found in images {
                    let line = found.line;
                    match &found.image {
                        None => {
                            mistakes.push(format!(
                                "{path}:{line}: the image is a YAML alias: write the image out"
                            ));
                        }
                        Some(image)
                            if !found.range.is_empty()
                                && listed.iter().any(|name| name.as_ref() == image) =>
                        {
                            used.push(image.clone());
                        }
                        Some(_) if found.is_pinned() => {}
                        Some(image) => mistakes.push(format!(
                            "{path}:{line}: `{image}` is neither pinned (@sha256: and 64 digits) nor listed here"
                        )),
                    }
                }
            }
        }
    }
    let unused = listed.iter().filter(|name| !used.iter().any(|used| used == name.as_ref()));
    mistakes.extend(unused.map(|name| format!("no manifest uses `{}`", name.as_ref())));
    mistakes
}

/// Returns `files` with every image in `references` replaced by its reference. All other bytes stay
/// as written.
pub(crate) fn pin(files: &Files, references: &BTreeMap<String, String>) -> Result<Files, Error> {
    let pin = |(path, content): (&String, &Vec<u8>)| {
        if !is_yaml(path) {
            return Ok((path.clone(), content.clone()));
        }
        let strange = |why| Error::Manifest { path: path.clone(), why };
        let mut pinned = text(content).map_err(strange)?.to_owned();
        let uses = images(&pinned).map_err(strange)?;
        for found in uses.iter().rev().filter(|found| !found.range.is_empty()) {
            if let Some(reference) = found.image.as_ref().and_then(|name| references.get(name)) {
                pinned.replace_range(found.range.clone(), reference);
            }
        }
        Ok((path.clone(), pinned.into_bytes()))
    };
    files.iter().map(pin).collect()
}

/// Annotation with the digest of the public key that signs the manifests.
///
/// The verifier of Flux's source-controller 1.9 waits without end at the bundles of two keys
/// (<https://github.com/google/go-containerregistry/issues/2369>), so each key signs a manifest of its own.
const SIGNING_KEY: &str = "io.github.zabronax.holistic.signing-key";

/// Packs `files` as an OCI artifact that Flux reads. `key` is the digest of the key that signs it.
pub(crate) fn package(files: &Files, source: &str, rev: &str, key: &str) -> Result<Package, Error> {
    let (layer, diff_id) = image::archive(files)
        .map_err(|source| Error::Unreadable { what: "the manifests".to_owned(), source })?;
    let config = crate::json::bytes(&json!({
        "architecture": "",
        "os": "",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }));
    let (config, layer) = (Blob::new(FLUX_CONFIG, config), Blob::new(FLUX_LAYER, layer));
    let [of_config, of_layer]: [Descriptor; 2] =
        [config.descriptor.clone(), layer.descriptor.clone()];
    let mut annotations = image::annotations(source, rev);
    annotations.insert(SIGNING_KEY.to_owned(), key.to_owned());
    let manifest = Manifest { annotations, ..Manifest::new(of_config, of_layer) }.bytes();
    Ok(Package { manifest, blobs: vec![layer, config] })
}

/// Returns every image in `files`, as written.
fn named(files: &Files) -> Result<Vec<String>, Error> {
    let uses = yaml(files).map(|(path, content)| {
        let uses = text(content).and_then(images);
        uses.map_err(|why| Error::Manifest { path: path.clone(), why })
    });
    let uses = uses.collect::<Result<Vec<_>, Error>>()?;
    Ok(uses.into_iter().flatten().filter_map(|found| found.image).collect())
}

/// Returns the images in a published layer that are neither in `references` nor in the source
/// `files`. Such an image is not attested.
pub(crate) fn unattested_images(
    layer: &[u8],
    files: &Files,
    references: &BTreeMap<String, String>,
) -> Result<Vec<String>, Error> {
    let mut archive = Vec::new();
    let limited =
        flate2::read::GzDecoder::new(layer).take(ARCHIVE_BYTES_MAX).read_to_end(&mut archive);
    let published = limited.and_then(|_| unpacked(&archive)).map_err(|source| {
        Error::Unreadable { what: "the published manifests".to_owned(), source }
    })?;
    let written = named(files)?;
    let mut unattested_images = named(&published)?;
    unattested_images.retain(|image| {
        !references.values().any(|known| known == image) && !written.contains(image)
    });
    Ok(unattested_images)
}

/// Returns the files of a tar archive.
fn unpacked(archive: &[u8]) -> io::Result<Files> {
    let mut files = Files::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(path, content);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "---\nkind: Deployment\nimage: elsewhere # not a container's\nspec:\n  template:\n    spec:\n      initContainers: [{name: a, image: greeter, args: [image, b]}]\n      containers:\n        # ünïcödé\n        - name: greeter\n          image: greeter   # pinned\n          env: [{name: image, value: greeter}]\n        - {name: other, image: \"busybox@sha256:0000000000000000000000000000000000000000000000000000000000000000\"}\n        - name: quoted\n          image: 'greeter'\n---\nkind: List\nitems: []\n";

    fn files(text: &str) -> Files {
        [("a.yaml".to_owned(), text.as_bytes().to_vec())].into()
    }

    #[test]
    fn pin_replaces_images_and_leaves_all_other_bytes() -> Result<(), Error> {
        let references = [("greeter".to_owned(), "127.0.0.1:5000/a/greeter@sha256:11".to_owned())];
        let pinned = pin(&files(POD), &references.into())?;
        let expected = POD
            .replace("image: greeter,", "image: 127.0.0.1:5000/a/greeter@sha256:11,")
            .replace("image: greeter ", "image: 127.0.0.1:5000/a/greeter@sha256:11 ")
            .replace("'greeter'", "127.0.0.1:5000/a/greeter@sha256:11");
        assert_eq!(pinned["a.yaml"], expected.into_bytes());
        Ok(())
    }

    #[test]
    fn an_unpinned_image_and_an_unused_name_are_errors() {
        assert_eq!(mistakes(&files(POD), &["greeter"]), [] as [String; 0]);
        let none: [&str; 0] = [];
        assert_eq!(mistakes(&files(POD), &none).len(), 3);
        assert_eq!(mistakes(&files(POD), &["greeter", "other"]), ["no manifest uses `other`"]);
        let alias = "image: &i x\ncontainers: [&a {image: x}, {image: *i}, *a, {<<: *a}]\nmore: {containers: *i}\n";
        let seen = mistakes(&files(alias), &["x"]);
        assert!(
            seen.len() == 4 && seen.iter().all(|message| message.contains("alias")),
            "{seen:?}"
        );
    }

    #[test]
    fn an_unattested_image_in_a_published_layer_is_reported() -> Result<(), Error> {
        let references = [("greeter".to_owned(), "r.example/greeter@sha256:11".to_owned())].into();
        let layer = |files: &Files| {
            image::archive(files)
                .map(|(layer, _)| layer)
                .map_err(|source| Error::Unreadable { what: String::new(), source })
        };
        let pinned = pin(&files(POD), &references)?;
        assert_eq!(
            unattested_images(&layer(&pinned)?, &files(POD), &references)?,
            [] as [String; 0]
        );
        let text = String::from_utf8_lossy(&pinned["a.yaml"]).into_owned();
        let forged = files(&text.replace("@sha256:11", "@sha256:22"));
        assert_eq!(unattested_images(&layer(&forged)?, &files(POD), &references)?.len(), 3);
        Ok(())
    }
}
