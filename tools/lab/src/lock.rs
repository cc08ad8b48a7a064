//! Locks between `lab` commands. The kernel releases a lock when its process ends, also when the
//! process is killed.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::files;
use crate::process::TICK;

/// Longest wait of one command for another. Building every component into an empty cache takes ten
/// minutes.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Waits until no other process holds the lock at `path`, and takes the lock.
pub(crate) fn exclusive(path: &Path) -> Result<File, Error> {
    let end = Instant::now() + LIMIT;
    let mut reported = false;
    loop {
        documents::check_interrupt()?;
        if let Some(lock) = try_exclusive(path)? {
            return Ok(lock);
        }
        if Instant::now() >= end {
            return Err(Error::Busy { lock: path.to_owned() });
        }
        if !reported {
            documents::note(
                "-",
                format_args!("waiting for another `lab` that holds {}", path.display()),
            );
            reported = true;
        }
        thread::sleep(TICK);
    }
}

/// Takes the lock at `path`, or returns `None` if another process holds the lock.
pub(crate) fn try_exclusive(path: &Path) -> Result<Option<File>, Error> {
    if let Some(folder) = path.parent() {
        files::folder(folder)?;
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(files::cannot("open", path))?;
    match file.try_lock() {
        // `down --wipe` may have removed the file between open and lock.
        Ok(()) if !is_at(&file, path) => Ok(None),
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(files::cannot("lock", path)(error)),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let locked = file.metadata().map(|metadata| metadata.ino());
    let current = path.metadata().map(|metadata| metadata.ino());
    matches!((locked, current), (Ok(locked), Ok(current)) if locked == current)
}
