//! Failures as people and callers meet them: what, why, what now, and whether to try again.

use std::error;
use std::io;
use std::path::PathBuf;
use std::process::{ExitCode, Termination};

use crate::conflict::Conflict;
use crate::kind::owner;
use crate::refusal::Refusal;

/// What the exit status promises. Of several, the greatest is the program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// What was asked is done.
    Done = 0,
    /// The command line or a document is wrong, and nothing was touched.
    Usage = 2,
    /// `plan --check` found steps to take.
    Drift = 3,
    /// Trying again cannot help: a person must change a document, a secret or the world.
    Permanent = 100,
    /// Trying again may help: something was unreachable, busy, slow or not there yet.
    Temporary = 111,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// An error that knows what the reader should do next.
pub trait Diagnostic: error::Error {
    /// The `reason` of the condition that it becomes: one word in `CamelCase`.
    fn reason(&self) -> &'static str;
    /// One sentence to act on; `None` when the message already says it all.
    fn help(&self) -> Option<String>;
    /// Whether trying again can help.
    fn exit(&self) -> Exit;
    /// Whether the state of the document could not be determined, so that `Ready` is `Unknown`.
    fn is_unknown(&self) -> bool {
        false
    }
    /// Whether the same observation may succeed in a moment: the service was unreachable, slow or busy.
    fn is_transient(&self) -> bool {
        false
    }
    /// Whether a write that failed may have taken effect, because its response was lost.
    fn is_ambiguous(&self) -> bool {
        false
    }
    /// Objects that it refused to change or remove, for the status; none for most errors.
    fn refusals(&self) -> Vec<Refusal> {
        Vec::new()
    }
}

/// What can go wrong with the stream itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All mistakes at once, each with its place.
    #[error("{}\nmistakes: {}, in documents: {documents}; nothing was touched", mistakes.join("\nerror: "), mistakes.len())]
    Invalid {
        /// What and where.
        mistakes: Vec<String>,
        /// How many documents were read.
        documents: usize,
    },
    /// Another document must be brought about first.
    #[error("{document} is not Ready: {why}")]
    NotReady {
        /// Its kind and name.
        document: String,
        /// What its own status says.
        why: String,
    },
    /// Another document must be destroyed first.
    #[error("{by} still needs {document}")]
    StillNeeded {
        /// Its kind and name.
        document: String,
        /// The kind and name of the other.
        by: String,
    },
    /// Objects are in the way of the plan.
    #[error("{}", conflicts.iter().map(|conflict| conflict.message.as_str()).collect::<Vec<_>>().join("; "))]
    Conflicts {
        /// Every one of them.
        conflicts: Vec<Conflict>,
    },
    /// A wait took too long.
    #[error("not done after {seconds} s: {reason}")]
    NotConverged {
        /// Length of the wait.
        seconds: u64,
        /// What the program waited for.
        reason: String,
    },
    /// Steps do not take effect.
    #[error("these steps were executed and are still planned: {}", steps.join("; "))]
    NoProgress {
        /// The steps, as the plan shows them.
        steps: Vec<String>,
    },
    /// A signal asked the program to end.
    #[error("interrupted between two steps")]
    Interrupted,
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    NotWritten {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program panicked.
    #[error("a bug in this program, at {place}")]
    Bug {
        /// File, line and column of the source.
        place: String,
    },
    /// Standard output is full or broken.
    #[error("cannot write the documents")]
    Output(#[from] io::Error),
}

impl Diagnostic for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "Invalid",
            Self::NotReady { .. } => "DependencyNotReady",
            Self::StillNeeded { .. } => "StillNeeded",
            Self::Conflicts { .. } => "Conflict",
            Self::NotConverged { .. } | Self::NoProgress { .. } => "NotConverged",
            Self::Interrupted => "Interrupted",
            Self::Bug { .. } => "Bug",
            Self::NotWritten { .. } | Self::Output(_) => "OutputFailed",
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Invalid { .. } => Some("`schema` prints what a document may hold".to_owned()),
            Self::NotReady { document, .. } => {
                let kind = document.split('/').next().unwrap_or_default();
                let program = owner(kind)?;
                // Not `apply`: whoever destroys must not be told to make a cluster first.
                Some(format!("run this after {program}, on the documents that {program} wrote"))
            }
            Self::StillNeeded { by, .. } => {
                let program = owner(by.split('/').next().unwrap_or_default())?;
                // A Drain is not destroyed: it releases what it names once it has a receipt.
                let verb = if program == "data-drain" { "apply" } else { "destroy" };
                Some(format!("run `{program} {verb}` first, and give this program what it wrote"))
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
                "look for another program or person that changes the same object back; then run the \
                 same command again"
                    .to_owned(),
            ),
            Self::Interrupted => {
                Some("run the same command again: it looks at what is there, and takes the steps that \
                      are left".to_owned())
            }
            Self::NotWritten { source, .. } => Some(match source.kind() {
                io::ErrorKind::AlreadyExists => {
                    "nothing is written over: name a folder that is not there yet".to_owned()
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "make space, or name a folder on another disk".to_owned()
                }
                _ => "name a folder in which this user may create files".to_owned(),
            }),
            Self::Bug { .. } => Some(
                "report this line, the command and the document to whoever maintains the program"
                    .to_owned(),
            ),
            Self::Output(_) => Some(
                "see to where standard output goes, then run the same command again: the documents \
                 were not written whole"
                    .to_owned(),
            ),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Invalid { .. } => Exit::Usage,
            Self::NotWritten { .. } | Self::Bug { .. } | Self::Conflicts { .. } => Exit::Permanent,
            // Of another document: the program before this one in the pipe may do it next time.
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
    fn help_never_tells_to_make_what_is_about_to_be_destroyed() {
        let (document, why) = ("Cluster/prod".to_owned(), "no program has said so".to_owned());
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
        assert_eq!(needed("Somebody/x").help(), None);
    }
}
