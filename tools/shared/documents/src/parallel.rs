//! Several things at once, each in a thread of its own.

use std::panic::resume_unwind;
use std::thread;

/// Does the same with each of `items`, all of them at once. What came of each, in their order.
pub fn parallel_map<I: Send, O: Send>(
    items: impl ExactSizeIterator<Item = I>,
    act: impl Fn(I) -> O + Sync,
) -> Vec<O> {
    if items.len() == 1 {
        return items.map(act).collect();
    }
    let act = &act;
    thread::scope(|scope| {
        let threads: Vec<_> = items.map(|it| scope.spawn(move || act(it))).collect();
        let end =
            |it: thread::ScopedJoinHandle<'_, O>| it.join().unwrap_or_else(|it| resume_unwind(it));
        threads.into_iter().map(end).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn all_are_under_way_before_one_has_ended_and_the_order_is_kept() {
        let all = Barrier::new(4);
        let double = |it: i32| {
            all.wait();
            it * 2
        };
        assert_eq!(parallel_map([1, 2, 3, 4].into_iter(), double), [2, 4, 6, 8]);
    }
}
