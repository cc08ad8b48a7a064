//! Runs of git in a local folder.

use std::io;
use std::path::Path;

use crate::process::{Call, TIME_MAX, call};
use crate::{Ended, Origin};

/// Runs git in `folder`. Without an `origin`, git opens no connection. With an `origin`, git does not use
/// `folder` as a repository, so that the configuration of no repository applies.
///
/// # Errors
///
/// - git cannot be started.
/// - [`io::ErrorKind::TimedOut`]: git writes nothing for [`TIME_MAX`].
/// - [`io::ErrorKind::InvalidInput`]: the token is not one line of UTF-8.
pub fn run(arguments: &[&str], folder: &Path, origin: Option<&Origin<'_>>) -> io::Result<Ended> {
    call(&Call { origin, ..Call::local(arguments, folder) }, TIME_MAX)
}

/// Runs git in `folder` without a connection, with `input` as standard input.
///
/// # Errors
///
/// The errors of [`run`].
pub fn run_with_input(arguments: &[&str], folder: &Path, input: &[u8]) -> io::Result<Ended> {
    call(&Call { input, ..Call::local(arguments, folder) }, TIME_MAX)
}

/// Whether the repository in `folder` is a partial clone, which may lack objects.
///
/// # Errors
///
/// The errors of [`run`].
pub fn is_partial(folder: &Path) -> io::Result<bool> {
    let pattern = r"^(extensions\.partialclone|remote\..*\.promisor)$";
    run(&["config", "--get-regexp", pattern], folder, None).map(|ended| ended.success)
}
