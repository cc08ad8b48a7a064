//! Images: stock systems, snapshots of Talos, and images of servers.

use serde::{Deserialize, Serialize};

use crate::catalogue::ServerType;
use crate::labels::Labels;
use crate::machines::Contents;
use crate::resource::{Head, resource};

/// Time of creation of the images that every project has.
const STOCK_CREATED: &str = "2025-10-01T00:00:00Z";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// `head.name` is the description, which need not be unique.
    pub(crate) head: Head,
    pub(crate) name: Option<String>,
    /// `system`, `snapshot` or `backup`.
    pub(crate) sort: String,
    pub(crate) architecture: String,
    pub(crate) flavor: String,
    pub(crate) version: Option<String>,
    /// Size of the disk in GB.
    pub(crate) disk: u32,
    pub(crate) available: bool,
    /// Id and name of the server that the image was made from.
    pub(crate) created_from: Option<(u64, String)>,
    /// Id of the server that a backup belongs to.
    pub(crate) bound_to: Option<u64>,
    pub(crate) protected: bool,
    /// Contents of the disk of a machine that is created from the image.
    #[serde(default)]
    pub(crate) contents: Contents,
}

resource!(Image, "image");

impl Image {
    /// Creates an image of a server's disk. The image is unavailable until its action has ended.
    pub(crate) fn of_server(
        head: Head,
        sort: &str,
        server: &Head,
        server_type: ServerType,
    ) -> Self {
        Self {
            head,
            name: None,
            sort: sort.to_owned(),
            architecture: server_type.architecture.to_owned(),
            flavor: "unknown".to_owned(),
            version: None,
            disk: server_type.disk,
            available: false,
            created_from: Some((server.id, server.name.clone())),
            bound_to: (sort == "backup").then_some(server.id),
            protected: false,
            contents: Contents::Unknown,
        }
    }
}

/// Schematic without customizations
/// (<https://github.com/siderolabs/image-factory/blob/v0.8.4/README.md>).
const PLAIN_SCHEMATIC: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";

fn talos_contents(architecture: &str) -> Contents {
    Contents::Talos {
        version: "v1.13.9".to_owned(),
        schematic: PLAIN_SCHEMATIC.to_owned(),
        architecture: if architecture == "arm" { "arm64" } else { "amd64" }.to_owned(),
    }
}

/// Returns the images that every project has: Debian, and a snapshot of Talos for each architecture.
pub(crate) fn stock_images() -> Vec<Image> {
    let image = |id: u64,
                 architecture: &str,
                 name: Option<&str>,
                 description: String,
                 labels: Labels| {
        Image {
            head: Head { id, name: description, labels, created: STOCK_CREATED.to_owned() },
            name: name.map(str::to_owned),
            sort: if name.is_some() { "system" } else { "snapshot" }.to_owned(),
            architecture: architecture.to_owned(),
            flavor: if name.is_some() { "debian" } else { "unknown" }.to_owned(),
            version: name.map(|_| "13".to_owned()),
            disk: 10,
            available: true,
            created_from: None,
            bound_to: None,
            protected: false,
            contents: if name.is_some() { Contents::Stock } else { talos_contents(architecture) },
        }
    };
    let talos = || {
        Labels::from([
            ("os".to_owned(), "talos".to_owned()),
            ("version".to_owned(), "v1.13.9".to_owned()),
        ])
    };
    ["x86", "arm"]
        .into_iter()
        .zip(1_u64..)
        .flat_map(|(architecture, id)| {
            [
                image(id, architecture, Some("debian-13"), "Debian 13".to_owned(), Labels::new()),
                image(
                    100 + id,
                    architecture,
                    None,
                    format!("Talos v1.13.9 {architecture}"),
                    talos(),
                ),
            ]
        })
        .collect()
}
