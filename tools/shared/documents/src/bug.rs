//! A panic is a bug of the program. It fails only the document that was being processed: all documents
//! are still written, and the exit status is a documented one.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};

use crate::Error;

thread_local! {
    /// Number of nested [`caught`] calls in this thread.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Source location of the last panic in this thread.
    static LOCATION: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Installs a panic hook that reports the source location alone, because the message of a panic may
/// quote a secret.
pub(crate) fn listen() {
    panic::set_hook(Box::new(|panic| {
        let location = panic.location().map_or_else(String::new, ToString::to_string);
        if DEPTH.get() == 0 {
            crate::stderr_line(format_args!("error: a bug in this program, at {location}"));
        }
        LOCATION.set(location);
    }));
}

/// Runs `work`, and returns a panic as [`Error::Bug`].
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    DEPTH.set(DEPTH.get() + 1);
    // Values that the panic left half changed belong to this document alone, which fails.
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|_| Error::Bug { place: LOCATION.take() })
}
