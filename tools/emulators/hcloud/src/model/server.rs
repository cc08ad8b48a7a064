//! Servers, and the small resources that a server refers to.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::catalogue::{self, ServerType};
use crate::error::ApiError;
use crate::resource::{Head, resource};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Initializing,
    Off,
    Starting,
    Running,
    Stopping,
    Rebuilding,
    Deleting,
}

/// A server's interface in a private network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PrivateNet {
    pub(crate) network: u64,
    pub(crate) ip: Ipv4Addr,
    pub(crate) alias_ips: Vec<Ipv4Addr>,
    /// Whether the action `attach_to_network` has ended. The address is reserved from the call on, and
    /// shown once this is true.
    pub(crate) attached: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::struct_field_names, reason = "the words of the API")]
pub(crate) struct Server {
    pub(crate) head: Head,
    pub(crate) status: Status,
    /// Loopback address of the machine, with or without a public address.
    pub(crate) address: Ipv4Addr,
    pub(crate) server_type: String,
    pub(crate) location: String,
    pub(crate) image: Option<u64>,
    pub(crate) user_data: Option<String>,
    pub(crate) placement_group: Option<u64>,
    pub(crate) private_net: Vec<PrivateNet>,
    pub(crate) protected: bool,
    /// Whether the next boot is into the rescue system.
    pub(crate) rescue: bool,
    pub(crate) backup_window: Option<String>,
    pub(crate) dns_ptr: Option<String>,
}

resource!(Server, "server");

impl Server {
    pub(crate) fn resolved_type(&self) -> Result<ServerType, ApiError> {
        catalogue::server_type_of(&self.server_type)
    }

    pub(crate) fn is_in(&self, network: u64) -> bool {
        self.private_net.iter().any(|net| net.network == network)
    }
}

/// A public address, created with a server or before its server or load balancer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PrimaryIp {
    pub(crate) head: Head,
    /// An IPv4 address, or an IPv6 range.
    pub(crate) ip: String,
    /// Id of the server or load balancer that has the address.
    pub(crate) assignee: Option<u64>,
    /// Whether the assignee is a load balancer.
    #[serde(default)]
    pub(crate) on_balancer: bool,
    /// Whether the address is deleted with its assignee.
    pub(crate) auto_delete: bool,
    pub(crate) dns_ptr: Option<String>,
    pub(crate) location: String,
    pub(crate) protected: bool,
}

resource!(PrimaryIp, "primary_ip");

impl PrimaryIp {
    pub(crate) fn ipv4(&self) -> Option<Ipv4Addr> {
        self.ip.parse().ok()
    }

    /// Returns the reverse DNS name, or the vendor's default name.
    pub(crate) fn pointer(&self) -> String {
        self.dns_ptr.clone().unwrap_or_else(|| format!("static.{}.clients.invalid", self.ip))
    }
}

/// A disk that a server can attach. It stays when its server is deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Volume {
    pub(crate) head: Head,
    /// Size of the disk in GB.
    pub(crate) size: u32,
    pub(crate) location: String,
    pub(crate) server: Option<u64>,
}

resource!(Volume, "volume");

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlacementGroup {
    pub(crate) head: Head,
}

resource!(PlacementGroup, "placement_group");

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SshKey {
    pub(crate) head: Head,
    pub(crate) public_key: String,
    /// MD5 digest in the notation of `ssh-keygen -E md5`.
    pub(crate) fingerprint: String,
}

resource!(SshKey, "ssh_key");
