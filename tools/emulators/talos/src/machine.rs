//! One machine: what it remembers, and its life from power on to power off.
//!
//! ```text
//! off ──► BOOTING ──► no configuration ──► MAINTENANCE ──apply──► BOOTING ──► … ──► RUNNING
//!            ▲                                                                        │
//!            └──────────────── REBOOTING, RESETTING ◄─────────────────────────────────┘
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use talos_provision::wire::{SequenceAction, Stage};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::api::{Access, Listener};
use crate::config::{self, Configuration, Kind};
use crate::control_plane::Setting;
use crate::etcd;
use crate::fleet::Shared;
use crate::pki::{Authority, Issued, Leaf, Usage};
use crate::place::Place;
use crate::process::Processes;
use crate::trouble::{Attempt, Trouble};
use crate::view::View;
use crate::{change, tls};

/// How long a machine takes to come back from a reboot.
const POWER_CYCLE: Duration = Duration::from_millis(700);
/// How long firmware and kernel take.
const FIRMWARE: Duration = Duration::from_millis(200);

/// What is asked of a machine that lives.
pub(crate) enum Order {
    /// Take this configuration, in maintenance mode.
    Install,
    /// The configuration has changed from this one, without a reboot.
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
    /// Leave etcd and stay.
    LeaveEtcd(oneshot::Sender<Result<(), Trouble>>),
    /// The power goes; processes are left to whoever asks.
    Halt,
}

/// What a reset takes off the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wipe {
    /// The configuration.
    pub(crate) state: bool,
    /// etcd, images, pods.
    pub(crate) ephemeral: bool,
}

/// What a machine knows while it runs.
#[derive(Default)]
pub(crate) struct Live {
    pub(crate) active: Option<Arc<Configuration>>,
    /// What is on the disk: ahead of what is active after a staged change, behind it during a trial.
    pub(crate) persistent: Option<Arc<Configuration>>,
    pub(crate) configured: u64,
    /// Whether containerd is up, as far as there is one.
    pub(crate) accepts_bootstrap: bool,
    pub(crate) bootstrap_asked: bool,
    pub(crate) etcd: Option<etcd::Etcd>,
    pub(crate) serves_kubernetes: bool,
    /// Raised by each configuration that is applied: a trial whose number has passed is over.
    pub(crate) trial: u64,
}

pub(crate) struct Machine {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    user_data: Option<String>,
    pub(crate) version: String,
    pub(crate) place: Place,
    pub(crate) fleet: Arc<Shared>,
    pub(crate) view: View,
    pub(crate) processes: Processes,
    pub(crate) bootstrap: Notify,
    /// Held while a configuration is being applied.
    pub(crate) applying: tokio::sync::Mutex<()>,
    live: Mutex<Live>,
    orders: mpsc::Sender<Order>,
    life: Mutex<Option<JoinHandle<()>>>,
}

/// What comes after a boot.
enum Next {
    /// Boot again; after a reboot with another boot id.
    Boot {
        rebooted: bool,
    },
    Off,
}

impl Machine {
    /// Powers a machine on; its label is on its disk already.
    pub(crate) fn start(
        fleet: Arc<Shared>,
        server: &emulator_hcloud::Server,
        version: String,
        place: Place,
    ) -> Arc<Self> {
        let (orders, received) = mpsc::channel(16);
        let machine = Arc::new(Self {
            id: server.id,
            name: server.name.clone(),
            address: server.ipv4,
            user_data: server.user_data.clone(),
            version,
            processes: Processes::new(&place.0),
            place,
            fleet,
            view: View::new(),
            bootstrap: Notify::new(),
            applying: tokio::sync::Mutex::default(),
            live: Mutex::default(),
            orders,
            life: Mutex::default(),
        });
        let life = tokio::spawn(machine.clone().live_on(received));
        *machine.life.lock().unwrap_or_else(PoisonError::into_inner) = Some(life);
        machine
    }

    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn active(&self) -> Option<Arc<Configuration>> {
        self.live().active.clone()
    }

    /// Hands an order over; `false` when the machine is busy with too many or off.
    pub(crate) fn order(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }

    /// Takes the power: nothing listens any more, but processes are left running.
    pub(crate) async fn halt(&self) {
        let _ = self.orders.send(Order::Halt).await;
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(life) = life {
            let _ = life.await;
        }
    }

    /// The name of the machine: its configuration's, or what the cloud's metadata says.
    pub(crate) fn hostname(&self) -> String {
        let active = self.active();
        active.and_then(|it| it.hostname().map(str::to_owned)).unwrap_or_else(|| self.name.clone())
    }

    pub(crate) fn setting(&self) -> Setting {
        Setting {
            place: self.place.clone(),
            binaries: self.fleet.settings.binaries.clone(),
            address: self.address,
            hostname: self.hostname(),
            kubeprism: self.fleet.settings.kubeprism,
        }
    }

    async fn live_on(self: Arc<Self>, mut orders: mpsc::Receiver<Order>) {
        let mut rebooted = true;
        loop {
            if rebooted {
                self.view.boot();
                *self.live() = Live::default();
                sleep(FIRMWARE).await;
            }
            self.view.stage(Stage::Booting);
            match self.boot(&mut orders).await {
                Next::Boot { rebooted: again } => rebooted = again,
                Next::Off => break,
            }
        }
        self.live().serves_kubernetes = false;
    }

    async fn boot(self: &Arc<Self>, orders: &mut mpsc::Receiver<Order>) -> Next {
        match self.load() {
            None => self.maintenance(orders).await,
            Some(config) => {
                {
                    let mut live = self.live();
                    live.active = Some(config.clone());
                    live.persistent = Some(config.clone());
                    live.configured += 1;
                }
                self.configured(config, orders).await
            }
        }
    }

    /// The configuration on the disk; else the one in the user data, which is then on the disk.
    fn load(&self) -> Option<Arc<Configuration>> {
        if let Ok(bytes) = std::fs::read(self.place.at("config.yaml")) {
            match Configuration::read(&bytes) {
                Ok(config) => return Some(config),
                Err(trouble) => self.view.sequence_failed("boot", &trouble.to_string(), ""),
            }
        }
        match config::from_user_data(self.user_data.as_deref()?)? {
            Ok(config) => {
                let written = self.place.write("config.yaml", &config.bytes);
                written.is_ok().then_some(config)
            }
            Err(trouble) => {
                self.view.sequence_failed("boot", &trouble.to_string(), "");
                None
            }
        }
    }

    async fn listen(self: &Arc<Self>) -> Result<TcpListener, Trouble> {
        let address = SocketAddr::from((self.address, talos_provision::wire::PORT));
        // Whoever held the address before may still be letting go.
        for _ in 0..50 {
            if let Ok(listener) = TcpListener::bind(address).await {
                return Ok(listener);
            }
            sleep(Duration::from_millis(100)).await;
        }
        TcpListener::bind(address).await.attempt(format!("cannot listen on {address}"))
    }

    /// Serves anybody, and waits for a configuration.
    async fn maintenance(self: &Arc<Self>, orders: &mut mpsc::Receiver<Order>) -> Next {
        let serving = async {
            let issued = Authority::fleeting()?.issue(&self.server_leaf(None))?;
            Ok::<_, Trouble>((self.listen().await?, tls::server(issued, &[])?))
        };
        let _listener = match serving.await {
            Ok((listener, tls)) => {
                Some(Listener::start(self.clone(), listener, tls, Access::Maintenance))
            }
            Err(trouble) => {
                self.view.sequence_failed("boot", &trouble.to_string(), "");
                None
            }
        };
        for service in ["apid", "machined", "containerd", "udevd"] {
            self.view.service(service, "Running", Some(true), "");
        }
        self.view.stage(Stage::Maintenance);
        while let Some(order) = orders.recv().await {
            match order {
                Order::Install => {
                    // The answer is still on its way.
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

    /// What the node's own certificate says.
    fn server_leaf(&self, config: Option<&Configuration>) -> Leaf {
        let mut leaf = Leaf {
            addresses: vec![self.address.into(), Ipv4Addr::LOCALHOST.into()],
            names: vec![self.hostname()],
            usage: Usage::Server,
            ..Leaf::client(&self.hostname(), &[])
        };
        for name in config.map(|it| it.texts("/machine/certSANs")).unwrap_or_default() {
            match name.parse::<IpAddr>() {
                Ok(address) => leaf.addresses.push(address),
                Err(_) => leaf.names.push(name),
            }
        }
        leaf
    }

    /// The node's certificate: a control plane issues its own, a worker asks one that has the key,
    /// as Talos's trustd answers whoever holds `machine.token`.
    async fn own_certificate(&self, config: &Configuration) -> Result<Issued, Trouble> {
        let leaf = self.server_leaf(Some(config));
        if config.machine.can_issue() {
            return config.machine.issue(&leaf);
        }
        loop {
            if let Some(issued) = self.fleet.trustd(config, &leaf) {
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
        self.view.sequence("boot", SequenceAction::Start, "");
        let mut serving = Aborting::spawn(self.clone().serve(config.clone()));
        let mut rising = Aborting::spawn(self.clone().rise(config.clone()));
        loop {
            let Some(order) = orders.recv().await else { return Next::Off };
            match order {
                Order::Install => {}
                Order::Halt => {
                    serving.end().await;
                    rising.end().await;
                    return Next::Off;
                }
                Order::Reconfigured(before) => {
                    let Some(next) = self.active() else { continue };
                    let touched = change::touched(&before, &next);
                    rising.end().await;
                    self.restart(touched).await;
                    config = next;
                    if change::touches_api(&before, &config) {
                        // The answer to whoever asked for this is still on its way.
                        sleep(Duration::from_millis(200)).await;
                        serving.end().await;
                        serving = Aborting::spawn(self.clone().serve(config.clone()));
                    }
                    rising = Aborting::spawn(self.clone().rise(config.clone()));
                }
                Order::Reboot { actor } => {
                    self.view.stage(Stage::Rebooting);
                    rising.end().await;
                    sleep(Duration::from_millis(200)).await;
                    drop(serving);
                    self.end_all().await;
                    return self.reboot(&actor).await;
                }
                Order::Shutdown { actor } => {
                    self.view.sequence("shutdown", SequenceAction::Start, &actor);
                    self.view.stage(Stage::ShuttingDown);
                    rising.end().await;
                    sleep(Duration::from_millis(200)).await;
                    drop(serving);
                    self.end_all().await;
                    return Next::Off;
                }
                Order::Reset { actor, graceful, reboot, wipe } => {
                    let before = self.view.status().0.stage();
                    self.view.sequence("reset", SequenceAction::Start, &actor);
                    self.view.stage(Stage::Resetting);
                    if graceful
                        && config.kind == Kind::ControlPlane
                        && self.place.has_etcd_data()
                        && let Err(trouble) = self.leave_etcd(&config).await
                    {
                        self.view.sequence_failed("reset", &trouble.to_string(), &actor);
                        self.view.stage(before);
                        continue;
                    }
                    rising.end().await;
                    self.end_all().await;
                    self.wipe(wipe);
                    self.view.sequence("reset", SequenceAction::Stop, &actor);
                    sleep(Duration::from_millis(200)).await;
                    drop(serving);
                    return if reboot { self.reboot(&actor).await } else { Next::Off };
                }
                Order::LeaveEtcd(answer) => {
                    let left = self.leave_etcd(&config).await;
                    if left.is_ok() {
                        rising.end().await;
                        self.end_control_plane().await;
                        self.place.remove("etcd");
                        self.view.service("etcd", "Finished", Some(false), "left the cluster");
                    }
                    // Who asked may have gone.
                    let _ = answer.send(left);
                }
            }
        }
    }

    /// Serves the Talos API to those whom the configuration trusts.
    async fn serve(self: Arc<Self>, config: Arc<Configuration>) {
        let serving = async {
            let issued = self.own_certificate(&config).await?;
            let accepted = config.accepted_machine_authorities()?;
            let clients: Vec<_> = accepted.iter().chain([&config.machine.der]).collect();
            Ok::<_, Trouble>((self.listen().await?, tls::server(issued, &clients)?))
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
            Err(trouble) => self.view.service("apid", "Failed", Some(false), &trouble.to_string()),
        }
    }

    async fn reboot(&self, actor: &str) -> Next {
        self.view.sequence("reboot", SequenceAction::Start, actor);
        self.view.stage(Stage::Rebooting);
        sleep(POWER_CYCLE).await;
        Next::Boot { rebooted: true }
    }

    fn wipe(&self, wipe: Wipe) {
        if wipe.ephemeral {
            for gone in ["etcd", "var", "pki", "kubernetes", "node", "audit.log"] {
                self.place.remove(gone);
            }
        }
        if wipe.state {
            self.place.remove("config.yaml");
        }
    }
}

/// A task that ends with its owner.
struct Aborting(Option<JoinHandle<()>>);

impl Aborting {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(tokio::spawn(task)))
    }

    /// Ends the task, and waits until it starts nothing any more.
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
