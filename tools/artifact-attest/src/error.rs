//! Errors of this program, with their help, exit status and condition reason.

use std::io;
use std::path::PathBuf;

use ::remote::registry;
use documents::{Diagnostic, Exit, Reason};

use crate::failure;
use crate::failure::Cause as NixCause;

/// Errors of this program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The documents are invalid, depend on a document that is not ready, or cannot be written.
    #[error(transparent)]
    Stream(#[from] documents::Error),
    /// A secret cannot be read.
    #[error(transparent)]
    Secret(#[from] secrets::Error),
    /// The Project has no registry.
    #[error("the Project has no `endpoints.registry`")]
    NoRegistry,
    /// A required program cannot be started.
    #[error("cannot run `{program}`")]
    Tool {
        /// Name of the program, for example `git`.
        program: &'static str,
        /// Cause of the failure.
        source: io::Error,
    },
    /// A file or folder of this machine cannot be read.
    #[error("cannot read {what}")]
    Unreadable {
        /// Path, or a description of the object.
        what: String,
        /// Cause of the failure.
        source: io::Error,
    },
    /// Git cannot read the source.
    #[error("git cannot read {}: {said}", path.display())]
    Git {
        /// Folder of the source.
        path: PathBuf,
        /// Last lines of Git's standard error.
        said: String,
    },
    /// The clone is shallow, so the last commit of a folder is unknown.
    #[error("the clone in {} is shallow", root.display())]
    Shallow {
        /// Root of the repository.
        root: PathBuf,
    },
    /// The source has uncommitted changes.
    #[error("{} has uncommitted changes: {}", path.display(), changes.join(", "))]
    Dirty {
        /// Folder of the source.
        path: PathBuf,
        /// First few changes, in the notation of `git status`.
        changes: Vec<String>,
    },
    /// The document declares neither form of an artifact, or both.
    #[error("an Artifact has either `build` and `image`, or `manifests` alone")]
    NoShape,
    /// The Project's certificates of the registry are invalid.
    #[error("{why}")]
    NoAuthority {
        /// Cause, with the name of the field.
        why: String,
    },
    /// A declared tag cannot be made from the package's version.
    #[error("the tag `{tag}` cannot be made: the version of the package is `{version}`")]
    NoVersion {
        /// Tag as declared.
        tag: String,
        /// Version of the package; empty if the package has none.
        version: String,
    },
    /// The images of an index have several versions, and a declared tag needs one.
    #[error("the tag `{tag}` cannot be made: the versions of the images differ: {}", versions.join(", "))]
    Versions {
        /// Tag as declared.
        tag: String,
        /// Versions of the packages.
        versions: Vec<String>,
    },
    /// The status of an image is not as this program writes it.
    #[error("the status of the image {reference} has an invalid digest or platform")]
    ForeignStatus {
        /// Reference of the image.
        reference: String,
    },
    /// The Project's list of keys is empty.
    #[error("the Project has no public key that verifies artifacts")]
    NoKey,
    /// The signing key differs from the first key in the Project.
    #[error("the signing key is {signs}, but the Project's first public key is {known}")]
    ForeignKey {
        /// Id of the signing key.
        signs: String,
        /// Id of the Project's first key.
        known: String,
    },
    /// The source does not contain the commit.
    #[error("no branch or tag of {url} contains {rev}")]
    NotInSource {
        /// Hash of the commit.
        rev: String,
        /// URL of the source.
        url: String,
    },
    /// The source cannot be read, so the presence of the commit is unknown.
    #[error("cannot check whether {url} contains {rev}: {said}")]
    SourceUnknown {
        /// Hash of the commit.
        rev: String,
        /// URL of the source.
        url: String,
        /// Last lines of Git's standard error.
        said: String,
        /// Whether the server did not answer at all, so that a retry may help.
        is_unreachable: bool,
    },
    /// The commit holds pointers instead of files that the build needs.
    #[error("the commit lacks the content of {}", what.join(", "))]
    Elsewhere {
        /// Submodules and files of Git LFS.
        what: Vec<String>,
    },
    /// The commit does not pin the flake's inputs.
    #[error("flake.lock is missing or does not match flake.nix:\n{said}")]
    Unlocked {
        /// Last lines of Nix's output.
        said: String,
    },
    /// A container of the image could not start.
    #[error("{why}")]
    CannotStart {
        /// Cause, as a sentence about `image.entrypoint` or the build result.
        why: String,
    },
    /// A file of the source is invalid.
    #[error("cannot read {path}: {why}")]
    Manifest {
        /// Path of the file.
        path: String,
        /// Cause, in the parser's words.
        why: String,
    },
    /// Nix cannot evaluate the flake.
    #[error("the flake does not evaluate:\n{said}")]
    Evaluation {
        /// Last lines of Nix's output.
        said: String,
        /// Whether a download failed, so that a retry may help.
        temporary: bool,
    },
    /// The evaluation exceeded the time limit of a build.
    #[error("the evaluation of the flake exceeded the time limit:\n{said}")]
    EvaluationTimeout {
        /// Last lines of Nix's output.
        said: String,
    },
    /// A builder failed, or a download has the wrong hash.
    #[error("building {path} failed, {cause}:\n{said}")]
    Build {
        /// Store path of the derivation.
        path: String,
        /// Last lines of the build log.
        said: String,
        /// Cause, as far as Nix tells it.
        cause: NixCause,
    },
    /// The build exceeded its time limit.
    #[error("building {path} exceeded the time limit:\n{said}")]
    BuildTimeout {
        /// Store path of the derivation.
        path: String,
        /// Last lines of the build log.
        said: String,
    },
    /// The second build differs from the first.
    #[error("the second build of {path} differs from the first:\n{said}")]
    NotReproducible {
        /// Store path of the derivation.
        path: String,
        /// Last lines of Nix's output.
        said: String,
    },
    /// Nix failed before a builder ran, a download failed, or a signal ended Nix.
    #[error("Nix failed on {path}, {cause}:\n{said}")]
    Nix {
        /// Store path of the derivation.
        path: String,
        /// Last lines of Nix's output.
        said: String,
        /// Cause, as far as Nix tells it.
        cause: NixCause,
    },
    /// The binary cache cannot be read or written.
    #[error("Nix cannot use the binary cache {url}:\n{said}")]
    BinaryCache {
        /// URL of the cache.
        url: String,
        /// Last lines of Nix's output.
        said: String,
        /// Whether the network is the cause.
        temporary: bool,
    },
    /// The result in the store is not the one that was published.
    #[error("the store has another result of {path} than the one that was published")]
    OtherResult {
        /// Store path of the build result.
        path: String,
    },
    /// A `.drv` file has another form than this version reads.
    #[error("the derivation {path} has an unknown format")]
    DerivationUnknown {
        /// Store path of the derivation.
        path: String,
    },
    /// Nix printed a response that this version cannot parse.
    #[error("the output of `nix {command}` has an unknown format")]
    NixGarbled {
        /// Subcommand of Nix, for example `path-info`.
        command: &'static str,
    },
    /// The registry did not do what was asked.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The registry answered 404, which hides a repository from an unauthorised login as well.
    #[error("{url} answered 404: the repository is absent, or hidden from this login")]
    Invisible {
        /// URL of the request.
        url: String,
        /// Whether the request had no login.
        anonymous: bool,
    },
    /// The registry has deletion disabled.
    #[error("{url} cannot be deleted: the registry has deletion disabled")]
    DeletionOff {
        /// URL of the manifest.
        url: String,
    },
    /// The list of referrers does not show the entries that were just written.
    #[error("the referrers of {subject} do not show what was just written")]
    Unlisted {
        /// Digest of the subject.
        subject: String,
    },
    /// `verify` found a difference between the document and the registry.
    #[error("verification failed: {what}")]
    Unproven {
        /// Missing or differing object.
        what: String,
    },
}

/// Returns the help for an error of the registry's client that depends on this program.
fn registry_help(error: &registry::Error) -> Option<String> {
    let help = match error {
        registry::Error::Unreachable { .. } => {
            "check `endpoints.registry.url` in the Project, then run the same command again"
        }
        registry::Error::Busy { .. } => {
            "run the same command again later: blobs that are already published are not sent again"
        }
        registry::Error::Denied { anonymous: true, .. } => {
            "give the Project `endpoints.registry.token`, or log in with `docker login`"
        }
        registry::Error::Denied { status: 401, .. } => {
            "check `token` and `user` in `endpoints.registry`, or log in again with `docker login` (user names: your Docker ID at Docker Hub, `AWS` at Amazon ECR, `oauth2accesstoken` or `_json_key` at Google; other registries with robots check the robot's name)"
        }
        registry::Error::Denied { .. } => {
            "check the permissions of the token in `endpoints.registry`: `plan` and `verify` read, `apply` writes, `destroy` deletes"
        }
        registry::Error::Refused { status: 404, .. } => {
            "check `endpoints.registry.url`, and create the repository first if the registry needs that (ECR, Harbor's projects)"
        }
        registry::Error::Refused { status: 413, .. } => {
            "raise the upload limit of the registry, or of the proxy in front of the registry"
        }
        registry::Error::Refused { .. } => {
            "the registry rejected the request: act on the registry's message above"
        }
        registry::Error::Corrupt { .. } => {
            "do not use this content: delete the manifest or blob in the registry, then run `apply`"
        }
        other => return other.help(),
    };
    Some(help.to_owned())
}

impl Diagnostic for Error {
    fn reason(&self) -> Reason {
        match self {
            Self::Stream(error) => error.reason(),
            Self::Secret(error) => error.reason(),
            Self::NoRegistry => Reason::EndpointMissing,
            Self::Tool { .. } => Reason::ToolMissing,
            Self::Unreadable { .. } => Reason::FileFailed,
            Self::Git { .. } => Reason::GitFailed,
            Self::Shallow { .. } => Reason::HistoryIncomplete,
            Self::Dirty { .. } => Reason::NotCommitted,
            Self::Manifest { .. } | Self::NoVersion { .. } | Self::Versions { .. } => {
                Reason::SourceInvalid
            }
            Self::Evaluation { .. } => Reason::EvaluationFailed,
            Self::Build { .. } => Reason::BuildFailed,
            Self::BuildTimeout { .. } | Self::EvaluationTimeout { .. } => Reason::TimedOut,
            Self::NotReproducible { .. } => Reason::NotReproducible,
            Self::OtherResult { .. } => Reason::Corrupt,
            Self::BinaryCache { .. } => Reason::BinaryCacheFailed,
            Self::Nix { .. } | Self::NixGarbled { .. } | Self::DerivationUnknown { .. } => {
                Reason::NixFailed
            }
            Self::Registry(error) => error.reason(),
            Self::Invisible { .. } => Reason::AbsenceUnproven,
            Self::NoShape | Self::NoAuthority { .. } | Self::ForeignStatus { .. } => {
                Reason::Invalid
            }
            Self::NoKey => Reason::VerificationKeyMissing,
            Self::ForeignKey { .. } => Reason::ForeignKey,
            Self::NotInSource { .. } => Reason::NotInSource,
            Self::SourceUnknown { .. } => Reason::SourceUnknown,
            Self::Elsewhere { .. } => Reason::NotInCommit,
            Self::Unlocked { .. } => Reason::Unlocked,
            Self::CannotStart { .. } => Reason::CannotStart,
            Self::DeletionOff { .. } => Reason::DeletionOff,
            Self::Unlisted { .. } => Reason::Changed,
            Self::Unproven { .. } => Reason::VerificationFailed,
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Stream(error) => return error.help(),
            Self::Secret(error) => return error.help(),
            Self::Registry(error) => return registry_help(error),
            Self::NoRegistry => "give the Project `endpoints.registry`",
            Self::Tool { program: "git", .. } => "install git, or put it on PATH",
            Self::Tool { .. } => "install Nix (https://nixos.org/download), or put it on PATH",
            Self::Unreadable { .. } => {
                "check that the path exists and is readable, then run the same command again"
            }
            Self::Git { .. } => {
                "run this program at the root of the repository, and give the path of the source relative to the root"
            }
            Self::Shallow { .. } => {
                "run `git fetch --unshallow`; in GitHub Actions, set `fetch-depth: 0`"
            }
            Self::Dirty { .. } => {
                "commit the changes: a published artifact names a commit that others can build"
            }
            Self::Manifest { .. } => "correct the file, and commit the change",
            Self::NoVersion { .. } => {
                "give the flake's package a `version` of letters, digits and . - + _, and commit the change"
            }
            Self::Versions { .. } => {
                "give all packages the same `version`, and commit the change; or take `{version}` out of the index's tags"
            }
            Self::ForeignStatus { .. } => {
                "run `apply` for the image's document, and take the document from its output"
            }
            Self::NoShape => return None,
            Self::NoAuthority { .. } => {
                "write the authority's certificate in PEM into `endpoints.registry.certificateAuthority` of the Project"
            }
            Self::NoKey => {
                "write the public key under `verificationKeys.artifacts` of the Project (`artifact-attest derive` prints it)"
            }
            Self::ForeignKey { .. } => {
                "write the new public key first under `verificationKeys.artifacts` of the Project (`artifact-attest derive` prints it), or sign with the key that the Project names"
            }
            Self::NotInSource { url, .. } => {
                return Some(format!(
                    "push the branch to {url}, or give the URL of the repository that contains the commit as `source`"
                ));
            }
            Self::SourceUnknown { is_unreachable: true, .. } => {
                "run the same command again when the network works; for a source that this machine can never reach, set `sourceCheck: skip`, which the provenance records"
            }
            Self::SourceUnknown { .. } => {
                "check `source` and the login that Git has for it; for a source that this machine can never reach, set `sourceCheck: skip`, which the provenance records"
            }
            Self::Elsewhere { .. } => {
                "commit the files themselves, or make the flake fetch them by a pinned hash"
            }
            Self::Unlocked { .. } => {
                "run `nix flake lock` in the flake's folder, and commit flake.lock: the commit must determine the published artifact"
            }
            Self::CannotStart { .. } => {
                "correct `image.entrypoint` or what the flake installs (`ls result/bin` after `nix build`)"
            }
            Self::Evaluation { temporary: true, .. }
            | Self::BinaryCache { temporary: true, .. } => {
                "run the same command again when the network works"
            }
            Self::Evaluation { .. } => {
                "run `nix build` in the source to see the same error; correct the flake, and commit the change"
            }
            Self::Build { path, cause, .. } | Self::Nix { path, cause, .. } => {
                return Some(cause.help(path));
            }
            Self::EvaluationTimeout { .. } => {
                "raise `build.timeoutSeconds`, which also limits the evaluation; an evaluation that never ends is a mistake of the flake"
            }
            Self::BuildTimeout { .. } => "raise `build.timeoutSeconds`, or use a faster machine",
            Self::NotReproducible { path, .. } => {
                return Some(format!(
                    "nothing was published or signed; `nix-store --realise --check -K {path}` keeps both results for a comparison; `rebuild: skip` disables the second build"
                ));
            }
            Self::BinaryCache { .. } => failure::BINARY_CACHE_HELP,
            Self::OtherResult { .. } => failure::OTHER_RESULT_HELP,
            Self::NixGarbled { .. } | Self::DerivationUnknown { .. } => {
                "use a version of Nix from 2.8 to the newest that this version supports"
            }
            Self::Invisible { anonymous: true, .. } => {
                "give the Project `endpoints.registry.token`: without a login, absent and hidden repositories look the same"
            }
            Self::Invisible { .. } => {
                "use a token that may push to the repository: with that permission, `destroy` can prove that the repository is empty"
            }
            Self::DeletionOff { .. } => {
                "enable deletion (docker-registry: REGISTRY_STORAGE_DELETE_ENABLED=true; GHCR: delete the package on its page)"
            }
            Self::Unlisted { .. } => {
                "another writer may be changing the same repository: run the same command again"
            }
            Self::Unproven { .. } => {
                "run `plan` to see the differences, and `apply` to correct them"
            }
        };
        Some(help.to_owned())
    }

    fn is_unknown(&self) -> bool {
        matches!(self, Self::Invisible { .. })
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Registry(error) if error.is_transient())
    }

    // An unreachable registry is not ambiguous: the client has already repeated the request, which is safe
    // because content is addressed by its digest. The next run continues where this run ended.
    fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Unlisted { .. })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Stream(error) => error.exit(),
            Self::Secret(error) => error.exit(),
            Self::Registry(error) => error.exit(),
            Self::Nix { cause, .. } if cause.is_temporary() => Exit::Temporary,
            Self::BuildTimeout { .. }
            | Self::EvaluationTimeout { .. }
            | Self::SourceUnknown { is_unreachable: true, .. }
            | Self::Unlisted { .. }
            | Self::Evaluation { temporary: true, .. }
            | Self::BinaryCache { temporary: true, .. } => Exit::Temporary,
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
            | Self::BinaryCache { .. }
            | Self::OtherResult { .. }
            | Self::NixGarbled { .. }
            | Self::DerivationUnknown { .. }
            | Self::Invisible { .. }
            | Self::Nix { .. }
            | Self::NoShape
            | Self::NoAuthority { .. }
            | Self::NoVersion { .. }
            | Self::Versions { .. }
            | Self::ForeignStatus { .. }
            | Self::NoKey
            | Self::ForeignKey { .. }
            | Self::NotInSource { .. }
            | Self::SourceUnknown { .. }
            | Self::Elsewhere { .. }
            | Self::Unlocked { .. }
            | Self::CannotStart { .. }
            | Self::DeletionOff { .. }
            | Self::Unproven { .. } => Exit::Permanent,
        }
    }
}
