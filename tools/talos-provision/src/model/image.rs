//! Images of Talos: declared, existing, and being written.

use std::collections::{BTreeMap, BTreeSet};

use crate::money::Rate;
use crate::schematic::Schematic;

/// Declared image, from which new machines are created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredImage {
    /// Version of Talos, for example `v1.13.9`.
    pub talos: String,
    /// Customizations of the image.
    pub schematic: Schematic,
    /// URL of the Image Factory.
    pub factory: String,
    /// Needs of the machines that have to be created, by architecture. Empty until the server types
    /// were looked up.
    pub needs: BTreeMap<String, Need>,
}

/// Need of machines for an image of one architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Size of the smallest disk of a declared server type, in GB. A larger image does not fit.
    pub disk_max: u32,
    /// Server types that can write the image, the cheapest first.
    pub offers: Vec<BuilderOffer>,
    /// Price of a stored gigabyte for a month.
    pub gigabyte: Option<Rate>,
}

/// Server type whose disk is not larger than that of any declared type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuilderOffer {
    /// Hetzner's server type, for example `cx23`.
    pub r#type: String,
    /// Locations in the order in which they are tried, for example `fsn1`.
    pub locations: Vec<String>,
    /// Price of an hour in the first location.
    pub hourly: Rate,
}

/// Properties that distinguish images of Talos.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageIdentity {
    /// Version of Talos, for example `v1.13.9`.
    pub talos: String,
    /// Beginning of the schematic's id, as labels hold it.
    pub schematic: String,
    /// Hetzner's name of the architecture: `x86` or `arm`.
    pub architecture: String,
}

/// Snapshot that carries our labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnImage {
    /// Version, schematic and architecture.
    pub identity: ImageIdentity,
    /// Whether the snapshot is complete, so that servers can be created from it.
    pub is_available: bool,
    /// Size of the smallest disk on which the image fits, in GB.
    pub disk: u32,
}

/// Temporary server that writes an image onto its own disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageBuilder {
    /// Name of the server, for example `prod-image-x86`.
    pub name: String,
    /// Version, schematic and architecture of the image.
    pub identity: ImageIdentity,
}

/// Observed images of the cluster, and the temporary servers that write them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// Snapshots that carry our labels, by id.
    pub ours: BTreeMap<u64, OwnImage>,
    /// Temporary servers that carry our labels, by id.
    pub builders: BTreeMap<u64, ImageBuilder>,
    /// Ids of images from which servers outside of this cluster were created. Empty unless an image is
    /// to be removed, or all servers were listed.
    pub used_by_others: BTreeSet<u64>,
}

impl DesiredImage {
    /// Returns the properties of the image for `architecture`.
    #[must_use]
    pub fn identity(&self, architecture: &str) -> ImageIdentity {
        ImageIdentity {
            talos: self.talos.clone(),
            schematic: self.schematic.label().to_owned(),
            architecture: architecture.to_owned(),
        }
    }
}

impl Images {
    /// Returns the id of the newest available image that is the declared one and fits on every
    /// declared disk.
    #[must_use]
    pub fn find(&self, desired: &DesiredImage, architecture: &str) -> Option<u64> {
        let identity = desired.identity(architecture);
        let disk_max = desired.needs.get(architecture).map_or(u32::MAX, |need| need.disk_max);
        let fits = |(_, image): &(&u64, &OwnImage)| {
            image.identity == identity && image.is_available && image.disk <= disk_max
        };
        self.ours.iter().rfind(fits).map(|(id, _)| *id)
    }
}
