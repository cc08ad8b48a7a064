//! Commands of others, run to their end.

use std::path::Path;
use std::process::Command;

use crate::Error;
use crate::files;

/// Longest line of a command's that an error shows, in characters.
const SAID_MAX: usize = 400;

/// What it writes to standard output, which may be a secret; errors show the other alone. `name` is
/// what they call it.
pub(crate) fn run(mut command: Command, name: &str) -> Result<Vec<u8>, Error> {
    let said = command.output();
    let said = said.map_err(files::cannot("start", Path::new(command.get_program())))?;
    if said.status.success() {
        return Ok(said.stdout);
    }
    let error = String::from_utf8_lossy(&said.stderr);
    let line = error.lines().rev().find(|it| !it.trim().is_empty()).unwrap_or("it said nothing");
    Err(Error::Command { command: name.to_owned(), said: line.chars().take(SAID_MAX).collect() })
}
