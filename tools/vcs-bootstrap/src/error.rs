//! Everything that can go wrong, what to do about it, and whether to try again.

use std::io;

use documents::{Diagnostic, Exit};

use crate::model::{REPOSITORY_UNKNOWN, Refusal};
use crate::refused::Verdict;

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is not right, not ready, or cannot be written.
    #[error(transparent)]
    Stream(#[from] documents::Error),
    /// A secret cannot be resolved.
    #[error(transparent)]
    Keyring(#[from] keyring::Error),
    /// What the forge has would be lost.
    #[error("no receipt proves that {repository} is copied as it is now, and it would be deleted")]
    NotDrained {
        /// Which repository.
        repository: String,
    },
    /// The project does not say where the forge is.
    #[error("the project does not say where its forge is")]
    NoForge,
    /// The forge, or the way to it, is out of order.
    #[error("the forge does not answer: {method} {path}")]
    Unreachable {
        /// What was asked.
        method: String,
        /// Where.
        path: String,
        /// Why not.
        source: Cause,
    },
    /// A request that must not be repeated blindly may or may not have taken effect.
    #[error("it is not known whether {method} {path} took effect")]
    Ambiguous {
        /// What was asked.
        method: String,
        /// Where.
        path: String,
        /// What happened instead of an answer.
        source: Cause,
    },
    /// The forge does not take the token.
    #[error("the forge does not accept the token")]
    Unauthorised,
    /// The token may not do this.
    #[error("the token may not {method} {path}: {message}")]
    Forbidden {
        /// What was asked.
        method: String,
        /// Where.
        path: String,
        /// What the forge said.
        message: String,
        /// The permissions that would do.
        accepted: Option<String>,
    },
    /// The plan that the owner pays for does not have it.
    #[error("the owner's plan at the forge does not allow {path}: {message}")]
    PlanGate {
        /// What was asked for.
        path: String,
        /// What the forge said.
        message: String,
    },
    /// The forge wants us to wait for longer than we do.
    #[error("the forge asks to be left alone for {seconds} seconds")]
    Limited {
        /// For how long.
        seconds: u64,
    },
    /// The repository has another name or owner.
    #[error("{place} has been renamed or moved{}", .to.as_ref().map_or(String::new(), |to| format!(", to {to}")))]
    Renamed {
        /// The name that the document gives it.
        place: String,
        /// Its name at the forge, as far as the forge tells.
        to: Option<String>,
    },
    /// The forge, or a proxy before it, answers with a page to sign in.
    #[error("{path} answers with a redirect to another page")]
    SignInPage {
        /// What was asked for.
        path: String,
    },
    /// The token cannot be sent.
    #[error("the forge's token cannot be used: {why}")]
    TokenUnusable {
        /// What is wrong with it, without quoting it.
        why: String,
    },
    /// A receipt covers the history, and the forge holds more.
    #[error("{repository} holds what no receipt covers, and it would be deleted: {}", .what.join(", "))]
    NotCovered {
        /// Which repository.
        repository: String,
        /// What it holds: `3 issues`, `a wiki`.
        what: Vec<String>,
    },
    /// The forge refuses what was asked.
    #[error("the forge refuses {method} {path} with status {status}: {message}")]
    Refused {
        /// What was asked.
        method: String,
        /// Where.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What the forge said.
        message: String,
    },
    /// The forge answered something that this version does not understand.
    #[error("the forge's answer to {path} lacks {what}")]
    Garbled {
        /// To what.
        path: String,
        /// What is missing.
        what: String,
    },
    /// The public key of the repository's secrets cannot be used.
    #[error("the forge's public key for secrets is not one")]
    NotAPublicKey,
    /// Git cannot be run.
    #[error("cannot run git")]
    NoGit(#[source] io::Error),
    /// Git took too long.
    #[error("`git {command}` did not end within {seconds} seconds")]
    GitSlow {
        /// Its command.
        command: String,
        /// How long it had.
        seconds: u64,
    },
    /// Git failed.
    #[error("`git {command}` failed: {message}")]
    GitFailed {
        /// Its command.
        command: String,
        /// What it said.
        message: String,
    },
    /// There is no history to push.
    #[error("{what}")]
    NoHistory {
        /// What is there instead.
        what: String,
        /// What to do.
        help: String,
    },
    /// The forge does not let the branch move.
    #[error("the forge refuses the push of {branch}: {message}")]
    PushRefused {
        /// Which branch.
        branch: String,
        /// What the forge said.
        message: String,
        /// What that means.
        verdict: Verdict,
    },
    /// What is declared cannot be brought about as things are.
    #[error("{}", .0.iter().map(|it| it.what.as_str()).collect::<Vec<_>>().join("; "))]
    Blocked(Vec<Refusal>),
    /// What is there is not what is declared.
    #[error("not as declared: {}", .0.join("; "))]
    Unproven(Vec<String>),
}

/// What stands behind an error of a library.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Diagnostic for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Stream(error) => error.reason(),
            Self::Keyring(error) => error.reason(),
            Self::NotDrained { .. } => "NotDrained",
            Self::NoForge => "NoForge",
            Self::Unreachable { .. } => "Unreachable",
            Self::Ambiguous { .. } => "Ambiguous",
            Self::Unauthorised => "Unauthorised",
            Self::Forbidden { .. } => "PermissionMissing",
            Self::PlanGate { .. } => "PlanGate",
            Self::Limited { .. } => "RateLimited",
            Self::Renamed { .. } => "Renamed",
            Self::Refused { .. } => "Refused",
            Self::Garbled { .. } => "Garbled",
            Self::NotAPublicKey => "NotAPublicKey",
            Self::NoGit(_) => "NoGit",
            Self::GitSlow { .. } => "GitSlow",
            Self::GitFailed { .. } => "GitFailed",
            Self::NoHistory { .. } => "NoHistory",
            Self::PushRefused { verdict, .. } => verdict.reason,
            Self::SignInPage { .. } => "SignInPage",
            Self::TokenUnusable { .. } => "TokenUnusable",
            Self::NotCovered { .. } => "NotCovered",
            Self::Blocked(refused) => refused.first().map_or("Blocked", |it| it.reason),
            Self::Unproven(_) => "Unproven",
        }
    }

    fn refusals(&self) -> Vec<documents::Refusal> {
        let refusal = |object: String| documents::Refusal {
            object,
            reason: self.reason().to_owned(),
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
            Self::NoHistory { help, .. } => return Some(help.clone()),
            Self::Blocked(refused) => {
                return Some(refused.iter().map(|it| &*it.help).collect::<Vec<_>>().join("; "));
            }
            Self::Forbidden { accepted: Some(accepted), .. } => {
                return Some(format!("give the token one of these permissions: {accepted}"));
            }
            Self::NotDrained { .. } => {
                "run `data-drain apply` before this, or say `dataOnDestroy: discard` if nobody needs it"
            }
            Self::NoForge => "set spec.endpoints.forge of the project",
            Self::Unreachable { .. } => "see whether the forge is up, then run the same again",
            Self::Ambiguous { .. } => "run the same command again: it looks before it goes on",
            Self::Unauthorised => "make a new token and put it where spec.endpoints.forge points",
            Self::Forbidden { .. } => {
                "the token needs administration of the repository, its contents, secrets and \
                 variables; a token for selected repositories cannot create one"
            }
            Self::PlanGate { .. } => {
                "upgrade the owner's plan, make the repository public, or do not declare it"
            }
            Self::Limited { .. } => "run the same command again later: it goes on from here",
            Self::Renamed { .. } => {
                "write its new name and owner into metadata.name and spec.owner, and apply: what \
                 was made stays known by the forge's number, and the deploy key is replaced; or \
                 rename it back"
            }
            Self::Refused { .. } => "change what the message names, then run the same again",
            Self::Garbled { .. } => "check the forge's address; is it the root of its API?",
            Self::NotAPublicKey => "run the same command again; if it stays, report it",
            Self::NoGit(_) => "install Git 2.32 or newer",
            Self::GitSlow { .. } => "see to the network, then run the same command again",
            Self::GitFailed { .. } => "see what Git says, then run the same command again",
            Self::PushRefused { verdict, .. } => verdict.help,
            Self::SignInPage { .. } => {
                "check that spec.endpoints.forge is the API itself, not behind a page to sign in"
            }
            Self::TokenUnusable { .. } => {
                "write the token alone, on one line, where spec.endpoints.forge points"
            }
            Self::NotCovered { .. } => {
                "a receipt covers the Git history alone: export the rest, or use `onDestroy: \
                 archive`, or say `dataOnDestroy: discard` if all of it may be lost"
            }
            Self::Unproven(_) => "`plan` shows what differs, `apply` puts it right",
        };
        Some(help.to_owned())
    }

    fn is_unknown(&self) -> bool {
        let Self::Blocked(refusals) = self else { return false };
        refusals.iter().any(|refusal| refusal.reason == REPOSITORY_UNKNOWN)
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
            | Self::GitSlow { .. }
            | Self::GitFailed { .. }
            | Self::NotAPublicKey => Exit::Temporary,
            Self::NoForge
            | Self::NotDrained { .. }
            | Self::NotCovered { .. }
            | Self::SignInPage { .. }
            | Self::TokenUnusable { .. }
            | Self::Unauthorised
            | Self::Forbidden { .. }
            | Self::PlanGate { .. }
            | Self::Renamed { .. }
            | Self::Refused { .. }
            | Self::Garbled { .. }
            | Self::NoGit(_)
            | Self::NoHistory { .. }
            | Self::PushRefused { .. }
            | Self::Blocked(_)
            | Self::Unproven(_) => Exit::Permanent,
        }
    }
}
