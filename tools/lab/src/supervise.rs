//! One child process: started, started again when it ends, and given up when that does not help.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::process::{GRACE, Process};

/// It is given up once it has ended this often within [`WINDOW`].
const DEATHS_MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// How long it is left alone after it has ended.
const PAUSE: Duration = Duration::from_millis(500);

/// What is known of a child, as it is written down for whoever comes after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// None if it does not run.
    pub(crate) process: Option<Process>,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// Whether it was given up.
    pub(crate) failed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Supervised {
    child: Option<Child>,
    deaths: Vec<Instant>,
    pub(crate) record: Record,
}

impl Supervised {
    /// Sees to it that it runs. Whether its record has changed.
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
        let rests = self.deaths.last().is_some_and(|it| it.elapsed() < PAUSE);
        if !self.record.failed && !rests {
            self.start(name, launch);
        }
        self.record != before
    }

    fn start(&mut self, name: &str, launch: impl FnOnce() -> Result<Command, Error>) {
        let started = launch().and_then(|mut command| {
            // A group of its own: a signal for the lab is not one for it.
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
                self.ended(name, "it could not be started");
            }
        }
    }

    fn ended(&mut self, name: &str, how: &str) {
        self.child = None;
        self.record.process = None;
        self.deaths.retain(|it| it.elapsed() < WINDOW);
        self.deaths.push(Instant::now());
        self.record.failed = self.deaths.len() >= DEATHS_MAX;
        let given_up = if self.record.failed { ", and is given up" } else { "" };
        documents::note(name, format_args!("ended by itself: {how}{given_up}"));
    }

    /// Ends it.
    pub(crate) fn end(&mut self, name: &str) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(process) = self.record.process.take() {
            process.end(GRACE);
            documents::note(name, "ended");
        }
        let _ = child.wait(); // it has ended
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    type Test = Result<(), Box<dyn std::error::Error>>;

    #[expect(clippy::unnecessary_wraps, reason = "what `tick` asks for")]
    fn sleep(seconds: &str) -> Result<Command, Error> {
        let mut command = Command::new("sleep");
        command.arg(seconds);
        Ok(command)
    }

    /// Ticks until `done`, for ten seconds at most.
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
    fn a_child_that_dies_is_started_again_and_ended_in_the_end() -> Test {
        let mut child = Supervised::default();
        assert!(child.tick("child", || sleep("60")), "its record changes");
        assert!(!child.tick("child", || sleep("60")), "and rests");

        let first = child.record.process.ok_or("it runs")?;
        first.ask();
        assert!(until(&mut child, "60", |it| it.restarts == 1));
        let second = child.record.process.ok_or("it runs again")?;
        assert_ne!(first, second);

        child.end("child");
        assert!(!second.is_running());
        assert_eq!(child.record.process, None);
        Ok(())
    }

    #[test]
    fn a_child_that_does_not_stay_up_is_given_up() {
        let mut child = Supervised::default();
        assert!(until(&mut child, "0", |it| it.failed));
        assert!(!child.tick("child", || sleep("60")), "nothing more is tried");
    }

    #[test]
    fn a_program_that_is_not_there_is_given_up() {
        let mut child = Supervised::default();
        let end = Instant::now() + Duration::from_secs(10);
        while !child.record.failed && Instant::now() < end {
            child.tick("child", || Ok(Command::new("/nowhere/program")));
        }
        assert!(child.record.failed);
    }
}
