//! Data of the releases that this program contains. `tasks/update-flux` writes these files.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use remote::registry::Digest;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::spec::{Component, Version};

/// Parts of a release as JSON lines, one object per line.
pub(super) struct Parts {
    source_controller: &'static str,
    kustomize_controller: &'static str,
    helm_controller: &'static str,
    notification_controller: &'static str,
    rbac: &'static str,
    policies: &'static str,
    /// Go modules, and images with their digests.
    inputs: &'static str,
}

macro_rules! parts {
    ($folder:literal) => {
        Parts {
            source_controller: include_str!(concat!($folder, "/source-controller.jsonl")),
            kustomize_controller: include_str!(concat!($folder, "/kustomize-controller.jsonl")),
            helm_controller: include_str!(concat!($folder, "/helm-controller.jsonl")),
            notification_controller: include_str!(concat!(
                $folder,
                "/notification-controller.jsonl"
            )),
            rbac: include_str!(concat!($folder, "/rbac.jsonl")),
            policies: include_str!(concat!($folder, "/policies.jsonl")),
            inputs: include_str!(concat!($folder, "/inputs.json")),
        }
    };
}

fn parts(version: Version) -> Parts {
    match version {
        Version::V2_9_4 => parts!("2.9.4"),
        Version::V2_9_5 => parts!("2.9.5"),
    }
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
    let inputs = serde_json::from_str::<Inputs>(parts(version).inputs);
    let image = inputs.ok().and_then(|mut inputs| inputs.images.remove(&component));
    image.expect("a test parses the inputs of every release")
}

/// Returns the objects of a controller: definitions, a `ServiceAccount`, Services and a Deployment.
pub(super) fn controller(version: Version, component: Component) -> impl Iterator<Item = Value> {
    let parts = parts(version);
    objects(match component {
        Component::SourceController => parts.source_controller,
        Component::KustomizeController => parts.kustomize_controller,
        Component::HelmController => parts.helm_controller,
        Component::NotificationController => parts.notification_controller,
    })
}

/// Returns the roles of the controllers and of people.
pub(super) fn rbac(version: Version) -> impl Iterator<Item = Value> {
    objects(parts(version).rbac)
}

/// Returns the network policies.
pub(super) fn policies(version: Version) -> impl Iterator<Item = Value> {
    objects(parts(version).policies)
}

fn objects(lines: &'static str) -> impl Iterator<Item = Value> {
    lines.lines().map(|line| serde_json::from_str(line).expect("a test parses every line"))
}

/// Returns the digest of a release's manifests, and of the modules and images that they come from.
pub(crate) fn digest(version: Version) -> String {
    let Parts {
        source_controller,
        kustomize_controller,
        helm_controller,
        notification_controller,
        rbac,
        policies,
        inputs,
    } = parts(version);
    let mut hash = Sha256::new();
    for part in [
        source_controller,
        kustomize_controller,
        helm_controller,
        notification_controller,
        rbac,
        policies,
        inputs,
    ] {
        hash.update(part);
    }
    format!("sha256:{}", HEXLOWER.encode(&hash.finalize()))
}
