//! Machines that speak Talos's API and are real behind it.
//!
//! ```text
//! Machines ──► Fleet ──► Machine ──► Talos API (port 50000 of the machine's own address)
//!                           │
//!                           └── rise: containerd, etcd, API server, controllers, kubelet; all real,
//!                               with the keys of the configuration the machine was given
//! ```
//!
//! Theatre are the API, the stages and the reboot. Not theatre: a certificate that the given authority
//! did not sign opens nothing, two bootstraps make two clusters, a member that is gone costs quorum.
//!
//! **Invariant:** a secret comes from the machine configuration or is made on the machine, as in Talos.
//! **Invariant:** a process is ended by the id that was written down when it started, checked against
//! the time at which it started.
//! **Invariant:** machines share nothing but what [`fleet`] says: their own discovery, `KubePrism`, and
//! the pod network. Whoever has no key asks one who has, as a worker asks trustd.

mod api;
mod change;
mod config;
mod control_plane;
mod etcd;
mod fall;
mod fleet;
mod kubeprism;
mod machine;
mod manifests;
mod network;
mod node;
mod pki;
mod place;
mod process;
mod rise;
mod strict;
mod tls;
mod trouble;
mod view;

pub use emulator_hcloud::{Machines, Server};
pub use fleet::{Fleet, FleetSettings, Node};
pub use process::go_runtime;
