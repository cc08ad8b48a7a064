//! Unusable responses of a registry, described to people.

use std::fmt;

/// Reasons why a response is unusable. Each has its own help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The registry answers 401 without a challenge, or with one of an unknown scheme.
    UnknownChallenge,
    /// The challenge names a realm that must not receive a login.
    UnsafeRealm {
        /// Scheme, host and port of the realm; the realm's text if it is not a URL.
        realm: String,
        /// Reason, for example "https would become http".
        why: &'static str,
    },
    /// A response redirects to a location that this client does not follow.
    UnsafeLocation {
        /// Scheme, host and port of the location; empty if it is not a URL.
        to: String,
        /// Reason, for example "https would become http".
        why: &'static str,
    },
    /// A host other than the registry's, reached by a redirect, requests a login.
    LoginElsewhere,
    /// A download exceeds the limit of redirects.
    RedirectLoop,
    /// The realm's response contains no token.
    NoToken,
    /// The response is larger than the reader accepts.
    TooLarge {
        /// Largest accepted size in bytes.
        bytes_max: u64,
    },
    /// The content has another size than its descriptor declares.
    WrongSize {
        /// Size in the descriptor, in bytes.
        declared: u64,
        /// Size of the content, in bytes.
        found: u64,
    },
    /// The list has more pages than this client reads.
    EndlessList {
        /// Largest accepted number of pages.
        pages_max: usize,
    },
    /// The registry acknowledged an upload, and does not have the blob.
    NotStored,
    /// The response does not have the form that the OCI distribution specification requires.
    NotOci {
        /// Expected form, for example "a list of tags".
        expected: &'static str,
    },
    /// The registry's response leads to a URL that no request can be built from.
    InvalidUrl,
}

impl Problem {
    /// Returns the help for this problem.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            Self::UnknownChallenge => {
                "this program supports the schemes `Basic` and `Bearer`: check the registry's documentation and `endpoints.registry.url`"
            }
            Self::UnsafeRealm { .. } => {
                "the login was not sent: the realm must be an https URL outside of internal networks; check `endpoints.registry.url`, or tell the registry's operator"
            }
            Self::UnsafeLocation { .. } => {
                "the redirect was not followed: the registry's external address may be misconfigured (docker-registry: `http.host`; behind a proxy: X-Forwarded-Proto)"
            }
            Self::LoginElsewhere => {
                "the login belongs to the registry's own host and was not sent: tell the registry's operator that the storage rejects anonymous downloads"
            }
            Self::RedirectLoop => "tell the registry's operator about the redirect loop",
            Self::NoToken => "the token service returned no token: try `docker login` with the same user and token",
            Self::TooLarge { .. } => "nothing that these programs publish is that large: check the repository's contents in the registry",
            Self::WrongSize { .. } => "publish the content again: its manifest declares another size",
            Self::EndlessList { .. } => {
                "delete tags or referrers that are no longer needed, then run the same command again"
            }
            Self::NotStored => {
                "tell the registry's operator: the registry acknowledged an upload that it did not store"
            }
            Self::NotOci { .. } | Self::InvalidUrl => {
                "check that `endpoints.registry.url` is the address of an OCI registry"
            }
        }
        .to_owned()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownChallenge => f.write_str("unknown authentication challenge"),
            Self::UnsafeRealm { realm, why } => {
                write!(f, "the challenge names the realm {realm}, and {why}")
            }
            Self::UnsafeLocation { to, why } if to.is_empty() => {
                write!(f, "the redirect cannot be followed: {why}")
            }
            Self::UnsafeLocation { to, why } => {
                write!(f, "the redirect to {to} cannot be followed: {why}")
            }
            Self::LoginElsewhere => {
                f.write_str("the host that the registry redirects to demands a login")
            }
            Self::RedirectLoop => f.write_str("too many redirects"),
            Self::NoToken => f.write_str("the answer holds no token"),
            Self::TooLarge { bytes_max } => {
                write!(f, "the answer is larger than {bytes_max} bytes")
            }
            Self::WrongSize { declared, found } => {
                write!(f, "the content has {found} bytes, but its descriptor declares {declared}")
            }
            Self::EndlessList { pages_max } => {
                write!(f, "the list has more than {pages_max} pages")
            }
            Self::NotStored => {
                f.write_str("the registry acknowledged the upload, and does not have the blob")
            }
            Self::NotOci { expected } => write!(f, "the answer is not {expected}"),
            Self::InvalidUrl => f.write_str("invalid URL"),
        }
    }
}
