//! The cloud: the emulator of Hetzner's API, with machines behind it that are Talos's.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use emulator_hcloud::{Cloud, Settings};
use emulator_talos::{Fleet, FleetSettings, Node};
use serde_json::Value;
use tokio::runtime::Builder;

use crate::Error;
use crate::files;
use crate::http;
use crate::images;
use crate::install;
use crate::place::Place;

/// Where every machine's Kubernetes API is found by what runs on it, as Talos has it.
const KUBEPRISM: ([u8; 4], u16) = ([127, 0, 0, 1], 7445);

/// Longest that clusters which come back with the lab are waited for.
const SETTLE: Duration = Duration::from_secs(45);

/// The running emulator.
pub(crate) struct Running {
    fleet: Arc<Fleet>,
    thread: JoinHandle<io::Result<()>>,
}

/// The file that holds its token.
pub(crate) fn token(place: &Place) -> std::path::PathBuf {
    place.secret("cloud")
}

/// The file that holds the token which may only read.
pub(crate) fn read_token(place: &Place) -> std::path::PathBuf {
    place.secret("cloud-reader")
}

/// Sees to its tokens.
pub(crate) fn prepare(place: &Place) -> Result<(), Error> {
    files::secret(&token(place), 32, files::hex)?;
    files::secret(&read_token(place), 32, files::hex)?;
    Ok(())
}

/// The machines, whether any is on or not. What an earlier lab has left of them is ended.
fn fleet(place: &Place) -> Result<Arc<Fleet>, Error> {
    let settings = FleetSettings {
        directory: place.machines(),
        binaries: place.cache.join("bin"),
        plain_registries: vec![place.registry().to_string()],
        pause_image: images::pause(place),
        cni: install::cni(),
        kubeprism: KUBEPRISM.into(),
        node: node(),
    };
    Fleet::new(settings).map_err(files::cannot("open", &place.machines()))
}

/// Ends what is left of machines when the lab itself was killed.
pub(crate) fn sweep(place: &Place) -> Result<(), Error> {
    if place.machines().is_dir() {
        fleet(place)?.shutdown();
    }
    Ok(())
}

/// Whether pods can run on this machine.
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
    /// Starts it, with the machines that were on.
    pub(crate) fn start(place: &Place) -> Result<Self, Error> {
        let text = |file: std::path::PathBuf| -> Result<String, Error> {
            let bytes = files::read(&file)?.unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        let state = place.directory.join("cloud/state.json");
        files::folder(&place.directory.join("cloud"))?;
        let settings = Settings {
            network: place.network.0,
            token: text(token(place))?,
            read_token: Some(text(read_token(place))?),
            state: state.clone(),
            address: place.cloud(),
        };
        let address = place.cloud().to_string();
        let cannot_listen = |error| files::cannot("listen on", Path::new(&address))(error);
        let listener = TcpListener::bind(place.cloud()).map_err(cannot_listen)?;
        listener.set_nonblocking(true).map_err(cannot_listen)?;
        let fleet = fleet(place)?;
        let cloud = Cloud::open(settings, fleet.clone()).map_err(files::cannot("open", &state))?;
        let machines = fleet.clone();
        let thread = thread::spawn(move || {
            // Who is told that the cloud answers goes on to ask the clusters in it.
            machines.settle(SETTLE);
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime
                .block_on(async { cloud.serve(tokio::net::TcpListener::from_std(listener)?).await })
        });
        Ok(Self { fleet, thread })
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends its machines, in the right order. Its thread goes with the process.
    pub(crate) fn shutdown(self) {
        self.fleet.shutdown();
    }
}

/// How many calls have changed something since it was started; none if it does not answer.
pub(crate) fn writes(place: &Place) -> Option<u64> {
    let answer = http::get(place.cloud(), "/_lab/writes", None).ok()?;
    let answer: Value = serde_json::from_str(&answer.body).ok()?;
    answer["writes"].as_u64()
}
