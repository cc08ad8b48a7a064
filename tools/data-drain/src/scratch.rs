//! A folder for plaintext that only its owner can enter, and that goes with its process.

use std::fs;
use std::io;

use tempfile::TempDir;

use crate::Error;

const PREFIX: &str = "data-drain-";

/// A new folder. What a process that was killed has left behind is removed first.
pub(crate) fn folder() -> Result<TempDir, Error> {
    let path = std::env::temp_dir();
    sweep(&path);
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let folder = tempfile::Builder::new().prefix(&prefix).rand_bytes(16).tempdir_in(&path);
    folder.map_err(|source| Error::File { what: "write", path, source })
}

/// Removes our folders of processes that have ended. Folders of other users cannot be removed.
fn sweep(path: &std::path::Path) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let Some((pid, _)) = rest.split_once('-') else { continue };
        let is_ours = rest.len() > pid.len() + 16 && pid.parse::<u32>().is_ok();
        // A signal of 0 would do as well; /proc tells the same without a dependency.
        if is_ours && !std::path::Path::new("/proc").join(pid).exists() {
            let left: io::Result<()> = fs::remove_dir_all(entry.path());
            if let Err(error) = left {
                let path = entry.path();
                documents::detail("-", format_args!("{} stays: {error}", path.display()));
            }
        }
    }
}
