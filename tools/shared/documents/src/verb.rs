//! What can be said to every program. Doc comments here are help text.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// The verbs that every program knows.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Print the steps that `apply` would take, and take none
    Plan {
        #[command(flatten)]
        #[expect(missing_docs, reason = "its own doc comments are the help")]
        target: Target,
        /// Exit 3 when there are any
        #[arg(long)]
        check: bool,
        /// Print the steps of `destroy` instead
        #[arg(long)]
        destroy: bool,
    },
    /// Take the steps, then look again
    Apply(Target),
    /// Prove from evidence that what is declared is what is there
    Verify(Target),
    /// Remove what `apply` made, and nothing else
    Destroy(Target),
    /// Write all that derives from the root for the documents, secrets included, to files
    ///
    /// They go to FOLDER/PROGRAM/DOCUMENT, which must not be there yet, and nobody else may read
    /// them. The documents are passed on as they came, so that programs can be piped.
    Derive {
        #[command(flatten)]
        #[expect(missing_docs, reason = "its own doc comments are the help")]
        target: Target,
        /// Where to; made if it is not there
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
    },
    /// Print the JSON Schema of the documents that this program owns
    Schema,
}

/// On what, and how to speak about it.
#[derive(Clone, Debug, Default, Args)]
pub struct Target {
    /// Documents: files, directories, searched at any depth, or `-` for standard input, the default
    #[arg(value_name = "DOCUMENTS")]
    pub documents: Vec<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its own doc comments are the help")]
    pub output: Output,
}

/// How to speak on standard error.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Output {
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more: requests, decisions, waits
    #[arg(short, long)]
    pub verbose: bool,
    /// How to write what people read on standard error
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// For whom standard error is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// For machines: one JSON object per line
    Json,
}
