//! Load balancers: their services, health checks and targets.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::catalogue::{self, BalancerType};
use crate::error::ApiError;
use crate::resource::{Head, resource};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Algorithm {
    #[default]
    RoundRobin,
    LeastConnections,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoadBalancer {
    pub(crate) head: Head,
    pub(crate) address: Ipv4Addr,
    /// Ids of the existing Primary IPs of IPv4 and IPv6 with which the balancer was created.
    #[serde(default)]
    pub(crate) primary_ips: [Option<u64>; 2],
    /// Whether the public interface is enabled.
    pub(crate) public: bool,
    pub(crate) algorithm: Algorithm,
    pub(crate) services: Vec<Service>,
    pub(crate) targets: Vec<Target>,
    /// Id of the private network, and the balancer's address in the network.
    pub(crate) private_net: Option<(u64, Ipv4Addr)>,
    /// Name of the load balancer type, for example `lb11`.
    pub(crate) sort: String,
    pub(crate) location: String,
    pub(crate) protected: bool,
    pub(crate) dns_ptr: Option<String>,
}

resource!(LoadBalancer, "load_balancer");

impl LoadBalancer {
    pub(crate) fn resolved_type(&self) -> Result<BalancerType, ApiError> {
        catalogue::balancer_type_of(&self.sort)
    }

    pub(crate) fn is_in(&self, network: u64) -> bool {
        self.ip_in(network).is_some()
    }

    pub(crate) fn ip_in(&self, network: u64) -> Option<Ipv4Addr> {
        self.private_net.filter(|(id, _)| *id == network).map(|(_, ip)| ip)
    }

    pub(crate) fn detach(&mut self, network: u64) {
        self.private_net = self.private_net.filter(|(id, _)| *id != network);
    }

    /// Whether the server is a target by its id, not by its labels.
    pub(crate) fn names(&self, server: u64) -> bool {
        self.targets.iter().any(|target| target.is_server(server))
    }

    /// Removes a deleted server from the targets.
    pub(crate) fn forget(&mut self, server: u64) {
        self.targets.retain(|target| !target.is_server(server));
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) protocol: String,
    pub(crate) listen_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) proxyprotocol: bool,
    pub(crate) check: HealthCheck,
    pub(crate) http: HttpOptions,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HealthCheck {
    pub(crate) protocol: String,
    pub(crate) port: u16,
    /// Time between two checks, in seconds of the emulated cloud.
    pub(crate) interval: u32,
    /// Longest time that one check takes, in seconds.
    pub(crate) timeout: u32,
    pub(crate) retries: u32,
    pub(crate) http: Option<HttpCheck>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HttpCheck {
    pub(crate) domain: Option<String>,
    pub(crate) path: String,
    pub(crate) response: Option<String>,
    pub(crate) status_codes: Vec<String>,
    pub(crate) tls: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::struct_field_names, reason = "the words of the API")]
pub(crate) struct HttpOptions {
    pub(crate) cookie_name: String,
    pub(crate) cookie_lifetime: u32,
    pub(crate) certificates: Vec<u64>,
    pub(crate) redirect_http: bool,
    pub(crate) sticky_sessions: bool,
    pub(crate) timeout_idle: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) what: TargetSelector,
    pub(crate) use_private_ip: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TargetSelector {
    Server(u64),
    Selector(String),
    Ip(IpAddr),
}

impl Target {
    pub(crate) fn is_server(&self, server: u64) -> bool {
        self.what == TargetSelector::Server(server)
    }
}
