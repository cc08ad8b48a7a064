//! Fields in which manifests name images.
//!
//! Known fields, by the project that defines them (a field of another name is not seen):
//!
//! | field | project |
//! |---|---|
//! | `image` in `containers`, `initContainers`, `ephemeralContainers` | Kubernetes |
//! | `reference` of an `image` in `volumes` | Kubernetes, image volumes |
//! | `image` in `steps`, `sidecars` and `stepTemplate` | Tekton |
//! | `spec.imageName`, and `image` in `images` | `CloudNativePG` |
//! | `image` in `container` and `script` | Argo Workflows |
//! | `image` in `containerDisk` | `KubeVirt` |
//! | in `spec.values` (`HelmRelease` of Flux) and `valuesObject` (Application of Argo CD): `image`, `imageName`, and `repository` with `tag` and `digest` | charts of Helm |
//! | `newTag` and `digest` in `images`, which replace a digest | Kustomize |

use std::collections::BTreeMap;
use std::ops::Range;

use serde_saphyr::granit_parser::{Event, Parser};

/// Lists of containers.
const CONTAINERS: [&str; 5] =
    ["containers", "initContainers", "ephemeralContainers", "steps", "sidecars"];
/// Maps that are one container each.
const CONTAINER: [&str; 4] = ["stepTemplate", "container", "script", "containerDisk"];
/// Fields from which an image is composed.
const PARTS: [&str; 6] = ["repository", "tag", "digest", "newName", "newTag", "name"];

/// One use of an image in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    /// Image as written; `None` for a YAML alias.
    pub(crate) image: Option<String>,
    pub(crate) line: usize,
    /// Position in the file, in bytes; empty for an image that several fields name, which cannot be replaced.
    pub(crate) range: Range<usize>,
}

impl Use {
    /// Whether the image has a digest, so that its content can never change.
    pub(crate) fn is_pinned(&self) -> bool {
        self.image.as_deref().is_some_and(is_pinned)
    }
}

/// Whether `image` ends in a digest by the grammar of OCI
/// (<https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests>). Registries accept these two.
fn is_pinned(image: &str) -> bool {
    let Some((name, digest)) = image.split_once('@') else { return false };
    let is_hex = |hex: &str, length: usize| {
        hex.len() == length && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_digest = match digest.split_once(':') {
        Some(("sha256", hex)) => is_hex(hex, 64),
        Some(("sha512", hex)) => is_hex(hex, 128),
        _ => false,
    };
    !name.is_empty() && is_digest
}

/// Part of a manifest, as far as it decides which fields name images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A whole object, or an item of a `List`.
    Object,
    Objects,
    Spec,
    Container,
    Containers,
    Volume,
    Volumes,
    VolumeImage,
    /// An item of `images`: of a Kustomization, or of a catalog.
    Entry,
    Entries,
    /// Values of a chart.
    Values,
    Other,
}

impl Part {
    /// Returns the part below the field `key`.
    fn below(self, key: &str) -> Self {
        match (self, key) {
            (_, key) if CONTAINERS.contains(&key) => Self::Containers,
            (_, key) if CONTAINER.contains(&key) => Self::Container,
            (Self::Volume, "image") => Self::VolumeImage,
            (_, "volumes") => Self::Volumes,
            (_, "valuesObject") | (Self::Spec, "values") | (Self::Values, _) => Self::Values,
            (Self::Object, "spec") => Self::Spec,
            (Self::Object, "items") => Self::Objects,
            (_, "images") => Self::Entries,
            _ => Self::Other,
        }
    }

    /// Returns the part that an item of a list is.
    fn item(self) -> Self {
        match self {
            Self::Objects => Self::Object,
            Self::Containers => Self::Container,
            Self::Volumes => Self::Volume,
            Self::Entries => Self::Entry,
            Self::Values => Self::Values,
            _ => Self::Other,
        }
    }

    /// Whether the field `key` names an image.
    fn is_image(self, key: &str) -> bool {
        match key {
            "image" => matches!(self, Self::Container | Self::Entry | Self::Values),
            "imageName" => matches!(self, Self::Spec | Self::Values),
            "reference" => self == Self::VolumeImage,
            _ => false,
        }
    }

    /// Whether an alias in this place may bring an image.
    fn holds_images(self) -> bool {
        !matches!(self, Self::Other | Self::Object | Self::Objects | Self::Spec | Self::Values)
    }
}

/// State of the YAML parser: in a map (with the key of the next value), or in a list.
enum Open {
    Map {
        part: Part,
        key: Option<String>,
        /// Key that holds the map.
        name: String,
        /// Fields of [`PARTS`], with the line of the first one.
        parts: BTreeMap<&'static str, String>,
        line: usize,
    },
    List(Part),
}

/// Returns the images that the manifests in `text` use.
pub(crate) fn images(text: &str) -> Result<Vec<Use>, String> {
    let (mut open, mut uses) = (Vec::new(), Vec::new());
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        let line = span.start.line();
        if matches!(event, Event::MappingEnd | Event::SequenceEnd) {
            if let Some(Open::Map { part, name, parts, line, .. }) = open.pop() {
                uses.extend(composed(part, &name, &parts).map(|image| Use {
                    image: Some(image),
                    line,
                    range: 0..0,
                }));
            }
            continue;
        }
        // Skip comments. The parser reports them as events whenever another crate of the build
        // enables that feature.
        if !event.is_node() {
            continue;
        }
        // Part that holds this node, and the node's key in a map.
        let (holder, key) = match (open.last_mut(), &event) {
            (Some(Open::Map { key: key @ None, .. }), Event::Scalar(name, ..)) => {
                *key = Some(name.to_string());
                continue;
            }
            (Some(Open::Map { key: key @ None, .. }), Event::Alias(..)) => {
                *key = Some(String::new()); // an alias as a key names no field
                continue;
            }
            (Some(Open::Map { part, key, .. }), _) => (*part, key.take()),
            (Some(Open::List(part)), _) => (*part, None),
            (None, _) => (Part::Objects, None),
        };
        let part = key.as_deref().map_or_else(|| holder.item(), |key| holder.below(key));
        match event {
            Event::MappingStart(..) => {
                let (name, parts) = (key.unwrap_or_default(), BTreeMap::new());
                open.push(Open::Map { part, key: None, name, parts, line });
            }
            Event::SequenceStart(..) => open.push(Open::List(part)),
            Event::Scalar(value, ..) => {
                let key = key.unwrap_or_default();
                if let Some(Open::Map { parts, .. }) = open.last_mut()
                    && let Some(known) = PARTS.iter().find(|known| **known == key)
                {
                    parts.insert(known, value.to_string());
                }
                // A chart takes its own image where its values have none.
                let is_default = holder == Part::Values && ["", "null", "~"].contains(&&*value);
                if holder.is_image(&key) && !is_default {
                    let range = span.byte_range().ok_or("its position is unknown")?;
                    uses.push(Use { image: Some(value.into_owned()), line, range });
                }
            }
            Event::Alias(..) => {
                // An alias stands for text elsewhere in the file, and pinning would change that text, too.
                let brings_image = match key.as_deref() {
                    None => part.holds_images(),
                    Some("<<") => holder.holds_images(),
                    Some(key) => holder.is_image(key) || part.holds_images(),
                };
                if brings_image {
                    uses.push(Use { image: None, line, range: 0..0 });
                }
            }
            _ => {}
        }
    }
    uses.sort_by_key(|found: &Use| (found.line, found.range.start));
    Ok(uses)
}

/// Returns the image that several fields of a map name together, if they do.
fn composed(part: Part, name: &str, parts: &BTreeMap<&'static str, String>) -> Option<String> {
    let text = |name: &str| parts.get(name).map_or("", String::as_str);
    let is_image = match part {
        // In most charts: `image: {repository: …, tag: …}`.
        Part::Values => {
            let is_named = name.to_ascii_lowercase().ends_with("image") || !text("tag").is_empty();
            is_named && !text("repository").is_empty()
        }
        Part::Entry => !text("newTag").is_empty() || !text("digest").is_empty(),
        _ => false,
    };
    if !is_image {
        return None;
    }
    let (repository, tag) = match part {
        Part::Entry => {
            let renamed = Some(text("newName")).filter(|name| !name.is_empty());
            (renamed.unwrap_or(text("name")), text("newTag"))
        }
        _ => (text("repository"), text("tag")),
    };
    let tag = if tag.is_empty() { String::new() } else { format!(":{tag}") };
    let digest = text("digest");
    let digest = if digest.is_empty() { String::new() } else { format!("@{digest}") };
    Some(format!("{repository}{tag}{digest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpinned(text: &str) -> Vec<String> {
        let uses = images(text).expect("YAML").into_iter();
        let uses = uses.filter(|found| !found.is_pinned());
        uses.map(|found| found.image.unwrap_or_else(|| "an alias".to_owned())).collect()
    }

    // hazard: A manifest uses an image by tag in a field that is not a container's, and another image runs later.
    // class: What runs is not what was attested.
    // members: image volumes, Tekton, CloudNativePG, Argo, KubeVirt, values of charts, Kustomize, malformed digests
    // now: the fields of a list of known projects are checked, with the grammar of digests
    #[test]
    fn an_unpinned_image_is_found_in_every_known_field() {
        for text in [
            "kind: Pod\nspec: {containers: [{image: x}]}",
            "kind: List\nitems:\n- kind: Pod\n  spec: {initContainers: [{image: x}]}",
            "kind: Pod\nspec: {volumes: [{name: v, image: {reference: x}}]}",
            "kind: Deployment\nspec: {template: {spec: {volumes: [{name: v, image: {reference: x}}]}}}",
            "kind: Task\nspec: {steps: [{image: x}]}",
            "kind: Task\nspec: {stepTemplate: {image: x}}",
            "kind: Pipeline\nspec: {tasks: [{taskSpec: {sidecars: [{image: x}]}}]}",
            "kind: Cluster\nspec: {imageName: x}",
            "kind: ImageCatalog\nspec: {images: [{major: 16, image: x}]}",
            "kind: Workflow\nspec: {templates: [{container: {image: x}}]}",
            "kind: Workflow\nspec: {templates: [{script: {image: x, source: y}}]}",
            "kind: VirtualMachine\nspec: {template: {spec: {volumes: [{containerDisk: {image: x}}]}}}",
            "kind: HelmRelease\nspec: {values: {server: {image: x}}}",
            "kind: HelmRelease\nspec: {values: {server: {imageName: x}}}",
            "kind: HelmRelease\nspec: {values: {image: {repository: x}}}",
            "kind: HelmRelease\nspec: {values: {sidecars: [{image: x}]}}",
            "kind: HelmRelease\nspec: {values: {list: [{initImage: {repository: x, digest: ''}}]}}",
            "kind: Application\nspec: {source: {helm: {valuesObject: {image: x}}}}",
        ] {
            assert_eq!(unpinned(text), ["x"], "{text}");
        }
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, image) in [
            ("kind: HelmRelease\nspec: {values: {a: {repository: x, tag: v1}}}".to_owned(), "x:v1"),
            ("kind: HelmRelease\nspec: {values: {image: {repository: x, tag: v1, digest: 'sha256:zz'}}}".to_owned(), "x:v1@sha256:zz"),
            ("images: [{name: x, newTag: v2}]".to_owned(), "x:v2"),
            ("images: [{name: x, digest: 'sha256:zz'}]".to_owned(), "x@sha256:zz"),
            (format!("images: [{{name: 'x@{digest}', newName: y, newTag: v2}}]"), "y:v2"),
            ("kind: Pod\nspec: {volumes: &v [{image: {reference: x}}]}\nmore: {volumes: *v}".to_owned(), "x"),
        ] {
            assert_eq!(unpinned(&text).first().map(String::as_str), Some(image), "{text}");
        }
    }

    #[test]
    fn a_pinned_image_and_a_field_that_names_none_pass() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for text in [
            format!(
                "kind: Pod\nspec: {{containers: [{{image: 'x@{digest}'}}], volumes: [{{image: {{reference: 'r/x:1@{digest}'}}}}]}}"
            ),
            format!(
                "kind: HelmRelease\nspec: {{values: {{image: {{repository: x, tag: 'v1@{digest}'}}}}}}"
            ),
            format!(
                "kind: HelmRelease\nspec: {{values: {{image: {{repository: x, tag: v1, digest: '{digest}'}}}}}}"
            ),
            format!(
                "images: [{{name: x, newTag: v1, digest: '{digest}'}}, {{name: y, newName: z}}]"
            ),
            "kind: HelmRelease\nspec: {values: {image: '', git: {repository: x}}}".to_owned(),
            "kind: ImageRepository\nspec: {image: ghcr.io/x/y}".to_owned(),
            "kind: Artifact\nspec: {manifests: {images: [greeter]}}".to_owned(),
            "kind: ConfigMap\ndata: {image: x, imageName: y}".to_owned(),
            "kind: Pod\nspec: {volumes: [{name: image, configMap: {name: x}}]}".to_owned(),
        ] {
            assert_eq!(unpinned(&text), [""; 0], "{text}");
        }
    }

    #[test]
    fn only_a_whole_digest_pins_an_image() {
        let hex = "0123456789abcdef".repeat(4);
        for pinned in [format!("x@sha256:{hex}"), format!("r:5000/a/x:v1@sha512:{hex}{hex}")] {
            assert!(is_pinned(&pinned), "{pinned}");
        }
        for odd in [
            "busybox@sha256:zz".to_owned(),
            "busybox@sha256:".to_owned(),
            format!("busybox@sha256:{}", hex.to_uppercase()),
            format!("busybox@sha256:{hex}0"),
            format!("busybox@sha512:{hex}"),
            format!("busybox@md5:{}", &hex[..32]),
            format!("busybox@sha256:{hex}:v1"),
            format!("@sha256:{hex}"),
            format!("busybox:sha256-{hex}"),
        ] {
            assert!(!is_pinned(&odd), "{odd}");
        }
    }
}
