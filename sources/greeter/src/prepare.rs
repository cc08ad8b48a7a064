//! A volume on the host belongs to root when it is made, and nobody but root can give it away.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;

use crate::log;

/// Gives `folder` and the files in it to `user` and `group`. Needs `CAP_CHOWN` and nothing else;
/// what belongs to them already is not touched.
///
/// # Errors
///
/// The folder cannot be read, or not be given away.
pub fn prepare(folder: &Path, user: u32, group: u32) -> io::Result<()> {
    let mut given = 0;
    let inside = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    // The folder last: who no longer owns it may no longer read it.
    let all = inside.chain([Ok(folder.to_owned())]).collect::<io::Result<Vec<_>>>()?;
    for path in all {
        let there = fs::symlink_metadata(&path)?;
        if (there.uid(), there.gid()) != (user, group) {
            lchown(&path, Some(user), Some(group))?;
            given += 1;
        }
    }
    log::line("prepared", &[("user", &user), ("given", &given)]);
    Ok(())
}
