//! Retries of one call: growing pauses, one deadline, and one wait for each outage.
//!
//! ```text
//! attempt ─ 250 ms ─ attempt ─ 500 ms ─ attempt ─ 1 s ─ … ─ last attempt at the end of the time
//! ```

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Limits of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest time of the whole call, with all attempts and pauses.
    pub call: Duration,
    /// Longest outage that a call waits for: a service that does not answer, or answers with a server
    /// error.
    pub outage: Duration,
    /// Longest time for which a rate limit may delay the call, in all its pauses together.
    pub rate_limit: Duration,
    /// Pause before the second attempt, doubled before each further attempt.
    pub first_pause: Duration,
    /// Longest pause between two attempts, unless the service demands a longer one.
    pub pause_max: Duration,
    /// Most attempts of one call. A transfer that breaks off each time ends by this limit alone, because
    /// the service answers in between.
    pub attempts: u32,
}

impl Limits {
    /// Limits for a service that answers at once when it runs: a forge or a registry.
    ///
    /// Fifteen seconds cover the restart of a service behind a load balancer. A service on this machine
    /// restarts within five, or it does not run.
    #[must_use]
    pub fn of_service(is_on_this_machine: bool) -> Self {
        Self {
            call: Duration::from_secs(1800),
            outage: Duration::from_secs(if is_on_this_machine { 5 } else { 15 }),
            rate_limit: Duration::from_secs(30),
            first_pause: Duration::from_millis(250),
            pause_max: Duration::from_secs(5),
            attempts: 8,
        }
    }
}

/// Outage of one service, which all calls to the service share. So a run waits for it once, and not at
/// every call.
#[derive(Debug, Default)]
pub struct Outage(Mutex<Option<Failures>>);

/// Failures in a row.
#[derive(Clone, Copy, Debug)]
struct Failures {
    first: Instant,
    last: Instant,
}

impl Outage {
    /// Records that the service has answered.
    pub fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Records a failure, and returns the time since the first failure in a row. A failure that comes
    /// more than `limit` after the last one begins a new outage, because nothing was sent in between.
    fn age(&self, limit: Duration) -> Duration {
        let now = Instant::now();
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = failures.filter(|known| now.duration_since(known.last) <= limit);
        let first = known.map_or(now, |known| known.first);
        *failures = Some(Failures { first, last: now });
        now.duration_since(first)
    }
}

/// Reason for a further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The service did not answer, or answered with a server error.
    Outage,
    /// The service demands a pause of this length.
    RateLimit(Duration),
}

/// Retries of one call.
#[derive(Debug)]
pub struct Retries<'a> {
    limits: Limits,
    outage: &'a Outage,
    began: Instant,
    growing: Duration,
    rate_limit_left: Duration,
    attempts_left: u32,
}

impl<'a> Retries<'a> {
    /// Begins a call.
    #[must_use]
    pub fn new(limits: Limits, outage: &'a Outage) -> Self {
        Self {
            limits,
            outage,
            began: Instant::now(),
            growing: limits.first_pause,
            rate_limit_left: limits.rate_limit,
            attempts_left: limits.attempts.saturating_sub(1),
        }
    }

    /// Returns the time that the call has left, at most `max`: the time limit of the next attempt.
    #[must_use]
    pub fn left(&self, max: Duration) -> Duration {
        // An attempt without any time would fail before it begins.
        let left = self.limits.call.saturating_sub(self.began.elapsed());
        left.max(Duration::from_secs(1)).min(max)
    }

    /// Sleeps before the next attempt. Returns `false` at once when the call must end with its error.
    ///
    /// # Errors
    ///
    /// [`documents::Error::Interrupted`], after a signal to end.
    pub fn again(&mut self, cause: Cause) -> Result<bool, documents::Error> {
        let Some(time) = self.next_pause(cause) else { return Ok(false) };
        documents::detail("-", format_args!("again in {:.1} s", time.as_secs_f64()));
        documents::pause(time)?;
        Ok(true)
    }

    /// Returns the pause before the next attempt; `None` when the call must end with its error.
    pub fn next_pause(&mut self, cause: Cause) -> Option<Duration> {
        let left = self.limits.call.saturating_sub(self.began.elapsed());
        if self.attempts_left == 0 || left.is_zero() {
            return None;
        }
        let time = match cause {
            Cause::Outage => {
                let limit = self.limits.outage;
                let left = left.min(limit.saturating_sub(self.outage.age(limit)));
                // The last pause is shorter, so that the last attempt comes at the end of the time.
                if left.is_zero() {
                    return None;
                }
                self.growing.min(left)
            }
            Cause::RateLimit(demanded) => {
                self.outage.end(); // the service answers
                let time = demanded.max(self.growing);
                if time > self.rate_limit_left || time > left {
                    return None;
                }
                self.rate_limit_left -= time;
                time
            }
        };
        self.attempts_left -= 1;
        self.growing = (self.growing * 2).min(self.limits.pause_max);
        Some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn limits() -> Limits {
        Limits { first_pause: seconds(1), attempts: 8, ..Limits::of_service(false) }
    }

    #[test]
    fn pauses_grow_up_to_their_limit() {
        let outage = Outage::default();
        let mut retries = Retries::new(limits(), &outage);
        let pauses: Vec<_> = (0..8).map(|_| retries.next_pause(Cause::Outage)).collect();
        let expected = [1, 2, 4, 5, 5, 5, 5].map(|length| Some(seconds(length)));
        assert_eq!(pauses[..7], expected);
        assert_eq!(pauses[7], None, "the eighth attempt was the last");
    }

    fn outage(first: u64, last: u64) -> Outage {
        let before = |length| Instant::now().checked_sub(seconds(length)).expect("a time");
        Outage(Mutex::new(Some(Failures { first: before(first), last: before(last) })))
    }

    #[test]
    fn an_outage_is_waited_for_once_by_all_calls_together() {
        let running_out = outage(13, 1);
        let mut retries = Retries::new(limits(), &running_out);
        assert_eq!(retries.next_pause(Cause::Outage), Some(seconds(1)));
        let last = retries.next_pause(Cause::Outage).expect("time is left");
        assert!(last <= seconds(2), "the last attempt comes at the end of the outage's time");
        let over = outage(15, 1);
        for _ in 0..2 {
            assert_eq!(Retries::new(limits(), &over).next_pause(Cause::Outage), None);
        }
        over.end();
        assert_eq!(Retries::new(limits(), &over).next_pause(Cause::Outage), Some(seconds(1)));
    }

    #[test]
    fn a_failure_long_after_the_last_one_begins_a_new_outage() {
        let earlier = outage(60, 16);
        assert_eq!(Retries::new(limits(), &earlier).next_pause(Cause::Outage), Some(seconds(1)));
    }

    #[test]
    fn a_demanded_pause_is_respected_in_full_or_ends_the_call() {
        let outage = Outage::default();
        let mut retries = Retries::new(limits(), &outage);
        let mut demand = |length| retries.next_pause(Cause::RateLimit(seconds(length)));
        assert_eq!(demand(20), Some(seconds(20)));
        assert_eq!(demand(0), Some(seconds(2)), "at least the growing pause");
        assert_eq!(demand(9), None, "30 seconds are the limit");
        assert_eq!(demand(3600), None);
    }

    #[test]
    fn no_attempt_begins_after_the_deadline_of_the_call() {
        let outage = Outage::default();
        let mut retries = Retries::new(Limits { call: Duration::ZERO, ..limits() }, &outage);
        assert_eq!(retries.next_pause(Cause::Outage), None);
        assert_eq!(retries.next_pause(Cause::RateLimit(Duration::ZERO)), None);
    }

    #[test]
    fn an_attempt_has_at_most_the_time_that_the_call_has_left() {
        let outage = Outage::default();
        let retries = Retries::new(Limits { call: seconds(20), ..limits() }, &outage);
        assert_eq!(retries.left(seconds(10)), seconds(10));
        assert!(retries.left(seconds(60)) <= seconds(20));
    }
}
