//! URLs of remotes: HTTPS, and HTTP on this machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An address `https://host/path`, without user, query or fragment. `http` is plain HTTP, and for
/// this machine alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^https?://[^@?#]+$"))]
pub struct Url(String);

impl Url {
    /// Returns the URL as text, without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the URL is plain HTTP, which implies an address of this machine.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.0.starts_with("http://")
    }

    /// Whether the host is this machine: 127.0.0.0/8, `[::1]` or localhost.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(self.host())
    }

    /// Returns the host with its port, for example `ghcr.io` or `127.0.0.1:5000`.
    #[must_use]
    pub fn host(&self) -> &str {
        self.rest().split('/').next().unwrap_or_default()
    }

    /// Returns the path without a slash at either end; empty when there is no path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.rest().split_once('/').map_or("", |(_, path)| path)
    }

    /// Returns the host and the path, with which an OCI reference begins: `ghcr.io/zabronax`.
    #[must_use]
    pub fn rest(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, rest)| rest)
    }
}

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .filter(|(scheme, _)| ["http", "https"].contains(scheme))
            .ok_or("not an address: write https://host, or http://127.0.0.1:port")?;
        let is_allowed =
            |letter: char| letter.is_ascii_graphic() && !['?', '#', '\\', '"'].contains(&letter);
        if rest.contains('@') {
            return Err("an address holds no user and no password: they have fields".to_owned());
        }
        let authority = rest.split('/').next().unwrap_or_default();
        if authority.is_empty() || !rest.chars().all(is_allowed) {
            return Err("not an address of host and path alone".to_owned());
        }
        if scheme == "http" && !is_loopback(authority) {
            return Err("http is for 127.0.0.0/8, [::1] and localhost only: use https".to_owned());
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

fn is_loopback(authority: &str) -> bool {
    let without_port = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = without_port.trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>().or(host.parse::<Ipv4Addr>().map(Into::into));
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

impl AsRef<str> for Url {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Url, String> {
        Url::try_from(text.to_owned())
    }

    #[test]
    fn a_url_splits_into_host_and_path() {
        let url = read("https://ghcr.io/zabronax/").expect("right");
        assert_eq!((url.host(), url.path(), url.is_plain()), ("ghcr.io", "zabronax", false));
        assert_eq!(url.rest(), "ghcr.io/zabronax");
        let url = read("http://127.77.0.1:5000").expect("right");
        assert_eq!((url.host(), url.path(), url.is_plain()), ("127.77.0.1:5000", "", true));
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        for here in ["http://127.9.9.9", "http://localhost:80/x", "http://[::1]:3000"] {
            assert!(read(here).is_ok(), "{here}");
        }
        for away in ["http://ghcr.io", "http://10.0.0.1:80", "http://localhost.example.org"] {
            assert!(read(away).is_err(), "{away}");
        }
    }

    #[test]
    fn an_error_about_a_url_with_a_password_does_not_quote_the_url() {
        for wrong in ["https://me:hunter2@ghcr.io", "hunter2", "ssh://hunter2", "https:///hunter2"]
        {
            assert!(!read(wrong).expect_err("wrong").contains("hunter2"), "{wrong}");
        }
    }

    #[test]
    fn only_addresses_of_this_machine_are_loopback() {
        let loopback = |text: &str| read(text).is_ok_and(|url| url.is_loopback());
        for here in
            ["https://127.0.0.1", "https://127.9.9.9:1/x", "https://[::1]:3", "http://localhost/a"]
        {
            assert!(loopback(here), "{here}");
        }
        for away in [
            "https://128.0.0.1",
            "https://0.0.0.0",
            "https://127.1",
            "https://localhost.example.org",
            "https://127.0.0.1.example.org",
            "https://[::ffff:127.0.0.1]",
            "https://10.0.0.1",
        ] {
            assert!(!loopback(away), "{away}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_as_a_url_or_is_an_error(text in prop_oneof![any::<String>(), "https?://.{0,40}", ".{0,40}"]) {
            let _ = Url::try_from(text).map(|url| {
                (url.host().len(), url.path().len(), url.is_loopback(), url.is_plain())
            });
        }
    }
}
