//! Command line. The doc comments here are the help text.

use clap::{Args, Parser};
use documents::ResultForm;

use crate::picture::Format;

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
    pub(crate) verb: documents::Verb<VerifyOptions>,
}

/// Options of `verify`.
#[derive(Clone, Debug, Args)]
pub(crate) struct VerifyOptions {
    /// Format of standard output: `json`, or `svg` or `mermaid` for a picture of the evidence
    ///
    /// The picture shows the chain from each running pod to its image, signature, provenance, commit
    /// and branch. With `=FILE`, for example `svg=evidence.svg`, the picture is written to the file, and
    /// standard output has the documents. The exit status is the same in every format.
    #[arg(short, long, value_name = "FORMAT[=FILE]", default_value = "json")]
    pub(crate) output: ResultForm<Format>,
}
