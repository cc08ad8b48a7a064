//! All machines of a lab, and the runtime that they run on.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use emulator_hcloud::{Machines, Server};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

use crate::directory::{self, Label, MachineDirectory};
use crate::machine::Machine;
use crate::settings::FleetSettings;
use crate::shared::Shared;

/// Version of Talos on a machine whose image names no version.
const VERSION: &str = "v1.13.9";

/// The machines of a lab.
pub struct Fleet {
    inner: Arc<Inner>,
    runtime: Mutex<Option<Runtime>>,
}

struct Inner {
    shared: Arc<Shared>,
    machines: Mutex<BTreeMap<u64, Arc<Machine>>>,
}

impl Fleet {
    /// Opens the disks in `settings.directory`, and ends the processes that an earlier lab left running
    /// there.
    ///
    /// # Errors
    ///
    /// The directory cannot be created, or no thread can be started.
    pub fn new(mut settings: FleetSettings) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&settings.directory)?;
        settings.directory = settings.directory.canonicalize()?;
        settings.binaries = std::path::absolute(&settings.binaries)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("machines")
            .enable_all()
            .build()?;
        let shared = Arc::new(Shared::new(settings));
        let inner = Arc::new(Inner { shared: shared.clone(), machines: Mutex::default() });
        let fleet = Arc::new(Self { inner, runtime: Mutex::new(Some(runtime)) });
        fleet.wait(async move { shared.tidy().await });
        Ok(fleet)
    }

    /// Waits until the clusters whose machines are on answer again, but no longer than `limit`, because a
    /// cluster that was broken before does not recover.
    pub fn settle(&self, limit: Duration) {
        let inner = self.inner.clone();
        let settled = async move {
            while !inner.serves_as_before() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        self.wait(async move {
            let _ = timeout(limit, settled).await;
        });
    }

    /// Makes etcd of the machine called `name` wait for `time` on every boot, as etcd waits in Talos for
    /// containerd, volumes, the clock, the network and its image.
    pub fn slow_etcd(&self, name: &str, time: Duration) {
        self.inner.shared.slow_etcd(name, time);
    }

    /// Makes a new member of etcd receive data without a vote for `time`. In Talos v1.13.9 that takes 45 to
    /// 60 s (measured).
    pub fn slow_promotion(&self, time: Duration) {
        self.inner.shared.slow_promotion(time);
    }

    /// Switches a discovery service on or off, through which workers find control planes before Kubernetes
    /// serves. A new lab has none.
    pub fn discovery(&self, is_on: bool) {
        self.inner.shared.discovery(is_on);
    }

    /// Removes the configuration and all data from the disk of the machine called `name`, as if the disk
    /// had been replaced. The machine must be off.
    ///
    /// # Errors
    ///
    /// The disk cannot be written.
    pub fn empty_disk(&self, name: &str) -> io::Result<()> {
        let directory = MachineDirectory(self.inner.disks().join(name));
        let Some(label) = directory.label() else { return Ok(()) };
        directory.remove("");
        directory.set_label(&label).map_err(io::Error::from)
    }

    /// Powers every machine off and keeps the disks. Ends pods and kubelets first, then the clients of API
    /// servers, then API servers, then etcd.
    pub fn shutdown(&self) {
        let inner = self.inner.clone();
        self.wait(async move { inner.shutdown().await });
        let runtime = locked(&self.runtime).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }

    /// Runs work of the fleet to its end, from any thread. Does nothing after [`Self::shutdown`].
    fn wait(&self, work: impl Future<Output = ()> + Send + 'static) {
        let (done, wait) = mpsc::channel();
        {
            let runtime = locked(&self.runtime);
            let Some(runtime) = runtime.as_ref() else { return };
            runtime.spawn(async move {
                work.await;
                // The receiver may be gone.
                let _ = done.send(());
            });
        }
        // An error means that the work ended without a message: there is nothing to wait for.
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
        let (inner, server) = (self.inner.clone(), server.clone());
        self.wait(async move { inner.power_on(&server) });
    }

    fn power_off(&self, id: u64) {
        let inner = self.inner.clone();
        self.wait(async move { inner.power_off(id).await });
    }

    fn delete(&self, id: u64) {
        let inner = self.inner.clone();
        self.wait(async move { inner.delete(id).await });
    }
}

impl Inner {
    fn machines(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Machine>>> {
        locked(&self.machines)
    }

    fn disks(&self) -> &std::path::Path {
        &self.shared.settings.directory
    }

    fn power_on(&self, server: &Server) {
        if server.rescue || self.machines().contains_key(&server.id) {
            return;
        }
        let directory = MachineDirectory(self.disks().join(&server.name));
        let label = directory.label();
        if label.as_ref().is_some_and(|label| label.id != server.id) {
            // The disk belongs to an earlier server of the same name.
            directory.remove("");
        }
        let pods = label.filter(|label| label.id == server.id).and_then(|label| label.pods);
        let label = Label { id: server.id, ipv4: server.ipv4, pods };
        if directory.set_label(&label).is_err() {
            return;
        }
        let version = server.image_labels.values().find(|value| value.starts_with("v1."));
        let version = version.map_or_else(|| VERSION.to_owned(), Clone::clone);
        let machine = Machine::start(self.shared.clone(), server, version, directory);
        self.machines().insert(server.id, machine);
    }

    /// Whether every machine with data of etcd serves Kubernetes again.
    fn serves_as_before(&self) -> bool {
        let machines = self.machines();
        machines.values().all(|machine| {
            !machine.directory.has_etcd_data() || machine.run_state().serves_kubernetes
        })
    }

    async fn power_off(&self, id: u64) {
        let machine = self.machines().remove(&id);
        self.shared.deregister(id);
        if let Some(machine) = machine {
            machine.halt().await;
            machine.end_all().await;
        }
        if self.machines().is_empty() {
            self.shared.release().await;
        }
    }

    async fn delete(&self, id: u64) {
        self.power_off(id).await;
        for directory in directory::all(self.disks()) {
            if directory.label().is_some_and(|label| label.id == id) {
                directory.remove("");
            }
        }
    }

    async fn shutdown(&self) {
        let machines: Vec<_> = std::mem::take(&mut *self.machines()).into_values().collect();
        for machine in &machines {
            self.shared.deregister(machine.id);
        }
        for_each(&machines, |machine| async move { machine.halt().await }).await;
        for_each(&machines, |machine| async move { machine.end_node().await }).await;
        for_each(&machines, |machine| async move { machine.end_controllers().await }).await;
        for_each(&machines, |machine| async move { machine.end_api_server().await }).await;
        for_each(&machines, |machine| async move { machine.end_etcd().await }).await;
        self.shared.release().await;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the same step for every machine concurrently.
async fn for_each<F>(machines: &[Arc<Machine>], step: impl Fn(Arc<Machine>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let tasks: Vec<_> =
        machines.iter().map(|machine| tokio::spawn(step(machine.clone()))).collect();
    for task in tasks {
        let _ = task.await;
    }
}
