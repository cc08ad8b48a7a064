//! The command line. Doc comments here are the help text.

use clap::Parser;

/// Brings about the repository that a `Repository` document declares, at GitHub or Gitea
///
/// Creates it, sets it up, pushes the history of the Git repository in the current directory into
/// it, seals the keys of the other phases into its Actions secrets, and protects its branches.
///
/// Reads YAML or JSON documents, writes the same documents as JSON with `status` filled in, and
/// speaks on standard error.
///
/// Exit status: 0 done, 2 command line or document wrong, 3 drift (`plan --check`), 100 failed,
/// trying again cannot help, 111 failed, trying again may help.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) verb: documents::Verb,
}
