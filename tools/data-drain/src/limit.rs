//! Time limit of one step. The limit restarts at each sign of progress, and a whole run has no limit,
//! because it may have many claims or a slow one.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use documents::Diagnostic as _;

use crate::Error;

/// Pause between two observations of the cluster.
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

    /// Calls `look` until it reports no problem. A problem that was not reported before is progress and
    /// restarts the time limit. Alternating problems are not progress. A lost response counts as a
    /// problem.
    pub(crate) fn until(
        &self,
        mut look: impl FnMut() -> Result<Option<Error>, Error>,
    ) -> Result<(), Error> {
        let time = Duration::from_secs(self.seconds.into());
        let mut seen = BTreeSet::new();
        let mut end = Instant::now() + time;
        loop {
            let problem = match look() {
                Ok(None) => return Ok(()),
                Ok(Some(problem)) => problem,
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            documents::check_interrupt()?;
            if seen.insert(problem.to_string()) {
                end = Instant::now() + time;
            } else if Instant::now() >= end {
                return Err(problem);
            }
            thread::sleep(self.tick);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { seconds: 0, tick: Duration::ZERO };

    fn problem(what: &str) -> Error {
        Error::Missing { what: what.to_owned() }
    }

    #[test]
    fn until_restarts_the_limit_at_each_new_problem_and_fails_when_problems_repeat() {
        let mut left = ["a", "b", "c", "a", "c"].into_iter();
        let mut looks = 0;
        let error = LIMIT.until(|| {
            looks += 1;
            Ok(Some(problem(left.next().unwrap_or("end"))))
        });
        assert_eq!(error.expect_err("no end").to_string(), problem("a").to_string());
        assert_eq!(looks, 4);
    }

    #[test]
    fn until_retries_a_lost_response_within_the_limit() {
        let mut looks = 0;
        let limit = Limit { seconds: 60, tick: Duration::ZERO };
        let done = limit.until(|| {
            looks += 1;
            let (who, request, why) = ("server".to_owned(), "get".to_owned(), "cut".to_owned());
            if looks < 3 { Err(Error::Unreachable { who, request, why }) } else { Ok(None) }
        });
        assert!(done.is_ok() && looks == 3);
        let missing = limit.until(|| Err(problem("claim")));
        assert!(missing.is_err(), "a permanent error ends the wait at once");
    }
}
