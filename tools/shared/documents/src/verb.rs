//! Verbs and options of every program. Doc comments here are help text.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// The verbs of every program. `V` has the options of `verify`, and `P` those of `plan`, that only some
/// programs have.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb<V: Args = NoOptions, P: Args = NoOptions> {
    /// Print the steps that `apply` would execute, without executing them
    Plan {
        #[command(flatten)]
        #[expect(missing_docs, reason = "its own doc comments are the help")]
        target: Target,
        /// Exit with status 3 when the plan has steps
        #[arg(long)]
        check: bool,
        /// Print the steps of `destroy` instead
        #[arg(long)]
        destroy: bool,
        #[command(flatten)]
        #[expect(missing_docs, reason = "the doc comments of its fields are the help")]
        options: P,
    },
    /// Execute the steps, then observe the result
    Apply(Target),
    /// Prove from evidence that the observed state is the declared one
    Verify {
        #[command(flatten)]
        #[expect(missing_docs, reason = "its own doc comments are the help")]
        target: Target,
        #[command(flatten)]
        #[expect(missing_docs, reason = "the doc comments of its fields are the help")]
        options: V,
    },
    /// Remove what `apply` created, and nothing else
    Destroy(Target),
    /// Write every value derived from the root for the documents, secrets included, to files
    ///
    /// The files are in FOLDER/PROGRAM/DOCUMENT, which must not exist yet. Only the current user can
    /// read them. Standard output gets the documents unchanged, so that programs can be piped.
    Derive {
        #[command(flatten)]
        #[expect(missing_docs, reason = "its own doc comments are the help")]
        target: Target,
        /// Folder for the files, created when it does not exist
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
    /// Print the JSON Schema of the documents that this program owns
    Schema,
    /// Print a script that completes the command line of this program in a shell
    ///
    /// For bash: `source <(PROGRAM completion bash)`. The manual of another shell names the folder for the
    /// script.
    Completion {
        /// Shell for which the script is printed
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Options of a program that has none of its own.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct NoOptions {}

impl<V: Args, P: Args> Verb<V, P> {
    /// Returns the verb without the options of some programs.
    pub(crate) fn shared(&self) -> Verb {
        match self {
            Self::Plan { target, check, destroy, .. } => Verb::Plan {
                target: target.clone(),
                check: *check,
                destroy: *destroy,
                options: NoOptions {},
            },
            Self::Apply(target) => Verb::Apply(target.clone()),
            Self::Verify { target, .. } => {
                Verb::Verify { target: target.clone(), options: NoOptions {} }
            }
            Self::Destroy(target) => Verb::Destroy(target.clone()),
            Self::Derive { target, to } => Verb::Derive { target: target.clone(), to: to.clone() },
            Self::Schema => Verb::Schema,
            Self::Completion { shell } => Verb::Completion { shell: *shell },
        }
    }
}

/// Input documents and options for messages.
#[derive(Clone, Debug, Default, Args)]
pub struct Target {
    /// Files, directories (searched at any depth), or `-` for standard input (default)
    #[arg(value_name = "DOCUMENTS")]
    pub documents: Vec<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its own doc comments are the help")]
    pub output: Output,
}

/// Options for messages on standard error.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Output {
    /// Print only errors, no progress
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print requests, decisions and waits, too
    #[arg(short, long)]
    pub verbose: bool,
    /// Format of messages on standard error
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// Format of messages on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines of text for people
    #[default]
    Text,
    /// One JSON object per line, for machines
    Json,
}
