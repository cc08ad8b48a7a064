//! Ends every process of the lab and, with `--wipe`, removes the lab's state.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::confirm;
use crate::files;
use crate::install;
use crate::paths::LabPaths;
use crate::{cloud, serve, state};

/// Longest wait for the lab to end; several clusters end one after the other.
const LIMIT: Duration = Duration::from_secs(120);

/// Ends the lab; with `wipe`, removes its folder as well, after a question unless `yes` answers it.
pub(crate) fn down(paths: &LabPaths, wipe: bool, yes: bool) -> Result<(), Error> {
    if !paths.directory.exists() {
        documents::note(
            "-",
            format_args!("{} does not exist: nothing to do", paths.directory.display()),
        );
        return Ok(());
    }
    if !state::is_ours(paths) {
        return if wipe {
            Err(Error::NotOurs { directory: paths.directory.clone() })
        } else {
            Ok(())
        };
    }
    if !install::is_root() {
        state::check_owner(paths)?;
    }
    if wipe && !yes {
        confirm::removal(&paths.directory)?;
    }
    let _lock = state::lock_commands(paths)?;
    if state::is_running(paths)? {
        end(paths)?;
    } else {
        serve::sweep(paths)?;
        cloud::sweep(paths)?;
        documents::note("-", "no lab runs");
    }
    if wipe {
        let step = documents::step("-", "wipe");
        if let Some(mount) = mounts()?.into_iter().find(|mount| mount.starts_with(&paths.directory))
        {
            return Err(Error::Mounted { mount });
        }
        files::remove(&paths.directory)?;
        step.done(paths.directory.display());
    }
    Ok(())
}

fn end(paths: &LabPaths) -> Result<(), Error> {
    let step = documents::step("-", "end");
    let Some(state) = state::read(paths)? else {
        return Err(Error::Running { directory: paths.directory.clone() });
    };
    state.daemon.terminate();
    if !state.daemon.ended_within(LIMIT) {
        return Err(Error::StillRunning { pid: state.daemon.pid, seconds: LIMIT.as_secs() });
    }
    // A lab that was killed instead of ending by itself leaves its children behind.
    serve::sweep(paths)?;
    cloud::sweep(paths)?;
    step.done(format_args!("process {} and its children", state.daemon.pid));
    Ok(())
}

/// Returns every mount point of this machine.
fn mounts() -> Result<Vec<PathBuf>, Error> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(files::cannot("read", table))?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect())
}
