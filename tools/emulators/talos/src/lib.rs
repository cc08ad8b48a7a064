//! Machines that speak Talos's API, with real components behind it.
//!
//! ```text
//! Machines ──► Fleet ──► Machine ──► Talos API (port 50000 of the machine's own address)
//!                           │
//!                           └── boot: containerd, etcd, API server, controllers, kubelet; all real,
//!                               with the keys of the configuration that the machine was given
//! ```
//!
//! The modules lie in layers, and each uses only modules of the layers below:
//!
//! ```text
//! fleet                                   all machines
//! life                                    one machine from power on to power off
//! api, boot, shutdown                     serving, starting and ending a machine
//! machine
//! shared                                  state that machines share
//! etcd, kubernetes, node, control_plane   components and their clients
//! config, pki, process, network, …        plain data and processes
//! ```
//!
//! Emulated are the API, the stages and the reboot. The rest is real: a certificate that the configured
//! authority did not sign opens nothing, two bootstraps create two clusters, and a lost member costs quorum.
//!
//! **Invariant:** a secret comes from the machine configuration or is created on the machine, as in Talos.
//! **Invariant:** a process is ended by the id that was recorded at its start, after its start time has been
//! compared with the record.
//! **Invariant:** machines share only the state in `shared.rs`: their discovery, `KubePrism`, and the pod
//! network.

mod api;
mod boot;
mod change;
mod config;
mod control_plane;
mod directory;
mod error;
mod etcd;
mod fleet;
mod kind;
mod kubeprism;
mod kubernetes;
mod leaf;
mod life;
mod machine;
mod manifests;
mod network;
mod node;
mod pki;
mod process;
mod registries;
mod rules;
mod settings;
mod shared;
mod shutdown;
mod strict;
mod tls;
mod view;

pub use emulator_hcloud::{Machines, Server};
pub use fleet::Fleet;
pub use process::go_runtime;
pub use settings::{FleetSettings, Node};

/// Returns why a node refuses a configuration, `None` if the node accepts it.
#[must_use]
pub fn refusal(configuration: &[u8]) -> Option<String> {
    config::Configuration::read(configuration).err().map(|error| error.to_string())
}
