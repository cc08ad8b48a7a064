//! `SIGINT` and `SIGTERM`: the step in hand is finished, the documents are written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::Error;

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on a signal sets a flag; a second one ends the program at once, as it always did.
///
/// Call it before there are threads.
pub(crate) fn listen() {
    // A handler is there before what it does is: a signal that came in between would be lost. Held
    // back, it is delivered once all is ready.
    let held = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    let before = held.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let flag = FLAG.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset, sets it, and arms the second.
        let armed = signal_hook::flag::register_conditional_default(signal, flag.clone());
        let set = armed.and_then(|_| signal_hook::flag::register(signal, flag.clone()));
        if let Err(error) = set {
            crate::stderr_line(format_args!("cannot listen for signal {signal}: {error}"));
        }
    }
    if let Ok(before) = before {
        let _ = before.thread_set_mask(); // fails only where the first one has
    }
}

/// Whether somebody has asked the program to end. Ask between two steps, and in every wait.
#[must_use]
pub fn is_interrupted() -> bool {
    FLAG.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Lets the program take its next step.
///
/// # Errors
///
/// [`Error::Interrupted`], once somebody has asked it to end.
pub fn check_interrupt() -> Result<(), Error> {
    if is_interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}
