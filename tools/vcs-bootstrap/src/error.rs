//! Errors of this program, with their help, exit status and condition reason.

use std::io;

use ::remote::{RootsError, UNTRUSTED_HELP};
use documents::{Diagnostic, Exit, Reason};

use crate::model::Refusal;
use crate::refused::Verdict;

/// Errors of this program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The documents are invalid, depend on a document that is not ready, or cannot be written.
    #[error(transparent)]
    Stream(#[from] documents::Error),
    /// A secret cannot be resolved.
    #[error(transparent)]
    Keyring(#[from] secrets::Error),
    /// The certificate authorities that a variable names cannot be read.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// Deleting the repository would lose its history.
    #[error(
        "no receipt proves a copy of {repository} in its present state, and `destroy` would delete the repository"
    )]
    NotDrained {
        /// Owner and name of the repository.
        repository: String,
    },
    /// The Project has no forge.
    #[error("the Project has no `endpoints.forge`")]
    NoForge,
    /// The forge does not answer, or answers with a server error.
    #[error("the forge does not answer: {method} {path}")]
    Unreachable {
        /// HTTP method of the request.
        method: String,
        /// Path of the request.
        path: String,
        /// Cause of the failure.
        source: Cause,
    },
    /// The certificate of the forge is not trusted.
    #[error("the certificate of {forge} is not trusted: {why}")]
    Untrusted {
        /// URL of the forge's API.
        forge: String,
        /// Cause, in the words of the TLS library.
        why: String,
    },
    /// The proxy of the environment demands another login.
    #[error("the proxy does not accept the login for it (status 407)")]
    ProxyLogin,
    /// The response of a request that must not be repeated blindly was lost.
    #[error("the response to {method} {path} was lost, so the request may have taken effect")]
    Ambiguous {
        /// HTTP method of the request.
        method: String,
        /// Path of the request.
        path: String,
        /// Cause of the lost response.
        source: Cause,
    },
    /// The forge rejected the token.
    #[error("the forge does not accept the token")]
    Unauthorised,
    /// The token lacks a permission.
    #[error("the token may not {method} {path}: {message}")]
    Forbidden {
        /// HTTP method of the request.
        method: String,
        /// Path of the request.
        path: String,
        /// The forge's own message.
        message: String,
        /// Permissions that the request needs, if the forge names them.
        accepted: Option<String>,
    },
    /// The owner's billing plan lacks the feature.
    #[error("the owner's plan at the forge does not allow {path}: {message}")]
    PlanGate {
        /// Path of the request.
        path: String,
        /// The forge's own message.
        message: String,
    },
    /// The forge's rate limit demands a longer wait than this program allows.
    #[error("the forge's rate limit demands a wait of {seconds} seconds")]
    Limited {
        /// Demanded wait in seconds.
        seconds: u64,
    },
    /// The repository has another name or owner.
    #[error("{place} has been renamed or moved{}", .to.as_ref().map_or(String::new(), |to| format!(", to {to}")))]
    Renamed {
        /// Name in the document, as `owner/name`.
        place: String,
        /// Name at the forge, if the forge tells it.
        to: Option<String>,
    },
    /// The forge, or a proxy in front of it, redirects to a sign-in page.
    #[error("{path} answers with a redirect to another page")]
    SignInPage {
        /// Path of the request.
        path: String,
    },
    /// The token does not fit into a header.
    #[error("the forge's token cannot be used: {why}")]
    TokenUnusable {
        /// Cause, without a quotation of the token.
        why: String,
    },
    /// The forge has no account with this name.
    #[error("the forge has no user or organisation {owner}")]
    NoOwner {
        /// Declared owner.
        owner: String,
    },
    /// Repositories of a user can be created with a token of that user alone.
    #[error("{owner} is a user, and the token does not belong to {owner}")]
    ForeignUser {
        /// Declared owner.
        owner: String,
    },
    /// A transfer was requested, and the repository is not at its new owner.
    #[error("the transfer to {place} was requested, and the repository is not there yet")]
    TransferPending {
        /// Declared owner and name.
        place: String,
    },
    /// The App is not installed at the owner of the repository.
    #[error("the GitHub App {client_id} is not installed at {owner}")]
    NotInstalled {
        /// Client ID of the App.
        client_id: String,
        /// Declared owner.
        owner: String,
    },
    /// The forge does not accept the signature of the App.
    #[error("the forge does not accept the key of the GitHub App {client_id}: {message}")]
    AppRejected {
        /// Client ID of the App.
        client_id: String,
        /// The forge's own message.
        message: String,
    },
    /// A receipt covers the history, and the forge has further contents.
    #[error("{repository} has contents that no receipt covers, and `destroy` would delete them: {}", .what.join(", "))]
    NotCovered {
        /// Owner and name of the repository.
        repository: String,
        /// Contents that no receipt covers, for example `3 issues`.
        what: Vec<String>,
    },
    /// The forge rejected the request.
    #[error("the forge answered status {status} to {method} {path}: {message}")]
    Refused {
        /// HTTP method of the request.
        method: String,
        /// Path of the request.
        path: String,
        /// HTTP status of the response.
        status: u16,
        /// The forge's own message.
        message: String,
    },
    /// The response lacks something that this program needs.
    #[error("the forge's response to {path} lacks {what}")]
    Garbled {
        /// Path of the request.
        path: String,
        /// Missing part, for example `clone_url`.
        what: String,
    },
    /// The public key for the repository's secrets is invalid.
    #[error("the forge's public key for secrets is invalid")]
    NotAPublicKey,
    /// Git cannot be started.
    #[error("cannot run git")]
    NoGit(#[source] io::Error),
    /// Git exceeded its time limit.
    #[error("`git {command}` did not end within {seconds} seconds")]
    GitSlow {
        /// Git's subcommand, for example `push`.
        command: String,
        /// Time limit in seconds.
        seconds: u64,
    },
    /// A git command failed.
    #[error("`git {command}` failed: {message}")]
    GitFailed {
        /// Git's subcommand, for example `push`.
        command: String,
        /// Last lines of Git's standard error.
        message: String,
    },
    /// The branch that the document declares cannot be pushed.
    #[error("{what}")]
    NoHistory {
        /// Cause, as a sentence.
        what: String,
        /// Help for this cause.
        help: String,
    },
    /// The forge rejected the push.
    #[error("the forge rejected the push of {branch}: {message}")]
    PushRefused {
        /// Name of the branch.
        branch: String,
        /// The forge's own message.
        message: String,
        /// Reason and help for this message.
        verdict: Verdict,
    },
    /// The objects of Git LFS cannot be uploaded.
    #[error("the objects of Git LFS cannot be uploaded: {message}")]
    UploadRefused {
        /// Message of the forge or of git-lfs.
        message: String,
        /// Reason and help for this message.
        verdict: Verdict,
    },
    /// Conflicts prevent the declared state.
    #[error("{}", .0.iter().map(|refusal| refusal.what.as_str()).collect::<Vec<_>>().join("; "))]
    Blocked(Vec<Refusal>),
    /// `verify` found differences between the document and the forge.
    #[error("not as declared: {}", .0.join("; "))]
    Unproven(Vec<String>),
}

/// Source of an error that comes from a library.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Diagnostic for Error {
    fn reason(&self) -> Reason {
        match self {
            Self::Stream(error) => error.reason(),
            Self::Keyring(error) => error.reason(),
            Self::Roots(_) => Reason::FileFailed,
            Self::NotDrained { .. } => Reason::NotDrained,
            Self::NoForge => Reason::EndpointMissing,
            Self::Unreachable { .. } => Reason::Unreachable,
            Self::Untrusted { .. } => Reason::Untrusted,
            Self::Ambiguous { .. } => Reason::ResponseLost,
            Self::Unauthorised | Self::ProxyLogin | Self::AppRejected { .. } => {
                Reason::Unauthorized
            }
            Self::Forbidden { .. } | Self::ForeignUser { .. } | Self::NotInstalled { .. } => {
                Reason::Forbidden
            }
            Self::NoOwner { .. } => Reason::NotFound,
            Self::TransferPending { .. } => Reason::NotConverged,
            Self::PlanGate { .. } => Reason::PlanGate,
            Self::Limited { .. } => Reason::RateLimited,
            Self::Renamed { .. } => Reason::Renamed,
            Self::Refused { .. } => Reason::Rejected,
            Self::Garbled { .. } | Self::NotAPublicKey => Reason::InvalidResponse,
            Self::NoGit(_) => Reason::ToolMissing,
            Self::GitSlow { .. } => Reason::TimedOut,
            Self::GitFailed { .. } => Reason::GitFailed,
            Self::NoHistory { .. } => Reason::NoHistory,
            Self::PushRefused { verdict, .. } | Self::UploadRefused { verdict, .. } => {
                verdict.reason
            }
            Self::SignInPage { .. } => Reason::Redirected,
            Self::TokenUnusable { .. } => Reason::SecretUnavailable,
            Self::NotCovered { .. } => Reason::NotCovered,
            Self::Blocked(refused) => {
                refused.first().map_or(Reason::Conflict, |refusal| refusal.reason)
            }
            Self::Unproven(_) => Reason::VerificationFailed,
        }
    }

    fn refusals(&self) -> Vec<documents::Refusal> {
        let refusal = |object: String| documents::Refusal {
            object,
            reason: self.reason(),
            message: self.help().unwrap_or_default(),
        };
        match self {
            Self::NotDrained { repository } => vec![refusal(repository.clone())],
            Self::NotCovered { repository, what } => {
                what.iter().map(|what| refusal(format!("{repository}: {what}"))).collect()
            }
            _ => Vec::new(),
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Stream(error) => return error.help(),
            Self::Keyring(error) => return error.help(),
            Self::Roots(error) => return Some(error.help()),
            Self::NoHistory { help, .. } => return Some(help.clone()),
            Self::Blocked(refused) => {
                return Some(
                    refused.iter().map(|refusal| &*refusal.help).collect::<Vec<_>>().join("; "),
                );
            }
            Self::Forbidden { accepted: Some(accepted), .. } => {
                return Some(format!("give the token one of these permissions: {accepted}"));
            }
            Self::NotDrained { .. } => {
                "run `data-drain apply` first, or set `dataOnDestroy: discard` if the history may be lost"
            }
            Self::NoForge => "set spec.endpoints.forge of the project",
            Self::Unreachable { .. } => {
                "check that the forge is running, then run the same command again"
            }
            Self::Untrusted { .. } => UNTRUSTED_HELP,
            Self::Ambiguous { .. } => {
                "run the same command again: every run observes the forge first"
            }
            Self::Unauthorised => {
                "create a new token and store it where spec.endpoints.forge points"
            }
            Self::Forbidden { .. } => {
                "give the token access to administration, contents, secrets and \
                 variables; a token for selected repositories cannot create one"
            }
            Self::ProxyLogin => {
                "write the proxy's user and password into https_proxy: http://USER:PASSWORD@HOST:PORT, \
                 with percent-encoding"
            }
            Self::NoOwner { .. } => {
                "correct spec.owner, or create the organisation: this program creates no accounts"
            }
            Self::ForeignUser { .. } => {
                "use a personal token of that user: an App can create repositories of organisations \
                 only; or create the repository by hand, empty, and give the token access to it"
            }
            Self::TransferPending { .. } => {
                "accept the transfer as its new owner, at the forge, then run the same command again"
            }
            Self::NotInstalled { .. } => {
                "install the App at the owner for all repositories, on its page at the forge"
            }
            Self::AppRejected { .. } => {
                "compare clientId with the App's page, generate a new private key there if it was \
                 deleted, and check the clock of this machine"
            }
            Self::PlanGate { .. } => {
                "upgrade the owner's plan, make the repository public, or remove the feature from the document"
            }
            Self::Limited { .. } => {
                "run the same command again later: finished steps are not repeated"
            }
            Self::Renamed { .. } => {
                "write the new name and owner into the document, and the old name into `previously`, \
                 and apply: everything stays managed, and derived keys stay the same; or restore the \
                 old name at the forge"
            }
            Self::Refused { .. } => {
                "correct the cause in the message, then run the same command again"
            }
            Self::Garbled { .. } => {
                "check that spec.endpoints.forge is the root URL of the forge's API"
            }
            Self::NotAPublicKey => "run the same command again; if the error persists, report it",
            Self::NoGit(_) => "install Git 2.32 or newer",
            Self::GitSlow { .. } => "check the network, then run the same command again",
            Self::GitFailed { .. } => {
                "correct the cause in Git's message, then run the same command again"
            }
            Self::PushRefused { verdict, .. } | Self::UploadRefused { verdict, .. } => verdict.help,
            Self::SignInPage { .. } => {
                "check that spec.endpoints.forge is the API itself, not behind a page to sign in"
            }
            Self::TokenUnusable { .. } => {
                "write the token alone, on one line, where spec.endpoints.forge points"
            }
            Self::NotCovered { .. } => {
                "a receipt covers the Git history alone: export the rest, or use `onDestroy: \
                 archive`, or set `dataOnDestroy: discard` if all contents may be lost"
            }
            Self::Unproven(_) => "run `plan` to see the differences, and `apply` to correct them",
        };
        Some(help.to_owned())
    }

    fn is_unknown(&self) -> bool {
        let Self::Blocked(refusals) = self else { return false };
        refusals.iter().any(|refusal| refusal.reason == Reason::AbsenceUnproven)
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::GitSlow { .. })
    }

    fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Ambiguous { .. } | Self::GitFailed { .. })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Stream(error) => error.exit(),
            Self::Keyring(error) => error.exit(),
            Self::Unreachable { .. }
            | Self::Ambiguous { .. }
            | Self::Limited { .. }
            | Self::TransferPending { .. }
            | Self::GitSlow { .. }
            | Self::GitFailed { .. }
            | Self::NotAPublicKey => Exit::Temporary,
            Self::NoForge
            | Self::Untrusted { .. }
            | Self::Roots(_)
            | Self::NotDrained { .. }
            | Self::NotCovered { .. }
            | Self::SignInPage { .. }
            | Self::TokenUnusable { .. }
            | Self::Unauthorised
            | Self::NoOwner { .. }
            | Self::ProxyLogin
            | Self::ForeignUser { .. }
            | Self::NotInstalled { .. }
            | Self::AppRejected { .. }
            | Self::Forbidden { .. }
            | Self::PlanGate { .. }
            | Self::Renamed { .. }
            | Self::Refused { .. }
            | Self::Garbled { .. }
            | Self::NoGit(_)
            | Self::NoHistory { .. }
            | Self::PushRefused { .. }
            | Self::UploadRefused { .. }
            | Self::Blocked(_)
            | Self::Unproven(_) => Exit::Permanent,
        }
    }
}
