//! Changes the owner of a volume. A new volume on the host belongs to root, and only root may change
//! its owner.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;

use crate::log;

/// Gives `folder` and the files in it to `user` and `group`, and skips files that already belong to
/// them. The only capability that it needs is `CAP_CHOWN`.
///
/// # Errors
///
/// An error if the folder cannot be read or an owner cannot be changed.
pub fn prepare(folder: &Path, user: u32, group: u32) -> io::Result<()> {
    let mut given = 0;
    let inside = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    // The folder comes last, because a process that no longer owns the folder may not read it.
    let all = inside.chain([Ok(folder.to_owned())]).collect::<io::Result<Vec<_>>>()?;
    for path in all {
        let metadata = fs::symlink_metadata(&path)?;
        if (metadata.uid(), metadata.gid()) != (user, group) {
            lchown(&path, Some(user), Some(group))?;
            given += 1;
        }
    }
    log::line("prepared", &[("user", &user), ("given", &given)]);
    Ok(())
}
