//! Waits: how long, and what people see meanwhile.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Error;

/// Silence before a wait is reported: shorter waits are no news.
const SILENT_MAX: Duration = Duration::from_secs(2);

/// Time after which a wait for the same thing is reported again, so that a log shows that the program
/// is alive. CI services end jobs that write nothing, the strictest after ten minutes.
const REPEAT: Duration = Duration::from_secs(30);

/// Longest pause between two checks of whether a report is due.
const REPORT_PAUSE: Duration = Duration::from_millis(500);

/// One wait of a run.
pub(crate) struct Wait<'a> {
    document: &'a str,
    poll: Duration,
    limit: Duration,
    began: Instant,
    reported: Option<(String, Instant)>,
}

impl<'a> Wait<'a> {
    /// Starts a wait on behalf of `document` that ends after `limit`.
    pub(crate) fn new(document: &'a str, poll: Duration, limit: Duration) -> Self {
        Self { document, poll, limit, began: Instant::now(), reported: None }
    }

    /// Starts the wait anew, after a step.
    pub(crate) fn restart(&mut self) {
        (self.began, self.reported) = (Instant::now(), None);
    }

    /// Whether the time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.began.elapsed() >= self.limit
    }

    /// Sleeps until the next observation, and reports `reason` when the wait takes long.
    ///
    /// # Errors
    ///
    /// [`Error::NotConverged`] when the time is over; [`Error::Interrupted`].
    pub(crate) fn pause(&mut self, reason: &str) -> Result<(), Error> {
        let poll = self.poll;
        self.pause_until(reason, |most| {
            sleep(poll.min(most));
            true
        })
    }

    /// Pauses until `is_due`, which sleeps at most as long as it is told, returns that the next observation
    /// is due. Reports `reason` when the wait takes long.
    ///
    /// # Errors
    ///
    /// [`Error::NotConverged`] when the time is over; [`Error::Interrupted`].
    pub(crate) fn pause_until(
        &mut self,
        reason: &str,
        mut is_due: impl FnMut(Duration) -> bool,
    ) -> Result<(), Error> {
        crate::check_interrupt()?;
        if self.is_over() {
            let (seconds, reason) = (self.limit.as_secs(), reason.to_owned());
            return Err(Error::NotConverged { seconds, reason });
        }
        loop {
            crate::check_interrupt()?;
            if let Some(text) = self.report(reason, Instant::now()) {
                crate::note(self.document, text);
            }
            let left = self.limit.saturating_sub(self.began.elapsed());
            if is_due(left.min(REPORT_PAUSE)) || self.is_over() {
                return Ok(());
            }
        }
    }

    /// Returns the line for people, if one is due at `now`.
    fn report(&mut self, reason: &str, now: Instant) -> Option<String> {
        let waited = now.duration_since(self.began);
        let is_known =
            |(known, at): &(String, Instant)| known == reason && now.duration_since(*at) < REPEAT;
        if waited < SILENT_MAX || self.reported.as_ref().is_some_and(is_known) {
            return None;
        }
        self.reported = Some((reason.to_owned(), now));
        Some(format!("waiting, {} s so far: {reason}", waited.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_is_reported_after_two_seconds_when_it_changes_and_every_thirty_seconds() {
        let mut wait = Wait::new("prod", Duration::ZERO, Duration::from_secs(60));
        let began = wait.began;
        let mut at =
            |seconds, reason: &str| wait.report(reason, began + Duration::from_secs(seconds));
        assert_eq!(at(1, "etcd"), None);
        assert_eq!(at(2, "etcd").as_deref(), Some("waiting, 2 s so far: etcd"));
        assert_eq!(at(3, "etcd"), None);
        assert_eq!(at(4, "node").as_deref(), Some("waiting, 4 s so far: node"));
        assert_eq!(at(33, "node"), None);
        assert_eq!(at(34, "node").as_deref(), Some("waiting, 34 s so far: node"));
    }

    #[test]
    fn long_pause_ends_when_the_program_says_so_or_the_time_is_over() {
        let mut wait = Wait::new("prod", Duration::ZERO, Duration::from_secs(60));
        let mut looks = 0;
        let end = wait.pause_until("etcd", |most| {
            assert!(most <= REPORT_PAUSE, "a report may be due");
            looks += 1;
            looks == 3
        });
        assert!(end.is_ok() && looks == 3);
        let mut wait = Wait::new("prod", Duration::ZERO, Duration::from_millis(20));
        let never = |most| {
            sleep(most);
            false
        };
        wait.pause_until("etcd", never).expect("the last observation follows");
        assert!(wait.is_over() && wait.pause_until("etcd", never).is_err());
    }

    #[test]
    fn wait_ends_with_its_reason_when_the_time_is_over() {
        let mut wait = Wait::new("prod", Duration::ZERO, Duration::ZERO);
        let end = wait.pause("etcd has no leader");
        assert!(
            matches!(&end, Err(Error::NotConverged { reason, .. }) if reason == "etcd has no leader")
        );
    }
}
