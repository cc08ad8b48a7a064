//! An emulator of the Hetzner Cloud API: the one part of the lab that cannot run for real.
//!
//! ```text
//! request ──► token, rate, faults ──► routes ──► a new state ──► written by rename ──► answer
//!                                                   │
//!                                 actions run ◄─────┴─────► load balancers listen
//! ```
//!
//! **Invariant:** a refused call changes nothing. A write works on a copy of the state, which replaces
//! the state only once it is on the disk.
//! **Invariant:** what an answer says was read from the state; nothing is kept beside it but the health
//! of targets, which is looked at again after a restart.
//! **Invariant:** machines are touched by actions only, so that whoever waits for an action has waited for them.
//!
//! A test steers it without a token: `GET /_lab/writes` counts the calls that changed something, and
//! `POST /_lab/faults` takes a list of faults to come, `DELETE /_lab/faults` forgets them. A fault is
//! `{method, path, status, code, message?, after_effect?, times?, command?}`: see `fault.rs`.
//!
//! Real are: TCP through load balancers, health checks, limits, locks, the order of things.
//! Not real: firewalls filter nothing, HTTP services are forwarded as TCP, and private networks hand out
//! addresses that nothing listens on (a balancer reaches a machine at its loopback address either way).

mod action;
mod address;
mod balancer;
mod call;
mod catalogue;
mod cidr;
mod engine;
mod error;
mod fault;
mod firewalls;
mod health;
mod http;
mod images;
mod labels;
mod limit;
mod list;
mod load_balancers;
mod networks;
mod placement_groups;
mod primary_ips;
mod routes;
mod selector;
mod server_actions;
mod servers;
mod services;
mod ssh_keys;
mod store;
mod targets;
mod volumes;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use balancer::Balancers;
use fault::Faults;
use limit::Bucket;
use store::State;

/// Where the emulator lives.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The first two bytes of every public address: machines get `N.1.x` to `N.199.x`, load balancers `N.200.x`.
    pub network: [u8; 2],
    /// A token with the permission "Read & Write".
    pub token: String,
    /// A token with the permission "Read", if the emulated project has one.
    pub read_token: Option<String>,
    /// The file that holds everything; made when it is not there.
    pub state: PathBuf,
    /// Where the API listens; told to clients of `GET /_lab`, since `serve` is given a listener.
    pub address: SocketAddr,
}

/// How fast the emulated cloud is, and how patient.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Calls that may be made in an hour, and at once.
    pub calls_per_hour: u32,
    /// How long an action runs, beside what a machine takes.
    pub action: Duration,
    /// What stands for one second of a health check's interval.
    pub second: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            calls_per_hour: 3600,
            action: Duration::from_millis(10),
            second: Duration::from_millis(20),
        }
    }
}

/// What a server's power button does. Calls block; they are made on threads that may. After a restart of the
/// emulator the last call is made again if its action had not ended: to be on is to stay on, to be off, off.
pub trait Machines: Send + Sync + 'static {
    /// Starts the machine. Also called for what was running when the emulator starts again.
    fn power_on(&self, server: &Server);
    /// Stops the machine and keeps its disk.
    fn power_off(&self, id: u64);
    /// Removes the machine's disk. It has been powered off before.
    fn delete(&self, id: u64);
}

/// Machines that do nothing: a cloud for clients that only talk to its API.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMachines;

impl Machines for NoMachines {
    fn power_on(&self, _: &Server) {}
    fn power_off(&self, _: u64) {}
    fn delete(&self, _: u64) {}
}

/// What a machine needs to know about its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its number, which no other server ever had or will have.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where it lives on the loopback interface; its public address, if it has one.
    pub ipv4: Ipv4Addr,
    /// Its addresses in private networks.
    pub private_ipv4: Vec<Ipv4Addr>,
    /// What it was given to read at its first boot.
    pub user_data: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The name of its image, or the description of a snapshot.
    pub image: Option<String>,
    /// The labels of that image.
    pub image_labels: BTreeMap<String, String>,
    /// `x86` or `arm`.
    pub architecture: String,
    /// Such as `cax11`.
    pub server_type: String,
    /// Such as `fsn1`.
    pub location: String,
    /// Whether it is to boot the rescue system this time.
    pub rescue: bool,
}

/// The emulated cloud: one project of one customer.
pub struct Cloud {
    settings: Settings,
    pace: Pace,
    machines: Arc<dyn Machines>,
    state: Mutex<State>,
    faults: Mutex<Faults>,
    bucket: Mutex<Bucket>,
    balancers: Balancers,
    writes: AtomicU64,
    calls: AtomicU64,
}

impl Cloud {
    /// Reads the state, or makes a new one, and powers on the machines that were on.
    ///
    /// # Errors
    ///
    /// The state cannot be read or written, or was made for another network.
    pub fn open(settings: Settings, machines: Arc<dyn Machines>) -> io::Result<Arc<Self>> {
        Self::open_at(settings, machines, Pace::default())
    }

    /// The same at another pace.
    ///
    /// # Errors
    ///
    /// As for [`Cloud::open`].
    pub fn open_at(
        settings: Settings,
        machines: Arc<dyn Machines>,
        pace: Pace,
    ) -> io::Result<Arc<Self>> {
        let state = State::open(&settings.state, settings.network)?;
        for server in state.running() {
            machines.power_on(&server);
        }
        Ok(Arc::new(Self {
            settings,
            pace,
            machines,
            state: Mutex::new(state),
            faults: Mutex::default(),
            bucket: Mutex::new(Bucket::full(pace.calls_per_hour)),
            balancers: Balancers::default(),
            writes: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        }))
    }

    /// Answers until the future is dropped; then its load balancers no longer listen either.
    ///
    /// # Errors
    ///
    /// The listener fails.
    pub async fn serve(self: Arc<Self>, listener: tokio::net::TcpListener) -> io::Result<()> {
        let _until_dropped = balancer::Until(Arc::clone(&self));
        self.balance();
        self.resume();
        axum::serve(listener, http::router(Arc::clone(&self))).await
    }

    /// How many calls changed something: what was done, whatever was answered.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Says that a machine went off by itself.
    ///
    /// # Errors
    ///
    /// The state cannot be written.
    pub fn went_off(&self, id: u64) -> io::Result<()> {
        let mut held = self.state();
        let mut next = held.clone();
        if let Some(server) = next.servers.seen_mut(id) {
            server.status = servers::Status::Off;
            next.save(&self.settings.state)?;
            *held = next;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
