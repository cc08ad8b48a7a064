//! Temporary folder for plaintext. Only its owner can enter it, and it is removed with the process.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::Error;

const PREFIX: &str = "data-drain-";

/// Length of the random part of a name.
const RANDOM_BYTES: usize = 16;

/// Age from which a folder without a lock counts as left over. A process locks its folder at once.
const AGE_MIN: Duration = Duration::from_secs(60);

/// A folder, and the lock that tells other processes that it is in use.
///
/// The kernel releases the lock when the process ends in any way. A process number would not do: containers that
/// share a folder for temporary files do not see each other's processes.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: TempDir,
    _lock: File,
}

impl Scratch {
    /// Creates a folder. Folders of killed processes are removed first.
    pub(crate) fn new() -> Result<Self, Error> {
        let path = std::env::temp_dir();
        sweep(&path, AGE_MIN);
        create(&path).map_err(|source| Error::File { what: "write", path, source })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn create(path: &Path) -> io::Result<Scratch> {
    let folder =
        tempfile::Builder::new().prefix(PREFIX).rand_bytes(RANDOM_BYTES).tempdir_in(path)?;
    let lock = File::open(folder.path())?;
    lock.lock()?;
    Ok(Scratch { folder, _lock: lock })
}

/// Removes our folders of processes that have ended. Folders of other users cannot be removed.
fn sweep(path: &Path, age_min: Duration) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let is_ours = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .is_some_and(|random| random.len() == RANDOM_BYTES);
        if !is_ours || !is_left_over(&path, age_min) {
            continue;
        }
        if let Err(error) = fs::remove_dir_all(&path) {
            documents::detail("-", format_args!("{} stays: {error}", path.display()));
        }
    }
}

/// Whether no process uses the folder.
fn is_left_over(folder: &Path, age_min: Duration) -> bool {
    let Ok(lock) = File::open(folder) else { return false };
    let modified = lock.metadata().and_then(|metadata| metadata.modified());
    let is_old = modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age >= age_min));
    is_old && lock.try_lock().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // hazard: A run removes the folder of a live run in another container, whose process it does not see.
    // class: A process is taken for dead by its number alone.
    // members: runs in one container, in two containers that share /tmp, a killed run, a run that has just begun
    // now: a lock on the folder decides, which the kernel releases with the process
    #[test]
    fn only_a_folder_without_a_live_process_is_removed() {
        let place = tempfile::tempdir().expect("a folder");
        let live = create(place.path()).expect("a folder");
        // The lock ends with the statement, as the kernel releases it after SIGKILL.
        let left = create(place.path()).expect("a folder").folder.keep();
        let foreign = place.path().join("data-drain-notes");
        fs::create_dir(&foreign).expect("a folder");

        sweep(place.path(), Duration::from_secs(3600));
        assert!(left.exists(), "a process may not have locked its new folder yet");
        sweep(place.path(), Duration::ZERO);
        assert!(!left.exists());
        assert!(live.path().exists() && foreign.exists());
    }
}
