//! Manifests for Flux: the files of a commit, with images pinned to what was attested.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::ops::Range;

use serde_json::json;
use serde_saphyr::granit_parser::{Event, Parser};

use crate::Error;
use crate::image;
use crate::oci::{Blob, Descriptor, FLUX_CONFIG, FLUX_LAYER, Manifest, Package};
use crate::tree::{Files, is_yaml};

/// The lists of a pod whose items have an `image`.
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
/// Largest archive that is read back, in bytes.
const ARCHIVE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The text of a file of manifests.
fn text(content: &[u8]) -> Result<&str, String> {
    str::from_utf8(content).map_err(|_| "not UTF-8".to_owned())
}

/// The files of `files` that hold manifests.
fn yaml(files: &Files) -> impl Iterator<Item = (&String, &[u8])> {
    files.iter().filter(|(path, _)| is_yaml(path)).map(|(path, content)| (path, content.as_slice()))
}

/// An image in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    /// As it is written; none, if it is an alias.
    pub(crate) image: Option<String>,
    pub(crate) line: usize,
    /// Where, in bytes.
    range: Range<usize>,
}

impl Use {
    /// Whether nothing else can ever be behind it.
    fn is_pinned(&self) -> bool {
        self.image.as_deref().is_some_and(|it| it.contains("@sha256:"))
    }
}

/// What a parser is in: a map that has a key and waits for its value, or a list.
enum Open {
    Map { key: Option<String>, container: bool },
    List { containers: bool },
}

/// The images that the containers in `text` name.
pub(crate) fn images(text: &str) -> Result<Vec<Use>, String> {
    let (mut open, mut uses) = (Vec::new(), Vec::new());
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        if matches!(event, Event::MappingEnd | Event::SequenceEnd) {
            open.pop();
            continue;
        }
        // A comment is no node. Whether it is an event is for whichever crate of a build asks for
        // comments.
        if !event.is_node() {
            continue;
        }
        // The key under which this stands, or whether it is an item of a list of containers.
        let (key, container) = match (open.last_mut(), &event) {
            (Some(Open::Map { key: key @ None, .. }), Event::Scalar(name, ..)) => {
                *key = Some(name.to_string());
                continue;
            }
            (Some(Open::Map { key, container }), _) => (key.take(), *container),
            (Some(Open::List { containers }), _) => (None, *containers),
            (None, _) => (None, false),
        };
        let is_image = container && key.as_deref() == Some("image");
        // What an alias stands for is written elsewhere, and would be changed there as well.
        let brings_image = match key.as_deref() {
            None | Some("image" | "<<") => container,
            Some(key) => CONTAINERS.contains(&key),
        };
        match event {
            Event::MappingStart(..) => {
                open.push(Open::Map { container: container && key.is_none(), key: None });
            }
            Event::SequenceStart(..) => {
                let containers = key.is_some_and(|it| CONTAINERS.contains(&it.as_str()));
                open.push(Open::List { containers });
            }
            Event::Scalar(value, ..) if is_image => {
                let range = span.byte_range().ok_or("its place cannot be told")?;
                let line = span.start.line();
                uses.push(Use { image: Some(value.into_owned()), line, range });
            }
            Event::Alias(..) if brings_image => {
                uses.push(Use { image: None, line: span.start.line(), range: 0..0 });
            }
            _ => {}
        }
    }
    Ok(uses)
}

/// What is wrong with the images in `files`, of which those called `listed` will be pinned.
pub(crate) fn mistakes(files: &Files, listed: &[impl AsRef<str>]) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut used = Vec::new();
    for (path, content) in yaml(files) {
        match text(content).and_then(images) {
            Err(why) => mistakes.push(format!("{path} is not YAML: {why}")),
            Ok(images) => {
                for it in images {
                    let line = it.line;
                    match &it.image {
                        None => {
                            mistakes.push(format!("{path}:{line}: an alias: write the image out"));
                        }
                        Some(image) if listed.iter().any(|it| it.as_ref() == image) => {
                            used.push(image.clone());
                        }
                        Some(_) if it.is_pinned() => {}
                        Some(image) => mistakes.push(format!(
                            "{path}:{line}: `{image}` is neither pinned (@sha256:…) nor listed here"
                        )),
                    }
                }
            }
        }
    }
    let unused = listed.iter().filter(|it| !used.iter().any(|used| used == it.as_ref()));
    mistakes.extend(unused.map(|it| format!("no manifest uses `{}`", it.as_ref())));
    mistakes
}

/// `files` with every image that `references` knows by name replaced by its reference. All else
/// stays as people wrote it.
pub(crate) fn pin(files: &Files, references: &BTreeMap<String, String>) -> Result<Files, Error> {
    let pin = |(path, content): (&String, &Vec<u8>)| {
        if !is_yaml(path) {
            return Ok((path.clone(), content.clone()));
        }
        let strange = |why| Error::Manifest { path: path.clone(), why };
        let mut pinned = text(content).map_err(strange)?.to_owned();
        let uses = images(&pinned).map_err(strange)?;
        for it in uses.iter().rev() {
            if let Some(reference) = it.image.as_ref().and_then(|it| references.get(it)) {
                pinned.replace_range(it.range.clone(), reference);
            }
        }
        Ok((path.clone(), pinned.into_bytes()))
    };
    files.iter().map(pin).collect()
}

/// `files`, packed as Flux takes them.
pub(crate) fn package(files: &Files, source: &str, rev: &str) -> Result<Package, Error> {
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
    let annotations = image::annotations(source, rev);
    let manifest = Manifest { annotations, ..Manifest::new(of_config, of_layer) }.bytes();
    Ok(Package { manifest, blobs: vec![layer, config] })
}

/// Every image in `files`, as it is written.
fn named(files: &Files) -> Result<Vec<String>, Error> {
    let uses = yaml(files).map(|(path, content)| {
        let uses = text(content).and_then(images);
        uses.map_err(|why| Error::Manifest { path: path.clone(), why })
    });
    let uses = uses.collect::<Result<Vec<_>, Error>>()?;
    Ok(uses.into_iter().flatten().filter_map(|it| it.image).collect())
}

/// Every image that a published layer names and that is none of `references`, nor pinned in the
/// source `files`.
pub(crate) fn strangers(
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
    let mut strangers = named(&published)?;
    strangers.retain(|it| !references.values().any(|known| known == it) && !written.contains(it));
    Ok(strangers)
}

/// The files in a tar archive.
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

    const POD: &str = "---\nkind: Deployment\nimage: elsewhere # not a container's\nspec:\n  template:\n    spec:\n      initContainers: [{name: a, image: greeter, args: [image, b]}]\n      containers:\n        # ünïcödé\n        - name: greeter\n          image: greeter   # pinned\n          env: [{name: image, value: greeter}]\n        - {name: other, image: \"busybox@sha256:00\"}\n        - name: quoted\n          image: 'greeter'\n---\nkind: List\nitems: []\n";

    fn files(text: &str) -> Files {
        [("a.yaml".to_owned(), text.as_bytes().to_vec())].into()
    }

    #[test]
    fn an_image_is_replaced_and_nothing_else_is_touched() -> Result<(), Error> {
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
    fn an_image_that_nothing_pins_is_a_mistake_and_so_is_a_name_that_nothing_uses() {
        assert_eq!(mistakes(&files(POD), &["greeter"]), [] as [String; 0]);
        let none: [&str; 0] = [];
        assert_eq!(mistakes(&files(POD), &none).len(), 3);
        assert_eq!(mistakes(&files(POD), &["greeter", "other"]), ["no manifest uses `other`"]);
        let alias = "image: &i x\ncontainers: [&a {image: x}, {image: *i}, *a, {<<: *a}]\nmore: {containers: *i}\n";
        let seen = mistakes(&files(alias), &["x"]);
        assert!(seen.len() == 4 && seen.iter().all(|it| it.contains("alias")), "{seen:?}");
    }

    #[test]
    fn what_is_published_is_read_back_and_a_stranger_in_it_is_seen() -> Result<(), Error> {
        let references = [("greeter".to_owned(), "r.example/greeter@sha256:11".to_owned())].into();
        let layer = |files: &Files| {
            image::archive(files)
                .map(|it| it.0)
                .map_err(|source| Error::Unreadable { what: String::new(), source })
        };
        let pinned = pin(&files(POD), &references)?;
        assert_eq!(strangers(&layer(&pinned)?, &files(POD), &references)?, [] as [String; 0]);
        let text = String::from_utf8_lossy(&pinned["a.yaml"]).into_owned();
        let forged = files(&text.replace("@sha256:11", "@sha256:22"));
        assert_eq!(strangers(&layer(&forged)?, &files(POD), &references)?.len(), 3);
        Ok(())
    }
}
