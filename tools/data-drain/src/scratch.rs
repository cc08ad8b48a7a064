//! Temporary folder for plaintext. Only its owner can enter it, and it is removed with the process.

use std::fs;
use std::io;

use tempfile::TempDir;

use crate::Error;

const PREFIX: &str = "data-drain-";

/// Creates a folder. Folders of killed processes are removed first.
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
        // /proc shows whether the process exists, without a dependency as for `kill(pid, 0)`.
        if is_ours && !std::path::Path::new("/proc").join(pid).exists() {
            let left: io::Result<()> = fs::remove_dir_all(entry.path());
            if let Err(error) = left {
                let path = entry.path();
                documents::detail("-", format_args!("{} stays: {error}", path.display()));
            }
        }
    }
}
