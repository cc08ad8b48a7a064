//! One machine: its identity, the part of its state that others see, and the orders that it accepts.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::config::Configuration;
use crate::control_plane::NodeContext;
use crate::directory::MachineDirectory;
use crate::error::Error;
use crate::process::Processes;
use crate::shared::{RunState, Shared};
use crate::view::View;

/// An order to a machine that is on.
pub(crate) enum Order {
    /// Boot with the configuration on the disk, from maintenance mode.
    Install,
    /// Apply a changed configuration without a reboot. The value is the configuration before.
    Reconfigured(Arc<Configuration>),
    Reboot {
        actor: String,
    },
    Shutdown {
        actor: String,
    },
    Reset {
        actor: String,
        graceful: bool,
        reboot: bool,
        wipe: Wipe,
    },
    /// Leave the etcd cluster and stay on.
    LeaveEtcd(oneshot::Sender<Result<(), Error>>),
    /// Stop serving. The caller ends the processes.
    Halt,
}

/// Parts of the disk that a reset wipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wipe {
    /// Whether the configuration is wiped.
    pub(crate) state: bool,
    /// Whether the data of etcd, images and pods are wiped.
    pub(crate) ephemeral: bool,
}

pub(crate) struct Machine {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    /// Addresses in private networks of the cloud.
    pub(crate) private_ipv4: Vec<Ipv4Addr>,
    pub(crate) user_data: Option<String>,
    /// Version of Talos, for example `v1.13.9`.
    pub(crate) version: String,
    pub(crate) directory: MachineDirectory,
    pub(crate) shared: Arc<Shared>,
    pub(crate) view: View,
    pub(crate) processes: Processes,
    /// Notified by the call `Bootstrap`.
    pub(crate) bootstrap: Notify,
    /// Held while a configuration is being applied.
    pub(crate) applying: tokio::sync::Mutex<()>,
    run_state: Arc<Mutex<RunState>>,
    orders: mpsc::Sender<Order>,
    life: Mutex<Option<JoinHandle<()>>>,
}

impl Machine {
    /// Creates a machine that is off, and the receiver of its orders. The disk must have its label.
    pub(crate) fn new(
        shared: Arc<Shared>,
        server: &emulator_hcloud::Server,
        version: String,
        directory: MachineDirectory,
    ) -> (Arc<Self>, mpsc::Receiver<Order>) {
        let (orders, received) = mpsc::channel(16);
        let machine = Self {
            id: server.id,
            name: server.name.clone(),
            address: server.ipv4,
            private_ipv4: server.private_ipv4.clone(),
            user_data: server.user_data.clone(),
            version,
            processes: Processes::new(&directory.0),
            directory,
            run_state: shared.register(server.id, server.ipv4),
            shared,
            view: View::new(),
            bootstrap: Notify::new(),
            applying: tokio::sync::Mutex::default(),
            orders,
            life: Mutex::default(),
        };
        (Arc::new(machine), received)
    }

    /// Keeps the task that runs the machine, so that [`Self::halt`] can wait for its end.
    pub(crate) fn set_life(&self, task: JoinHandle<()>) {
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    pub(crate) fn run_state(&self) -> MutexGuard<'_, RunState> {
        self.run_state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn active(&self) -> Option<Arc<Configuration>> {
        self.run_state().active.clone()
    }

    /// Sends an order. Returns `false` when the machine is off or has too many orders waiting.
    pub(crate) fn order(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }

    /// Stops everything that the machine serves, and leaves its processes running.
    pub(crate) async fn halt(&self) {
        let _ = self.orders.send(Order::Halt).await;
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(life) = life {
            let _ = life.await;
        }
    }

    /// Returns the hostname of the configuration, or otherwise the name of the server.
    pub(crate) fn hostname(&self) -> String {
        let active = self.active();
        let hostname = active.and_then(|config| config.hostname().map(str::to_owned));
        hostname.unwrap_or_else(|| self.name.clone())
    }

    pub(crate) fn context(&self) -> NodeContext {
        NodeContext {
            directory: self.directory.clone(),
            binaries: self.shared.settings.binaries.clone(),
            address: self.address,
            hostname: self.hostname(),
            kubeprism: self.shared.settings.kubeprism,
        }
    }
}
