//! Command line. The doc comments here are the help text.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Copies all persistent data out of a cluster before the cluster is destroyed
///
/// Reads YAML or JSON documents, writes the same documents as JSON with `status` filled in, and
/// reports progress on standard error. Handles `Drain` documents. Copies are encrypted with age to
/// people's keys and read back in full with a credential that cannot write. A signed receipt proves
/// this, and the other programs delete no data without a receipt. `apply` stops workloads and keeps
/// every pod off their claims until `destroy` starts the workloads again. The copies stay.
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
    /// Write the copies into an empty folder, one folder for each source
    Restore {
        #[command(flatten)]
        target: documents::Target,
        /// Target folder; created if it does not exist
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
        /// Object key of the receipt to restore; required if the store has several receipts and the
        /// documents have none
        #[arg(long, value_name = "OBJECT")]
        receipt: Option<String>,
    },
}
