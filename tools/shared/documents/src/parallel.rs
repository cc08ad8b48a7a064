//! Runs one function on several values in parallel.

use std::panic::resume_unwind;
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
}
