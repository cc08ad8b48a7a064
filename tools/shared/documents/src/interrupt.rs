//! `SIGINT` and `SIGTERM`: the program finishes the running step and writes the documents.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::Error;

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Installs the handlers: the first signal sets a flag, and a second one ends the program immediately.
///
/// Must be called before the program starts threads, because signals are blocked for this thread only.
pub(crate) fn listen() {
    // A signal between the two registrations would be lost, so both signals are blocked until the
    // handlers are complete.
    let blocked = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    let before = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let flag = FLAG.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the first signal finds the flag unset and sets it, so that the second ends
        // the program.
        let armed = signal_hook::flag::register_conditional_default(signal, flag.clone());
        let set = armed.and_then(|_| signal_hook::flag::register(signal, flag.clone()));
        if let Err(error) = set {
            crate::stderr_line(format_args!("cannot listen for signal {signal}: {error}"));
        }
    }
    if let Ok(before) = before {
        let _ = before.thread_set_mask(); // cannot fail where the first call succeeded
    }
}

/// Whether the program has received a signal to end. Programs check this between two steps and in every
/// wait.
#[must_use]
pub fn is_interrupted() -> bool {
    FLAG.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Checks that the program may execute its next step.
///
/// # Errors
///
/// [`Error::Interrupted`], after a signal to end.
pub fn check_interrupt() -> Result<(), Error> {
    if is_interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}
