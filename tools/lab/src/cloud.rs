//! Runs the cloud: the emulator of Hetzner's API and an Image Factory. A server runs its user data if it was
//! created from an image of the vendor, and is an emulated Talos machine if it was created from an image of Talos.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use emulator_hcloud::{Cloud, Factory, Settings, StockMachines};
use emulator_talos::{Fleet, FleetSettings, Node};
use serde_json::Value;
use tokio::runtime::Builder;

use crate::Error;
use crate::files;
use crate::http;
use crate::images;
use crate::install;
use crate::paths::LabPaths;

/// Address at which the processes of a machine reach the Kubernetes API. Talos calls it `KubePrism`
/// and uses the same port (<https://www.talos.dev/latest/kubernetes-guides/configuration/kubeprism/>).
const KUBEPRISM: ([u8; 4], u16) = ([127, 0, 0, 1], 7445);

/// Longest wait for the clusters that start again together with the lab.
const SETTLE: Duration = Duration::from_secs(45);

/// The running emulator and its machines.
pub(crate) struct Running {
    fleet: Arc<Fleet>,
    _factory: Factory,
    thread: JoinHandle<io::Result<()>>,
}

/// Returns the file that holds the token for reading and writing.
pub(crate) fn token(paths: &LabPaths) -> std::path::PathBuf {
    paths.secret("cloud")
}

/// Returns the file that holds the read-only token.
pub(crate) fn read_token(paths: &LabPaths) -> std::path::PathBuf {
    paths.secret("cloud-reader")
}

/// Creates both tokens, unless they exist.
pub(crate) fn prepare(paths: &LabPaths) -> Result<(), Error> {
    files::secret(&token(paths), 32, files::hex)?;
    files::secret(&read_token(paths), 32, files::hex)?;
    Ok(())
}

/// Opens the Talos machines in the lab's folder, also those that are off, and ends the processes
/// that an earlier lab has left behind.
fn fleet(paths: &LabPaths) -> Result<Arc<Fleet>, Error> {
    let settings = FleetSettings {
        directory: paths.machines(),
        binaries: paths.cache.join("bin"),
        plain_registries: vec![paths.registry().to_string()],
        pause_image: images::pause(paths),
        cni: install::cni(),
        kubeprism: KUBEPRISM.into(),
        node: node(),
    };
    Fleet::new(settings).map_err(files::cannot("open", &paths.machines()))
}

/// Ends the machines' processes that are left over after the lab itself was killed.
pub(crate) fn sweep(paths: &LabPaths) -> Result<(), Error> {
    if paths.machines().is_dir() {
        fleet(paths)?.shutdown();
    }
    Ok(())
}

/// Returns the kind of node that this computer can run: with pods, or a control plane alone.
fn node() -> Node {
    let missing = install::missing(|kind| kind == "Cluster");
    if !install::is_root() {
        Node::ControlPlaneOnly("pods need root".to_owned())
    } else if missing.is_empty() {
        Node::Real
    } else {
        Node::ControlPlaneOnly(format!("this machine lacks {}", missing.join(", ")))
    }
}

impl Running {
    /// Starts the emulator, and the machines that were on when the lab ended.
    pub(crate) fn start(paths: &LabPaths) -> Result<Self, Error> {
        let text = |file: std::path::PathBuf| -> Result<String, Error> {
            let bytes = files::read(&file)?.unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        let state = paths.directory.join("cloud/state.json");
        files::folder(&paths.directory.join("cloud"))?;
        let settings = Settings {
            network: paths.network.0,
            token: text(token(paths))?,
            read_token: Some(text(read_token(paths))?),
            state: state.clone(),
            address: paths.cloud(),
        };
        let bind = |address: SocketAddr| {
            let name = address.to_string();
            TcpListener::bind(address).map_err(files::cannot("listen on", Path::new(&name)))
        };
        let listener = bind(paths.cloud())?;
        let factory = bind(paths.factory())?;
        let started = listener.set_nonblocking(true).and_then(|()| Factory::serve(factory));
        let factory = started.map_err(files::cannot("start", Path::new("the cloud")))?;
        let fleet = fleet(paths)?;
        files::folder(&paths.disks())?;
        let servers = Arc::new(StockMachines::new(paths.disks(), fleet.clone()));
        let cloud = Cloud::open(settings, servers).map_err(files::cannot("open", &state))?;
        let machines = fleet.clone();
        let thread = thread::spawn(move || {
            // Clusters come first: a caller that sees the cloud answer calls their APIs next.
            machines.settle(SETTLE);
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime
                .block_on(async { cloud.serve(tokio::net::TcpListener::from_std(listener)?).await })
        });
        Ok(Self { fleet, _factory: factory, thread })
    }

    /// Returns whether the emulator's thread has ended without a call of `shutdown`.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the machines in the order that the fleet defines. The thread of the emulator ends with
    /// the process.
    pub(crate) fn shutdown(self) {
        self.fleet.shutdown();
    }
}

/// Returns the number of calls that changed something since the emulator started, or `None` if the
/// emulator does not answer.
pub(crate) fn writes(paths: &LabPaths) -> Option<u64> {
    let answer = http::get(paths.cloud(), "/_lab/writes", None).ok()?;
    let answer: Value = serde_json::from_str(&answer.body).ok()?;
    answer["writes"].as_u64()
}
