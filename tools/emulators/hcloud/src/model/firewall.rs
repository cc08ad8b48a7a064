//! Firewalls: their rules, and the servers that they are applied to.

use serde::{Deserialize, Serialize};

use super::Server;
use crate::cidr;
use crate::error::ApiError;
use crate::resource::{Head, resource};
use crate::selector::Selector;

/// The most ranges of one rule.
const RANGES: usize = 100;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Firewall {
    pub(crate) head: Head,
    pub(crate) rules: Vec<Rule>,
    pub(crate) applied_to: Vec<FirewallTarget>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rule {
    description: Option<String>,
    /// Direction of the packets: `in` or `out`.
    direction: String,
    protocol: String,
    /// `80`, `80-85` or `any`; absent for protocols without ports.
    port: Option<String>,
    #[serde(default)]
    source_ips: Vec<String>,
    #[serde(default)]
    destination_ips: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FirewallTarget {
    Server(u64),
    Selector(String),
}

resource!(Firewall, "firewall");

impl Firewall {
    /// Whether the firewall is applied to the server, by its id or by its labels.
    pub(crate) fn covers(&self, server: &Server) -> bool {
        self.applied_to.iter().any(|target| target.covers(server))
    }

    /// Removes a deleted server from the targets.
    pub(crate) fn forget(&mut self, server: u64) {
        self.applied_to.retain(|target| *target != FirewallTarget::Server(server));
    }
}

impl FirewallTarget {
    pub(crate) fn covers(&self, server: &Server) -> bool {
        match self {
            Self::Server(id) => *id == server.head.id,
            Self::Selector(text) => {
                Selector::parse(text).is_ok_and(|selector| selector.matches(&server.head.labels))
            }
        }
    }
}

impl Rule {
    /// Refuses a rule that breaks the documented rules, and names every wrong field.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        let has_ports = matches!(self.protocol.as_str(), "tcp" | "udp");
        let is_known = has_ports || matches!(self.protocol.as_str(), "icmp" | "esp" | "gre");
        let (ranges, unused) = match self.direction.as_str() {
            "in" => (&self.source_ips, &self.destination_ips),
            "out" => (&self.destination_ips, &self.source_ips),
            _ => return Err(ApiError::invalid_fields(&[("rules.direction", "must be in or out")])),
        };
        let mut wrong = Vec::new();
        if !is_known {
            wrong.push(("rules.protocol", "must be tcp, udp, icmp, esp or gre"));
        }
        if has_ports != self.port.as_deref().is_some_and(is_port)
            || (!has_ports && self.port.is_some())
        {
            wrong.push(("rules.port", "must be a port or range, for tcp and udp only"));
        }
        if ranges.is_empty() || ranges.len() > RANGES || !unused.is_empty() {
            wrong.push((
                "rules.source_ips",
                "a rule `in` has 1 to 100 source_ips, a rule `out` as many destination_ips",
            ));
        }
        if ranges.iter().any(|range| !cidr::is_range(range)) {
            wrong.push(("rules.source_ips", "must be ranges in CIDR notation, without host bits"));
        }
        if self.description.as_ref().is_some_and(|description| description.len() > 255) {
            wrong.push(("rules.description", "is too long"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(ApiError::invalid_fields(&wrong)) }
    }
}

/// Whether the text is `80`, `80-85` or `any`.
fn is_port(text: &str) -> bool {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    match text.split_once('-') {
        None => text == "any" || port(text).is_some(),
        Some((low, high)) => port(low).zip(port(high)).is_some_and(|(low, high)| low <= high),
    }
}
