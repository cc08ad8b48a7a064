//! The command line. Doc comments here are the help text.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::network::Network;

/// Starts real components on loopback in place of the vendors' services
///
/// `lab up` is the first program of the pipe. It reads documents, starts the services that the
/// documents need (a forge, a registry, a cloud, an object store), and writes the same documents
/// with `Project.spec.endpoints` replaced by the lab's addresses. `--overrides` changes other fields.
/// Messages go to standard error.
///
/// Only documents of kind `Cluster` take root, because their machines run containers. For other users, a lab
/// without a `Cluster` has every service, and `up` names the packages that it cannot install.
///
/// Exit status: 0 done, 2 the command line or a document is wrong, 100 do not retry, 111 retry.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Build components from their Go modules into the cache; without a name, those that the lifecycle needs
    Build {
        /// Names of components: `kubernetes`, `etcd`, `flux`, `gitea`, `crane`, `object-store`, `oracles`, `flux-verifier`, `verifiers`, `actions`, `flannel`, `referrers`; or `all`, which also installs the Debian packages that a lab needs
        #[arg(value_name = "COMPONENT")]
        components: Vec<String>,
        #[command(flatten)]
        output: documents::Output,
    },
    /// Start the services that the documents need, and write the documents with the lab's endpoints
    Up {
        #[command(flatten)]
        target: documents::Target,
        /// Folder of overrides: documents whose `spec` is merged into the document of the same kind and name (RFC 7386), for fields that differ in the lab
        #[arg(long, value_name = "FOLDER")]
        overrides: Option<PathBuf>,
    },
    /// End every process of the lab; the state stays on the disk
    Down {
        /// Remove the lab's state as well, after a question
        #[arg(long)]
        wipe: bool,
        /// Answer the question with yes; required without a terminal
        #[arg(long, requires = "wipe")]
        yes: bool,
        #[command(flatten)]
        output: documents::Output,
    },
    /// Print the running services, their addresses, and the number of writes that each one has received, as JSON
    Status {
        #[command(flatten)]
        output: documents::Output,
    },
    /// Create your own identity, root and documents in place of the published ones
    ///
    /// `init` changes the project in the current directory. The identity is written to a file outside
    /// the repository that only you can read; an identity that exists in that file is used as it is.
    /// Files that hold your own secrets are never overwritten. Tokens are read from GITHUB_TOKEN, GHCR_TOKEN, GHCR_READ_TOKEN,
    /// HCLOUD_TOKEN, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_READER_ACCESS_KEY_ID and
    /// S3_READER_SECRET_ACCESS_KEY; add tokens that are not set later with `sops`.
    #[expect(clippy::doc_markdown, reason = "backticks would be shown in the help")]
    Init {
        /// Name of the project, for example `shop`
        name: String,
        /// Account at the forge and the registry that owns the project, for example `octocat`
        owner: String,
        /// File of the age identity, created if absent [default: ~/.config/sops/age/keys.txt, where `sops` looks]
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
        #[command(flatten)]
        output: documents::Output,
    },
    /// Run the lab in the foreground; `up` starts this command in the background
    #[command(hide = true)]
    Serve {
        #[command(flatten)]
        output: documents::Output,
    },
}

/// Folders and addresses of the lab; the same options for every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Settings {
    /// Folder of the lab's state [default: .lab in the repository]
    #[arg(long, env = "LAB_DIR", hide_env_values = true, value_name = "FOLDER", global = true)]
    pub(crate) directory: Option<PathBuf>,
    /// Folder of the built components [default: .cache in the repository]
    #[arg(long, env = "LAB_CACHE", hide_env_values = true, value_name = "FOLDER", global = true)]
    pub(crate) cache: Option<PathBuf>,
    /// Folder of prebuilt components, each in the form of the cache [default: none; the flake sets it]
    #[arg(long, env = "LAB_BUILT", hide_env_values = true, value_name = "FOLDER", global = true)]
    pub(crate) built: Option<PathBuf>,
    /// Folder of the components' Go modules [default: continuous-integration/components in the repository]
    // The id differs from `components`, which `build` uses, because clap tells arguments apart by id.
    #[arg(
        id = "modules",
        long = "components",
        env = "LAB_COMPONENTS",
        hide_env_values = true,
        value_name = "FOLDER",
        global = true
    )]
    pub(crate) components: Option<PathBuf>,
    /// Flake of the nixpkgs that builds artifacts [default: the small stand-in in continuous-integration/nix]
    #[arg(long, env = "LAB_NIXPKGS", hide_env_values = true, value_name = "FLAKE", global = true)]
    pub(crate) nixpkgs: Option<String>,
    /// Loopback addresses that the lab uses, where N is 1 to 255
    #[arg(
        long,
        env = "LAB_NETWORK",
        hide_env_values = true,
        value_name = "127.N.0.0/16",
        default_value = "127.77.0.0/16",
        global = true
    )]
    pub(crate) network: Network,
}
