//! Pushes without the configuration and the hooks of the repository that is pushed.

use std::fs;
use std::io;
use std::path::Path;

use tempfile::TempDir;

use crate::local::run;
use crate::process::{Call, TIME_MAX, call};
use crate::{Ended, Origin};

/// Pushes `refspecs` from the objects of the repository in `folder`, all of them or none, and returns the
/// output of `git push --porcelain`. The push runs in an empty repository that borrows those objects, so
/// that the configuration and the hooks of the repository in `folder` do not apply.
///
/// # Errors
///
/// The errors of [`crate::run`], and an error when `folder` is not a repository.
pub fn push(folder: &Path, origin: &Origin<'_>, refspecs: &[&str]) -> io::Result<Ended> {
    let borrower = borrow_objects(folder)?;
    let mut arguments = vec!["push", "--porcelain", "--progress", "--no-verify"];
    // Without this, a rejected tag would leave the branch pushed. A push of one reference needs no support
    // of the server for it.
    arguments.extend((refspecs.len() > 1).then_some("--atomic"));
    arguments.push(origin.url.as_str());
    arguments.extend(refspecs);
    let repository = Some(borrower.path());
    let push = Call { origin: Some(origin), repository, ..Call::local(&arguments, folder) };
    call(&push, TIME_MAX)
}

/// Creates a bare repository that borrows the objects of the repository in `folder`.
pub(crate) fn borrow_objects(folder: &Path) -> io::Result<TempDir> {
    let local = |arguments: &[&str]| -> io::Result<String> {
        let ended = run(arguments, folder, None)?;
        if ended.success { Ok(ended.text) } else { Err(io::Error::other(ended.message())) }
    };
    let objects = local(&["rev-parse", "--path-format=absolute", "--git-path", "objects"])?;
    let format = local(&["rev-parse", "--show-object-format"])?;
    if objects.contains('\n') || objects.starts_with('"') {
        let message = "the path of the repository cannot be written to objects/info/alternates";
        return Err(io::Error::other(message));
    }
    let borrower = tempfile::Builder::new().prefix("holistic-push-").tempdir()?;
    let path = borrower.path();
    for below in ["objects/info", "objects/pack", "refs/heads"] {
        fs::create_dir_all(path.join(below))?;
    }
    fs::write(path.join("HEAD"), "ref: refs/heads/main\n")?;
    fs::write(path.join("objects/info/alternates"), objects + "\n")?;
    let version = if format == "sha1" { "0" } else { "1" };
    let extensions = match format.as_str() {
        "sha1" => String::new(),
        format => format!("[extensions]\n\tobjectFormat = {format}\n"),
    };
    let config =
        format!("[core]\n\trepositoryFormatVersion = {version}\n\tbare = true\n{extensions}");
    fs::write(path.join("config"), config)?;
    Ok(borrower)
}
