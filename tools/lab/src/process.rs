//! Processes by id and start time, so that none is ended that only has another's number.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// How often a wait looks.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// How long a process has to end by itself once it was asked to.
pub(crate) const GRACE: Duration = Duration::from_secs(15);

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// When it began, in the kernel's ticks since boot.
    started: u64,
}

impl Process {
    /// The one that runs under `pid` now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold anything; what follows it is regular.
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, started })
    }

    pub(crate) fn is_running(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Asks it to end, and then sees to it. Whether it has ended.
    pub(crate) fn end(self, grace: Duration) -> bool {
        self.signal(Signal::TERM);
        if self.ended_within(grace) {
            return true;
        }
        documents::note("-", format_args!("process {} does not end by itself: killed", self.pid));
        self.signal(Signal::KILL);
        self.ended_within(GRACE)
    }

    /// Asks it to end.
    pub(crate) fn ask(self) {
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
            let _ = kill_process(pid, signal); // it may have ended just now
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    type Test = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn a_process_is_ended_and_one_that_only_has_its_number_is_not() -> Test {
        let mut child = Command::new("sleep").arg("60").spawn()?;
        let process = Process::of(child.id()).ok_or("it runs")?;

        let other = Process { started: process.started + 1, ..process };
        assert!(!other.is_running());
        assert!(other.end(GRACE), "there is nothing to end");
        assert!(process.is_running(), "and nothing was");

        assert!(process.end(GRACE));
        assert!(!process.is_running());
        child.wait()?;
        Ok(())
    }

    #[test]
    fn one_that_does_not_listen_is_killed() -> Test {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' TERM; echo; exec sleep 60"]);
        let mut child = shell.stdout(std::process::Stdio::piped()).spawn()?;
        let mut ready = [0];
        std::io::Read::read_exact(child.stdout.as_mut().ok_or("piped")?, &mut ready)?;
        let process = Process::of(child.id()).ok_or("it runs")?;
        assert!(process.end(Duration::from_millis(200)));
        child.wait()?;
        Ok(())
    }
}
