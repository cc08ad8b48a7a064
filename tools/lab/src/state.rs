//! What the running lab writes down for other commands, and for whoever comes after a crash.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::files;
use crate::lock;
use crate::place::Place;
use crate::process::Process;
use crate::service::Service;
use crate::supervise::Record;

/// What runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    /// The lab's own process.
    pub(crate) daemon: Process,
    pub(crate) network: String,
    /// The child of every service, by the service's name.
    pub(crate) services: BTreeMap<String, Record>,
}

/// What is there only in a folder that the lab has made.
const MARK: &str = "made-by-lab";

fn path(place: &Place) -> PathBuf {
    place.directory.join("daemon.json")
}

fn wanted_path(place: &Place) -> PathBuf {
    place.directory.join("services.json")
}

fn daemon_lock(place: &Place) -> PathBuf {
    place.directory.join("daemon.lock")
}

/// Makes the folder, and marks it.
pub(crate) fn begin(place: &Place) -> Result<(), Error> {
    files::settle(&place.directory.join(MARK), b"`lab down --wipe` removes this folder\n", 0o644)?;
    files::folder(&place.directory.join("logs"))
}

pub(crate) fn is_ours(place: &Place) -> bool {
    place.directory.join(MARK).is_file()
}

/// Lets one command at a time change what runs.
pub(crate) fn alone(place: &Place) -> Result<std::fs::File, Error> {
    lock::exclusive(&place.directory.join("command.lock"))
}

/// Makes this process the one lab of the folder; none if another is.
pub(crate) fn become_daemon(place: &Place) -> Result<Option<std::fs::File>, Error> {
    lock::now(&daemon_lock(place))
}

/// Whether the lab runs. Its lock tells, since it goes with the process.
pub(crate) fn is_running(place: &Place) -> Result<bool, Error> {
    Ok(daemon_lock(place).exists() && lock::now(&daemon_lock(place))?.is_none())
}

/// What the lab that runs, or ran last, has written.
pub(crate) fn read(place: &Place) -> Result<Option<State>, Error> {
    parsed(&path(place))
}

pub(crate) fn write(place: &Place, state: &State) -> Result<(), Error> {
    settle(&path(place), state)
}

/// Which services are to run.
pub(crate) fn wanted(place: &Place) -> Result<Vec<Service>, Error> {
    let names: Vec<String> = parsed(&wanted_path(place))?.unwrap_or_default();
    Ok(Service::ALL.into_iter().filter(|it| names.iter().any(|name| name == it.name())).collect())
}

pub(crate) fn want(place: &Place, services: &[Service]) -> Result<(), Error> {
    // In one order, whatever came first: a file that says the same is not written again.
    let wanted = Service::ALL.iter().filter(|it| services.contains(it));
    let names: Vec<_> = wanted.map(|it| it.name()).collect();
    settle(&wanted_path(place), &names)
}

fn parsed<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let garbled = |source| Error::Garbled { path: path.to_owned(), source };
    files::read(path)?.map(|it| serde_json::from_slice(&it).map_err(garbled)).transpose()
}

fn settle(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let garbled = |source| Error::Garbled { path: path.to_owned(), source };
    let text = serde_json::to_string_pretty(value).map_err(garbled)?;
    files::settle(path, format!("{text}\n").as_bytes(), 0o644)?;
    Ok(())
}
