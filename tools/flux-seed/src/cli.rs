//! Command line. The doc comments here are the help text.

use clap::Parser;

/// Installs Flux in a cluster and delivers one attested artifact with it
///
/// Reads YAML or JSON documents, writes the same documents as JSON with `status` filled in, and
/// reports progress on standard error. Handles `Delivery` documents. Flux is configured with the
/// artifact's digest and the public key of its signature, and delivers only an artifact that matches
/// both.
///
/// Exit status: 0 done, 2 command line or document wrong, 3 drift (`plan --check`), 100 do not
/// retry, 111 retry.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) verb: documents::Verb,
}
