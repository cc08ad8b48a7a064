//! Runs functions in parallel: one on several values, or two different ones.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Calls `act` with each of `items`, each in its own thread, and returns the results in the same order.
/// A panic in a thread continues in the caller.
pub fn parallel_map<I: Send, O: Send>(
    items: impl ExactSizeIterator<Item = I>,
    act: impl Fn(I) -> O + Sync,
) -> Vec<O> {
    if items.len() == 1 {
        return items.map(act).collect();
    }
    let act = &act;
    thread::scope(|scope| {
        let threads: Vec<_> = items.map(|item| scope.spawn(move || act(item))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, O>| {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

/// Calls `act` with each of `items`, at most `most` of them at the same time, and returns the results in
/// the same order. A slow call delays only the calls of its own thread.
pub fn parallel_map_limited<I: Send, O: Send>(
    most: usize,
    items: impl IntoIterator<Item = I>,
    act: impl Fn(I) -> O + Sync,
) -> Vec<O> {
    let items = Mutex::new(items.into_iter().enumerate().collect::<VecDeque<_>>());
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let threads = most.min(items.lock().unwrap_or_else(PoisonError::into_inner).len());
    let results = parallel_map(0..threads, |_| {
        std::iter::from_fn(next).map(|(index, item)| (index, act(item))).collect::<Vec<_>>()
    });
    let mut results: Vec<_> = results.into_iter().flatten().collect();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Calls both functions at the same time, `one` in its own thread, and returns their results. A panic in the
/// thread continues in the caller.
pub fn parallel_join<A: Send, B>(
    one: impl FnOnce() -> A + Send,
    other: impl FnOnce() -> B,
) -> (A, B) {
    thread::scope(|scope| {
        let thread = scope.spawn(one);
        let other = other();
        (thread.join().unwrap_or_else(|panic| resume_unwind(panic)), other)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn all_calls_run_at_the_same_time_and_results_keep_their_order() {
        let all = Barrier::new(4);
        let double = |number: i32| {
            all.wait();
            number * 2
        };
        assert_eq!(parallel_map([1, 2, 3, 4].into_iter(), double), [2, 4, 6, 8]);
    }

    #[test]
    fn two_functions_run_at_the_same_time() {
        let both = Barrier::new(2);
        let word = |word: &'static str| {
            both.wait();
            word
        };
        assert_eq!(parallel_join(|| word("one"), || word("other")), ("one", "other"));
    }

    #[test]
    fn at_most_the_permitted_number_of_calls_runs_at_the_same_time() {
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let double = |number: usize| {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            thread::sleep(std::time::Duration::from_millis(2));
            now.fetch_sub(1, SeqCst);
            number * 2
        };
        let doubled: Vec<_> = (0..40).map(|number| number * 2).collect();
        assert_eq!(parallel_map_limited(4, 0..40, double), doubled);
        assert_eq!(most.load(SeqCst), 4);
        assert_eq!(parallel_map_limited(4, 0..0, double), [0; 0]);
    }
}
