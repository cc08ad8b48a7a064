//! The lab's own process: it keeps the services up until it is asked to end, and ends them in order.

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::cloud::Running;
use crate::files;
use crate::place::Place;
use crate::process::{GRACE, Process, TICK};
use crate::service::Service;
use crate::state::{self, State};
use crate::supervise::Supervised;

/// How long a new lab may take to say that it runs.
const START: Duration = Duration::from_secs(30);

/// Leaves the caller's session and whatever descriptors it was given: a lock or a pipe that the
/// lab held on to would keep others waiting for as long as it runs.
const DETACHED: &str = r#"exec setsid "$0" "$@" 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-"#;

/// Runs the lab until somebody asks it to end.
pub(crate) fn serve(place: &Place) -> Result<(), Error> {
    state::begin(place)?;
    let Some(_lock) = patiently(|| state::become_daemon(place))? else {
        return Err(Error::Running { directory: place.directory.clone() });
    };
    sweep(place)?;
    let daemon = Process::of(std::process::id()).ok_or_else(|| {
        files::cannot("read", Path::new("/proc/self"))(std::io::ErrorKind::NotFound.into())
    })?;
    let network = place.network.to_string();
    let mut state = State { daemon, network, services: BTreeMap::new() };
    state::write(place, &state)?;
    let cloud = Running::start(place)?;
    documents::note("cloud", format_args!("listens on {}", place.cloud()));

    let mut children: BTreeMap<Service, Supervised> = BTreeMap::new();
    let mut end = Ok(());
    while !documents::is_interrupted() && !cloud.has_ended() {
        end = tend(place, &mut children, &mut state);
        if end.is_err() {
            break;
        }
        thread::sleep(TICK);
    }
    documents::note("-", "ending");
    // The machines first: what they run still talks to the registry.
    cloud.shutdown();
    for (service, child) in children.iter_mut().rev() {
        child.end(service.name());
    }
    state.services.clear();
    state::write(place, &state)?;
    end
}

/// Sees to every service once, and writes down what has changed.
fn tend(
    place: &Place,
    children: &mut BTreeMap<Service, Supervised>,
    state: &mut State,
) -> Result<(), Error> {
    for service in state::wanted(place)? {
        if service == Service::Cloud {
            continue;
        }
        let child = children.entry(service).or_default();
        let launch = || {
            let command = service.command(place)?;
            let mut command = command.unwrap_or_else(|| Command::new("true"));
            let log = files::log(&service.log(place))?;
            if service != Service::Registry {
                // The registry's standard output is its log of requests.
                command.stdout(files::log(&service.log(place))?);
            }
            command.stderr(log);
            Ok(command)
        };
        if child.tick(service.name(), launch) {
            state.services.insert(service.name().to_owned(), child.record.clone());
            state::write(place, state)?;
        }
    }
    Ok(())
}

/// Another command may look at the lock in just this moment.
fn patiently<T>(lock: impl Fn() -> Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        match lock()? {
            None if Instant::now() < end => thread::sleep(TICK),
            end => return Ok(end),
        }
    }
}

/// Ends what a lab that was killed has left behind. The caller knows that none runs.
pub(crate) fn sweep(place: &Place) -> Result<(), Error> {
    let Some(state) = state::read(place)? else { return Ok(()) };
    for (name, record) in state.services {
        if let Some(process) = record.process.filter(|it| it.is_running()) {
            documents::note(
                &name,
                format_args!("process {} is left from before: ended", process.pid),
            );
            process.end(GRACE);
        }
    }
    Ok(())
}

/// Starts the lab, detached from whoever asks for it.
pub(crate) fn start(place: &Place) -> Result<(), Error> {
    let lab = env::current_exe().map_err(files::cannot("find", Path::new("/proc/self/exe")))?;
    let log = place.log("lab");
    let mut command = Command::new("sh");
    command.args(["-c", DETACHED]).arg(lab).arg("serve").current_dir(&place.root);
    command.arg("--directory").arg(&place.directory).arg("--cache").arg(&place.cache);
    command.arg("--components").arg(&place.components);
    command.args(["--network", &place.network.to_string()]);
    command.stdin(Stdio::null()).stdout(files::log(&log)?).stderr(files::log(&log)?);
    let mut child = command.spawn().map_err(files::cannot("start", Path::new("sh")))?;
    let process = Process::of(child.id());
    let end = Instant::now() + START;
    loop {
        let said = state::read(place)?.map(|it| it.daemon);
        if said.is_some() && said == process {
            return Ok(());
        }
        let ended = child.try_wait().map_err(files::cannot("wait for", Path::new("sh")))?;
        if ended.is_some() || Instant::now() >= end {
            let (service, said) = ("lab".to_owned(), files::last_line(&log));
            return Err(Error::Died { service, said, log });
        }
        thread::sleep(TICK);
    }
}
