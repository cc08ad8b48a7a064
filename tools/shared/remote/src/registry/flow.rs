//! Limits that all requests of one registry client share: their number, and the pauses of a rate limit.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::repository::lock;

/// Number of requests to one registry that are under way at the same time, as by crane (`--jobs`).
pub const PARALLEL_MAX: usize = 4;

/// State of one client.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Number of requests under way.
    under_way: Mutex<usize>,
    ended: Condvar,
    /// End of the pause that the registry has demanded.
    resumes: Mutex<Option<Instant>>,
}

/// Permission for one request, which ends when this value is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Flow);

impl Flow {
    /// Waits until fewer than [`PARALLEL_MAX`] requests are under way.
    pub(super) fn turn(&self) -> Turn<'_> {
        let is_full = |under_way: &mut usize| *under_way >= PARALLEL_MAX;
        let under_way = self.ended.wait_while(lock(&self.under_way), is_full);
        *under_way.unwrap_or_else(PoisonError::into_inner) += 1;
        Turn(self)
    }

    /// Pauses every request of this client for `time`. Parallel requests meet the same rate limit, so that
    /// their pauses must not add up, and none of them may prolong the limit meanwhile.
    pub(super) fn demand_pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut resumes = lock(&self.resumes);
        *resumes = Some(resumes.map_or(until, |known| known.max(until)));
    }

    /// Waits until the registry accepts requests again.
    pub(super) fn wait(&self) -> Result<(), documents::Error> {
        let resumes = *lock(&self.resumes);
        let left = resumes.map(|resumes| resumes.saturating_duration_since(Instant::now()));
        left.filter(|left| !left.is_zero()).map_or(Ok(()), documents::pause)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.under_way) -= 1;
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::thread;

    use super::*;

    #[test]
    fn at_most_the_permitted_number_of_requests_is_under_way() {
        let (flow, now, most) = (Flow::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let _turn = flow.turn();
                    most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    thread::sleep(Duration::from_millis(2));
                    now.fetch_sub(1, SeqCst);
                });
            }
        });
        assert_eq!(most.load(SeqCst), PARALLEL_MAX);
    }

    #[test]
    fn pauses_of_parallel_requests_do_not_add_up() {
        let flow = Flow::default();
        let began = Instant::now();
        for _ in 0..4 {
            flow.demand_pause(Duration::from_millis(50));
        }
        flow.wait().expect("not interrupted");
        let elapsed = began.elapsed();
        assert!(elapsed >= Duration::from_millis(50), "{elapsed:?}");
        assert!(elapsed < Duration::from_millis(190), "{elapsed:?}: not one after the other");
    }
}
