//! The two ways out: standard output for documents, standard error for people.

use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, IsTerminal as _, Write as _};

use serde_json::Value;

use crate::Error;

/// Writes JSON values to standard output: one per line, or indented for a terminal.
///
/// # Errors
///
/// [`Error::Output`]; but a reader that has left (`| head -1`) is none: what was done stays done.
pub fn print<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<(), Error> {
    let stdout = io::stdout().lock();
    let pretty = stdout.is_terminal();
    let mut out = BufWriter::new(stdout);
    let written = values.into_iter().try_for_each(|value| {
        if pretty { writeln!(out, "{value:#}") } else { writeln!(out, "{value}") }
    });
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes one line to standard error. A closed one must not change what the program does.
pub fn stderr_line(line: impl Display) {
    stderr_text(format_args!("{line}\n"));
}

/// Writes to standard error in one piece, so that the lines of a pipe's programs do not mix.
pub(crate) fn stderr_text(text: impl Display) {
    let _ = io::stderr().write_all(text.to_string().as_bytes());
}
