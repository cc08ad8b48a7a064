//! The command line. Doc comments here are the help text.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Copies every persistent byte out of a cluster, before it is destroyed
///
/// Reads YAML or JSON documents, writes the same documents as JSON with `status` filled in, and
/// speaks on standard error. Owns `Drain`. What it copies is encrypted with age to people's keys,
/// read back whole with a credential that cannot write, and receipted: without that receipt the
/// other programs destroy nothing. What `apply` has stopped stays stopped, and no pod may mount its
/// claims, until `destroy` starts it again; copies stay.
///
/// Exit status: 0 done, 2 command line or document wrong, 3 drift (`plan --check`), 100 do not
/// retry, 111 retry.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Phase(documents::Verb),
    /// Write what was copied into an empty folder, one folder for each source
    Restore {
        #[command(flatten)]
        target: documents::Target,
        /// The folder; made if it is not there
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
        /// The receipt to restore, as the store names it; needed when the store has several and the
        /// documents hold none
        #[arg(long, value_name = "OBJECT")]
        receipt: Option<String>,
    },
}
