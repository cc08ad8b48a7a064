//! Errors for people and callers: what failed, why, what to do next, and whether a retry can help.

use std::error;
use std::io;
use std::path::PathBuf;
use std::process::{ExitCode, Termination};

use reasons::Reason;

use crate::conflict::Conflict;
use crate::kind::owner;
use crate::refusal::Refusal;

/// Exit status of a program. The greatest status of all documents wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// The command succeeded for every document.
    Done = 0,
    /// The command line or a document is invalid, and nothing was changed.
    Usage = 2,
    /// `plan --check` found steps that are left to execute.
    Drift = 3,
    /// A retry cannot help: a person must change a document, a secret or a remote service.
    Permanent = 100,
    /// A retry may help: a service was unreachable, busy or slow, or a dependency is not ready yet.
    Temporary = 111,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// An error with its help, its exit status and its reason in a condition.
pub trait Diagnostic: error::Error {
    /// Returns the `reason` of the condition in the status.
    fn reason(&self) -> Reason;
    /// Returns the next action for a person as one sentence; `None` when the message already says it.
    fn help(&self) -> Option<String>;
    /// Returns the exit status, which says whether a retry can help.
    fn exit(&self) -> Exit;
    /// Whether the state of the document could not be determined, so that `Ready` is `Unknown`.
    fn is_unknown(&self) -> bool {
        false
    }
    /// Whether the same observation may succeed in a moment, because the service was unreachable, slow or
    /// busy.
    fn is_transient(&self) -> bool {
        false
    }
    /// Whether a write that failed may have taken effect, because its response was lost.
    fn is_ambiguous(&self) -> bool {
        false
    }
    /// Returns the objects that the program refused to change or remove, for the status; empty for most
    /// errors.
    fn refusals(&self) -> Vec<Refusal> {
        Vec::new()
    }
}

/// Errors of the stream and of the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input has validation errors.
    #[error("{}\nmistakes: {}, in documents: {documents}; nothing was touched", mistakes.join("\nerror: "), mistakes.len())]
    Invalid {
        /// Message and position of every error.
        mistakes: Vec<String>,
        /// Number of documents that were read.
        documents: usize,
    },
    /// Another document must be applied first.
    #[error("{document} is not Ready: {why}")]
    NotReady {
        /// Kind and name of the other document, for example `Cluster/prod`.
        document: String,
        /// Reason in the status of the other document.
        why: String,
    },
    /// Another document of the same program failed in this run, and must succeed first.
    #[error("not processed, because {document} failed")]
    FailedBefore {
        /// Kind and name of the other document, for example `Delivery/infrastructure`.
        document: String,
    },
    /// Another document must be destroyed first.
    #[error("{by} still needs {document}")]
    StillNeeded {
        /// Kind and name of the document to destroy, for example `Cluster/prod`.
        document: String,
        /// Kind and name of the other document.
        by: String,
    },
    /// Objects are in the way of the plan.
    #[error("{}", conflicts.iter().map(|conflict| conflict.message.as_str()).collect::<Vec<_>>().join("; "))]
    Conflicts {
        /// All conflicts of the plan.
        conflicts: Vec<Conflict>,
    },
    /// A wait took too long.
    #[error("not done after {seconds} s: {reason}")]
    NotConverged {
        /// Length of the wait, in seconds.
        seconds: u64,
        /// State that the program waited for.
        reason: String,
    },
    /// Steps were executed without effect.
    #[error("these steps were executed and are still planned: {}", steps.join("; "))]
    NoProgress {
        /// The steps, as the plan shows them.
        steps: Vec<String>,
    },
    /// The program received a signal to end.
    #[error("interrupted between two steps")]
    Interrupted,
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    NotWritten {
        /// Path of the file or directory.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The program panicked, which is a bug.
    #[error("a bug in this program, at {place}")]
    Bug {
        /// File, line and column in the source code.
        place: String,
    },
    /// Standard output is full or broken.
    #[error("cannot write the documents")]
    Output(#[from] io::Error),
}

impl Error {
    /// Returns the error for a step that comes before a step that it needs. Only a mistake in a
    /// program's `plan` causes it.
    #[must_use]
    pub fn out_of_order() -> Self {
        Self::NoProgress { steps: vec!["a step before the one that it needs".to_owned()] }
    }
}

impl Diagnostic for Error {
    fn reason(&self) -> Reason {
        match self {
            Self::Invalid { .. } => Reason::Invalid,
            Self::NotReady { .. } | Self::FailedBefore { .. } => Reason::DependencyNotReady,
            Self::StillNeeded { .. } => Reason::StillNeeded,
            Self::Conflicts { .. } => Reason::Conflict,
            Self::NotConverged { .. } | Self::NoProgress { .. } => Reason::NotConverged,
            Self::Interrupted => Reason::Interrupted,
            Self::Bug { .. } => Reason::Bug,
            Self::NotWritten { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                Reason::WouldOverwrite
            }
            Self::NotWritten { .. } => Reason::FileFailed,
            Self::Output(_) => Reason::OutputFailed,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Invalid { .. } => Some("`schema` prints what a document may hold".to_owned()),
            Self::NotReady { document, .. } => {
                let kind = document.split('/').next().unwrap_or_default();
                let program = owner(kind)?;
                // The help does not name `apply`, because the user may be destroying: a new cluster would
                // have a new root.
                Some(format!("run this after {program}, on the documents that {program} wrote"))
            }
            Self::FailedBefore { document } => {
                Some(format!("follow the help of {document}; the same command then continues here"))
            }
            Self::StillNeeded { by, .. } => {
                let program = owner(by.split('/').next().unwrap_or_default())?;
                // A Drain is not destroyed: its receipt releases the documents to which it refers.
                let verb = if program == "data-drain" { "apply" } else { "destroy" };
                Some(format!("run `{program} {verb}` first, and pass its output to this program"))
            }
            Self::Conflicts { conflicts } => {
                let mut helps: Vec<_> = conflicts.iter().map(|conflict| conflict.help.as_str()).collect();
                helps.dedup();
                Some(helps.join("; "))
            }
            Self::NotConverged { .. } => Some(
                "run the same command again when the cause is gone: it observes the world and executes \
                 the steps that are left"
                    .to_owned(),
            ),
            Self::NoProgress { .. } => Some(
                "find the program or person that changes the same object back, then run the same \
                 command again"
                    .to_owned(),
            ),
            Self::Interrupted => {
                Some("run the same command again: it observes the world and executes the steps that \
                      are left".to_owned())
            }
            Self::NotWritten { source, .. } => Some(match source.kind() {
                io::ErrorKind::AlreadyExists => {
                    "existing files are never overwritten: name a folder that does not exist".to_owned()
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free space on the disk, or name a folder on another disk".to_owned()
                }
                _ => "name a folder in which the current user may create files".to_owned(),
            }),
            Self::Bug { .. } => Some(
                "report this line, the command and the document to the maintainers of the program"
                    .to_owned(),
            ),
            Self::Output(_) => Some(
                "check the destination of standard output, for example for a full disk, then run the \
                 same command again: the documents were not written completely"
                    .to_owned(),
            ),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Invalid { .. } => Exit::Usage,
            Self::NotWritten { .. } | Self::Bug { .. } | Self::Conflicts { .. } => Exit::Permanent,
            // The failure of the other document decides the exit status.
            Self::FailedBefore { .. } => Exit::Done,
            // A dependency may be Ready after the next run of the program before this one in the pipe.
            Self::NotReady { .. }
            | Self::StillNeeded { .. }
            | Self::NotConverged { .. }
            | Self::NoProgress { .. }
            | Self::Interrupted
            | Self::Output(_) => Exit::Temporary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // hazard: During a sunset, the help tells to apply the cluster again.
    // class: Help causes damage.
    // members: a new root in place of the one that everything derives from
    // now: help that fits the direction
    #[test]
    fn help_never_suggests_to_apply_a_document_that_is_being_destroyed() {
        let (document, why) =
            ("Cluster/prod".to_owned(), "no program has written its status yet".to_owned());
        let help = Error::NotReady { document, why }.help().unwrap_or_default();
        assert_eq!(
            help,
            "run this after talos-provision, on the documents that talos-provision wrote"
        );
        let needed = |by: &str| Error::StillNeeded {
            document: "Cluster/prod".to_owned(),
            by: by.to_owned(),
        };
        let help = |by: &str| needed(by).help().unwrap_or_default();
        assert!(help("Delivery/prod").starts_with("run `flux-seed destroy` first"));
        assert!(help("Drain/prod").starts_with("run `data-drain apply` first"));
        assert_eq!(needed("Unknown/x").help(), None);
    }
}
