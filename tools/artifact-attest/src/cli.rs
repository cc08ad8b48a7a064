//! The command line. Doc comments here are the help text.

use clap::Parser;

/// Publishes the artifacts that `Artifact` documents declare: built twice, signed, attested
///
/// Reads YAML or JSON documents, writes the same documents as JSON with `status` filled in, and
/// reports on standard error. Requires `nix` and `git` on PATH. The signing key is derived from the
/// project's root, or from `ARTIFACT_ATTEST_KEY`.
///
/// Exit status: 0 done, 2 command line or document wrong, 3 drift (`plan --check`), 100 do not
/// retry, 111 retry.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) verb: documents::Verb,
}
