//! State that the machines of a lab share: what each shows to the others, `KubePrism`, and the pod
//! network.
//!
//! A machine without a key asks a machine that has the key here, as a worker of Talos asks trustd.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::config::Configuration;
use crate::directory::{self, Label, MachineDirectory};
use crate::error::{Attempt, Error};
use crate::etcd::Etcd;
use crate::kind::Kind;
use crate::kubernetes::Kubernetes;
use crate::network::{self, PodNetwork};
use crate::pki::{Issued, Leaf};
use crate::settings::{FleetSettings, Node};
use crate::{kubeprism, node, process};

/// Time that etcd with data waits for other services unless the lab sets a time: long enough that a
/// client which asks at that moment sees `Waiting` and `Preparing`, as on real machines.
const ETCD_WAITS: Duration = Duration::from_millis(300);

/// State of a machine that is on.
#[derive(Default)]
pub(crate) struct RunState {
    pub(crate) active: Option<Arc<Configuration>>,
    /// Configuration on the disk: newer than the active one after a staged change, older during a trial.
    pub(crate) persistent: Option<Arc<Configuration>>,
    /// Number of configurations that became active or persistent.
    pub(crate) configured: u64,
    /// Whether the call `Bootstrap` is allowed: containerd runs, if the lab has containerd.
    pub(crate) accepts_bootstrap: bool,
    pub(crate) bootstrap_asked: bool,
    pub(crate) etcd: Option<Etcd>,
    pub(crate) serves_kubernetes: bool,
    /// Number of the last configuration that was applied. A trial with an older number is over.
    pub(crate) trial: u64,
}

/// A machine as the other machines see it.
#[derive(Clone)]
struct Peer {
    id: u64,
    address: Ipv4Addr,
    run_state: Arc<Mutex<RunState>>,
}

impl Peer {
    fn state(&self) -> MutexGuard<'_, RunState> {
        locked(&self.run_state)
    }
}

/// State that all machines share.
pub(crate) struct Shared {
    pub(crate) settings: FleetSettings,
    peers: Mutex<BTreeMap<u64, Peer>>,
    /// Held by the machine that is joining etcd, because members must join one after the other.
    pub(crate) joining: tokio::sync::Mutex<()>,
    /// Held while a machine chooses its part of the pod network.
    choosing: tokio::sync::Mutex<()>,
    prism: Mutex<Option<JoinHandle<()>>>,
    /// Time that etcd waits for other services on every boot, keyed by the machine's name.
    slow: Mutex<BTreeMap<String, Duration>>,
    /// Time for which a new member of etcd stays a learner.
    learning: Mutex<Duration>,
    /// State of the discovery service, through which machines find each other before Kubernetes serves.
    discovery: AtomicBool,
    /// Service networks with a route of this lab that keeps their packets on the host.
    held_back: Mutex<BTreeSet<String>>,
}

impl Shared {
    pub(crate) fn new(settings: FleetSettings) -> Self {
        let held_back =
            fs::read_to_string(settings.directory.join("held-back")).unwrap_or_default();
        Self {
            held_back: Mutex::new(held_back.lines().map(str::to_owned).collect()),
            settings,
            peers: Mutex::default(),
            joining: tokio::sync::Mutex::default(),
            choosing: tokio::sync::Mutex::default(),
            prism: Mutex::default(),
            slow: Mutex::default(),
            learning: Mutex::default(),
            discovery: AtomicBool::new(false),
        }
    }

    /// Shows a machine to the other machines, and returns its state.
    pub(crate) fn register(&self, id: u64, address: Ipv4Addr) -> Arc<Mutex<RunState>> {
        let run_state = Arc::<Mutex<RunState>>::default();
        locked(&self.peers).insert(id, Peer { id, address, run_state: run_state.clone() });
        run_state
    }

    /// Hides a machine that is going off from the other machines.
    pub(crate) fn deregister(&self, id: u64) {
        locked(&self.peers).remove(&id);
    }

    /// Ends the processes that an earlier lab left running.
    pub(crate) async fn tidy(&self) {
        for directory in directory::all(&self.settings.directory) {
            let left = directory.clone();
            // On a thread that may block, because it waits for processes to end.
            let _ = tokio::task::spawn_blocking(move || process::end_strays(&left.0)).await;
            if let (Some(label), Node::Real) = (directory.label(), &self.settings.node) {
                node::remove_cgroups(&directory, label.ipv4);
                network::remove(&network::bridge(label.ipv4)).await;
            }
        }
    }

    /// Returns the control planes of the cluster of `config`, with their configurations.
    fn control_planes(&self, config: &Configuration) -> Vec<(Peer, Arc<Configuration>)> {
        let peers: Vec<_> = locked(&self.peers).values().cloned().collect();
        let active = peers.into_iter().filter_map(|peer| {
            let active = peer.state().active.clone()?;
            Some((peer, active))
        });
        let is_in_cluster = |other: &Configuration| {
            other.kind == Kind::ControlPlane
                && other.text("/cluster/id") == config.text("/cluster/id")
                && other.cluster.is_same(&config.cluster)
        };
        active.filter(|(_, other)| is_in_cluster(other)).collect()
    }

    fn serving(&self, config: &Configuration) -> Vec<(Peer, Arc<Configuration>)> {
        let mut serving = self.control_planes(config);
        serving.retain(|(peer, _)| peer.state().serves_kubernetes);
        serving
    }

    /// Issues a certificate to a node that knows the token, as trustd does on a control plane.
    ///
    /// Returns `None` before Kubernetes serves: a worker of real Talos learns the addresses of control planes
    /// from Kubernetes, or earlier from a discovery service, which a lab has only if a test switches it on.
    /// The third source, the endpoint's host, is closed: a load balancer forwards port 6443 only, and the
    /// firewall of the machines opens no port 50001.
    pub(crate) fn trustd(
        &self,
        config: &Configuration,
        leaf: &Leaf,
    ) -> Option<Result<Issued, Error>> {
        let is_enabled = config.main["cluster"]["discovery"]["enabled"] == true;
        let known = if self.discovery.load(Ordering::Relaxed) && is_enabled {
            self.control_planes(config)
        } else {
            self.serving(config)
        };
        let (_, issuer) = known.into_iter().find(|(_, other)| {
            other.machine.is_same(&config.machine)
                && other.text("/machine/token") == config.text("/machine/token")
        })?;
        Some(issuer.machine.issue(leaf))
    }

    /// Switches a discovery service on or off.
    pub(crate) fn discovery(&self, is_on: bool) {
        self.discovery.store(is_on, Ordering::Relaxed);
    }

    /// Makes etcd of a machine wait for `time` on every boot.
    pub(crate) fn slow_etcd(&self, name: &str, time: Duration) {
        locked(&self.slow).insert(name.to_owned(), time);
    }

    /// Returns the time that etcd of a machine waits for other services on this boot.
    pub(crate) fn etcd_waits(&self, name: &str, has_data: bool) -> Duration {
        let slow = locked(&self.slow).get(name).copied();
        slow.unwrap_or(if has_data { ETCD_WAITS } else { Duration::ZERO })
    }

    pub(crate) fn slow_promotion(&self, time: Duration) {
        *locked(&self.learning) = time;
    }

    /// Returns how long a new member of etcd stays a learner.
    pub(crate) fn learning(&self) -> Duration {
        *locked(&self.learning)
    }

    /// Returns a client of another member of the cluster's etcd than the machine `id`.
    pub(crate) fn etcd_peer(&self, id: u64, config: &Configuration) -> Option<Etcd> {
        let control_planes = self.control_planes(config);
        let mut others = control_planes.iter().filter(|(peer, _)| peer.id != id);
        others.find_map(|(peer, _)| peer.state().etcd.clone())
    }

    /// Returns a client of an API server of the cluster that answers.
    pub(crate) fn kubernetes(&self, config: &Configuration) -> Option<Kubernetes> {
        let (peer, config) = self.serving(config).into_iter().next()?;
        Kubernetes::of(&config, peer.address).ok()
    }

    /// Returns the address of `KubePrism`, if this lab runs it.
    pub(crate) fn kubeprism(&self) -> Option<SocketAddr> {
        locked(&self.prism).as_ref().map(|_| self.settings.kubeprism)
    }

    /// Starts `KubePrism` for the cluster of the first machine that calls.
    pub(crate) async fn start_kubeprism(self: &Arc<Self>, config: &Arc<Configuration>) {
        if self.kubeprism().is_some() {
            return;
        }
        // Another lab on this host may use the address: kubelets then use the cluster's endpoint.
        let Ok(listener) = kubeprism::bind(self.settings.kubeprism).await else { return };
        let (shared, config) = (Arc::downgrade(self), config.clone());
        let servers = move || -> Vec<Ipv4Addr> {
            let serving = shared.upgrade().map(|shared| shared.serving(&config));
            serving.unwrap_or_default().iter().map(|(peer, _)| peer.address).collect()
        };
        let task = tokio::spawn(kubeprism::serve(listener, servers));
        *locked(&self.prism) = Some(task);
    }

    /// Returns the machine's part of the pod network, which it keeps as long as it has a disk.
    pub(crate) async fn pod_network(
        &self,
        id: u64,
        address: Ipv4Addr,
        config: &Configuration,
    ) -> Result<PodNetwork, Error> {
        let pods = config.pods();
        let _choosing = self.choosing.lock().await;
        let directories = directory::all(&self.settings.directory);
        let labels: Vec<(MachineDirectory, Label)> = directories
            .into_iter()
            .filter_map(|directory| directory.label().map(|label| (directory, label)))
            .collect();
        let found = labels.iter().find(|(_, label)| label.id == id).cloned();
        let (directory, mut label) =
            found.ok_or_else(|| Error::new("the machine has lost its disk"))?;
        let others = labels.iter().filter(|(_, label)| label.id != id);
        let mut used: BTreeSet<u8> = others.filter_map(|(_, label)| label.pods).collect();
        if self.settings.node == Node::Real {
            network::remove(&network::bridge(address)).await;
            used.extend(network::used(pods).await);
        }
        let number = match label.pods {
            Some(number) if !used.contains(&number) => number,
            _ => (1..=254)
                .find(|number| !used.contains(number))
                .ok_or_else(|| Error::new("the pod network is used up"))?,
        };
        label.pods = Some(number);
        directory.set_label(&label).attempt("cannot label the disk")?;
        Ok(PodNetwork::new(address, pods, number))
    }

    /// Keeps packets to service addresses on this host.
    pub(crate) async fn hold_back(&self, services: &str) {
        if network::hold_back(services).await {
            locked(&self.held_back).insert(services.to_owned());
            self.write_held_back();
        }
    }

    /// Ends `KubePrism` and removes the routes, once no machine runs.
    pub(crate) async fn release(&self) {
        if let Some(prism) = locked(&self.prism).take() {
            prism.abort();
        }
        let held_back = std::mem::take(&mut *locked(&self.held_back));
        for services in held_back {
            network::let_go(&services).await;
        }
        self.write_held_back();
    }

    fn write_held_back(&self) {
        let lines: Vec<_> = locked(&self.held_back).iter().cloned().collect();
        // If the file cannot be written, a lab that is killed leaves an "unreachable" route, which is
        // harmless.
        let _ = fs::write(self.settings.directory.join("held-back"), lines.join("\n"));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
