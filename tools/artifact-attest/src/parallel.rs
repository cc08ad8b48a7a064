//! Runs independent requests of one document in parallel. The client of the registry bounds their number.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ::remote::registry::PARALLEL_MAX;
use documents::parallel_map_limited;

use crate::Error;

/// Independent requests, one after the other.
pub(crate) type Job<'a, T> = Box<dyn FnOnce() -> Result<T, Error> + Send + 'a>;

/// Runs `jobs` in parallel and returns their results in the same order. After an error, no further job
/// begins, and the error of the first failed job is returned.
pub(crate) fn all<T: Send>(jobs: Vec<Job<'_, T>>) -> Result<Vec<T>, Error> {
    let has_failed = AtomicBool::new(false);
    let run = |job: Job<'_, T>| {
        if has_failed.load(Relaxed) {
            return None;
        }
        let end = documents::check_interrupt().map_err(Error::from).and_then(|()| job());
        has_failed.fetch_or(end.is_err(), Relaxed);
        Some(end)
    };
    parallel_map_limited(PARALLEL_MAX, jobs, run).into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    #[test]
    fn results_keep_their_order_and_jobs_run_at_the_same_time() {
        let meeting = Barrier::new(PARALLEL_MAX);
        let meeting = &meeting;
        let job = |number: usize| -> Job<'_, usize> {
            Box::new(move || {
                meeting.wait();
                Ok(number)
            })
        };
        let results = all((0..PARALLEL_MAX * 2).map(job).collect()).expect("no error");
        assert!(results.into_iter().eq(0..PARALLEL_MAX * 2));
    }

    #[test]
    fn no_job_begins_after_an_error() {
        let begun = AtomicUsize::new(0);
        let begun = &begun;
        let job = |number: usize| -> Job<'_, ()> {
            Box::new(move || {
                begun.fetch_add(1, Relaxed);
                // The other threads are busy until the first one has failed.
                if number == 0 {
                    return Err(Error::NoShape);
                }
                thread::sleep(std::time::Duration::from_millis(50));
                Ok(())
            })
        };
        let error = all((0..50).map(job).collect()).expect_err("the first job fails");
        assert!(matches!(error, Error::NoShape));
        assert!(begun.load(Relaxed) <= PARALLEL_MAX, "{begun:?}");
    }
}
