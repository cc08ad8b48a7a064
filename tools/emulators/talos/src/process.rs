//! Real processes. Each runs in its own process group, is recorded in a file, restarts when it ends, and is
//! ended by id.
//!
//! **Invariant:** a signal is sent only after the process's start time has been compared with the record,
//! because the system may have given the id to another process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::error::{Attempt, Error};

/// Pause before a service of Talos that has ended is restarted: `DefaultOptions` in
/// `internal/app/machined/pkg/system/runner/restart/restart.go`, v1.13.9.
const SERVICE_PAUSE: Duration = Duration::from_secs(5);
/// Services of Talos among the programs. The others are static pods, which the kubelet restarts.
const SERVICES: [&str; 1] = ["etcd"];
/// Shortest and longest pause before a static pod that has ended is restarted.
const POD_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// Returns the environment of Go's runtime for every component.
///
/// `GOGC=400` makes garbage collection rarer, because a lab has enough memory for the hour that it lasts
/// (measured: 5.9 s instead of 7.6 s of CPU for an API server from its start to a running pod).
/// `GOMAXPROCS` is passed on from the lab's environment. With two cores, Go can wake another thread for every
/// answer: a single lab on the host is 1 s of 15 s faster, but the lab needs 15 % more CPU (measured).
#[must_use]
pub fn go_runtime() -> Vec<(&'static str, OsString)> {
    let cores = std::env::var_os("GOMAXPROCS").map(|cores| ("GOMAXPROCS", cores));
    [("GOGC", OsString::from("400"))].into_iter().chain(cores).collect()
}

/// A program to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

/// The record of a process, which identifies the process even after its id has been reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    pid: Pid,
    /// Start time in clock ticks since the system started.
    started: u64,
}

/// The processes of one machine.
pub(crate) struct Processes {
    /// Folder of the records.
    records: PathBuf,
    logs: PathBuf,
    running: Mutex<BTreeMap<&'static str, Running>>,
}

struct Running {
    /// Sends the time between SIGTERM and SIGKILL, once.
    stop: watch::Sender<Option<Duration>>,
    pid: watch::Receiver<Option<i32>>,
    task: JoinHandle<()>,
}

impl Processes {
    pub(crate) fn new(machine: &Path) -> Self {
        let (records, logs) = (machine.join("processes"), machine.join("logs"));
        Self { records, logs, running: Mutex::default() }
    }

    /// Starts `program`, and restarts it whenever it ends, until [`Self::stop`].
    pub(crate) fn start(&self, program: Program) -> Result<(), Error> {
        for directory in [&self.records, &self.logs] {
            fs::create_dir_all(directory).attempt(directory.display())?;
        }
        let (stop, stopped) = watch::channel(None);
        let (tell, pid) = watch::channel(None);
        let name = program.name;
        let log = self.logs.join(format!("{name}.log"));
        // The log of the boot before is kept as `.log.old`.
        let _ = fs::rename(&log, log.with_extension("log.old"));
        let record = self.records.join(name);
        let child = spawn(&program, &log)?;
        let task = tokio::spawn(watched(program, child, log, record, stopped, tell));
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(name, Running { stop, pid, task });
        Ok(())
    }

    /// Ends a process and its group, with SIGKILL after `grace`. Does nothing if the process does not run.
    pub(crate) async fn stop(&self, name: &str, grace: Duration) {
        let found = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        if let Some(running) = found {
            running.stop.send_replace(Some(grace));
            let _ = running.task.await;
        }
    }

    pub(crate) fn runs(&self, name: &str) -> bool {
        self.pid(name).is_some()
    }

    pub(crate) fn pid(&self, name: &str) -> Option<i32> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(name).and_then(|running| *running.pid.borrow())
    }
}

/// Returns the search path of programs: the lab's own `PATH`, because Nix has no programs in the system's
/// folders, and then the system's folders.
fn search_path() -> std::ffi::OsString {
    let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(system);
    path
}

fn spawn(program: &Program, log: &Path) -> Result<Child, Error> {
    let what = || format!("cannot start {}", program.path.display());
    let log = fs::OpenOptions::new().create(true).append(true).open(log).attempt(what())?;
    let error = log.try_clone().attempt(what())?;
    Command::new(&program.path)
        .args(&program.arguments)
        .env_clear()
        .env("PATH", search_path())
        .envs(go_runtime())
        .envs(program.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(error)
        .process_group(0)
        .spawn()
        .attempt(what())
}

/// Runs one program: waits for the process, records it, and restarts it.
async fn watched(
    program: Program,
    mut child: Child,
    log: PathBuf,
    record: PathBuf,
    mut stopped: watch::Receiver<Option<Duration>>,
    tell: watch::Sender<Option<i32>>,
) {
    let (mut pause, pause_max) =
        if SERVICES.contains(&program.name) { (SERVICE_PAUSE, SERVICE_PAUSE) } else { POD_PAUSES };
    loop {
        let known = child.id().and_then(known);
        if let Some(known) = known {
            let line = format!("{} {}", known.pid.as_raw_nonzero(), known.started);
            let _ = fs::write(&record, line);
            tell.send_replace(Some(known.pid.as_raw_nonzero().get()));
        }
        let grace = tokio::select! {
            _ = child.wait() => None,
            grace = asked_to_stop(&mut stopped) => Some(grace),
        };
        if let Some(grace) = grace {
            if let Some(known) = known {
                let _ = kill_process_group(known.pid, Signal::TERM);
            }
            if timeout(grace, child.wait()).await.is_err() {
                let _ = child.start_kill();
                let _ = child.wait().await;
            }
        }
        // Children that the process left in its group end with it.
        if let Some(known) = known {
            let _ = kill_process_group(known.pid, Signal::KILL);
        }
        tell.send_replace(None);
        let _ = fs::remove_file(&record);
        if grace.is_some() {
            return;
        }
        child = loop {
            tokio::select! {
                () = sleep(pause) => {}
                _ = asked_to_stop(&mut stopped) => return,
            }
            pause = (pause * 2).min(pause_max);
            if let Ok(child) = spawn(&program, &log) {
                break child;
            }
        };
    }
}

async fn asked_to_stop(stopped: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match stopped.wait_for(Option::is_some).await {
        Ok(grace) => grace.unwrap_or_default(),
        // The sender was dropped, so nothing else can end the process.
        Err(_) => Duration::from_secs(5),
    }
}

/// Returns the identity of the process `pid`.
fn known(pid: u32) -> Option<Known> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    Some(Known { pid, started: started(pid)? })
}

/// Returns the start time of a process: field 22 of its `stat` (proc(5)), counted after the name in
/// parentheses.
fn started(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Returns the first child of a process.
pub(crate) fn child_of(pid: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Sends SIGTERM to the child of `parent` that runs `name`. Returns whether the child exists.
pub(crate) fn end_child(parent: i32, name: &str) -> bool {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    for pid in children.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if let (true, Some(pid)) = (comm.trim() == name, Pid::from_raw(pid)) {
            return kill_process(pid, Signal::TERM).is_ok();
        }
    }
    false
}

/// Ends the processes that an earlier lab left running on the machine in `directory`.
pub(crate) fn end_strays(directory: &Path) {
    let records = fs::read_dir(directory.join("processes")).into_iter().flatten().flatten();
    let mut strays = Vec::new();
    for record in records {
        let line = fs::read_to_string(record.path()).unwrap_or_default();
        let mut words = line.split_whitespace();
        let (pid, start) = (words.next().and_then(|pid| pid.parse().ok()), words.next());
        let start = start.and_then(|start| start.parse::<u64>().ok());
        if let (Some(pid), Some(start)) = (pid.and_then(Pid::from_raw), start)
            && started(pid) == Some(start)
        {
            strays.push(Known { pid, started: start });
        }
        let _ = fs::remove_file(record.path());
    }
    for (signal, rounds) in [(Signal::TERM, 50), (Signal::KILL, 20)] {
        for stray in &strays {
            let _ = kill_process_group(stray.pid, signal);
        }
        for _ in 0..rounds {
            strays.retain(|stray| started(stray.pid) == Some(stray.started));
            if strays.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Runs a helper program with `input` on its standard input, for at most `limit`. Returns its standard output,
/// or the last line of its standard error as an error.
pub(crate) async fn run(
    path: &Path,
    arguments: &[&str],
    input: Option<&[u8]>,
    limit: Duration,
) -> Result<String, Error> {
    use tokio::io::AsyncWriteExt;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut child = Command::new(path)
        .args(arguments)
        .env_clear()
        .env("PATH", search_path())
        .env("HOME", "/nonexistent")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .attempt(format!("cannot start {name}"))?;
    let stdin = child.stdin.take();
    let work = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            let _ = stdin.write_all(input).await;
        }
        child.wait_with_output().await
    };
    let output = timeout(limit, work).await.attempt(format!("{name} took too long"))?;
    let output = output.attempt(format!("{name} did not end"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message = message.trim().lines().last().unwrap_or_default();
    Err(Error::new(format!("{name} failed: {message}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Program {
        let path = PathBuf::from("/bin/sleep");
        Program {
            name: "sleeper",
            path,
            arguments: vec!["600".to_owned()],
            environment: Vec::new(),
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime")
    }

    #[test]
    fn a_process_that_ends_is_restarted_until_it_is_stopped() {
        let directory = tempfile::tempdir().expect("a directory");
        runtime().block_on(async {
            let processes = Processes::new(directory.path());
            processes.start(sleeper()).expect("started");
            let first = appears(&processes, None).await;
            kill_process(Pid::from_raw(first).expect("a pid"), Signal::KILL).expect("killed");
            let second = appears(&processes, Some(first)).await;
            processes.stop("sleeper", Duration::from_secs(2)).await;
            assert!(!processes.runs("sleeper"));
            assert_eq!(started(Pid::from_raw(second).expect("a pid")), None);
        });
    }

    async fn appears(processes: &Processes, but: Option<i32>) -> i32 {
        for _ in 0..100 {
            match processes.pid("sleeper") {
                Some(pid) if Some(pid) != but => return pid,
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("the process did not appear");
    }

    #[test]
    fn processes_of_an_earlier_lab_end_and_a_reused_id_is_spared() {
        let directory = tempfile::tempdir().expect("a directory");
        let records = directory.path().join("processes");
        fs::create_dir_all(&records).expect("created");
        let spawn = || {
            let mut command = std::process::Command::new("/bin/sleep");
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            command.arg("600").spawn().expect("spawned")
        };
        let (mut stray, mut stranger) = (spawn(), spawn());
        let identity = |child: &std::process::Child| known(child.id()).expect("known");
        fs::write(records.join("a"), format!("{} {}", stray.id(), identity(&stray).started))
            .expect("written");
        fs::write(
            records.join("b"),
            format!("{} {}", stranger.id(), identity(&stranger).started + 1),
        )
        .expect("written");
        end_strays(directory.path());
        assert!(stray.try_wait().expect("waited").is_some());
        assert!(stranger.try_wait().expect("waited").is_none());
        stranger.kill().expect("killed");
        stranger.wait().expect("waited");
    }
}
