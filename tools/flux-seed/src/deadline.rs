//! How long one run waits.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Error;

/// Pause between two looks; a look takes some 20 requests of a millisecond each.
pub(crate) const POLL: Duration = Duration::from_millis(200);

/// The longest time that one run waits, all in all.
pub(crate) struct Deadline {
    at: Instant,
    pub(crate) seconds: u32,
}

impl Deadline {
    pub(crate) fn after(seconds: u32) -> Self {
        Self { at: Instant::now() + Duration::from_secs(seconds.into()), seconds }
    }

    /// Waits a little; or fails, since `missing` has taken too long.
    pub(crate) fn wait(&self, missing: impl FnOnce() -> Vec<String>) -> Result<(), Error> {
        documents::check_interrupt()?;
        if Instant::now() >= self.at {
            return Err(Error::NotYet { seconds: self.seconds, missing: missing() });
        }
        sleep(POLL);
        Ok(())
    }

    /// Looks, and looks again while that may help: a control plane that restarts for some seconds
    /// does not end a wait.
    pub(crate) fn look<T>(&self, look: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        loop {
            match look() {
                Err(
                    error @ (Error::Unreachable { .. } | Error::Slow { .. } | Error::Busy { .. }),
                ) => {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    let why =
                        source.map_or_else(|| error.to_string(), |it| format!("{error}: {it}"));
                    self.wait(|| vec![why])?;
                }
                other => return other,
            }
        }
    }
}
