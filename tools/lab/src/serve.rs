//! The lab's own process. It keeps the services running until it receives a signal, and then ends
//! them in order.

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::cloud::Running;
use crate::files;
use crate::paths::LabPaths;
use crate::process::{GRACE, Process, TICK};
use crate::service::Service;
use crate::state::{self, State};
use crate::supervise::Supervised;

/// Longest wait for a new lab to write its state.
const START: Duration = Duration::from_secs(30);

/// Shell command that starts the lab outside the caller's session and closes inherited descriptors.
/// Otherwise an inherited lock or pipe would stay open, and block other programs, while the lab runs.
const DETACHED: &str = r#"exec setsid "$0" "$@" 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-"#;

/// Runs the lab until it receives SIGTERM or SIGINT, or until the cloud's emulator ends.
pub(crate) fn serve(paths: &LabPaths) -> Result<(), Error> {
    state::begin(paths)?;
    let Some(_lock) = retry_briefly(|| state::become_daemon(paths))? else {
        return Err(Error::Running { directory: paths.directory.clone() });
    };
    sweep(paths)?;
    let daemon = Process::of(std::process::id()).ok_or_else(|| {
        files::cannot("read", Path::new("/proc/self"))(std::io::ErrorKind::NotFound.into())
    })?;
    let network = paths.network.to_string();
    let mut state = State { daemon, network, services: BTreeMap::new() };
    state::write(paths, &state)?;
    let cloud = Running::start(paths)?;
    documents::note("cloud", format_args!("listens on {}", paths.cloud()));

    let mut children: BTreeMap<Service, Supervised> = BTreeMap::new();
    let mut end = Ok(());
    while !documents::is_interrupted() && !cloud.has_ended() {
        end = tend(paths, &mut children, &mut state);
        if end.is_err() {
            break;
        }
        thread::sleep(TICK);
    }
    documents::note("-", "ending");
    // Machines end first, because their processes still use the registry.
    cloud.shutdown();
    for (service, child) in children.iter_mut().rev() {
        child.end(service.name());
    }
    state.services.clear();
    state::write(paths, &state)?;
    end
}

/// Starts every service that does not run, once, and writes the changed records.
fn tend(
    paths: &LabPaths,
    children: &mut BTreeMap<Service, Supervised>,
    state: &mut State,
) -> Result<(), Error> {
    for service in state::wanted(paths)? {
        if service == Service::Cloud {
            continue;
        }
        let child = children.entry(service).or_default();
        let launch = || {
            let command = service.command(paths)?;
            let mut command = command.unwrap_or_else(|| Command::new("true"));
            let log = files::log(&service.log(paths))?;
            if service != Service::Registry {
                // The registry's standard output already goes to its log of requests.
                command.stdout(files::log(&service.log(paths))?);
            }
            command.stderr(log);
            Ok(command)
        };
        if child.tick(service.name(), launch) {
            state.services.insert(service.name().to_owned(), child.record.clone());
            state::write(paths, state)?;
        }
    }
    Ok(())
}

/// Retries a lock for two seconds, because another command may test the same lock at this moment.
fn retry_briefly<T>(lock: impl Fn() -> Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        match lock()? {
            None if Instant::now() < end => thread::sleep(TICK),
            locked => return Ok(locked),
        }
    }
}

/// Ends the services that a killed lab has left behind. The caller has checked that no lab runs.
pub(crate) fn sweep(paths: &LabPaths) -> Result<(), Error> {
    let Some(state) = state::read(paths)? else { return Ok(()) };
    for (name, record) in state.services {
        if let Some(process) = record.process.filter(|process| process.is_running()) {
            documents::note(
                &name,
                format_args!("ended process {}, which an earlier lab left behind", process.pid),
            );
            process.end(GRACE);
        }
    }
    Ok(())
}

/// Starts the lab in the background, detached from the calling process.
pub(crate) fn start(paths: &LabPaths) -> Result<(), Error> {
    let lab = env::current_exe().map_err(files::cannot("find", Path::new("/proc/self/exe")))?;
    let log = paths.log("lab");
    let mut command = Command::new("sh");
    command.args(["-c", DETACHED]).arg(lab).arg("serve").current_dir(&paths.root);
    command.arg("--directory").arg(&paths.directory).arg("--cache").arg(&paths.cache);
    command.arg("--components").arg(&paths.components);
    command.args(["--network", &paths.network.to_string()]);
    command.stdin(Stdio::null()).stdout(files::log(&log)?).stderr(files::log(&log)?);
    let mut child = command.spawn().map_err(files::cannot("start", Path::new("sh")))?;
    let process = Process::of(child.id());
    let end = Instant::now() + START;
    loop {
        let daemon = state::read(paths)?.map(|state| state.daemon);
        if daemon.is_some() && daemon == process {
            return Ok(());
        }
        let ended = child.try_wait().map_err(files::cannot("wait for", Path::new("sh")))?;
        if ended.is_some() || Instant::now() >= end {
            let (service, said) = ("lab".to_owned(), files::last_error(&log));
            return Err(Error::Died { service, said, log });
        }
        thread::sleep(TICK);
    }
}
