//! Data of the releases that this program contains. `tasks/update-flux` writes these files.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use remote::registry::Digest;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::spec::{Component, Version};

/// Parts of a release by the names of their files. All but `inputs.json`, which names Go modules and images
/// with their digests, have one object per line. The order decides the digest of the release.
type Parts = [(&'static str, &'static str); 7];

macro_rules! parts {
    ($folder:literal) => {
        parts!(
            $folder,
            "source-controller.jsonl",
            "kustomize-controller.jsonl",
            "helm-controller.jsonl",
            "notification-controller.jsonl",
            "rbac.jsonl",
            "policies.jsonl",
            "inputs.json"
        )
    };
    ($folder:literal, $($file:literal),*) => {
        [$(($file, include_str!(concat!($folder, "/", $file)))),*]
    };
}

fn parts(version: Version) -> Parts {
    match version {
        Version::V2_9_4 => parts!("2.9.4"),
        Version::V2_9_5 => parts!("2.9.5"),
    }
}

/// Returns the text of one file of a release.
fn part(version: Version, file: &str) -> &'static str {
    let mut parts = parts(version).into_iter();
    parts.find(|(name, _)| *name == file).expect("a test reads every file").1
}

/// The part of `inputs.json` that this program reads.
#[derive(Deserialize)]
struct Inputs {
    images: BTreeMap<Component, Image>,
}

/// Image of a controller.
#[derive(Deserialize)]
pub(crate) struct Image {
    /// Tag in the manifests, for example `v1.9.5`.
    pub(crate) tag: String,
    /// Digest of the image's index, for all platforms.
    pub(crate) digest: Digest,
}

/// Returns the image of `component` in a release.
pub(crate) fn image(version: Version, component: Component) -> Image {
    let inputs = serde_json::from_str::<Inputs>(part(version, "inputs.json"));
    let image = inputs.ok().and_then(|mut inputs| inputs.images.remove(&component));
    image.expect("a test parses the inputs of every release")
}

/// Returns the objects of a controller: definitions, a `ServiceAccount`, Services and a Deployment.
pub(super) fn controller(version: Version, component: Component) -> impl Iterator<Item = Value> {
    objects(part(version, &format!("{component}.jsonl")))
}

/// Returns the roles of the controllers and of people.
pub(super) fn rbac(version: Version) -> impl Iterator<Item = Value> {
    objects(part(version, "rbac.jsonl"))
}

/// Returns the network policies.
pub(super) fn policies(version: Version) -> impl Iterator<Item = Value> {
    objects(part(version, "policies.jsonl"))
}

fn objects(lines: &'static str) -> impl Iterator<Item = Value> {
    lines.lines().map(|line| serde_json::from_str(line).expect("a test parses every line"))
}

/// Returns the digest of a release's manifests, and of the modules and images that they come from.
pub(crate) fn digest(version: Version) -> String {
    let mut hash = Sha256::new();
    for (_, text) in parts(version) {
        hash.update(text);
    }
    format!("sha256:{}", HEXLOWER.encode(&hash.finalize()))
}
