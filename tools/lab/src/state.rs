//! State files of the running lab. Other commands read them, also after a crash.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::files;
use crate::install;
use crate::lock;
use crate::paths::LabPaths;
use crate::process::Process;
use crate::service::Service;
use crate::supervise::Record;

/// Processes of the running lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    /// Process of the lab itself.
    pub(crate) daemon: Process,
    pub(crate) network: String,
    /// Record of each service's process, by the service's name.
    pub(crate) services: BTreeMap<String, Record>,
}

/// File that marks a folder as created by the lab. `down --wipe` removes no other folder.
const MARKER: &str = "made-by-lab";

fn path(paths: &LabPaths) -> PathBuf {
    paths.directory.join("daemon.json")
}

fn wanted_path(paths: &LabPaths) -> PathBuf {
    paths.directory.join("services.json")
}

fn daemon_lock(paths: &LabPaths) -> PathBuf {
    paths.directory.join("daemon.lock")
}

/// Creates the lab's folder with its marker.
pub(crate) fn begin(paths: &LabPaths) -> Result<(), Error> {
    files::settle(
        &paths.directory.join(MARKER),
        b"`lab down --wipe` removes this folder\n",
        0o644,
    )?;
    files::folder(&paths.directory.join("logs"))
}

pub(crate) fn is_ours(paths: &LabPaths) -> bool {
    paths.directory.join(MARKER).is_file()
}

/// Checks that this user has created the lab, if the lab exists. Files and processes of another user's lab cannot be
/// changed, and a lab that another user runs has not the permissions of this one.
pub(crate) fn check_owner(paths: &LabPaths) -> Result<(), Error> {
    let Ok(marker) = paths.directory.join(MARKER).metadata() else { return Ok(()) };
    let (owner, user) = (marker.uid(), install::user());
    if owner == user {
        return Ok(());
    }
    Err(Error::OtherUser { directory: paths.directory.clone(), owner, user })
}

/// Locks out other commands that start or end services.
pub(crate) fn lock_commands(paths: &LabPaths) -> Result<std::fs::File, Error> {
    lock::exclusive(&paths.directory.join("command.lock"))
}

/// Takes the lock of the folder's only lab, or returns `None` if another lab runs.
pub(crate) fn become_daemon(paths: &LabPaths) -> Result<Option<std::fs::File>, Error> {
    lock::try_exclusive(&daemon_lock(paths))
}

/// Returns whether the lab runs, which means that a process holds its lock.
pub(crate) fn is_running(paths: &LabPaths) -> Result<bool, Error> {
    Ok(daemon_lock(paths).exists() && lock::try_exclusive(&daemon_lock(paths))?.is_none())
}

/// Returns the state of the lab that runs or ran last.
pub(crate) fn read(paths: &LabPaths) -> Result<Option<State>, Error> {
    parsed(&path(paths))
}

pub(crate) fn write(paths: &LabPaths, state: &State) -> Result<(), Error> {
    settle(&path(paths), state)
}

/// Returns the services that the lab must keep running.
pub(crate) fn wanted(paths: &LabPaths) -> Result<Vec<Service>, Error> {
    let names: Vec<String> = parsed(&wanted_path(paths))?.unwrap_or_default();
    let is_wanted = |service: &Service| names.iter().any(|name| name == service.name());
    Ok(Service::ALL.into_iter().filter(is_wanted).collect())
}

pub(crate) fn want(paths: &LabPaths, services: &[Service]) -> Result<(), Error> {
    // In the fixed order of `ALL`, so that equal sets of services do not change the file.
    let wanted = Service::ALL.iter().filter(|service| services.contains(service));
    let names: Vec<_> = wanted.map(|service| service.name()).collect();
    settle(&wanted_path(paths), &names)
}

fn parsed<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let invalid = |source| Error::InvalidState { path: path.to_owned(), source };
    files::read(path)?.map(|bytes| serde_json::from_slice(&bytes).map_err(invalid)).transpose()
}

fn settle(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let invalid = |source| Error::InvalidState { path: path.to_owned(), source };
    let text = serde_json::to_string_pretty(value).map_err(invalid)?;
    files::settle(path, format!("{text}\n").as_bytes(), 0o644)?;
    Ok(())
}
