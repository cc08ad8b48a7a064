//! Origins (scheme, host, port), and the rules for redirects and token realms.
//!
//! **Invariant:** a login or a token goes to the registry's own origin, and to a realm that the
//! registry's own challenge names. No other host receives one, whatever a response says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::http::Uri;

/// Scheme, host and port of a URL. Credentials are bound to an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    secure: bool,
    /// Host in lower case, without brackets and without a final dot.
    host: String,
    port: u16,
}

/// Network of a host, judged by its name or address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Public,
    Private,
    /// Link-local addresses, among them the metadata services of clouds: 169.254.169.254.
    LinkLocal,
    Loopback,
    /// Addresses that no host has: multicast, broadcast, or a number that is no IP address.
    Nowhere,
}

impl Origin {
    /// Returns the origin of an absolute URL. Returns `None` for a URL with a user, without a host,
    /// or of a scheme other than `http` and `https`. `ureq` uses the same parser, so both agree on
    /// the host.
    pub(crate) fn of(url: &str) -> Option<Self> {
        let url: Uri = url.parse().ok()?;
        let secure = match url.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = url.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let port = match authority.port() {
            None if authority.as_str().ends_with(':') => return None,
            None => {
                if secure {
                    443
                } else {
                    80
                }
            }
            Some(port) => port.as_u16(),
        };
        (!host.is_empty()).then_some(Self { secure, host, port })
    }

    /// Returns `scheme://host:port`, for messages.
    pub(crate) fn shown(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    /// Returns the reason why the registry at `self` may not send this client to `target`.
    ///
    /// Plain HTTP is allowed only between a registry on this machine and this machine. An internal
    /// name or address is allowed only for a registry in the same network. Otherwise any registry
    /// could make a CI machine send requests to its neighbours or to its cloud's metadata service.
    pub(crate) fn forbids(&self, target: &Self) -> Option<&'static str> {
        if !target.secure && (self.secure || target.network() != Network::Loopback) {
            return Some("the target is not https");
        }
        let network = target.network();
        let is_inside = network == Network::Public || network == self.network();
        if is_inside || (target.secure && target.host == self.host) {
            return None;
        }
        Some(match network {
            Network::Loopback => "the target is this machine",
            Network::Nowhere => "the target's address belongs to no host",
            _ => "the target is an internal address",
        })
    }

    fn network(&self) -> Network {
        let host = self.host.as_str();
        if let Ok(address) = host.parse::<IpAddr>() {
            return match address.to_canonical() {
                IpAddr::V4(address) => of_v4(address),
                IpAddr::V6(address) => of_v6(address),
            };
        }
        let is_within = |domain: &str| {
            host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
        };
        let last = host.rsplit('.').next().unwrap_or_default();
        // getaddrinfo(3) reads `127.1`, `2130706433` and `0x7f.1` as IPv4 addresses.
        let is_number = last.starts_with("0x") || last.bytes().all(|byte| byte.is_ascii_digit());
        if is_number {
            Network::Nowhere
        } else if is_within("localhost") {
            Network::Loopback
        } else if !host.contains('.') || is_within("local") || is_within("internal") {
            Network::Private
        } else {
            Network::Public
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Network {
    let [first, second, ..] = address.octets();
    if address.is_loopback() {
        Network::Loopback
    } else if address.is_link_local() {
        Network::LinkLocal
    } else if address.is_private() || (first == 100 && second & 0xc0 == 64) {
        Network::Private // 100.64.0.0/10 is shared by carriers (RFC 6598)
    } else if first == 0 || first >= 224 {
        Network::Nowhere
    } else {
        Network::Public
    }
}

fn of_v6(address: Ipv6Addr) -> Network {
    let first = address.segments()[0];
    if address.is_loopback() {
        Network::Loopback
    } else if first & 0xffc0 == 0xfe80 {
        Network::LinkLocal
    } else if first & 0xfe00 == 0xfc00 {
        Network::Private
    } else if first & 0xe000 == 0x2000 {
        Network::Public // global unicast is 2000::/3 (RFC 4291)
    } else {
        Network::Nowhere
    }
}

/// Resolves `reference` against the URL `base` (RFC 3986, without dot segments).
pub(super) fn resolved(base: &str, reference: &str) -> String {
    let base = base.split(['?', '#']).next().unwrap_or_default();
    let after_scheme = base.find("://").map_or(0, |at| at + 3);
    let authority = base[after_scheme..].find('/').map_or(base.len(), |at| after_scheme + at);
    let is_absolute =
        reference.split(['/', '?', '#']).next().is_some_and(|part| part.contains(':'));
    if is_absolute {
        reference.to_owned()
    } else if reference.starts_with("//") {
        format!("{}{reference}", &base[..after_scheme.saturating_sub(2)])
    } else if reference.starts_with('/') {
        format!("{}{reference}", &base[..authority])
    } else if reference.starts_with('?') {
        format!("{base}{reference}")
    } else {
        let folder = base[authority..].rfind('/').map_or(base.len(), |at| authority + at);
        format!("{}/{reference}", &base[..folder])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Origin {
        Origin::of(url).expect(url)
    }

    #[test]
    fn an_origin_depends_on_scheme_host_and_port_alone() {
        let registry = origin("https://registry.example/a");
        for same in [
            "https://registry.example/v2/x",
            "https://REGISTRY.example:443/",
            "https://registry.example./",
        ] {
            assert_eq!(origin(same), registry, "{same}");
        }
        for other in [
            "https://registry.example.evil/v2/",
            "http://registry.example/v2/",
            "https://registry.example:444/v2/",
            "https://evil.example/?https://registry.example/",
            "https://evil.example/#@registry.example/",
        ] {
            assert_ne!(origin(other), registry, "{other}");
        }
        for none in ["https://a@registry.example/", "file:///etc/passwd", "/v2/", "https:///x", ""]
        {
            assert_eq!(Origin::of(none), None, "{none}");
        }
    }

    /// Combines every kind of registry with every kind of target.
    #[test]
    fn a_registry_cannot_redirect_to_plain_http_or_into_another_network() {
        let public = "https://registry.example";
        let private = "https://10.0.0.5";
        let cluster = "https://harbor";
        let loopback = "http://127.0.0.1:5000";
        let registries = [public, private, cluster, loopback];
        for (target, allowed) in [
            ("https://auth.example/token?x=1", &registries[..]),
            ("http://auth.example/token", &[]),
            ("http://127.0.0.1:5001/token", &[loopback]),
            ("http://localhost:5001/token", &[loopback]),
            ("http://10.0.0.5/token", &[]),
            ("https://127.0.0.1/token", &[loopback]),
            ("https://localhost./token", &[loopback]),
            ("https://a.localhost/token", &[loopback]),
            ("https://[::1]/token", &[loopback]),
            ("https://[::ffff:127.0.0.1]/token", &[loopback]),
            ("https://169.254.169.254/latest/meta-data", &[]),
            ("https://[fe80::1]/token", &[]),
            ("https://metadata.google.internal/token", &[private, cluster]),
            ("https://10.0.0.5/token", &[private, cluster]),
            ("https://192.168.1.1/token", &[private, cluster]),
            ("https://[fd00::1]/token", &[private, cluster]),
            ("https://100.64.0.1/token", &[private, cluster]),
            ("https://printer.local/token", &[private, cluster]),
            ("https://harbor/token", &[private, cluster]),
            ("https://0.0.0.0/token", &[]),
            ("https://2130706433/token", &[]),
            ("https://127.1/token", &[]),
            ("https://0x7f.0.0.1/token", &[]),
            ("https://0x7f000001/token", &[]),
        ] {
            for registry in registries {
                let seen = origin(registry).forbids(&origin(target)).is_none();
                assert_eq!(seen, allowed.contains(&registry), "{registry} names {target}");
            }
        }
    }

    #[test]
    fn a_reference_is_resolved_against_its_base_url() {
        let base = "https://a.example/v2/x/blobs/uploads/?n=1";
        for (reference, expected) in [
            ("/v2/y?state=z", "https://a.example/v2/y?state=z"),
            ("//evil.example/x", "https://evil.example/x"),
            ("https://b.example/x", "https://b.example/x"),
            ("?state=z", "https://a.example/v2/x/blobs/uploads/?state=z"),
            ("id", "https://a.example/v2/x/blobs/uploads/id"),
        ] {
            assert_eq!(resolved(base, reference), expected);
        }
        assert_eq!(resolved("https://a.example", "x"), "https://a.example/x");
        for odd in ["", "://", ":", "ü", "?", "//", "#"] {
            for base in ["", "a", "https://", "https://ü/ü", "?"] {
                let _ = Origin::of(&resolved(base, odd)); // must not panic
            }
        }
    }
}
