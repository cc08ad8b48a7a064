//! Reads error responses of a registry, and describes them to people.

use std::fmt;

use serde_json::Value;

/// Longest message of a registry that is shown, in characters.
const MESSAGE_CHARACTERS_MAX: usize = 300;
/// Prefixes of tokens that a message may quote: JSON web tokens, GitHub, GitLab, Docker Hub.
const TOKEN_PREFIXES: [&str; 9] =
    ["eyJ", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "dckr_"];

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
    /// The response is larger than anything that this program publishes.
    TooLarge {
        /// Largest accepted size in bytes.
        bytes_max: u64,
    },
    /// The list has more pages than this client reads.
    EndlessList {
        /// Largest accepted number of pages.
        pages_max: usize,
    },
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
    pub(crate) fn help(&self) -> String {
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
            Self::TooLarge { .. } => "this program publishes nothing that large: check the repository's contents in the registry",
            Self::EndlessList { .. } => {
                "delete tags or referrers that are no longer needed, then run the same command again"
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
            Self::EndlessList { pages_max } => {
                write!(f, "the list has more than {pages_max} pages")
            }
            Self::NotOci { expected } => write!(f, "the answer is not {expected}"),
            Self::InvalidUrl => f.write_str("invalid URL"),
        }
    }
}

/// Returns the code and the message of a registry's error, without `secrets` and without words that
/// look like tokens. Other fields are dropped because they may repeat the request.
pub(crate) fn said(body: &[u8], secrets: &[String]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &body["errors"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    let message = [&error["message"], &body["message"], &body["error"]].map(text);
    let message = message.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    let mut all = [text(&error["code"]), message].join(" ");
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        all = all.replace(secret.as_str(), "(redacted)");
    }
    let words = all.split_whitespace().map(|word| {
        let is_token = TOKEN_PREFIXES.iter().any(|prefix| word.contains(prefix));
        if is_token { "(redacted)" } else { word }
    });
    let all = words.collect::<Vec<_>>().join(" ");
    all.chars().filter(|letter| !letter.is_control()).take(MESSAGE_CHARACTERS_MAX).collect()
}

/// Returns the code of a registry's error, for example `NAME_UNKNOWN`.
pub(crate) fn code(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
}

/// Returns a URL without its query, which may contain a token.
pub(crate) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    url.chars().filter(|letter| !letter.is_control()).take(MESSAGE_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_own_words_are_shown_without_any_secret() {
        let body = br#"{"errors":[{"code":"DENIED","message":"installation not allowed to Create organization package\n","detail":{"sent":"sesame"}}]}"#;
        assert_eq!(
            said(body, &[]),
            "DENIED installation not allowed to Create organization package"
        );
        let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"sesame, ghp_abc and eyJhbGci.e30.x are no good"}]}"#;
        assert_eq!(
            said(body, &["sesame".to_owned()]),
            "UNAUTHORIZED (redacted), (redacted) and (redacted) are no good"
        );
        for odd in
            [&b"<html>"[..], b"", b"[]", b"{\"errors\":7}", b"{\"errors\":[]}", b"null", b"\xff"]
        {
            assert_eq!(said(odd, &[]), "");
        }
    }

    #[test]
    fn a_query_is_never_shown() {
        assert_eq!(shown("https://a/b?_state=secret"), "https://a/b");
    }
}
