//! The life of a machine from power on to power off.
//!
//! ```text
//! off ──► BOOTING ──► no configuration ──► MAINTENANCE ──apply──► BOOTING ──► … ──► RUNNING
//!            ▲                                                                        │
//!            └──────────────── REBOOTING, RESETTING ◄─────────────────────────────────┘
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use talos_api::machine::machine_status_event::MachineStage;
use talos_api::machine::sequence_event::Action;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::api::{Access, Listener};
use crate::config::{self, Configuration};
use crate::directory::MachineDirectory;
use crate::error::{Attempt, Error};
use crate::kind::Kind;
use crate::machine::{Machine, Order, Wipe};
use crate::pki::{Authority, Issued, Leaf, Usage};
use crate::shared::{RunState, Shared};
use crate::{change, tls};

/// Time that a machine takes to come back from a reboot.
const POWER_CYCLE: Duration = Duration::from_millis(700);
/// Time that firmware and kernel take.
const FIRMWARE: Duration = Duration::from_millis(200);

/// The step after a boot has ended.
enum Next {
    /// Boot again; after a reboot with another boot id.
    Boot {
        rebooted: bool,
    },
    Off,
}

impl Machine {
    /// Powers a machine on. Its disk must have its label.
    pub(crate) fn start(
        shared: Arc<Shared>,
        server: &emulator_hcloud::Server,
        version: String,
        directory: MachineDirectory,
    ) -> Arc<Self> {
        let (machine, orders) = Self::new(shared, server, version, directory);
        machine.set_life(tokio::spawn(machine.clone().live(orders)));
        machine
    }

    async fn live(self: Arc<Self>, mut orders: mpsc::Receiver<Order>) {
        let mut rebooted = true;
        loop {
            if rebooted {
                self.view.boot();
                *self.run_state() = RunState::default();
                sleep(FIRMWARE).await;
            }
            self.view.stage(MachineStage::Booting);
            match self.boot(&mut orders).await {
                Next::Boot { rebooted: again } => rebooted = again,
                Next::Off => break,
            }
        }
        self.run_state().serves_kubernetes = false;
    }

    async fn boot(self: &Arc<Self>, orders: &mut mpsc::Receiver<Order>) -> Next {
        match self.load() {
            None => self.maintenance(orders).await,
            Some(config) => {
                {
                    let mut state = self.run_state();
                    state.active = Some(config.clone());
                    state.persistent = Some(config.clone());
                    state.configured += 1;
                }
                self.configured(config, orders).await
            }
        }
    }

    /// Reads the configuration on the disk, or otherwise in the user data and writes it to the disk.
    fn load(&self) -> Option<Arc<Configuration>> {
        if let Ok(bytes) = std::fs::read(self.directory.at("config.yaml")) {
            match Configuration::read(&bytes) {
                Ok(config) => return Some(config),
                Err(error) => self.view.sequence_failed("boot", &error.to_string(), ""),
            }
        }
        match config::from_user_data(self.user_data.as_deref()?)? {
            Ok(config) => {
                let written = self.directory.write("config.yaml", &config.bytes);
                written.is_ok().then_some(config)
            }
            Err(error) => {
                self.view.sequence_failed("boot", &error.to_string(), "");
                None
            }
        }
    }

    async fn listen(self: &Arc<Self>) -> Result<TcpListener, Error> {
        let address = SocketAddr::from((self.address, talos_api::PORT));
        // The task that listened on the address before may not have ended yet.
        for _ in 0..50 {
            if let Ok(listener) = TcpListener::bind(address).await {
                return Ok(listener);
            }
            sleep(Duration::from_millis(100)).await;
        }
        TcpListener::bind(address).await.attempt(format!("cannot listen on {address}"))
    }

    /// Serves clients without certificates, and waits for a configuration.
    async fn maintenance(self: &Arc<Self>, orders: &mut mpsc::Receiver<Order>) -> Next {
        let serving = async {
            let issued = Authority::ephemeral()?.issue(&self.server_leaf(None))?;
            Ok::<_, Error>((self.listen().await?, tls::server(issued, &[])?))
        };
        let _listener = match serving.await {
            Ok((listener, tls)) => {
                Some(Listener::start(self.clone(), listener, tls, Access::Maintenance))
            }
            Err(error) => {
                self.view.sequence_failed("boot", &error.to_string(), "");
                None
            }
        };
        for service in ["apid", "machined", "containerd", "udevd"] {
            self.view.service(service, "Running", Some(true), "");
        }
        self.view.stage(MachineStage::Maintenance);
        while let Some(order) = orders.recv().await {
            match order {
                Order::Install => {
                    // Wait until the client has received the answer.
                    sleep(Duration::from_millis(100)).await;
                    return Next::Boot { rebooted: false };
                }
                Order::Reboot { actor } => return self.reboot(&actor).await,
                Order::Shutdown { .. } | Order::Halt => return Next::Off,
                Order::Reset { .. } | Order::Reconfigured(_) | Order::LeaveEtcd(_) => {}
            }
        }
        Next::Off
    }

    /// Returns the contents of the node's own certificate.
    fn server_leaf(&self, config: Option<&Configuration>) -> Leaf {
        let mut leaf = Leaf {
            addresses: vec![self.address.into(), Ipv4Addr::LOCALHOST.into()],
            names: vec![self.hostname()],
            usage: Usage::Server,
            ..Leaf::client(&self.hostname(), &[])
        };
        for name in config.map(|config| config.texts("/machine/certSANs")).unwrap_or_default() {
            match name.parse::<IpAddr>() {
                Ok(address) => leaf.addresses.push(address),
                Err(_) => leaf.names.push(name),
            }
        }
        leaf
    }

    /// Issues the node's certificate. A control plane issues its own. A worker asks a control plane, as
    /// Talos's trustd issues certificates to every holder of `machine.token`.
    async fn own_certificate(&self, config: &Configuration) -> Result<Issued, Error> {
        let leaf = self.server_leaf(Some(config));
        if config.machine.can_issue() {
            return config.machine.issue(&leaf);
        }
        loop {
            if let Some(issued) = self.shared.trustd(config, &leaf) {
                return issued;
            }
            sleep(Duration::from_millis(300)).await;
        }
    }

    async fn configured(
        self: &Arc<Self>,
        mut config: Arc<Configuration>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Next {
        self.view.sequence("boot", Action::Start, "");
        let mut serving = Aborting::spawn(self.clone().serve(config.clone()));
        let mut booting = Aborting::spawn(self.clone().boot_services(config.clone()));
        loop {
            let Some(order) = orders.recv().await else { return Next::Off };
            match order {
                Order::Install => {}
                Order::Halt => {
                    serving.end().await;
                    booting.end().await;
                    return Next::Off;
                }
                Order::Reconfigured(before) => {
                    let Some(next) = self.active() else { continue };
                    let touched = change::touched(&before, &next);
                    booting.end().await;
                    self.restart(touched).await;
                    config = next;
                    if change::touches_api(&before, &config) {
                        // Wait until the client that applied the configuration has received the answer.
                        sleep(Duration::from_millis(200)).await;
                        serving.end().await;
                        serving = Aborting::spawn(self.clone().serve(config.clone()));
                    }
                    booting = Aborting::spawn(self.clone().boot_services(config.clone()));
                }
                Order::Reboot { actor } => {
                    self.view.stage(MachineStage::Rebooting);
                    booting.end().await;
                    sleep(Duration::from_millis(200)).await;
                    drop(serving);
                    self.end_all().await;
                    return self.reboot(&actor).await;
                }
                Order::Shutdown { actor } => {
                    self.view.sequence("shutdown", Action::Start, &actor);
                    self.view.stage(MachineStage::ShuttingDown);
                    booting.end().await;
                    sleep(Duration::from_millis(200)).await;
                    drop(serving);
                    self.end_all().await;
                    return Next::Off;
                }
                Order::Reset { actor, graceful, reboot, wipe } => {
                    let before = self.view.status().0.stage();
                    self.view.sequence("reset", Action::Start, &actor);
                    self.view.stage(MachineStage::Resetting);
                    if graceful
                        && config.kind == Kind::ControlPlane
                        && self.directory.has_etcd_data()
                        && let Err(error) = self.leave_etcd(&config).await
                    {
                        self.view.sequence_failed("reset", &error.to_string(), &actor);
                        self.view.stage(before);
                        continue;
                    }
                    booting.end().await;
                    self.end_all().await;
                    self.wipe(wipe);
                    self.view.sequence("reset", Action::Stop, &actor);
                    sleep(Duration::from_millis(200)).await;
                    drop(serving);
                    return if reboot { self.reboot(&actor).await } else { Next::Off };
                }
                Order::LeaveEtcd(answer) => {
                    let left = self.leave_etcd(&config).await;
                    if left.is_ok() {
                        booting.end().await;
                        self.end_control_plane().await;
                        self.directory.remove("etcd");
                        self.view.service("etcd", "Finished", Some(false), "left the cluster");
                    }
                    // The caller may be gone.
                    let _ = answer.send(left);
                }
            }
        }
    }

    /// Serves the Talos API to clients with a certificate of an authority of the configuration.
    async fn serve(self: Arc<Self>, config: Arc<Configuration>) {
        let serving = async {
            let issued = self.own_certificate(&config).await?;
            let accepted = config.accepted_machine_authorities()?;
            let clients: Vec<_> = accepted.iter().chain([&config.machine.der]).collect();
            Ok::<_, Error>((self.listen().await?, tls::server(issued, &clients)?))
        };
        match serving.await {
            Ok((listener, tls)) => {
                for service in ["apid", "machined", "udevd"] {
                    self.view.service(service, "Running", Some(true), "");
                }
                if config.kind == Kind::ControlPlane {
                    self.view.service("trustd", "Running", Some(true), "");
                }
                let _listener = Listener::start(self.clone(), listener, tls, Access::Configured);
                std::future::pending::<()>().await;
            }
            Err(error) => self.view.service("apid", "Failed", Some(false), &error.to_string()),
        }
    }

    async fn reboot(&self, actor: &str) -> Next {
        self.view.sequence("reboot", Action::Start, actor);
        self.view.stage(MachineStage::Rebooting);
        sleep(POWER_CYCLE).await;
        Next::Boot { rebooted: true }
    }

    fn wipe(&self, wipe: Wipe) {
        if wipe.ephemeral {
            for path in ["etcd", "var", "pki", "kubernetes", "node", "audit.log"] {
                self.directory.remove(path);
            }
        }
        if wipe.state {
            self.directory.remove("config.yaml");
        }
    }
}

/// A task that is aborted when its owner drops it.
struct Aborting(Option<JoinHandle<()>>);

impl Aborting {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(tokio::spawn(task)))
    }

    /// Aborts the task and waits for its end, so that it cannot start another process.
    async fn end(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Aborting {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}
