//! The interface between the cloud and the machines behind its servers.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The power buttons of all servers.
///
/// The methods may block: the cloud calls them on threads for blocking work. When the emulator restarts
/// before an action has ended, the cloud repeats the action's call; so each method must be idempotent.
pub trait Machines: Send + Sync + 'static {
    /// Starts the machine. The cloud also calls this when it starts, for every server that runs.
    fn power_on(&self, server: &Server);
    /// Stops the machine and keeps its disk.
    fn power_off(&self, id: u64);
    /// Removes the disk of a machine that is off.
    fn delete(&self, id: u64);
    /// Returns the contents of the machine's disk, for a snapshot. `None` if the disk is as the server's
    /// image has made it, which is so for machines without a disk.
    fn contents(&self, _id: u64) -> Option<Contents> {
        None
    }
}

/// Contents of a disk or of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contents {
    /// A system of the vendor, with cloud-init.
    Stock,
    /// A complete image of Talos for this platform.
    Talos {
        /// Version of Talos, for example `v1.13.9`.
        version: String,
        /// Id of the schematic.
        schematic: String,
        /// Talos's name of the architecture: `amd64` or `arm64`.
        architecture: String,
    },
    /// Anything else, from which no machine starts: an incomplete image, or an empty disk.
    #[default]
    Unknown,
}

/// Machines that do nothing, for clients that only talk to the API.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMachines;

impl Machines for NoMachines {
    fn power_on(&self, _: &Server) {}
    fn power_off(&self, _: u64) {}
    fn delete(&self, _: u64) {}
}

/// A server as its machine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Id of the server, which no other server ever gets.
    pub id: u64,
    /// Name of the server.
    pub name: String,
    /// Public address of the server if it has one, and otherwise the loopback address of its machine.
    pub ipv4: Ipv4Addr,
    /// Addresses in private networks.
    pub private_ipv4: Vec<Ipv4Addr>,
    /// User data that the machine reads at its first boot.
    pub user_data: Option<String>,
    /// Labels of the server.
    pub labels: BTreeMap<String, String>,
    /// Name of the image, or description of the snapshot.
    pub image: Option<String>,
    /// Labels of the image.
    pub image_labels: BTreeMap<String, String>,
    /// Contents of the image.
    pub image_contents: Contents,
    /// Size of the disk in GB.
    pub disk: u32,
    /// Architecture: `x86` or `arm`.
    pub architecture: String,
    /// Name of the server type, for example `cax11`.
    pub server_type: String,
    /// Name of the location, for example `fsn1`.
    pub location: String,
    /// Whether this boot is into the rescue system.
    pub rescue: bool,
}
