//! Processes, identified by id and start time, so that a process which reuses an id is never ended.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// Interval between two checks of a wait.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Time that a process has to end by itself after SIGTERM.
pub(crate) const GRACE: Duration = Duration::from_secs(15);

/// Id and start time of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Start time, in clock ticks since boot (field 22 of `/proc/PID/stat`, proc(5)).
    started: u64,
}

impl Process {
    /// Returns the process that now has the id `pid`, or `None` if it has ended or is a zombie.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The process's name, in brackets, may contain spaces and brackets; the fields after it may not.
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, started })
    }

    pub(crate) fn is_running(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends SIGTERM, and SIGKILL after `grace`. Returns whether the process has ended.
    pub(crate) fn end(self, grace: Duration) -> bool {
        self.signal(Signal::TERM);
        if self.ended_within(grace) {
            return true;
        }
        documents::note(
            "-",
            format_args!("process {} did not end by itself and was killed", self.pid),
        );
        self.signal(Signal::KILL);
        self.ended_within(GRACE)
    }

    /// Sends SIGTERM and does not wait.
    pub(crate) fn terminate(self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn ended_within(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(TICK);
        }
        true
    }

    fn signal(self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.is_running()) {
            let _ = kill_process(pid, signal); // the process may have just ended
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    type Test = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn end_spares_a_process_that_has_the_same_id_but_another_start_time() -> Test {
        let mut child = Command::new("sleep").arg("60").spawn()?;
        let process = Process::of(child.id()).ok_or("the process runs")?;

        let other = Process { started: process.started + 1, ..process };
        assert!(!other.is_running());
        assert!(other.end(GRACE), "there is no such process");
        assert!(process.is_running(), "the process with the same id still runs");

        assert!(process.end(GRACE));
        assert!(!process.is_running());
        child.wait()?;
        Ok(())
    }

    #[test]
    fn end_kills_a_process_that_ignores_sigterm() -> Test {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' TERM; echo; exec sleep 60"]);
        let mut child = shell.stdout(std::process::Stdio::piped()).spawn()?;
        let mut ready = [0];
        std::io::Read::read_exact(child.stdout.as_mut().ok_or("piped")?, &mut ready)?;
        let process = Process::of(child.id()).ok_or("the process runs")?;
        assert!(process.end(Duration::from_millis(200)));
        child.wait()?;
        Ok(())
    }
}
