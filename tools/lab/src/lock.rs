//! Who may work here: a lock goes with its process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::files;
use crate::process::TICK;

/// How long one command waits for another: building everything from nothing takes ten minutes.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Waits until nobody else works under `path`, and then works there alone.
pub(crate) fn exclusive(path: &Path) -> Result<File, Error> {
    let end = Instant::now() + LIMIT;
    let mut said = false;
    loop {
        documents::check_interrupt()?;
        if let Some(lock) = now(path)? {
            return Ok(lock);
        }
        if Instant::now() >= end {
            return Err(Error::Busy { lock: path.to_owned() });
        }
        if !said {
            documents::note(
                "-",
                format_args!("waiting for another `lab` that holds {}", path.display()),
            );
            said = true;
        }
        thread::sleep(TICK);
    }
}

/// Works alone under `path`, unless somebody else does already.
pub(crate) fn now(path: &Path) -> Result<Option<File>, Error> {
    if let Some(folder) = path.parent() {
        files::folder(folder)?;
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(files::cannot("open", path))?;
    match file.try_lock() {
        // `down --wipe` may have removed the file that was waited for.
        Ok(()) if !is_at(&file, path) => Ok(None),
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(files::cannot("lock", path)(error)),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let inodes = (file.metadata().map(|it| it.ino()), path.metadata().map(|it| it.ino()));
    matches!(inodes, (Ok(locked), Ok(there)) if locked == there)
}
