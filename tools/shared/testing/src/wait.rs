//! Waits for a state that another process brings about.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Returns the first value that `look` finds within `limit`, or `None`.
pub fn poll<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(PAUSE);
    }
}

/// Waits until `done` returns true.
///
/// # Panics
///
/// The state is not reached within a minute.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let found = poll(Duration::from_secs(60), || done().then_some(()));
    assert!(found.is_some(), "waited too long for {what}");
}
