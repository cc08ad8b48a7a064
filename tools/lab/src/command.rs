//! Runs a foreign command to its end.

use std::path::Path;
use std::process::Command;

use crate::Error;
use crate::files;

/// Longest line of a command's output that an error shows, in characters.
const SAID_MAX: usize = 400;

/// Runs `command` and returns its standard output. Errors call the command `name` and show the last
/// line of its standard error only, because standard output may hold a secret.
pub(crate) fn run(mut command: Command, name: &str) -> Result<Vec<u8>, Error> {
    let said = command.output();
    let said = said.map_err(files::cannot("start", Path::new(command.get_program())))?;
    if said.status.success() {
        return Ok(said.stdout);
    }
    let error = String::from_utf8_lossy(&said.stderr);
    let line = error.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no output");
    Err(Error::Command { command: name.to_owned(), said: line.chars().take(SAID_MAX).collect() })
}
