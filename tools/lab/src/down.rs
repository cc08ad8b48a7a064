//! The end of every process of the lab, and, if asked for, of what it has kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;
use crate::files;
use crate::place::Place;
use crate::{cloud, serve, state};

/// How long a lab with several clusters may take to end.
const LIMIT: Duration = Duration::from_secs(120);

/// Ends what runs; with `wipe`, removes what is left.
pub(crate) fn down(place: &Place, wipe: bool) -> Result<(), Error> {
    if !place.directory.exists() {
        documents::note(
            "-",
            format_args!("{} is not there: nothing to do", place.directory.display()),
        );
        return Ok(());
    }
    if !state::is_ours(place) {
        return if wipe {
            Err(Error::NotOurs { directory: place.directory.clone() })
        } else {
            Ok(())
        };
    }
    let _alone = state::alone(place)?;
    if state::is_running(place)? {
        end(place)?;
    } else {
        serve::sweep(place)?;
        cloud::sweep(place)?;
        documents::note("-", "no lab runs");
    }
    if wipe {
        let step = documents::step("-", "wipe");
        if let Some(mount) = mounts()?.into_iter().find(|it| it.starts_with(&place.directory)) {
            return Err(Error::Mounted { mount });
        }
        files::remove(&place.directory)?;
        step.done(place.directory.display());
    }
    Ok(())
}

fn end(place: &Place) -> Result<(), Error> {
    let step = documents::step("-", "end");
    let Some(state) = state::read(place)? else {
        return Err(Error::Running { directory: place.directory.clone() });
    };
    state.daemon.ask();
    if !state.daemon.ended_within(LIMIT) {
        return Err(Error::StillRunning { pid: state.daemon.pid, seconds: LIMIT.as_secs() });
    }
    // Should it have been killed meanwhile.
    serve::sweep(place)?;
    cloud::sweep(place)?;
    step.done(format_args!("process {} and all that it had started", state.daemon.pid));
    Ok(())
}

/// What is mounted where.
fn mounts() -> Result<Vec<PathBuf>, Error> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(files::cannot("read", table))?;
    Ok(text.lines().filter_map(|it| it.split(' ').nth(4)).map(PathBuf::from).collect())
}
