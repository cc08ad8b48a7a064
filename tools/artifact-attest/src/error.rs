//! Everything that can go wrong, what to do about it, and whether to try again.

use std::error;
use std::io;
use std::path::PathBuf;

use phase::{Exit, Fault};

use crate::oci::Digest;

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is not right, not ready, or cannot be written.
    #[error(transparent)]
    Stream(#[from] phase::Error),
    /// A secret cannot be had.
    #[error(transparent)]
    Secret(#[from] keyring::Error),
    /// The project says nothing about a registry.
    #[error("the project has no registry")]
    NoRegistry,
    /// A program that this one starts is missing.
    #[error("cannot run `{program}`")]
    Tool {
        /// Which.
        program: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Something on this machine cannot be read.
    #[error("cannot read {what}")]
    Unreadable {
        /// What.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// Git cannot tell what the source is.
    #[error("git knows nothing of {}: {said}", path.display())]
    Git {
        /// Where.
        path: PathBuf,
        /// What Git says.
        said: String,
    },
    /// The history ends too early to tell which commit touched what.
    #[error("the history in {} has been cut short", root.display())]
    Shallow {
        /// Where.
        root: PathBuf,
    },
    /// What would be built is in no commit.
    #[error("{} holds what is in no commit: {}", path.display(), changes.join(", "))]
    Dirty {
        /// Where.
        path: PathBuf,
        /// Some of it, as `git status` shows it.
        changes: Vec<String>,
    },
    /// A file of the source cannot be understood.
    #[error("cannot read {path}: {why}")]
    Manifest {
        /// Which.
        path: String,
        /// Why not.
        why: String,
    },
    /// The flake does not evaluate.
    #[error("the flake does not evaluate:\n{said}")]
    Evaluation {
        /// The last lines that Nix says.
        said: String,
        /// Whether it failed for want of a network.
        temporary: bool,
    },
    /// It does not build.
    #[error("{path} does not build:\n{said}")]
    Build {
        /// The derivation.
        path: String,
        /// The last lines of the log.
        said: String,
    },
    /// It takes too long to build.
    #[error("{path} takes too long to build:\n{said}")]
    BuildTimeout {
        /// The derivation.
        path: String,
        /// The last lines of the log.
        said: String,
    },
    /// A second build gives other bytes than the first.
    #[error("{path} came out differently when it was built again:\n{said}")]
    NotReproducible {
        /// The derivation.
        path: String,
        /// What Nix says.
        said: String,
    },
    /// Nix cannot build, whatever it is.
    #[error("nix failed on {path}:\n{said}")]
    Nix {
        /// The derivation.
        path: String,
        /// The last lines that Nix says.
        said: String,
    },
    /// Nix answers something that this version does not understand.
    #[error("`nix {command}` answered something that this version does not understand")]
    NixGarbled {
        /// What was asked.
        command: &'static str,
    },
    /// The registry, or whoever gives tokens for it, does not answer.
    #[error("cannot reach {url}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why not.
        source: Box<dyn error::Error + Send + Sync>,
    },
    /// The registry has too much to do.
    #[error("{url} answers {status}")]
    Busy {
        /// Where.
        url: String,
        /// With what.
        status: u16,
        /// How long it asks us to wait.
        seconds: u64,
    },
    /// The registry does not let us.
    #[error("not allowed: {url}")]
    Denied {
        /// Where.
        url: String,
        /// Whether we did not say who we are.
        anonymous: bool,
    },
    /// The registry refuses.
    #[error("{url} answers {status} {said} to {method}")]
    Refused {
        /// What was asked.
        method: String,
        /// Where.
        url: String,
        /// With what.
        status: u16,
        /// The code of its error.
        said: String,
    },
    /// The registry answers something that this version does not understand.
    #[error("{url} answered something that this version does not understand: {why}")]
    Garbled {
        /// Where.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// What is kept under a digest has another.
    #[error("what the registry keeps as {what} is {found}")]
    Corrupt {
        /// What was asked for.
        what: String,
        /// What came.
        found: Digest,
    },
    /// The registry takes no deletions.
    #[error("{url} cannot be deleted: deletion is switched off")]
    DeletionOff {
        /// What.
        url: String,
    },
    /// What was written as referrer does not show up.
    #[error("the referrers of {subject} are not what was just written")]
    Unlisted {
        /// The manifest.
        subject: String,
    },
    /// The registry took every step and still differs.
    #[error("{steps} steps are left after all were taken")]
    Unsettled {
        /// How many.
        steps: usize,
    },
    /// What is declared is not what is there.
    #[error("not proven: {what}")]
    Unproven {
        /// What is missing or differs.
        what: String,
    },
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Stream(error) => error.reason(),
            Self::Secret(error) => error.reason(),
            Self::NoRegistry => "NoRegistry",
            Self::Tool { .. } => "ToolMissing",
            Self::Unreadable { .. } => "Unreadable",
            Self::Git { .. } => "NoSource",
            Self::Shallow { .. } => "ShallowHistory",
            Self::Dirty { .. } => "NotCommitted",
            Self::Manifest { .. } => "NotUnderstood",
            Self::Evaluation { .. } => "EvaluationFailed",
            Self::Build { .. } => "BuildFailed",
            Self::BuildTimeout { .. } => "BuildTimeout",
            Self::NotReproducible { .. } => "NotReproducible",
            Self::Nix { .. } | Self::NixGarbled { .. } => "NixFailed",
            Self::Unreachable { .. } => "Unreachable",
            Self::Busy { .. } => "Busy",
            Self::Denied { .. } => "Denied",
            Self::Refused { .. } => "Refused",
            Self::Garbled { .. } => "Garbled",
            Self::Corrupt { .. } => "Corrupt",
            Self::DeletionOff { .. } => "DeletionOff",
            Self::Unlisted { .. } => "Unlisted",
            Self::Unsettled { .. } => "Unsettled",
            Self::Unproven { .. } => "Unproven",
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Stream(error) => return error.help(),
            Self::Secret(error) => return error.help(),
            Self::NoRegistry => "give the Project `endpoints.registry`",
            Self::Tool { program: "git", .. } => "install git, or put it on PATH",
            Self::Tool { .. } => "install Nix (https://nixos.org/download), or put it on PATH",
            Self::Unreadable { .. } => "look at it, then run the same command again",
            Self::Git { .. } => {
                "run at the root of the repository, and say where the source is in it"
            }
            Self::Shallow { .. } => "`git fetch --unshallow`; in GitHub Actions, `fetch-depth: 0`",
            Self::Dirty { .. } => {
                "commit it: what is published names a commit that others can build"
            }
            Self::Manifest { .. } => "mend the file, and commit it",
            Self::Evaluation { temporary: true, .. } => "try again when the network is there",
            Self::Evaluation { .. } => {
                "`nix build` in the source shows the same; mend it, and commit"
            }
            Self::Build { path, .. } => return Some(format!("`nix log {path}` shows all of it")),
            Self::BuildTimeout { .. } => "raise `build.timeoutSeconds`, or use a faster machine",
            Self::NotReproducible { path, .. } => {
                return Some(format!(
                    "nothing was published or signed; `nix-store --realise --check -K {path}` keeps both to be compared, or say `rebuild: skip`"
                ));
            }
            Self::Nix { .. } => "see what Nix says, then run the same command again",
            Self::NixGarbled { .. } => {
                "use a Nix between 2.8 and the newest that this version knows"
            }
            Self::Unreachable { .. } => {
                "check the address in the Project, then run the same command again"
            }
            Self::Busy { .. } => "run the same command again later: it goes on from here",
            Self::Denied { anonymous: true, .. } => "give the Project `endpoints.registry.token`",
            Self::Denied { .. } => {
                "check what the token in `endpoints.registry` may do: it must read, write and delete packages"
            }
            Self::Refused { .. } => "see what the registry's own log says",
            Self::Garbled { .. } => {
                "check that the address in the Project is that of an OCI registry"
            }
            Self::Corrupt { .. } => "do not use it; delete it in the registry, then `apply`",
            Self::DeletionOff { .. } => {
                "switch it on (docker-registry: REGISTRY_STORAGE_DELETE_ENABLED=true; GHCR: delete the package on its page)"
            }
            Self::Unlisted { .. } => "another writer may be at work: run the same command again",
            Self::Unsettled { .. } => "`plan` shows them; another writer may be at work",
            Self::Unproven { .. } => "`plan` shows what differs, `apply` puts it right",
        };
        Some(help.to_owned())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Stream(error) => error.exit(),
            Self::Secret(error) => error.exit(),
            Self::BuildTimeout { .. }
            | Self::Nix { .. }
            | Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::Unlisted { .. }
            | Self::Unsettled { .. }
            | Self::Evaluation { temporary: true, .. } => Exit::Temporary,
            Self::NoRegistry
            | Self::Tool { .. }
            | Self::Unreadable { .. }
            | Self::Git { .. }
            | Self::Shallow { .. }
            | Self::Dirty { .. }
            | Self::Manifest { .. }
            | Self::Evaluation { .. }
            | Self::Build { .. }
            | Self::NotReproducible { .. }
            | Self::NixGarbled { .. }
            | Self::Denied { .. }
            | Self::Refused { .. }
            | Self::Garbled { .. }
            | Self::Corrupt { .. }
            | Self::DeletionOff { .. }
            | Self::Unproven { .. } => Exit::Permanent,
        }
    }
}
