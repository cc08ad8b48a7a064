//! Command line. The doc comments are the help text.

use clap::Parser;
use documents::NoOptions;
use opentofu::PlanOptions;

/// Creates the machines, the Talos configuration and the Kubernetes control plane of `Cluster` documents
///
/// Reads YAML or JSON documents, and writes the same documents as JSON with `status` filled in.
/// Messages go to standard error. Needs the `Project` to which a `Cluster` belongs: the Project names
/// the cloud's endpoint, and every key and certificate derives from its root (or from
/// `TALOS_PROVISION_KEY`).
///
/// Exit status: 0 done, 2 command line or document wrong, 3 drift (`plan --check`), 100 do not
/// retry, 111 retry.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) verb: documents::Verb<NoOptions, PlanOptions>,
}
