//! Failures as people and callers meet them: what, why, what now, and whether to try again.

use std::error;
use std::io;
use std::path::PathBuf;
use std::process::{ExitCode, Termination};

use crate::status::Refusal;
use crate::verb::LogFormat;

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
pub trait Fault: error::Error {
    /// The `reason` of the condition that it becomes: one word in `CamelCase`.
    fn reason(&self) -> &'static str;
    /// One sentence to act on; `None` when the message already says it all.
    fn help(&self) -> Option<String>;
    /// Whether trying again can help.
    fn exit(&self) -> Exit;
    /// Objects that it refused to change or remove, for the status; none for most errors.
    fn refusals(&self) -> Vec<Refusal> {
        Vec::new()
    }
}

/// Tells people about `fault`, and returns its exit status.
pub fn report(fault: &dyn Fault) -> Exit {
    let voice = crate::progress::voice();
    if voice.output.log_format == LogFormat::Json {
        let causes = std::iter::successors(fault.source(), |cause| cause.source());
        crate::say(serde_json::json!({
            "program": voice.program,
            "error": fault.to_string(),
            "causes": causes.map(ToString::to_string).collect::<Vec<_>>(),
            "help": fault.help(),
            "reason": fault.reason(),
        }));
        return fault.exit();
    }
    crate::say(format_args!("error: {fault}"));
    for cause in std::iter::successors(fault.source(), |cause| cause.source()) {
        crate::say(format_args!("  because: {cause}"));
    }
    if let Some(help) = fault.help() {
        crate::say(format_args!("  help: {help}"));
    }
    fault.exit()
}

/// What can go wrong with the stream itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All mistakes at once, each with its place.
    #[error("{}\nmistakes: {}, in documents: {documents}; nothing was touched", mistakes.join("\nerror: "), mistakes.len())]
    Mistakes {
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
    /// Standard output is full or broken.
    #[error("cannot write the documents")]
    Output(#[from] io::Error),
}

impl Fault for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Mistakes { .. } => "Invalid",
            Self::NotReady { .. } => "DependencyNotReady",
            Self::StillNeeded { .. } => "StillNeeded",
            Self::Interrupted => "Interrupted",
            Self::NotWritten { .. } | Self::Output(_) => "OutputFailed",
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Mistakes { .. } => Some("`schema` prints what a document may hold".to_owned()),
            Self::NotReady { document, .. } => Some(format!("see to {document} first")),
            Self::StillNeeded { by, .. } => {
                Some(format!("destroy {by} first; or prove it, if it is a Drain"))
            }
            Self::Interrupted => {
                Some("run the same command again: it goes on from here".to_owned())
            }
            Self::NotWritten { .. } => {
                Some("nothing is written over: name a folder that is not there yet".to_owned())
            }
            Self::Output(_) => None,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Mistakes { .. } => Exit::Usage,
            Self::NotWritten { .. } => Exit::Permanent,
            Self::NotReady { .. }
            | Self::StillNeeded { .. }
            | Self::Interrupted
            | Self::Output(_) => Exit::Temporary,
        }
    }
}
