//! Everything that can go wrong, what to do about it, and whether to try again.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use documents::{Diagnostic, Exit};

use crate::{AgeRecipient, Url};

/// Everything that can go wrong with a secret. None of it quotes one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program was asked to end, or a document is not there.
    #[error(transparent)]
    Phase(#[from] documents::Error),
    /// A variable of the environment is not there.
    #[error("the environment variable {0} is not set")]
    Unset(String),
    /// A file cannot be read.
    #[error("cannot read {}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is more than a secret can be.
    #[error("{what} is larger than {bytes_max} bytes")]
    TooLarge {
        /// Of what.
        what: String,
        /// How much there may be.
        bytes_max: u64,
    },
    /// A receipt does not prove that data is safe.
    #[error("the receipt of Drain/{drain} is refused: {why}")]
    Receipt {
        /// Whose.
        drain: String,
        /// What is wrong with it.
        why: String,
    },
    /// Anybody can read the secret, and an endpoint is on another machine.
    #[error("{0} is published with these programs, so anybody can use it")]
    Published(String),
    /// An address that is not at the forge would get the forge's token.
    #[error("{url} is not at the forge {forge}, so it does not get the forge's token")]
    ForeignOrigin {
        /// The address.
        url: Url,
        /// The forge, as the Project names it.
        forge: Url,
    },
    /// A public key that the Project names cannot be read.
    #[error("a key of spec.verificationKeys in the Project is {why}")]
    VerificationKey {
        /// What it is instead.
        why: &'static str,
    },
    /// Nothing is there, where a secret should be.
    #[error("{0} is empty")]
    Empty(String),
    /// A secret that should be text is not.
    #[error("a secret that should be text is not UTF-8")]
    NotText,
    /// A command could not be started.
    #[error("cannot run `{program}`")]
    NotRun {
        /// Its program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A command failed.
    #[error("`{program}` did not give its secret: {status}")]
    CommandFailed {
        /// Its program.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A command took too long.
    #[error("`{program}` did not give its secret within {seconds} seconds")]
    Slow {
        /// Its program.
        program: String,
        /// How long it was given.
        seconds: u64,
    },
    /// The root, or the key of a phase, is something else.
    #[error("{what} is not a key of 32 bytes: {why}")]
    NotAKey {
        /// Where it was found.
        what: String,
        /// What was found.
        why: String,
    },
    /// What signs requests to a store is something else.
    #[error("{0} is not the credentials of an S3 store")]
    NotCredentials(String),
    /// No such project came in.
    #[error("no Project called `{0}` came in")]
    NoProject(String),
    /// There is nobody to seal for.
    #[error("the project has no recipients: nobody could open what is sealed")]
    NoRecipients,
    /// Sealing failed.
    #[error("cannot seal a secret")]
    NotSealed(#[from] io::Error),
    /// What was sealed is broken.
    #[error("cannot open what was sealed")]
    NotUnsealed(#[source] age::DecryptError),
    /// What was sealed is for others.
    #[error("what was sealed is for others: the identities in {places} are none of its recipients")]
    NotForUs {
        /// Where identities were found.
        places: String,
        /// Whom the project could seal it for, so that the phase could open it with its own key.
        derived: Option<AgeRecipient>,
    },
    /// There is no identity to open anything with.
    #[error("there is no age identity to open this with")]
    NoIdentity,
    /// What should be an identity is not.
    #[error("line {line} of {place} is not an age identity")]
    NotAnIdentity {
        /// Where.
        place: String,
        /// In which line.
        line: usize,
    },
    /// A file, or a value in it, is not encrypted.
    #[error("{0} is not encrypted: a secret lies there in clear")]
    InClear(String),
    /// A SOPS file is not as `sops` writes it.
    #[error("{} is not as `sops` writes it: {what}", file.display())]
    SopsGarbled {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A SOPS file is for others.
    #[error("{} is for {}, and what is here is {places}", file.display(), recipients.join(" and "))]
    SopsNotForUs {
        /// Which.
        file: PathBuf,
        /// Where identities were found.
        places: String,
        /// Whom it is for.
        recipients: Vec<String>,
    },
    /// A SOPS file was changed.
    #[error("{} was changed since it was encrypted: {what}", file.display())]
    SopsTampered {
        /// Which.
        file: PathBuf,
        /// How that is known.
        what: String,
    },
    /// A SOPS file lacks a value.
    #[error("{} has no `{key}`, only {}", file.display(), has.join(", "))]
    SopsNoKey {
        /// Which.
        file: PathBuf,
        /// What it lacks.
        key: String,
        /// What it has, at the top.
        has: Vec<String>,
    },
}

impl Diagnostic for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Phase(error) => error.reason(),
            Self::NoProject(_) => "ProjectMissing",
            Self::Published(_) => "PublishedSecret",
            Self::Receipt { .. } => "ReceiptRefused",
            Self::ForeignOrigin { .. } => "ForeignOrigin",
            Self::VerificationKey { .. } => "VerificationKeyInvalid",
            Self::NoRecipients | Self::NotSealed(_) => "NotSealed",
            Self::NotUnsealed(_) | Self::NotForUs { .. } => "NotUnsealed",
            Self::Unset(_)
            | Self::Unreadable { .. }
            | Self::TooLarge { .. }
            | Self::Empty(_)
            | Self::NotText
            | Self::NotRun { .. }
            | Self::CommandFailed { .. }
            | Self::Slow { .. }
            | Self::NotAKey { .. }
            | Self::NotCredentials(_)
            | Self::NoIdentity
            | Self::NotAnIdentity { .. }
            | Self::InClear(_)
            | Self::SopsGarbled { .. }
            | Self::SopsNotForUs { .. }
            | Self::SopsTampered { .. }
            | Self::SopsNoKey { .. } => "SecretUnavailable",
        }
    }

    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Phase(error) => return error.help(),
            Self::Unset(name) => return Some(format!("export {name}, or change the reference")),
            Self::Unreadable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "paths are relative to the current directory",
                io::ErrorKind::PermissionDenied => "let this user read it, or run as another user",
                _ => "check that the reference names a file",
            },
            Self::Published(_) => crate::published::NEW,
            Self::TooLarge { .. } => "check that the reference names a secret",
            Self::Empty(_) => "an empty secret protects nothing: set it, or change the reference",
            Self::NotText => "check that the reference names the right secret",
            Self::NotRun { .. } => "install it, or change the reference",
            Self::CommandFailed { .. } => "--verbose shows what it said; you may have to sign in",
            Self::Slow { .. } => "it may be waiting for you: sign in first, then try again",
            // Not a command that makes a new one: everything that derives from the old one would change.
            Self::NotAKey { .. } => {
                "restore it from where it is kept: 32 bytes as base64, as hex, or as they are"
            }
            Self::NotCredentials(_) => "it takes a map with `accessKeyId` and `secretAccessKey`",
            Self::NoProject(_) => "give the Project's document, too",
            Self::Receipt { .. } => {
                "run `data-drain apply` again: it reads everything back, and signs"
            }
            Self::ForeignOrigin { .. } => {
                "make spec.endpoints.forge of the Project and the forge's own address (ROOT_URL of \
                 Gitea) agree; an address from a status is renewed by `vcs-bootstrap apply`"
            }
            Self::VerificationKey { .. } => {
                "copy the .pub files that `artifact-attest derive` and `data-drain derive` write"
            }
            Self::NoRecipients => "add an age recipient to spec.recipients of the Project",
            Self::NotSealed(_) => return None,
            Self::NotUnsealed(_) => {
                "give the documents as a program wrote them: since then this was changed, or cut short"
            }
            Self::NotForUs { derived: Some(recipient), .. } => {
                return Some(format!(
                    "add {recipient}, whose identity derives from this phase's key, to \
                     spec.recipients of the Project, and apply the Cluster again; or set \
                     SOPS_AGE_KEY_FILE to the file of an identity that is named there"
                ));
            }
            Self::NotForUs { derived: None, .. } | Self::SopsNotForUs { .. } => {
                "set SOPS_AGE_KEY_FILE to the file, or SOPS_AGE_KEY to the text, of an identity \
                 of one of them"
            }
            Self::NoIdentity => {
                "set SOPS_AGE_KEY_FILE to the file, or SOPS_AGE_KEY to the text, of an identity"
            }
            Self::NotAnIdentity { .. } => "each line is AGE-SECRET-KEY-1… or begins with #",
            Self::InClear(_) => {
                "encrypt it with `sops encrypt --in-place`, and replace the secrets in it if \
                 anybody could have read them"
            }
            Self::SopsGarbled { .. } | Self::SopsTampered { .. } => {
                "compare it with the committed one (`git diff`), and edit it with `sops` only"
            }
            Self::SopsNoKey { .. } => "`sops edit` shows and changes what it has",
        };
        Some(help.to_owned())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Phase(error) => error.exit(),
            Self::Published(_) => Exit::Usage,
            Self::CommandFailed { .. } | Self::Slow { .. } => Exit::Temporary,
            Self::Unset(_)
            | Self::Unreadable { .. }
            | Self::TooLarge { .. }
            | Self::Empty(_)
            | Self::NotText
            | Self::NotRun { .. }
            | Self::NotAKey { .. }
            | Self::NotCredentials(_)
            | Self::NoProject(_)
            | Self::Receipt { .. }
            | Self::ForeignOrigin { .. }
            | Self::VerificationKey { .. }
            | Self::NoRecipients
            | Self::NotSealed(_)
            | Self::NotUnsealed(_)
            | Self::NotForUs { .. }
            | Self::NoIdentity
            | Self::NotAnIdentity { .. }
            | Self::InClear(_)
            | Self::SopsGarbled { .. }
            | Self::SopsNotForUs { .. }
            | Self::SopsTampered { .. }
            | Self::SopsNoKey { .. } => Exit::Permanent,
        }
    }
}
