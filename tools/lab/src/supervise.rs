//! Supervises one child process: starts it, restarts it when it ends, and gives up after too many
//! restarts.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::process::{GRACE, Process};

/// Number of times that a child may end within [`WINDOW`] before it is no longer restarted.
const DEATHS_MAX: usize = 5;
/// Period over which ends of a child are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Pause between the end of a child and its restart.
const PAUSE: Duration = Duration::from_millis(500);

/// State of a child in the lab's state file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Process of the child, or `None` if it does not run.
    pub(crate) process: Option<Process>,
    /// Number of restarts since the lab started.
    pub(crate) restarts: u32,
    /// Whether the child is no longer restarted.
    pub(crate) failed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Supervised {
    child: Option<Child>,
    deaths: Vec<Instant>,
    pub(crate) record: Record,
}

impl Supervised {
    /// Starts the child if it does not run. Returns whether its record has changed.
    pub(crate) fn tick(
        &mut self,
        name: &str,
        launch: impl FnOnce() -> Result<Command, Error>,
    ) -> bool {
        let before = self.record.clone();
        if let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) => return false,
                Ok(Some(status)) => self.ended(name, &status.to_string()),
                Err(error) => self.ended(name, &error.to_string()),
            }
        }
        let pauses = self.deaths.last().is_some_and(|death| death.elapsed() < PAUSE);
        if !self.record.failed && !pauses {
            self.start(name, launch);
        }
        self.record != before
    }

    fn start(&mut self, name: &str, launch: impl FnOnce() -> Result<Command, Error>) {
        let started = launch().and_then(|mut command| {
            // In a process group of its own, so that Ctrl-C in the lab's terminal does not reach it.
            command.stdin(Stdio::null()).process_group(0);
            command.spawn().map_err(crate::files::cannot("start", name.as_ref()))
        });
        match started {
            Ok(child) => {
                self.record.process = Process::of(child.id());
                if !self.deaths.is_empty() {
                    self.record.restarts += 1;
                }
                documents::note(name, format_args!("runs as process {}", child.id()));
                self.child = Some(child);
            }
            Err(error) => {
                documents::report(&error);
                self.ended(name, "the program did not start");
            }
        }
    }

    fn ended(&mut self, name: &str, how: &str) {
        self.child = None;
        self.record.process = None;
        self.deaths.retain(|death| death.elapsed() < WINDOW);
        self.deaths.push(Instant::now());
        self.record.failed = self.deaths.len() >= DEATHS_MAX;
        let given_up = if self.record.failed { ", not started again" } else { "" };
        documents::note(name, format_args!("ended by itself: {how}{given_up}"));
    }

    /// Ends the child and waits for its end.
    pub(crate) fn end(&mut self, name: &str) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(process) = self.record.process.take() {
            process.end(GRACE);
            documents::note(name, "ended");
        }
        let _ = child.wait(); // the process has ended already
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    type Test = Result<(), Box<dyn std::error::Error>>;

    #[expect(clippy::unnecessary_wraps, reason = "`tick` takes a function that returns a Result")]
    fn sleep(seconds: &str) -> Result<Command, Error> {
        let mut command = Command::new("sleep");
        command.arg(seconds);
        Ok(command)
    }

    /// Calls `tick` until `done` returns true, for ten seconds at most.
    fn until(child: &mut Supervised, seconds: &str, done: impl Fn(&Record) -> bool) -> bool {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            child.tick("child", || sleep(seconds));
            if done(&child.record) {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }

    #[test]
    fn a_child_that_dies_is_restarted_until_end_is_called() -> Test {
        let mut child = Supervised::default();
        assert!(child.tick("child", || sleep("60")), "the record changes");
        assert!(!child.tick("child", || sleep("60")), "the record stays the same");

        let first = child.record.process.ok_or("the child runs")?;
        first.terminate();
        assert!(until(&mut child, "60", |record| record.restarts == 1));
        let second = child.record.process.ok_or("the child runs again")?;
        assert_ne!(first, second);

        child.end("child");
        assert!(!second.is_running());
        assert_eq!(child.record.process, None);
        Ok(())
    }

    #[test]
    fn a_child_that_ends_five_times_in_a_minute_is_not_restarted() {
        let mut child = Supervised::default();
        assert!(until(&mut child, "0", |record| record.failed));
        assert!(!child.tick("child", || sleep("60")), "no restart");
    }

    #[test]
    fn a_program_that_does_not_exist_is_not_restarted_for_ever() {
        let mut child = Supervised::default();
        let end = Instant::now() + Duration::from_secs(10);
        while !child.record.failed && Instant::now() < end {
            child.tick("child", || Ok(Command::new("/nowhere/program")));
        }
        assert!(child.record.failed);
    }
}
