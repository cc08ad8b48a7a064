//! Ranges of IPv4 addresses.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// A range whose host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Cidr {
    base: u32,
    bits: u8,
}

impl Cidr {
    pub(crate) fn new(base: u32, bits: u8) -> Option<Self> {
        (bits <= 32 && base & !mask(bits) == 0).then_some(Self { base, bits })
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        Self::new(address.parse::<Ipv4Addr>().ok()?.to_bits(), bits.parse().ok()?)
    }

    pub(crate) fn bits(self) -> u8 {
        self.bits
    }

    pub(crate) fn first(self) -> u32 {
        self.base
    }

    pub(crate) fn last(self) -> u32 {
        self.base | !mask(self.bits)
    }

    /// Returns the second address of the range, which is the gateway of a network.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.saturating_add(1))
    }

    pub(crate) fn holds(self, address: Ipv4Addr) -> bool {
        (self.first()..=self.last()).contains(&address.to_bits())
    }

    pub(crate) fn spans(self, other: Self) -> bool {
        self.bits <= other.bits && self.first() <= other.first() && other.last() <= self.last()
    }

    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.first() <= other.last() && other.first() <= self.last()
    }

    /// Whether the range lies in one of the ranges of RFC 1918.
    pub(crate) fn is_private(self) -> bool {
        ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
            .iter()
            .filter_map(|range| Self::parse(range))
            .any(|range| range.spans(self))
    }
}

fn mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.base), self.bits)
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
            .ok_or_else(|| "not an IPv4 range in CIDR notation with empty host bits".to_owned())
    }
}

impl From<Cidr> for String {
    fn from(range: Cidr) -> Self {
        range.to_string()
    }
}

/// Whether a firewall rule may name the range: IPv4 or IPv6, without host bits.
pub(crate) fn is_range(text: &str) -> bool {
    let six = |text: &str| {
        let (address, bits) = text.split_once('/')?;
        let address = address.parse::<Ipv6Addr>().ok()?.to_bits();
        let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 128)?;
        Some(address & !u128::MAX.checked_shl(128 - bits).unwrap_or(0) == 0)
    };
    Cidr::parse(text).is_some() || six(text) == Some(true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn parse_refuses_ranges_with_host_bits() {
        assert_eq!(
            Cidr::parse("10.0.1.0/24").map(|range| range.to_string()),
            Some("10.0.1.0/24".to_owned())
        );
        assert!(
            ["10.0.0.1/24", "10.0.0.0/33", "10.0.0.0", "x/8"]
                .iter()
                .all(|range| Cidr::parse(range).is_none())
        );
        assert!(
            ["0.0.0.0/0", "::/0", "10.1.2.3/32", "2001:db8::/32", "2001:db8::1/128"]
                .iter()
                .all(|range| is_range(range))
        );
        assert!(
            ["10.1.2.3/8", "2001:db8::1/64", "::", "::/129"].iter().all(|range| !is_range(range))
        );
    }
}
