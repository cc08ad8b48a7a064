//! Firewall of the machines.
//!
//! Hetzner's firewalls filter packets at the public interfaces of servers. They filter neither load
//! balancers nor private networks: <https://docs.hetzner.com/cloud/firewalls/faq>.

use std::fmt;
use std::net::IpAddr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Inbound rules of the firewall in front of every machine. Every port is closed unless the document
/// opens it. The firewall does not filter the load balancer, which every address can reach, and not
/// the private network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Firewall {
    /// Addresses that may reach Talos's API, port 50000. `apply` runs at one of them, so the list must
    /// not be empty.
    pub talos: Vec<Source>,
    /// Addresses that may reach the Kubernetes API at the machines, port 6443. Required with
    /// `endpoint`. Without `endpoint` the API is reached at the load balancer, which no firewall
    /// filters.
    pub kubernetes: Option<Vec<Source>>,
    /// Addresses that may send ICMP, for example `ping`.
    pub icmp: Vec<Source>,
    /// Further rules, for example `{protocol: tcp, port: 443, from: [anywhere]}`.
    pub rules: Vec<FirewallRule>,
}

/// Inbound rule of the firewall.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "an object with `protocol`")]
pub struct FirewallRule {
    /// Protocol of the packets.
    pub protocol: Protocol,
    /// Port or range of ports, for example `443` or `30000-32767`. Required for `tcp` and `udp`.
    pub port: Option<Ports>,
    /// Addresses from which packets are accepted.
    pub from: Vec<Source>,
}

/// Protocol of a firewall rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, on the given ports.
    Tcp,
    /// UDP, on the given ports.
    Udp,
    /// ICMP.
    Icmp,
    /// ESP of `IPsec`.
    Esp,
    /// GRE tunnels.
    Gre,
}

impl Protocol {
    /// Returns the name in Hetzner's API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Esp => "esp",
            Self::Gre => "gre",
        }
    }

    /// Returns whether packets of the protocol have a port.
    #[must_use]
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

/// Port or range of ports, for example `443` or `30000-32767`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    const WRONG: &str = "not a port such as 443, or a range such as 30000-32767";

    fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    fn parse(text: &str) -> Option<Self> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| port.to_string() == text);
        match text.split_once('-') {
            // A range of one port is written as the port, as the API shows it.
            Some((first, last)) => {
                Self::new(port(first)?, port(last)?).filter(|ports| ports.first < ports.last)
            }
            None => Self::new(port(text)?, port(text)?),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { first, last } if first == last => write!(f, "{first}"),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

/// YAML reads `443` as a number and `30000-32767` as text.
impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Ports;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port such as 443, or a range such as 30000-32767")
            }

            fn visit_u64<E: de::Error>(self, port: u64) -> Result<Ports, E> {
                let port = u16::try_from(port).unwrap_or_default();
                Ports::new(port, port).ok_or_else(|| E::custom(Ports::WRONG))
            }

            fn visit_i64<E: de::Error>(self, port: i64) -> Result<Ports, E> {
                self.visit_u64(u64::try_from(port).unwrap_or_default())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ports, E> {
                Ports::parse(text).ok_or_else(|| E::custom(Ports::WRONG))
            }
        }

        from.deserialize_any(Text)
    }
}

impl JsonSchema for Ports {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ports".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Port or range of ports, for example `443` or `30000-32767`.",
            "type": ["integer", "string"],
            "minimum": 1,
            "maximum": 65535,
            "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$",
        })
    }
}

/// Subnet of IPv4 or IPv6, for example `192.0.2.0/24`, or the word `anywhere` for every address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub struct Source(String);

impl Source {
    const ANYWHERE: &str = "anywhere";

    /// Returns the source that every address matches.
    #[must_use]
    pub fn anywhere() -> Self {
        Self(Self::ANYWHERE.to_owned())
    }

    /// Returns whether every address of IPv4 and IPv6 matches one of `sources`.
    #[must_use]
    pub fn admit_all(sources: &[Self]) -> bool {
        let subnets: Vec<_> = sources.iter().flat_map(Self::subnets).collect();
        Self::anywhere().subnets().iter().all(|all| subnets.contains(all))
    }

    /// Returns the subnets in the form that the API requires: without host bits, in lower case and
    /// shortened as in RFC 5952, because anything else would be rejected or differ for ever.
    #[must_use]
    pub fn subnets(&self) -> Vec<String> {
        if self.0 == Self::ANYWHERE {
            vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()]
        } else {
            vec![self.0.clone()]
        }
    }
}

impl TryFrom<String> for Source {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong =
            "not a subnet such as 192.0.2.0/24 or 2001:db8::/32, and not the word `anywhere`";
        if text == Self::ANYWHERE {
            return Ok(Self(text));
        }
        let (address, bits) = text.split_once('/').ok_or(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong)?;
        let bits: u32 = bits.parse().map_err(|_| wrong)?;
        let address = match address {
            IpAddr::V4(address) if bits <= 32 => {
                let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) if bits <= 128 => {
                let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
            _ => return Err(wrong.to_owned()),
        };
        let normal = format!("{address}/{bits}");
        if normal == text {
            Ok(Self(text))
        } else {
            Err(format!("not the form in which Hetzner's API shows this subnet: write {normal}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Result<Vec<String>, String> {
        Source::try_from(text.to_owned()).map(|source| source.subnets())
    }

    // hazard: `apply` fails half way at a subnet that the document accepted.
    // class: The program accepts what the vendor rejects.
    // members: host bits, upper case, zeros that are not shortened, other notations
    // now: a mistake with line and column, which names the form to write
    #[test]
    fn a_source_is_accepted_in_the_normal_form_of_the_api_only() {
        for text in ["192.0.2.0/24", "198.51.100.7/32", "0.0.0.0/0", "::/0", "2001:db8::/32"] {
            assert_eq!(source(text), Ok(vec![text.to_owned()]));
        }
        assert_eq!(source("anywhere"), Ok(vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()]));
        for (text, normal) in [
            ("192.0.2.5/24", "192.0.2.0/24"),
            ("192.0.2.0/024", "192.0.2.0/24"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("2001:db8::1/64", "2001:db8::/64"),
            ("2001:0db8:0:0:0:0:0:0/32", "2001:db8::/32"),
            ("1.2.3.4/0", "0.0.0.0/0"),
        ] {
            let error = source(text).expect_err(text);
            assert!(error.ends_with(&format!("write {normal}")), "{text}: {error}");
        }
        for text in ["", "192.0.2.0", "192.0.2.0/33", "::/129", "x/8", "any", "Anywhere", "/8"] {
            assert!(source(text).expect_err(text).starts_with("not a subnet"), "{text}");
        }
    }

    #[test]
    fn a_port_is_a_number_or_a_range() {
        let read = |text: &str| serde_json::from_str::<Ports>(text).map(|ports| ports.to_string());
        for (text, ports) in [("80", "80"), ("\"443\"", "443"), ("\"1-65535\"", "1-65535")] {
            assert_eq!(read(text).ok().as_deref(), Some(ports), "{text}");
        }
        for text in
            ["0", "65536", "-1", "\"80-80\"", "\"9-8\"", "\"any\"", "\"080\"", "\"\"", "true"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
