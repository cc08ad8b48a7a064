//! Image index: one reference for the images of several platforms.
//!
//! Every image is published by its own document, because each has its own derivation, provenance and bill of
//! materials, and often its own build machine. The index adds nothing but the list.

use std::collections::BTreeMap;

use contract::facts::ImageFacts;
use serde::Serialize;
use serde_json::Value;

use crate::Error;
use crate::oci::{Descriptor, Digest, INDEX, MANIFEST, Package};

/// Image index of the OCI image specification. The order of the fields is fixed, so that equal indexes have equal bytes.
/// <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-index.md>
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: String,
    manifests: Vec<Entry>,
    annotations: BTreeMap<String, String>,
}

/// Manifest of one platform.
#[derive(Serialize)]
struct Entry {
    #[serde(flatten)]
    descriptor: Descriptor,
    platform: Platform,
}

#[derive(Serialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// Returns the index of `images` in their order, in which a client takes the first that fits.
///
/// # Errors
///
/// The status of an image holds a digest or a platform that this program does not write.
pub(crate) fn package(
    images: &[ImageFacts],
    annotations: BTreeMap<String, String>,
) -> Result<Package, Error> {
    let manifest = crate::json::bytes(&Index {
        schema_version: 2,
        media_type: INDEX.to_owned(),
        manifests: images.iter().map(entry).collect::<Result<_, _>>()?,
        annotations,
    });
    Ok(Package { manifest, blobs: Vec::new() })
}

fn entry(image: &ImageFacts) -> Result<Entry, Error> {
    let ImageFacts { reference, digest, size, platform, .. } = image;
    let foreign = || Error::ForeignStatus { reference: reference.clone() };
    let digest = Digest::try_from(digest.clone()).map_err(|_| foreign())?;
    let (os, architecture) = platform.split_once('/').ok_or_else(foreign)?;
    Ok(Entry {
        descriptor: Descriptor { media_type: MANIFEST.to_owned(), digest, size: *size },
        platform: Platform { architecture: architecture.to_owned(), os: os.to_owned() },
    })
}

/// Whether the bytes are an index, and not the manifest of one image.
pub(crate) fn is_index(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Value>(bytes).is_ok_and(|value| value["mediaType"] == INDEX)
}

/// Returns the media type of a manifest or an index.
pub(crate) fn media_type(bytes: &[u8]) -> &'static str {
    if is_index(bytes) { INDEX } else { MANIFEST }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(platform: &str, digest: &str) -> ImageFacts {
        let (reference, digest) = ("r.example/a@sha256:00".to_owned(), digest.to_owned());
        let (platform, commit) = (platform.to_owned(), "f00".to_owned());
        ImageFacts { reference, digest, size: 7, platform, commit, version: String::new() }
    }

    #[test]
    fn equal_images_give_equal_bytes_in_the_order_of_the_document() -> Result<(), Error> {
        let digest = Digest::of(b"a").to_string();
        let [first, second] = ["linux/amd64", "linux/arm64"].map(|name| image(name, &digest));
        let both = package(&[first.clone(), second.clone()], BTreeMap::new())?;
        assert_eq!(
            String::from_utf8_lossy(&both.manifest),
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{digest}","size":7,"platform":{{"architecture":"amd64","os":"linux"}}}},{{"mediaType":"{MANIFEST}","digest":"{digest}","size":7,"platform":{{"architecture":"arm64","os":"linux"}}}}],"annotations":{{}}}}"#
            )
        );
        assert!(is_index(&both.manifest) && both.blobs.is_empty());
        let swapped = package(&[second, first], BTreeMap::new())?;
        assert_ne!(swapped.manifest, both.manifest);
        Ok(())
    }

    #[test]
    fn a_status_of_another_program_is_an_error() {
        let digest = Digest::of(b"a").to_string();
        for image in [image("linux", &digest), image("linux/amd64", "sha256:00"), image("", "")] {
            assert!(package(&[image], BTreeMap::new()).is_err());
        }
    }

    #[test]
    fn only_an_index_is_an_index() {
        let manifest = format!(r#"{{"mediaType":"{MANIFEST}"}}"#);
        for bytes in [manifest.as_bytes(), b"", b"{}", b"[]"] {
            assert_eq!(media_type(bytes), MANIFEST);
        }
    }
}
