//! Images of Talos: finding them, and writing them on temporary servers.
//!
//! Hetzner has no way to upload an image. Therefore a temporary server writes the image onto its own
//! disk, and a snapshot of that disk is the image (`knowledge/decisions/0029`).

mod builder;
mod receipt;

use std::collections::BTreeSet;

use contract::labels::BUILDER;

use super::{CloudState, Reader, model, parse_items};
use crate::Error;
use crate::labels::Labels;
use crate::money::Rate;
use crate::plan::{
    BuilderOffer, DesiredImage, DesiredState, Family, ImageBuilder, ImageIdentity, Need, OwnImage,
};
pub(crate) use builder::ImageOrder;

/// Label of the operating system, as Talos's documentation uses it
/// (<https://www.talos.dev/v1.13/talos-guides/install/cloud-platforms/hetzner/>).
const OS: &str = "os";
/// Label of the version of Talos, from the same page.
const VERSION: &str = "version";
/// Label of the beginning of the schematic's id.
const SCHEMATIC: &str = "schematic";
/// Label of the architecture.
const ARCHITECTURE: &str = "architecture";

/// Returns the labels that describe an image.
fn labels(identity: &ImageIdentity) -> Labels {
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    [
        label(OS, "talos"),
        label(VERSION, &identity.talos),
        label(SCHEMATIC, &identity.schematic),
        label(ARCHITECTURE, &identity.architecture),
    ]
    .into()
}

/// Reads the properties of an image from labels. A missing label gives a property that no document
/// declares.
fn identity(labels: &Labels) -> ImageIdentity {
    let value = |key: &str| labels.get(key).cloned().unwrap_or_default();
    ImageIdentity {
        talos: value(VERSION),
        schematic: value(SCHEMATIC),
        architecture: value(ARCHITECTURE),
    }
}

/// Returns the temporary server that `shown` is, unless it is a machine.
pub(super) fn as_builder(shown: &model::Server) -> Option<ImageBuilder> {
    let is_builder = shown.labels.contains_key(BUILDER);
    is_builder.then(|| ImageBuilder { name: shown.name.clone(), identity: identity(&shown.labels) })
}

impl Reader {
    /// Lists the snapshots of Talos in `cloud` anew: those that carry our labels, and those that a person
    /// made. One request serves both, because no label selector does.
    pub(super) fn refresh_images(&self, cloud: &mut CloudState) -> Result<(), Error> {
        let items = self.list("images", Some(("type", "snapshot")))?;
        cloud.keep_details(&self.scope, Family::Images, &items);
        let images: Vec<model::Image> = parse_items(items)?;
        cloud.images.ours.clear();
        cloud.images_by_hand.clear();
        for image in images {
            let is_available = image.status == "available";
            if self.scope.owns(&image.labels) {
                let (id, disk) = (image.id, gigabytes(image.disk_size));
                let identity =
                    ImageIdentity { architecture: image.architecture, ..identity(&image.labels) };
                cloud.images.ours.insert(id, OwnImage { identity, is_available, disk });
            } else if is_available && is_by_hand(&image.labels) {
                cloud.images_by_hand.push(image);
            }
        }
        Ok(())
    }

    /// Returns the ids of the images from which servers outside of the cluster were created.
    pub(crate) fn images_in_use(&self) -> Result<BTreeSet<u64>, Error> {
        let servers: Vec<model::Server> = parse_items(self.list("servers", None)?)?;
        let others = servers.into_iter().filter(|server| !self.scope.owns(&server.labels));
        Ok(others.filter_map(|server| server.image).map(|image| image.id).collect())
    }
}

/// Returns whether a person made the snapshot of Talos with these labels.
///
/// Images of this program are left out, because their schematic may differ from the one that the document
/// means.
fn is_by_hand(labels: &Labels) -> bool {
    labels.get(OS).is_some_and(|os| os == "talos")
        && !labels.contains_key(contract::labels::CLUSTER)
}

/// Returns whether the snapshot is of this version of Talos.
pub(super) fn is_of_version(image: &model::Image, version: &str) -> bool {
    image.labels.get(VERSION).is_some_and(|found| found == version)
}

/// Returns what an image of `architecture` must be like, and the server types that can write it.
pub(super) fn need(
    desired: &DesiredState,
    architecture: &str,
    types: &[model::ServerType],
    gigabyte: Option<Rate>,
) -> Need {
    let of_architecture = || types.iter().filter(|offer| offer.architecture == architecture);
    let declared = |offer: &&model::ServerType| {
        desired.machines.values().any(|machine| machine.r#type == offer.name)
    };
    let disks = of_architecture().filter(declared).map(|offer| gigabytes(offer.disk));
    let disk_max = disks.min().unwrap_or_default();
    let preferred: Vec<&String> =
        desired.machines.values().flat_map(|machine| &machine.locations).collect();
    let fitting = of_architecture().filter(|offer| gigabytes(offer.disk) <= disk_max);
    let mut offers: Vec<_> = fitting.filter_map(|offer| offered(offer, &preferred)).collect();
    offers.sort_by(|one, other| (one.hourly, &one.r#type).cmp(&(other.hourly, &other.r#type)));
    Need { disk_max, offers, gigabyte }
}

/// Returns the offer of a server type in the declared locations, and then in all others: where an image
/// is written has no effect on where it can be used.
fn offered(offer: &model::ServerType, preferred: &[&String]) -> Option<BuilderOffer> {
    let is_sold = |location: &str| {
        let there = offer.locations.iter().find(|there| there.name == location);
        // Accounts without this list sell a type wherever it has a price.
        offer.locations.is_empty() || there.is_some_and(model::Offer::is_orderable)
    };
    let places: Vec<_> = offer.prices.iter().filter(|price| is_sold(&price.location)).collect();
    let (mut locations, mut others) = (Vec::new(), Vec::new());
    for location in preferred {
        let is_new = !locations.contains(*location);
        if is_new && places.iter().any(|price| price.location == **location) {
            locations.push((*location).clone());
        }
    }
    for price in &places {
        if !locations.contains(&price.location) {
            others.push(price.location.clone());
        }
    }
    locations.extend(others);
    let first = locations.first()?;
    let price = places.iter().find(|price| price.location == *first)?;
    Some(BuilderOffer { r#type: offer.name.clone(), hourly: price.hourly(), locations })
}

/// Returns a size of the API, which is a number with a fraction, in whole gigabytes. An image with a
/// part of a gigabyte needs the whole one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast saturates, and no disk has more than 4 billion GB"
)]
fn gigabytes(size: f64) -> u32 {
    size.ceil() as u32
}

/// Returns the URL of the raw image in a factory.
fn url(image: &DesiredImage, architecture: &str) -> String {
    let architecture = match architecture {
        "arm" => "arm64",
        _ => "amd64",
    };
    format!(
        "{}/image/{}/{}/hcloud-{architecture}.raw.xz",
        image.factory,
        image.schematic.id(),
        image.talos
    )
}
