//! A panic is a bug of ours. It must cost no more than the document that it happened to: every other
//! document is still written, and the exit status is one of those that callers know.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};

use crate::Error;

thread_local! {
    /// How many calls of [`caught`] this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Where this thread has panicked.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Has panics told as [`Error::Bug`] tells them. The message of a panic may quote a secret, so only
/// its place in the source is shown.
pub(crate) fn listen() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        if DEPTH.get() == 0 {
            crate::stderr_line(format_args!("error: a bug in this program, at {place}"));
        }
        PLACE.set(place);
    }));
}

/// Does `work`; a panic is an error.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    DEPTH.set(DEPTH.get() + 1);
    // What `work` may have left half changed is given up with the document.
    let end = panic::catch_unwind(AssertUnwindSafe(work));
    DEPTH.set(DEPTH.get() - 1);
    end.map_err(|_| Error::Bug { place: PLACE.take() })
}
