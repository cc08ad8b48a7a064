//! Everything that can go wrong, what to do about it, and whether to try again.

use std::error;
use std::io;
use std::path::PathBuf;

use documents::{Diagnostic, Exit};

use crate::answer::Problem;
use crate::oci::Digest;

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is not right, not ready, or cannot be written.
    #[error(transparent)]
    Stream(#[from] documents::Error),
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
    /// A document is neither of the two kinds.
    #[error("an Artifact has either `build` and `image`, or `manifests` alone")]
    NoShape,
    /// The project names no key.
    #[error("the Project names no key that verifies artifacts")]
    NoKey,
    /// The key that signs is not the one that the project names.
    #[error("the key that signs is {signs}, but the Project names {known}")]
    ForeignKey {
        /// The id of the one.
        signs: String,
        /// The id of the other.
        known: String,
    },
    /// The source does not hold the commit.
    #[error("no branch and no tag of {url} holds {rev}")]
    NotInSource {
        /// The commit.
        rev: String,
        /// The source.
        url: String,
    },
    /// The source cannot be asked.
    #[error("{url} cannot be asked whether it holds {rev}: {said}")]
    SourceUnknown {
        /// The commit.
        rev: String,
        /// The source.
        url: String,
        /// Git's last words.
        said: String,
        /// Whether nothing answered at all.
        is_unreachable: bool,
    },
    /// A commit does not hold all of what would be built.
    #[error("the commit only points to some of it: {}", what.join(", "))]
    Elsewhere {
        /// Submodules and files of Git LFS.
        what: Vec<String>,
    },
    /// The flake's inputs are not pinned by the commit.
    #[error("flake.lock is missing or does not fit flake.nix:\n{said}")]
    Unlocked {
        /// The last lines that Nix says.
        said: String,
    },
    /// The image would not start.
    #[error("{why}")]
    CannotStart {
        /// Why not.
        why: String,
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
        /// Whether a signal ended it.
        killed: bool,
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
    /// The registry's certificate is not trusted.
    #[error("no trusted connection to {url}")]
    Untrusted {
        /// Where.
        url: String,
        /// Why not.
        source: Box<dyn error::Error + Send + Sync>,
    },
    /// The registry has too much to do.
    #[error("{url} answers {status} {said}")]
    Busy {
        /// Where.
        url: String,
        /// With what.
        status: u16,
        /// How long it asks us to wait.
        seconds: u64,
        /// The registry's own words.
        said: String,
    },
    /// The registry does not let us.
    #[error("not allowed: {url} {said}")]
    Denied {
        /// Where.
        url: String,
        /// Whether we did not say who we are.
        anonymous: bool,
        /// The registry's own words.
        said: String,
    },
    /// The registry answers 404 of what it may only hide.
    #[error("{url} answers 404, which may mean that it is hidden from this login")]
    Invisible {
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
        /// The registry's own words.
        said: String,
    },
    /// The registry's answer cannot be used.
    #[error("{url}: {problem}")]
    InvalidResponse {
        /// Where.
        url: String,
        /// What is wrong with it.
        problem: Problem,
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

impl Error {
    /// What the reader can do about an answer of the registry.
    fn registry_help(&self) -> Option<String> {
        let help = match self {
            Self::Unreachable { .. } => {
                "check the address in the Project, then run the same command again"
            }
            Self::Untrusted { .. } => {
                "use a certificate that a public authority signed (Mozilla's list): authorities of one's own are not supported"
            }
            Self::Busy { .. } => {
                "run the same command again later: what is published already is not sent again"
            }
            Self::Denied { anonymous: true, .. } => "give the Project `endpoints.registry.token`",
            Self::Denied { .. } => {
                "check what the token in `endpoints.registry` may do: `plan` and `verify` read, `apply` writes, `destroy` deletes"
            }
            Self::Refused { status: 404, .. } => {
                "check `endpoints.registry.url`, and whether the registry makes a repository by itself (ECR, Harbor's projects: create it first)"
            }
            Self::Refused { status: 413, .. } => {
                "the registry, or a proxy before it, limits the size of an upload: raise that limit"
            }
            Self::Refused { .. } => {
                "the registry understood the request and will not do it: act on its words above"
            }
            Self::Invisible { anonymous: true, .. } => {
                "give the Project `endpoints.registry.token`: without a login nobody can tell whether something is there"
            }
            Self::Invisible { .. } => {
                "use a token that may push to the repository: `destroy` then proves that nothing is there"
            }
            Self::InvalidResponse { problem, .. } => return Some(problem.help()),
            Self::Corrupt { .. } => "do not use it; delete it in the registry, then `apply`",
            Self::DeletionOff { .. } => {
                "switch it on (docker-registry: REGISTRY_STORAGE_DELETE_ENABLED=true; GHCR: delete the package on its page)"
            }
            Self::Unlisted { .. } => "another writer may be at work: run the same command again",
            Self::Unsettled { .. } => "`plan` shows them; another writer may be at work",
            Self::Unproven { .. } => "`plan` shows what differs, `apply` puts it right",
            _ => return None,
        };
        Some(help.to_owned())
    }
}

impl Diagnostic for Error {
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
            Self::InvalidResponse { .. } => "InvalidResponse",
            Self::Invisible { .. } => "Unknown",
            Self::NoShape => "Invalid",
            Self::Untrusted { .. } => "Untrusted",
            Self::NoKey => "NoKey",
            Self::ForeignKey { .. } => "ForeignKey",
            Self::NotInSource { .. } => "NotInSource",
            Self::SourceUnknown { .. } => "SourceUnknown",
            Self::Elsewhere { .. } => "NotInCommit",
            Self::Unlocked { .. } => "Unlocked",
            Self::CannotStart { .. } => "CannotStart",
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
            Self::NoShape => return None,
            Self::NoKey => {
                "write the public key under `verificationKeys.artifacts` of the Project (`artifact-attest derive` prints it)"
            }
            Self::ForeignKey { .. } => {
                "write the new public key first under `verificationKeys.artifacts` of the Project (`artifact-attest derive` prints it), or sign with the key that the Project names"
            }
            Self::NotInSource { url, .. } => {
                return Some(format!(
                    "push the branch to {url}, or name the repository that holds it as `source`"
                ));
            }
            Self::SourceUnknown { is_unreachable: true, .. } => {
                "run the same command again when the network is there; for a source that this machine never reaches say `sourceCheck: skip`, and the provenance says so"
            }
            Self::SourceUnknown { .. } => {
                "check `source` and the login that Git has for it; for a source that this machine never reaches say `sourceCheck: skip`, and the provenance says so"
            }
            Self::Elsewhere { .. } => {
                "commit the files themselves, or make the flake fetch them by a pinned hash"
            }
            Self::Unlocked { .. } => {
                "run `nix flake lock` in the flake's folder, and commit flake.lock: what is published must follow from the commit"
            }
            Self::CannotStart { .. } => {
                "correct `image.entrypoint` or what the flake installs (`ls result/bin` after `nix build`)"
            }
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
            Self::Nix { killed: true, .. } => {
                "something ended Nix (a signal, or the machine had no memory left): run the same command again"
            }
            Self::Nix { path, .. } => {
                return Some(format!(
                    "Nix could not begin; `nix-store --realise {path}` shows the same: correct what it names (system, sandbox, daemon, store)"
                ));
            }
            Self::NixGarbled { .. } => {
                "use a Nix between 2.8 and the newest that this version knows"
            }
            of_registry => return of_registry.registry_help(),
        };
        Some(help.to_owned())
    }

    fn is_unknown(&self) -> bool {
        matches!(self, Self::Invisible { .. })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Stream(error) => error.exit(),
            Self::Secret(error) => error.exit(),
            Self::BuildTimeout { .. }
            | Self::Nix { killed: true, .. }
            | Self::SourceUnknown { is_unreachable: true, .. }
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
            | Self::InvalidResponse { .. }
            | Self::Invisible { .. }
            | Self::Nix { .. }
            | Self::NoShape
            | Self::NoKey
            | Self::Untrusted { .. }
            | Self::ForeignKey { .. }
            | Self::NotInSource { .. }
            | Self::SourceUnknown { .. }
            | Self::Elsewhere { .. }
            | Self::Unlocked { .. }
            | Self::CannotStart { .. }
            | Self::Corrupt { .. }
            | Self::DeletionOff { .. }
            | Self::Unproven { .. } => Exit::Permanent,
        }
    }
}
