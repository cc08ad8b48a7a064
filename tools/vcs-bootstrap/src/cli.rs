//! The command line. Doc comments here are the help text.

use clap::Parser;
use documents::NoOptions;
use opentofu::PlanOptions;

/// Creates and configures the repository that a `Repository` document declares, at GitHub, Gitea or Forgejo
///
/// Creates or renames the repository, changes its settings, writes its Actions secrets and variables,
/// pushes the history of the Git repository in the current directory, and protects its branches.
///
/// Reads YAML or JSON documents, writes the same documents as JSON with `status` filled in, and
/// reports on standard error.
///
/// Exit status: 0 done, 2 command line or document wrong, 3 drift (`plan --check`), 100 failed, do
/// not retry, 111 failed, retry.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) verb: documents::Verb<NoOptions, PlanOptions>,
}
