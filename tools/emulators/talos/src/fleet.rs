//! All machines of a lab, and what they share: a runtime, `KubePrism`, the pod network, one another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use emulator_hcloud::{Machines, Server};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::config::{Configuration, Kind};
use crate::etcd::Etcd;
use crate::machine::Machine;
use crate::network::{self, PodNetwork};
use crate::pki::{Issued, Leaf};
use crate::place::{self, Label, Place};
use crate::rise::Kubernetes;
use crate::trouble::{Attempt, Trouble};
use crate::{kubeprism, node, process};

/// The Talos that a machine runs whose image does not say which.
const VERSION: &str = "v1.13.9";

/// How long etcd with data waits for other services unless the lab says otherwise: long enough that
/// a client which looks at that moment sees `Waiting` and `Preparing`, as on real machines.
const ETCD_WAITS: Duration = Duration::from_millis(300);

/// Where machines live and what they are made of.
#[derive(Clone, Debug)]
pub struct FleetSettings {
    /// The disks: one directory a machine.
    pub directory: PathBuf,
    /// etcd (also as `server`), kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kubectl.
    pub binaries: PathBuf,
    /// Registries that speak plain HTTP: `127.77.0.1:5000`.
    pub plain_registries: Vec<String>,
    /// The image of a pod's sandbox.
    pub pause_image: String,
    /// Where the plugins are that give pods their addresses.
    pub cni: PathBuf,
    /// Where `KubePrism` listens: `127.0.0.1:7445`.
    pub kubeprism: SocketAddr,
    /// What of a node runs.
    pub node: Node,
}

/// What of a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// containerd and the kubelet, which takes root.
    Real,
    /// Neither, and why not: such a cluster has an API, but no node.
    ControlPlaneOnly(String),
}

/// The machines of a lab.
pub struct Fleet {
    shared: Arc<Shared>,
    runtime: Mutex<Option<Runtime>>,
}

/// What machines share.
pub(crate) struct Shared {
    pub(crate) settings: FleetSettings,
    machines: Mutex<BTreeMap<u64, Arc<Machine>>>,
    /// Held by a machine that becomes a member of etcd.
    pub(crate) joining: tokio::sync::Mutex<()>,
    /// Held while a part of the pod network is chosen.
    choosing: tokio::sync::Mutex<()>,
    prism: Mutex<Option<JoinHandle<()>>>,
    /// How long services on which etcd depends take on every boot, by the name of the machine.
    slow: Mutex<BTreeMap<String, Duration>>,
    /// Service networks that this lab keeps from leaving the host.
    held_back: Mutex<BTreeSet<String>>,
}

impl Fleet {
    /// Opens the disks in `settings.directory`, and ends what an earlier lab left running there.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made, or no thread be started.
    pub fn new(mut settings: FleetSettings) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&settings.directory)?;
        settings.directory = settings.directory.canonicalize()?;
        settings.binaries = std::path::absolute(&settings.binaries)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("machines")
            .enable_all()
            .build()?;
        let held_back =
            fs::read_to_string(settings.directory.join("held-back")).unwrap_or_default();
        let shared = Arc::new(Shared {
            held_back: Mutex::new(held_back.lines().map(str::to_owned).collect()),
            settings,
            machines: Mutex::default(),
            joining: tokio::sync::Mutex::default(),
            choosing: tokio::sync::Mutex::default(),
            prism: Mutex::default(),
            slow: Mutex::default(),
        });
        let fleet = Arc::new(Self { shared: shared.clone(), runtime: Mutex::new(Some(runtime)) });
        fleet.wait(async move { shared.tidy().await });
        Ok(fleet)
    }

    /// Waits until the clusters whose machines are on answer again, but no longer than `limit`: one
    /// that was broken before is broken now.
    pub fn settle(&self, limit: Duration) {
        let shared = self.shared.clone();
        let settled = async move {
            while !shared.serve_as_before() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        self.wait(async move {
            let _ = timeout(limit, settled).await;
        });
    }

    /// Makes etcd of the machine called `name` wait for `time` on every boot, as it does in Talos for
    /// containerd, volumes, the clock, the network and its image.
    pub fn slow_etcd(&self, name: &str, time: Duration) {
        locked(&self.shared.slow).insert(name.to_owned(), time);
    }

    /// Takes the configuration and all data off the disk of the machine called `name`, which must be
    /// off: as if the disk had been replaced.
    ///
    /// # Errors
    ///
    /// When the disk cannot be written.
    pub fn empty_disk(&self, name: &str) -> io::Result<()> {
        let place = Place(self.shared.settings.directory.join(name));
        let Some(label) = place.label() else { return Ok(()) };
        place.remove("");
        place.set_label(&label).map_err(io::Error::from)
    }

    /// Powers every machine off: pods and kubelets, then what talks to an API server, then API
    /// servers, then etcd. Their disks stay.
    pub fn shutdown(&self) {
        let shared = self.shared.clone();
        self.wait(async move { shared.shutdown().await });
        let runtime = locked(&self.runtime).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }

    /// Runs work of the fleet to its end, from any thread; nothing after [`Self::shutdown`].
    fn wait(&self, work: impl Future<Output = ()> + Send + 'static) {
        let (done, wait) = mpsc::channel();
        {
            let runtime = locked(&self.runtime);
            let Some(runtime) = runtime.as_ref() else { return };
            runtime.spawn(async move {
                work.await;
                // Nobody may be waiting any more.
                let _ = done.send(());
            });
        }
        // An error means that the work ended without saying so: there is nothing to wait for.
        let _ = wait.recv();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Machines for Fleet {
    fn power_on(&self, server: &Server) {
        let (shared, server) = (self.shared.clone(), server.clone());
        self.wait(async move { shared.power_on(&server) });
    }

    fn power_off(&self, id: u64) {
        let shared = self.shared.clone();
        self.wait(async move { shared.power_off(id).await });
    }

    fn delete(&self, id: u64) {
        let shared = self.shared.clone();
        self.wait(async move { shared.delete(id).await });
    }
}

impl Shared {
    fn machines(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Machine>>> {
        locked(&self.machines)
    }

    /// Ends what an earlier lab left running.
    async fn tidy(&self) {
        for place in place::all(&self.settings.directory) {
            let left = place.clone();
            // It waits for processes to end.
            let _ = tokio::task::spawn_blocking(move || process::end_strays(&left.0)).await;
            if let (Some(label), Node::Real) = (place.label(), &self.settings.node) {
                node::remove_cgroups(&place, label.ipv4);
                network::remove(&network::bridge(label.ipv4)).await;
            }
        }
    }

    fn power_on(self: &Arc<Self>, server: &Server) {
        if server.rescue || self.machines().contains_key(&server.id) {
            return;
        }
        let place = Place(self.settings.directory.join(&server.name));
        let label = place.label();
        if label.as_ref().is_some_and(|it| it.id != server.id) {
            // The disk of an earlier server of that name.
            place.remove("");
        }
        let pods = label.filter(|it| it.id == server.id).and_then(|it| it.pods);
        let label = Label { id: server.id, ipv4: server.ipv4, pods };
        if place.set_label(&label).is_err() {
            return;
        }
        let version = server.image_labels.values().find(|it| it.starts_with("v1."));
        let version = version.map_or_else(|| VERSION.to_owned(), Clone::clone);
        let machine = Machine::start(self.clone(), server, version, place);
        self.machines().insert(server.id, machine);
    }

    /// Whether every machine that once was a control plane is one.
    fn serve_as_before(&self) -> bool {
        let machines = self.machines();
        machines.values().all(|it| !it.place.has_etcd_data() || it.live().serves_kubernetes)
    }

    async fn power_off(&self, id: u64) {
        let machine = self.machines().remove(&id);
        if let Some(machine) = machine {
            machine.halt().await;
            machine.end_all().await;
        }
        if self.machines().is_empty() {
            self.let_go().await;
        }
    }

    async fn delete(&self, id: u64) {
        self.power_off(id).await;
        for place in place::all(&self.settings.directory) {
            if place.label().is_some_and(|it| it.id == id) {
                place.remove("");
            }
        }
    }

    async fn shutdown(&self) {
        let machines: Vec<_> = std::mem::take(&mut *self.machines()).into_values().collect();
        each(&machines, |it| async move { it.halt().await }).await;
        each(&machines, |it| async move { it.end_node().await }).await;
        each(&machines, |it| async move { it.end_controllers().await }).await;
        each(&machines, |it| async move { it.end_api_server().await }).await;
        each(&machines, |it| async move { it.end_etcd().await }).await;
        self.let_go().await;
    }

    /// Machines of the cluster of `config` that hold its authorities' keys, with their configurations.
    fn control_planes(&self, config: &Configuration) -> Vec<(Arc<Machine>, Arc<Configuration>)> {
        let machines: Vec<_> = self.machines().values().cloned().collect();
        let active = machines.into_iter().filter_map(|it| it.active().map(|config| (it, config)));
        let same = |other: &Configuration| {
            other.kind == Kind::ControlPlane
                && other.text("/cluster/id") == config.text("/cluster/id")
                && other.cluster.is_same(&config.cluster)
        };
        active.filter(|(_, other)| same(other)).collect()
    }

    /// What trustd does on a control plane: issues a certificate to a node that knows the token.
    /// Without a discovery service, which a lab does not reach, a worker of real Talos learns the
    /// addresses of control planes from Kubernetes alone: so not before Kubernetes serves.
    pub(crate) fn trustd(
        &self,
        config: &Configuration,
        leaf: &Leaf,
    ) -> Option<Result<Issued, Trouble>> {
        let (_, issuer) = self.control_planes(config).into_iter().find(|(machine, other)| {
            machine.live().serves_kubernetes
                && other.machine.is_same(&config.machine)
                && other.text("/machine/token") == config.text("/machine/token")
        })?;
        Some(issuer.machine.issue(leaf))
    }

    /// How long etcd of `machine` waits for other services on this boot.
    pub(crate) fn etcd_waits(&self, machine: &Machine) -> Duration {
        let slow = locked(&self.slow).get(&machine.name).copied();
        slow.unwrap_or(if machine.place.has_etcd_data() { ETCD_WAITS } else { Duration::ZERO })
    }

    /// Another member of the cluster's etcd.
    pub(crate) fn etcd_peer(&self, machine: &Machine, config: &Configuration) -> Option<Etcd> {
        let mut others =
            self.control_planes(config).into_iter().filter(|(it, _)| it.id != machine.id);
        others.find_map(|(it, _)| it.live().etcd.clone())
    }

    /// An API server of the cluster that answers.
    pub(crate) fn kubernetes(&self, config: &Configuration) -> Option<Kubernetes> {
        let mut serving =
            self.control_planes(config).into_iter().filter(|(it, _)| it.live().serves_kubernetes);
        let (machine, own) = serving.next()?;
        Kubernetes::of(&own, machine.address).ok()
    }

    /// Where `KubePrism` listens, if this lab has it.
    pub(crate) fn kubeprism(&self) -> Option<SocketAddr> {
        locked(&self.prism).as_ref().map(|_| self.settings.kubeprism)
    }

    /// Starts `KubePrism` for the cluster of the first machine that asks.
    pub(crate) async fn raise_kubeprism(self: &Arc<Self>, config: &Arc<Configuration>) {
        if self.kubeprism().is_some() {
            return;
        }
        // Another lab on this host may have it: kubelets then use the cluster's endpoint.
        let Ok(listener) = kubeprism::bind(self.settings.kubeprism).await else { return };
        let (shared, config) = (Arc::downgrade(self), config.clone());
        let servers = move || -> Vec<Ipv4Addr> {
            let control_planes =
                shared.upgrade().map(|it| it.control_planes(&config)).unwrap_or_default();
            let serving = control_planes.iter().filter(|(it, _)| it.live().serves_kubernetes);
            serving.map(|(it, _)| it.address).collect()
        };
        let task = tokio::spawn(kubeprism::serve(listener, servers));
        *locked(&self.prism) = Some(task);
    }

    /// The part of the pod network that is the machine's own, for as long as it has a disk.
    pub(crate) async fn pod_network(
        &self,
        machine: &Machine,
        config: &Configuration,
    ) -> Result<PodNetwork, Trouble> {
        let pods = config.pods();
        let _choosing = self.choosing.lock().await;
        let labels: Vec<_> =
            place::all(&self.settings.directory).iter().filter_map(Place::label).collect();
        let own = labels.iter().find(|it| it.id == machine.id);
        let mut label =
            own.cloned().ok_or_else(|| Trouble::new("the machine has lost its disk"))?;
        let mut used: BTreeSet<u8> =
            labels.iter().filter(|it| it.id != machine.id).filter_map(|it| it.pods).collect();
        if self.settings.node == Node::Real {
            network::remove(&network::bridge(machine.address)).await;
            used.extend(network::used(pods).await);
        }
        let number = match label.pods {
            Some(number) if !used.contains(&number) => number,
            _ => (1..=254)
                .find(|it| !used.contains(it))
                .ok_or_else(|| Trouble::new("the pod network is used up"))?,
        };
        label.pods = Some(number);
        machine.place.set_label(&label).attempt("cannot label the disk")?;
        Ok(PodNetwork::new(machine.address, pods, number))
    }

    /// Keeps packets to service addresses on this host.
    pub(crate) async fn hold_back(&self, services: &str) {
        if network::hold_back(services).await {
            locked(&self.held_back).insert(services.to_owned());
            self.remember_held_back();
        }
    }

    /// Takes back what is shared, when no machine is left that runs.
    async fn let_go(&self) {
        if let Some(prism) = locked(&self.prism).take() {
            prism.abort();
        }
        let held_back = std::mem::take(&mut *locked(&self.held_back));
        for services in held_back {
            network::let_go(&services).await;
        }
        self.remember_held_back();
    }

    fn remember_held_back(&self) {
        let lines: Vec<_> = locked(&self.held_back).iter().cloned().collect();
        // Without it, a lab that is killed leaves a route that only says "unreachable".
        let _ = fs::write(self.settings.directory.join("held-back"), lines.join("\n"));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same for every machine, all at once.
async fn each<F>(machines: &[Arc<Machine>], what: impl Fn(Arc<Machine>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let tasks: Vec<_> = machines.iter().map(|it| tokio::spawn(what(it.clone()))).collect();
    for task in tasks {
        let _ = task.await;
    }
}
