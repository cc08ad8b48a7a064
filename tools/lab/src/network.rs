//! The loopback network of a lab.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// First two bytes of the lab's addresses: a /16 inside 127.0.0.0/8. Linux accepts every address of
/// 127.0.0.0/8 without configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network(pub(crate) [u8; 2]);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not of the form 127.N.0.0/16, with N from 1 to 255".to_owned();
        let address = text.strip_suffix("/16").ok_or_else(wrong)?;
        match address.parse::<Ipv4Addr>().map(|address| address.octets()) {
            // 127.0.0.0/16 holds 127.0.0.1 and the other services of the machine.
            Ok([127, second @ 1..=255, 0, 0]) => Ok(Self([127, second])),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.0.0/16", self.0[0], self.0[1])
    }
}
