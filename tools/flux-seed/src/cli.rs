//! The command line. Doc comments here are the help text.

use clap::Parser;

/// Puts Flux into a cluster, and has it deliver one attested artifact
///
/// Reads YAML or JSON documents, writes the same documents as JSON with `status` filled in, and
/// speaks on standard error. Owns `Delivery`. Flux is told the digest of the artifact and the key
/// that signed it: it delivers nothing that does not match both.
///
/// Exit status: 0 done, 2 command line or document wrong, 3 drift (`plan --check`), 100 do not
/// retry, 111 retry.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) verb: documents::Verb,
}
