//! Writes documents to standard output, and messages to standard error.

use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, IsTerminal as _, Write};

use serde_json::Value;

use crate::Error;

/// Writes JSON values to standard output: one per line, or indented when it is a terminal.
///
/// # Errors
///
/// [`Error::Output`]. A closed pipe (`| head -1`) is not an error, because the steps were executed.
pub fn print<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<(), Error> {
    let is_terminal = io::stdout().is_terminal();
    write(|out| {
        values.into_iter().try_for_each(|value| {
            if is_terminal { writeln!(out, "{value:#}") } else { writeln!(out, "{value}") }
        })
    })
}

/// Writes `text` to standard output, for example a script.
///
/// # Errors
///
/// The same as those of [`print`].
pub(crate) fn print_text(text: &[u8]) -> Result<(), Error> {
    write(|out| out.write_all(text))
}

fn write(lines: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    let mut out = BufWriter::new(io::stdout().lock());
    match lines(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes one line to standard error. Errors are ignored, so that a closed standard error does not
/// change what the program does.
pub fn stderr_line(line: impl Display) {
    stderr_text(format_args!("{line}\n"));
}

/// Writes `text` to standard error in one call, so that the lines of several programs in a pipe do not
/// mix.
pub(crate) fn stderr_text(text: impl Display) {
    let _ = io::stderr().write_all(text.to_string().as_bytes());
}
