//! Pauses that a signal ends at once.

use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

/// Longest time between a signal and the end of a pause.
const TICK: Duration = Duration::from_millis(50);

/// Sleeps for `time`, or until a signal ends the run.
///
/// # Errors
///
/// [`Error::Interrupted`], after a signal to end.
pub fn pause(time: Duration) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        crate::check_interrupt()?;
        let left = time.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(TICK));
    }
}
