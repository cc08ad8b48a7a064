//! The command line. Doc comments here are the help text.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::network::Network;

/// Starts real components on loopback in place of the vendors' services
///
/// `lab up` is a phase 0 in the pipe: it reads documents, starts what they need (a forge, a
/// registry, a cloud, a store), and writes them on with `Project.spec.endpoints` replaced. It
/// speaks on standard error.
///
/// Exit status: 0 done, 2 command line or document wrong, 100 do not retry, 111 retry.
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
    /// Build components from their Go modules into the cache; by default what the lifecycle needs
    Build {
        /// Which: `kubernetes`, `etcd`, `flux`, `gitea`, `oracles`, `object-store`, `actions`, `referrers`; or `all`, and with them what a lab installs in this machine
        #[arg(value_name = "COMPONENT")]
        components: Vec<String>,
        #[command(flatten)]
        output: documents::Output,
    },
    /// Start what the documents need, and write them on with the lab's endpoints
    Up(documents::Target),
    /// End every process of the lab; its state stays
    Down {
        /// Remove its state, too
        #[arg(long)]
        wipe: bool,
        #[command(flatten)]
        output: documents::Output,
    },
    /// Print what runs, where, and how many writes each remote has seen, as JSON
    Status {
        #[command(flatten)]
        output: documents::Output,
    },
    /// Create an identity, a root and documents of your own, in place of those that are published
    ///
    /// Works on the project in the current directory. The identity goes to a file that only you may
    /// read, outside of the repository; if one is there already, that one is used. Nothing that is
    /// your own is overwritten. Tokens are taken from GITHUB_TOKEN, GHCR_TOKEN, GHCR_READ_TOKEN,
    /// HCLOUD_TOKEN, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_READER_ACCESS_KEY_ID and
    /// S3_READER_SECRET_ACCESS_KEY; those that are not set can be put in later with `sops`.
    #[expect(clippy::doc_markdown, reason = "backticks would be shown in the help")]
    Init {
        /// What the project is called, for example `shop`
        name: String,
        /// The account at the forge and the registry that owns it, for example `octocat`
        owner: String,
        /// Where the age identity is, or goes; `~/.config/sops/age/keys.txt`, where `sops` looks, if not given
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
        #[command(flatten)]
        output: documents::Output,
    },
    /// Run the lab in the foreground; `up` starts this by itself
    #[command(hide = true)]
    Serve {
        #[command(flatten)]
        output: documents::Output,
    },
}

/// Where the lab is.
#[derive(Clone, Debug, Args)]
pub(crate) struct Settings {
    /// Where the lab keeps its state; `.lab` in the repository if not given
    #[arg(long, env = "LAB_DIR", hide_env_values = true, value_name = "FOLDER", global = true)]
    pub(crate) directory: Option<PathBuf>,
    /// Where built components are kept; `.cache` in the repository if not given
    #[arg(long, env = "LAB_CACHE", hide_env_values = true, value_name = "FOLDER", global = true)]
    pub(crate) cache: Option<PathBuf>,
    /// Where the components' Go modules are; `continuous-integration/components` in the repository if not given
    // Not called as the words that `build` takes: clap knows both by their names.
    #[arg(
        id = "modules",
        long = "components",
        env = "LAB_COMPONENTS",
        hide_env_values = true,
        value_name = "FOLDER",
        global = true
    )]
    pub(crate) components: Option<PathBuf>,
    /// The nixpkgs that artifacts are built with, as a flake; the stand-in beside the components if not given
    #[arg(long, env = "LAB_NIXPKGS", hide_env_values = true, value_name = "FLAKE", global = true)]
    pub(crate) nixpkgs: Option<String>,
    /// The loopback addresses that the lab may use
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
