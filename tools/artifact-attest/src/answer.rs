//! What a registry says when it does not do what was asked, made fit for people.

use std::fmt;

use serde_json::Value;

/// Longest message of a registry that is repeated, in characters.
const MESSAGE_CHARACTERS_MAX: usize = 300;
/// How tokens begin that others may have put into a message: JSON web tokens, GitHub, GitLab,
/// Docker Hub.
const TOKEN_PREFIXES: [&str; 9] =
    ["eyJ", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "dckr_"];

/// Why an answer cannot be used. Each has its own help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The registry answers with a challenge of an unknown scheme, or without any.
    UnknownChallenge,
    /// The registry's challenge names a realm that must not see a login.
    UnsafeRealm {
        /// Scheme, host and port; or the text itself, when it is no URL.
        realm: String,
        /// Why it must not.
        why: &'static str,
    },
    /// An answer names a place that this client does not go to.
    UnsafeLocation {
        /// Scheme, host and port; or nothing, when there is no URL.
        to: String,
        /// Why it does not.
        why: &'static str,
    },
    /// Another host, to which the registry redirected, asks for a login.
    LoginElsewhere,
    /// A download is redirected too often.
    RedirectLoop,
    /// The realm's answer holds no token.
    NoToken,
    /// The answer is larger than anything that this program publishes.
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// There are more pages than this client reads.
    EndlessList {
        /// The limit.
        pages_max: usize,
    },
    /// The answer is not of the form that the OCI distribution specification names.
    NotOci {
        /// What was expected.
        expected: &'static str,
    },
    /// The answer cannot be made into a request.
    InvalidUrl,
}

impl Problem {
    /// What the reader can do about it.
    pub(crate) fn help(&self) -> String {
        match self {
            Self::UnknownChallenge => {
                "this program logs in with `Basic` and `Bearer`: see how the registry authenticates, and check `endpoints.registry.url`"
            }
            Self::UnsafeRealm { .. } => {
                "the login was not sent: the registry must name an https realm outside of internal networks; check `endpoints.registry.url`, or tell the registry's operator"
            }
            Self::UnsafeLocation { .. } => {
                "nothing was sent there: the registry's external address may be misconfigured (docker-registry: `http.host`; behind a proxy: X-Forwarded-Proto)"
            }
            Self::LoginElsewhere => {
                "the login is only for the registry itself and was not sent: tell the registry's operator that its storage refuses anonymous redirects"
            }
            Self::RedirectLoop => "tell the registry's operator: its redirects never end",
            Self::NoToken => "the realm gave no token: try `docker login` with the same user and token",
            Self::TooLarge { .. } => "nothing that this program published is that large: look at it in the registry",
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
                f.write_str("the host that the registry redirects to asks for a login")
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

/// The code and the message of a registry's error, and nothing else of its answer: other fields may
/// repeat what was sent. `secrets` and whatever looks like a token are left out.
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

/// The code of a registry's error.
pub(crate) fn code(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
}

/// A URL without its query, which may hold a token.
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
