//! A limit on one wait inside of a step. It counts from the last progress, so a run with many claims, or
//! with a slow claim, has no limit of its own.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use documents::{Diagnostic as _, Exit};

use crate::Error;

/// Pause between two observations of a wait.
pub(crate) const TICK: Duration = Duration::from_millis(500);

/// The time without progress after which a wait fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) seconds: u32,
    tick: Duration,
}

impl Limit {
    pub(crate) fn new(seconds: u32) -> Self {
        Self { seconds, tick: TICK }
    }

    /// Calls `look` until it returns no error to wait for. An error that did not occur before is
    /// progress, so the time starts again. Errors that alternate are no progress. A lost response is an
    /// error to wait for.
    pub(crate) fn until(
        &self,
        mut look: impl FnMut() -> Result<Option<Error>, Error>,
    ) -> Result<(), Error> {
        let time = Duration::from_secs(self.seconds.into());
        let mut seen = BTreeSet::new();
        let mut end = Instant::now() + time;
        loop {
            let amiss = match look() {
                Ok(None) => return Ok(()),
                Ok(Some(amiss)) => amiss,
                Err(error @ Error::Unreachable { .. }) if error.exit() == Exit::Temporary => error,
                Err(error) => return Err(error),
            };
            documents::check_interrupt()?;
            if seen.insert(amiss.to_string()) {
                end = Instant::now() + time;
            } else if Instant::now() >= end {
                return Err(amiss);
            }
            thread::sleep(self.tick);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { seconds: 0, tick: Duration::ZERO };

    fn amiss(what: &str) -> Error {
        Error::Missing { what: what.to_owned() }
    }

    #[test]
    fn limit_starts_again_with_each_new_complaint_and_ends_when_they_repeat() {
        let mut left = ["a", "b", "c", "a", "c"].into_iter();
        let mut looks = 0;
        let error = LIMIT.until(|| {
            looks += 1;
            Ok(Some(amiss(left.next().unwrap_or("end"))))
        });
        assert_eq!(error.expect_err("no end").to_string(), amiss("a").to_string());
        assert_eq!(looks, 4);
    }

    #[test]
    fn lost_answer_is_no_failure_while_there_is_time() {
        let mut looks = 0;
        let limit = Limit { seconds: 60, tick: Duration::ZERO };
        let done = limit.until(|| {
            looks += 1;
            let (who, request, why) = ("server".to_owned(), "get".to_owned(), "cut".to_owned());
            if looks < 3 { Err(Error::Unreachable { who, request, why }) } else { Ok(None) }
        });
        assert!(done.is_ok() && looks == 3);
        let missing = limit.until(|| Err(amiss("claim")));
        assert!(missing.is_err(), "what will not change is told at once");
    }
}
