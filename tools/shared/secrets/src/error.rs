//! Failures of this crate: the message, the help, the condition's reason and the exit status.

use std::error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use documents::{Diagnostic, Exit, Reason, Refusal};

/// Help for a secret that is published with these programs.
pub(crate) const REPLACE_PUBLISHED: &str = "`./tasks/init NAME OWNER` creates an identity, a root and \
     documents of your own; published secrets are for endpoints on loopback only";

/// Failures with secrets. No message quotes a secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A failure of the crate `documents`, for example an interruption.
    #[error(transparent)]
    Documents(#[from] documents::Error),
    /// A failure of a crate that builds on this one.
    #[error(transparent)]
    Other(#[from] OtherError),
    /// An environment variable is not set.
    #[error("the environment variable {0} is not set")]
    Unset(String),
    /// A file cannot be read.
    #[error("cannot read {}", file.display())]
    Unreadable {
        /// Path of the file.
        file: PathBuf,
        /// Cause of the failure.
        source: io::Error,
    },
    /// A file or an output is larger than a secret can be.
    #[error("{what} is larger than {bytes_max} bytes")]
    TooLarge {
        /// File or command that was read.
        what: String,
        /// Size limit in bytes.
        bytes_max: u64,
    },
    /// Anybody can read the secret, because this repository contains it.
    #[error("{0} is published with these programs, so anybody can use it")]
    Published(String),
    /// A secret is empty.
    #[error("{0} is empty")]
    Empty(String),
    /// A secret that must be text is not UTF-8.
    #[error("a secret that must be text is not UTF-8")]
    NotText,
    /// A command could not be started.
    #[error("cannot run `{program}`")]
    NotRun {
        /// Name of the command, without its arguments.
        program: String,
        /// Cause of the failure.
        source: io::Error,
    },
    /// A command ended with a failure.
    #[error("`{program}` failed and gave no secret: {status}")]
    CommandFailed {
        /// Name of the command, without its arguments.
        program: String,
        /// Exit status of the command.
        status: ExitStatus,
    },
    /// A command exceeded the time limit.
    #[error("`{program}` gave no secret within {seconds} seconds")]
    Slow {
        /// Name of the command, without its arguments.
        program: String,
        /// Time limit in seconds.
        seconds: u64,
    },
    /// The root, or the key of a phase, is not a key.
    #[error("{what} is not a key of 32 bytes: {why}")]
    NotAKey {
        /// Reference or variable that was read.
        what: String,
        /// Length or encoding that was found.
        why: String,
    },
    /// The list of recipients is empty.
    #[error("no recipient is named, so the encrypted secret could never be decrypted")]
    NoRecipients,
    /// Encryption of a secret failed.
    #[error("cannot encrypt a secret")]
    NotSealed(#[from] io::Error),
    /// An encrypted text is damaged.
    #[error("cannot decrypt a sealed secret")]
    NotUnsealed(#[source] age::DecryptError),
    /// An encrypted text is for other recipients.
    #[error("a sealed secret is for other recipients: no identity in {places} is one of them")]
    NotForUs {
        /// Places where identities were found.
        places: String,
    },
    /// The environment names no identity.
    #[error("there is no age identity to decrypt this with")]
    NoIdentity,
    /// A line that must be an identity is not.
    #[error("line {line} of {place} is not an age identity")]
    NotAnIdentity {
        /// File or variable that was read.
        place: String,
        /// Number of the line, starting at 1.
        line: usize,
    },
    /// A file, or a value in it, is not encrypted.
    #[error("{0} is not encrypted: the secret is readable there")]
    InClear(String),
    /// A file does not have the format of SOPS.
    #[error("{} is not a SOPS file: {what}", file.display())]
    SopsInvalid {
        /// Path of the file.
        file: PathBuf,
        /// Part of the file that is missing or unsupported.
        what: String,
    },
    /// A SOPS file is for other recipients.
    #[error(
        "{} is encrypted for {}, and {why}",
        file.display(),
        recipients.join(" and ")
    )]
    SopsNotForUs {
        /// Path of the file.
        file: PathBuf,
        /// Why nothing here decrypts it, for example `SOPS_AGE_KEY_FILE cannot decrypt it`.
        why: String,
        /// Recipients of the file.
        recipients: Vec<String>,
    },
    /// A SOPS file was changed without `sops`.
    #[error("{} was changed since it was encrypted: {what}", file.display())]
    SopsTampered {
        /// Path of the file.
        file: PathBuf,
        /// Clause that names the check that failed.
        what: String,
    },
    /// A SOPS file has no value at the key of a reference.
    #[error("{} has no `{key}`, only {}", file.display(), has.join(", "))]
    SopsNoKey {
        /// Path of the file.
        file: PathBuf,
        /// Key that was looked up, for example `s3.accessKeyId`.
        key: String,
        /// Keys at the top level of the file.
        has: Vec<String>,
    },
}

/// A failure of a crate that builds on this one, for example a refused receipt. It is a variant of
/// [`Error`], so that a program has one variant for both crates.
pub struct OtherError(Box<dyn Diagnostic + Send + Sync>);

impl OtherError {
    /// Wraps `error` without changing its message, help or exit status.
    pub fn new(error: impl Diagnostic + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for OtherError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for OtherError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl error::Error for OtherError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source()
    }
}

impl Diagnostic for Error {
    fn reason(&self) -> Reason {
        match self {
            Self::Documents(error) => error.reason(),
            Self::Other(error) => error.0.reason(),
            Self::Published(_) => Reason::PublishedSecret,
            Self::NoRecipients | Self::NotSealed(_) => Reason::EncryptionFailed,
            Self::NotUnsealed(_) | Self::NotForUs { .. } => Reason::DecryptionFailed,
            Self::Unset(_)
            | Self::Unreadable { .. }
            | Self::TooLarge { .. }
            | Self::Empty(_)
            | Self::NotText
            | Self::NotRun { .. }
            | Self::CommandFailed { .. }
            | Self::Slow { .. }
            | Self::NotAKey { .. }
            | Self::NoIdentity
            | Self::NotAnIdentity { .. }
            | Self::InClear(_)
            | Self::SopsInvalid { .. }
            | Self::SopsNotForUs { .. }
            | Self::SopsTampered { .. }
            | Self::SopsNoKey { .. } => Reason::SecretUnavailable,
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Documents(error) => return error.help(),
            Self::Other(error) => return error.0.help(),
            Self::Unset(name) => return Some(format!("export {name}, or change the reference")),
            Self::Unreadable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "paths are relative to the current directory",
                io::ErrorKind::PermissionDenied => {
                    "let this user read the file, or run as another user"
                }
                _ => "check that the reference names a file",
            },
            Self::Published(_) => REPLACE_PUBLISHED,
            Self::TooLarge { .. } => "check that the reference names a secret",
            Self::Empty(_) => "set a value, or change the reference",
            Self::NotText => "check that the reference names the right secret",
            Self::NotRun { .. } => "install the command, or change the reference",
            Self::CommandFailed { .. } => {
                "--verbose shows the messages of the command; you may have to sign in"
            }
            Self::Slow { .. } => {
                "the command may be waiting for your sign-in: sign in first, then try again"
            }
            // The help names no command that makes a new key, because every secret that derives from
            // the old key would change.
            Self::NotAKey { .. } => {
                "restore the key from your backup: 32 bytes as base64, as hex, or raw"
            }
            Self::NoRecipients => "add an age recipient, in a Project to spec.recipients",
            Self::NotSealed(_) => return None,
            Self::NotUnsealed(_) => {
                "give the documents as a program wrote them: the sealed text was changed or truncated"
            }
            Self::NotForUs { .. } | Self::SopsNotForUs { .. } => {
                "set SOPS_AGE_KEY_FILE to the file, or SOPS_AGE_KEY to the text, of an identity \
                 of one of the recipients"
            }
            Self::NoIdentity => {
                "set SOPS_AGE_KEY_FILE to the file, or SOPS_AGE_KEY to the text, of an identity"
            }
            Self::NotAnIdentity { .. } => "each line is AGE-SECRET-KEY-1… or begins with #",
            Self::InClear(_) => {
                "run `sops encrypt --in-place` on the file, and replace its secrets if others could \
                 have read them"
            }
            Self::SopsInvalid { .. } | Self::SopsTampered { .. } => {
                "run `git diff` to compare the file with the committed one, and edit it with `sops` only"
            }
            Self::SopsNoKey { .. } => "run `sops edit` to see and to change the values of the file",
        };
        Some(help.to_owned())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Documents(error) => error.exit(),
            Self::Other(error) => error.0.exit(),
            Self::Published(_) => Exit::Usage,
            Self::CommandFailed { .. } | Self::Slow { .. } => Exit::Temporary,
            Self::Unset(_)
            | Self::Unreadable { .. }
            | Self::TooLarge { .. }
            | Self::Empty(_)
            | Self::NotText
            | Self::NotRun { .. }
            | Self::NotAKey { .. }
            | Self::NoRecipients
            | Self::NotSealed(_)
            | Self::NotUnsealed(_)
            | Self::NotForUs { .. }
            | Self::NoIdentity
            | Self::NotAnIdentity { .. }
            | Self::InClear(_)
            | Self::SopsInvalid { .. }
            | Self::SopsNotForUs { .. }
            | Self::SopsTampered { .. }
            | Self::SopsNoKey { .. } => Exit::Permanent,
        }
    }

    fn is_unknown(&self) -> bool {
        matches!(self, Self::Other(error) if error.0.is_unknown())
    }

    fn refusals(&self) -> Vec<Refusal> {
        match self {
            Self::Other(error) => error.0.refusals(),
            _ => Vec::new(),
        }
    }
}
