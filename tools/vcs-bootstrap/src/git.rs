//! The history: the real `git`, on the repository in the current directory.

use std::io;
use std::path::Path;

use keyring::{GIT_TIME_MAX, GitEnded, GitOrigin};

use crate::Error;
use crate::model::Head;

/// The commit of `branch` here.
pub(crate) fn commit(branch: &str) -> Result<String, Error> {
    let missing = |what: String, help: &str| Error::NoHistory { what, help: help.to_owned() };
    let inside = run(&["rev-parse", "--is-shallow-repository"], None)?;
    match inside.text.as_str() {
        "false" => {}
        "true" => {
            let what = "this is a shallow clone: what came before is not here to be pushed";
            let help = "`git fetch --unshallow`; with actions/checkout, `fetch-depth: 0`";
            return Err(missing(what.to_owned(), help));
        }
        _ => {
            let what = format!("there is no Git repository here: {}", inside.message());
            return Err(missing(what, "run this at the root of the repository, or `git init`"));
        }
    }
    let revision = format!("refs/heads/{branch}^{{commit}}");
    let found = run(&["rev-parse", "--verify", "--quiet", &revision], None)?;
    if found.success {
        return Ok(found.text);
    }
    let head = run(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], None)?;
    if !head.success {
        let what = format!("this Git repository has no commit on {branch} yet");
        return Err(missing(what, "commit something first"));
    }
    let on = run(&["symbolic-ref", "--quiet", "--short", "HEAD"], None)?;
    let at = if on.success { format!("on {}", on.text) } else { "detached".to_owned() };
    let what = format!("there is no branch {branch} here; HEAD is {at} at {}", head.text);
    let help = format!("`git branch {branch}` makes one of it, or declare another branch");
    Err(Error::NoHistory { what, help })
}

/// Where `branch` of the forge stands, seen from `commit` here.
pub(crate) fn head(origin: &GitOrigin<'_>, branch: &str, commit: &str) -> Result<Head, Error> {
    let Some(there) = remote(origin, branch)? else { return Ok(Head::Absent) };
    if there == commit {
        return Ok(Head::Same);
    }
    let here = run(&["cat-file", "-e", &format!("{there}^{{commit}}")], None)?;
    let is_ancestor = |of: &str, old: &str| {
        run(&["merge-base", "--is-ancestor", old, of], None).map(|it| it.success)
    };
    Ok(if !here.success {
        Head::Elsewhere(there)
    } else if is_ancestor(commit, &there)? {
        Head::Behind(there)
    } else if is_ancestor(&there, commit)? {
        Head::Ahead(there)
    } else {
        Head::Elsewhere(there)
    })
}

/// The commit of `branch` at the forge, if it has it.
pub(crate) fn remote(origin: &GitOrigin<'_>, branch: &str) -> Result<Option<String>, Error> {
    let reference = format!("refs/heads/{branch}");
    let listed = run(&["ls-remote", "--quiet", origin.url.as_str(), &reference], Some(origin))?;
    if !listed.success {
        return Err(failed("ls-remote", &listed));
    }
    let found = listed.text.lines().filter_map(|it| it.split_once('\t'));
    Ok(found.filter(|it| it.1 == reference).map(|it| it.0.to_owned()).next())
}

/// Every reference of the forge, and where it points, as git lists them.
pub(crate) fn refs(origin: &GitOrigin<'_>) -> Result<String, Error> {
    let listed = run(&["ls-remote", "--quiet", origin.url.as_str()], Some(origin))?;
    if listed.success { Ok(listed.text) } else { Err(failed("ls-remote", &listed)) }
}

/// Moves `branch` of the forge to `commit`; never back, never aside.
pub(crate) fn push(origin: &GitOrigin<'_>, branch: &str, commit: &str) -> Result<(), Error> {
    let refspec = format!("{commit}:refs/heads/{branch}");
    let arguments = ["push", "--quiet", "--no-verify", origin.url.as_str(), &refspec];
    let pushed = run(&arguments, Some(origin))?;
    if pushed.success {
        return Ok(());
    }
    let message = pushed.message();
    let refused = ["GH013", "protected branch", "pre-receive hook declined", "[rejected]"];
    if refused.iter().any(|it| message.contains(it)) {
        return Err(Error::PushRefused { branch: branch.to_owned(), message });
    }
    Err(failed("push", &pushed))
}

fn failed(command: &str, ended: &GitEnded) -> Error {
    Error::GitFailed { command: command.to_owned(), message: ended.message() }
}

/// Runs git, with the way to `origin` if it needs one.
fn run(arguments: &[&str], origin: Option<&GitOrigin<'_>>) -> Result<GitEnded, Error> {
    keyring::git(arguments, Path::new("."), origin).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => {
            let command = arguments.first().copied().unwrap_or_default().to_owned();
            Error::GitSlow { command, seconds: GIT_TIME_MAX.as_secs() }
        }
        _ => Error::NoGit(error),
    })
}
