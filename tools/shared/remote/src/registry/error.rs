//! Errors of a registry's client. Each program adds help that names its own fields and commands.

use documents::{Diagnostic, Exit, Reason};

use super::digest::Digest;
use super::problem::Problem;
use crate::RootsError;
use crate::agent::{UNTRUSTED_HELP, is_untrusted};
use crate::redact::shown;

/// Cause of an error, in the words of a library.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Errors of a registry's client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A signal ended the run.
    #[error(transparent)]
    Interrupted(#[from] documents::Error),
    /// The login cannot be read.
    #[error(transparent)]
    Secret(#[from] secrets::Error),
    /// The certificate authorities that a variable names cannot be read.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// Docker's configuration, or a credential helper that it names, cannot be used.
    #[error("cannot use {what}: {why}")]
    DockerConfig {
        /// Path of the file, or name of the helper.
        what: String,
        /// Cause, without the content.
        why: String,
    },
    /// The registry, or its token service, does not answer.
    #[error("cannot reach {url}")]
    Unreachable {
        /// URL of the request.
        url: String,
        /// Cause of the failure.
        source: Cause,
    },
    /// The server's certificate is not trusted.
    #[error("the certificate of {url} is not trusted")]
    Untrusted {
        /// URL of the request.
        url: String,
        /// Cause, in the words of the TLS library.
        source: Cause,
    },
    /// The registry answered with a rate limit (429) or a server error.
    #[error("{url} answered {status} {said}")]
    Busy {
        /// URL of the request.
        url: String,
        /// HTTP status of the response.
        status: u16,
        /// Pause in seconds that the response demands, or 0.
        seconds: u64,
        /// The registry's own message.
        said: String,
    },
    /// The registry denied access (401 or 403).
    #[error("access to {url} denied: {said}")]
    Denied {
        /// URL of the request.
        url: String,
        /// HTTP status of the response: 401 or 403.
        status: u16,
        /// Whether the request had no login.
        anonymous: bool,
        /// The registry's own message.
        said: String,
    },
    /// The registry rejected the request.
    #[error("{url} answered {status} {said} to {method}")]
    Refused {
        /// HTTP method of the request.
        method: String,
        /// URL of the request.
        url: String,
        /// HTTP status of the response.
        status: u16,
        /// The registry's own message.
        said: String,
    },
    /// The registry's response is invalid.
    #[error("{url}: {problem}")]
    InvalidResponse {
        /// URL of the request.
        url: String,
        /// Cause, with its own help.
        problem: Problem,
    },
    /// The registry returned content whose digest differs from the requested one.
    #[error("the registry returned {found} for {what}")]
    Corrupt {
        /// Digest that was requested.
        what: String,
        /// Digest of the returned content.
        found: Digest,
    },
}

impl Error {
    /// Returns the error for an unusable response to a request for `url`.
    #[must_use]
    pub fn invalid_response(url: &str, problem: Problem) -> Self {
        Self::InvalidResponse { url: shown(url), problem }
    }

    /// Returns the error for a connection that failed.
    #[must_use]
    pub fn unreachable(url: &str, source: impl Into<Cause>) -> Self {
        Self::Unreachable { url: shown(url), source: source.into() }
    }

    /// Classifies a failed request, so that only failures of the network are retried.
    pub(super) fn of_request(url: &str, source: ureq::Error) -> Self {
        match source {
            source if is_untrusted(&source) => {
                Self::Untrusted { url: shown(url), source: source.into() }
            }
            ureq::Error::RedirectFailed | ureq::Error::TooManyRedirects => {
                let why = "a request with a body was redirected";
                Self::invalid_response(url, Problem::UnsafeLocation { to: String::new(), why })
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                Self::invalid_response(url, Problem::InvalidUrl)
            }
            source => Self::unreachable(url, source),
        }
    }
}

impl Diagnostic for Error {
    fn reason(&self) -> Reason {
        match self {
            Self::Interrupted(error) => error.reason(),
            Self::Secret(error) => error.reason(),
            Self::Roots(_) | Self::DockerConfig { .. } => Reason::FileFailed,
            Self::Busy { status: 429, .. } => Reason::RateLimited,
            Self::Unreachable { .. } | Self::Busy { .. } => Reason::Unreachable,
            Self::Untrusted { .. } => Reason::Untrusted,
            Self::Denied { status: 401, .. } => Reason::Unauthorized,
            Self::Denied { .. } => Reason::Forbidden,
            Self::Refused { .. } => Reason::Rejected,
            Self::InvalidResponse { .. } => Reason::InvalidResponse,
            Self::Corrupt { .. } => Reason::Corrupt,
        }
    }

    /// Returns the help that does not depend on the program.
    fn help(&self) -> Option<String> {
        match self {
            Self::Interrupted(error) => error.help(),
            Self::Secret(error) => error.help(),
            Self::Roots(error) => Some(error.help()),
            Self::DockerConfig { .. } => Some(
                "log in again (`docker login`), correct the file, or give `endpoints.registry.token`, which is used instead"
                    .to_owned(),
            ),
            Self::Untrusted { .. } => Some(UNTRUSTED_HELP.to_owned()),
            Self::InvalidResponse { problem, .. } => Some(problem.help()),
            Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::Denied { .. }
            | Self::Refused { .. }
            | Self::Corrupt { .. } => None,
        }
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy { .. })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Interrupted(error) => error.exit(),
            Self::Secret(error) => error.exit(),
            Self::Unreachable { .. } | Self::Busy { .. } => Exit::Temporary,
            Self::Roots(_)
            | Self::DockerConfig { .. }
            | Self::Untrusted { .. }
            | Self::Denied { .. }
            | Self::Refused { .. }
            | Self::InvalidResponse { .. }
            | Self::Corrupt { .. } => Exit::Permanent,
        }
    }
}
