//! The history: the real `git`, on the repository in the current directory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use documents::WritePermit;
use keyring::{GIT_TIME_MAX, GitEnded, GitOrigin};

use crate::Error;
use crate::model::{Head, Refusal, Section};
use crate::refused::{self, Verdict};

/// How large a Git LFS pointer may be, in bytes.
/// <https://github.com/git-lfs/git-lfs/blob/v3.7.0/docs/spec.md>: "less than 1024 bytes".
const POINTER_BYTES_MAX: &str = "1024";
/// How a Git LFS pointer begins; the older name is still read by every client (same document).
const POINTER_STARTS: [&[u8]; 2] =
    [b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/"];
/// How many files an error names.
const FILES_NAMED_MAX: usize = 5;

/// The commit of `branch` here.
pub(crate) fn commit(branch: &str) -> Result<String, Error> {
    let missing = |what: String, help: &str| Error::NoHistory { what, help: help.to_owned() };
    let inside = run(&["rev-parse", "--is-shallow-repository"])?;
    match inside.text.as_str() {
        "false" => {}
        "true" => {
            let what = "this is a shallow clone: what came before is not here to be pushed";
            let help = "`git fetch --unshallow`; with actions/checkout, `fetch-depth: 0`";
            return Err(missing(what.to_owned(), help));
        }
        _ if inside.said.contains("dubious ownership") => {
            let what = "the Git repository here belongs to another user, so git does not use it";
            let help = "`git config --global --add safe.directory \"$PWD\"`, if you trust it";
            return Err(missing(what.to_owned(), help));
        }
        _ => {
            let what = format!("there is no Git repository here: {}", inside.message());
            return Err(missing(what, "run this at the root of the repository, or `git init`"));
        }
    }
    let revision = format!("refs/heads/{branch}^{{commit}}");
    let found = run(&["rev-parse", "--verify", "--quiet", &revision])?;
    if found.success {
        return Ok(found.text);
    }
    let head = run(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])?;
    if !head.success {
        let what = format!("this Git repository has no commit on {branch} yet");
        return Err(missing(what, "commit something first"));
    }
    let on = run(&["symbolic-ref", "--quiet", "--short", "HEAD"])?;
    let at = if on.success { format!("on {}", on.text) } else { "detached".to_owned() };
    let what = format!("there is no branch {branch} here; HEAD is {at} at {}", head.text);
    let help = format!("`git branch {branch}` makes one of it, or declare another branch");
    Err(Error::NoHistory { what, help })
}

/// Where `branch` of the forge stands, seen from `commit` here.
pub(crate) fn head(
    origin: &GitOrigin<'_>,
    branch: &str,
    commit: Option<&String>,
) -> Result<Section<Head>, Error> {
    let there = match remote(origin, branch)? {
        Section::Unknown(refusal) => return Ok(Section::Unknown(refusal)),
        Section::Known(None) => return Ok(Section::Known(Head::Absent)),
        Section::Known(Some(there)) => there,
    };
    let Some(commit) = commit else { return Ok(Section::Known(Head::Elsewhere(there))) };
    if there == *commit {
        return Ok(Section::Known(Head::Same));
    }
    let here = run(&["cat-file", "-e", &format!("{there}^{{commit}}")])?;
    let is_ancestor = |new: &str, old: &str| {
        run(&["merge-base", "--is-ancestor", old, new]).map(|answer| answer.success)
    };
    Ok(Section::Known(if !here.success {
        Head::Elsewhere(there)
    } else if is_ancestor(commit, &there)? {
        Head::Behind(there)
    } else if is_ancestor(&there, commit)? {
        Head::Ahead(there)
    } else {
        Head::Elsewhere(there)
    }))
}

/// The commit of `branch` at the forge, if it has the branch and lets the token see it.
pub(crate) fn remote(
    origin: &GitOrigin<'_>,
    branch: &str,
) -> Result<Section<Option<String>>, Error> {
    let reference = format!("refs/heads/{branch}");
    Ok(match list(origin, &[&reference])? {
        Section::Unknown(refusal) => Section::Unknown(refusal),
        Section::Known(text) => {
            let found = text.lines().filter_map(|line| line.split_once('\t'));
            let mut found = found.filter(|(_, name)| *name == reference);
            Section::Known(found.next().map(|(commit, _)| commit.to_owned()))
        }
    })
}

/// Every reference of the forge, and where it points, as git lists them.
pub(crate) fn refs(origin: &GitOrigin<'_>) -> Result<String, Error> {
    match list(origin, &[])? {
        Section::Known(text) => Ok(text),
        Section::Unknown(refusal) => Err(Error::Blocked(vec![refusal])),
    }
}

/// Runs `git ls-remote`. A refusal for good is data: the rest of a plan does not depend on it.
fn list(origin: &GitOrigin<'_>, patterns: &[&str]) -> Result<Section<String>, Error> {
    let arguments = [&["ls-remote", "--quiet", origin.url.as_str()], patterns].concat();
    let listed = run_at(&arguments, Path::new("/"), origin)?;
    if listed.success {
        return Ok(Section::Known(listed.text));
    }
    match refused::listing(&listed.said) {
        Some(Verdict { reason, help }) => Ok(Section::Unknown(Refusal {
            reason,
            what: format!("the history at {} may not be read: {}", origin.url, listed.message()),
            help: help.to_owned(),
        })),
        None => Err(failed("ls-remote", &listed)),
    }
}

/// Moves `branch` of the forge to `commit`; never back, never aside. A refusal is final: the same
/// push would be refused again.
pub(crate) fn push(
    origin: &GitOrigin<'_>,
    branch: &str,
    commit: &str,
    _: &WritePermit,
) -> Result<(), Error> {
    let refspec = format!("{commit}:refs/heads/{branch}");
    documents::check_interrupt()?;
    let pushed = keyring::git_push(Path::new("."), origin, &refspec);
    let pushed = pushed.map_err(|error| not_run("push", error))?;
    if pushed.success {
        return Ok(());
    }
    let (branch, message) = (branch.to_owned(), said(&pushed));
    match refused::push(&pushed.text, &pushed.said) {
        Some(verdict) => Err(Error::PushRefused { branch, message, verdict }),
        None => Err(Error::GitFailed { command: "push".to_owned(), message }),
    }
}

/// What git said of a push: its messages, and its line for each reference that was refused.
fn said(pushed: &GitEnded) -> String {
    let lines = pushed.text.lines().filter_map(|line| line.strip_prefix("!\t"));
    let lines = lines.map(|line| line.replace('\t', " "));
    let all: Vec<_> = lines.chain(Some(pushed.message())).collect();
    all.join("; ").chars().take(800).collect()
}

/// Why the history up to `commit` cannot be pushed whole, if it cannot: objects that are not here,
/// or content that Git LFS keeps elsewhere. `from` is where the forge is already.
pub(crate) fn unpushable(commit: &str, from: Option<&str>) -> Result<Option<Refusal>, Error> {
    let here = Path::new(".");
    let range: Vec<_> =
        Some(commit.to_owned()).into_iter().chain(from.map(|from| format!("^{from}"))).collect();
    let range: Vec<_> = range.iter().map(String::as_str).collect();
    if keyring::git_is_partial(here).map_err(|error| not_run("config", error))? {
        let objects = [&["rev-list", "--objects", "--missing=print"], &*range].concat();
        let listed = run(&objects)?;
        if !listed.success || listed.text.lines().any(|line| line.starts_with('?')) {
            return Ok(Some(Refusal {
                reason: "HistoryIncomplete",
                what: "this is a partial clone, and some objects of the history are not here"
                    .to_owned(),
                help: "clone the repository again without `--filter`".to_owned(),
            }));
        }
    }
    let files = pointers(here, &range)?;
    if files.is_empty() {
        return Ok(None);
    }
    let named: Vec<_> = files.iter().take(FILES_NAMED_MAX).map(String::as_str).collect();
    let more = match files.len().saturating_sub(FILES_NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Ok(Some(Refusal {
        reason: "LfsNotSupported",
        what: format!(
            "Git LFS keeps the content of {}{more} outside the history, and only the history would \
             be pushed",
            named.join(", ")
        ),
        help: "declare `history: {push: never}`, apply, and push with git-lfs yourself; or take \
               the files out of LFS: `git lfs migrate export --everything --include='*'`"
            .to_owned(),
    }))
}

/// The files that are Git LFS pointers in any commit of `range`, in the repository in `folder`.
pub(crate) fn pointers(folder: &Path, range: &[&str]) -> Result<BTreeSet<String>, Error> {
    let small = format!("--filter=blob:limit={POINTER_BYTES_MAX}");
    let blobs = [
        "rev-list",
        "--objects",
        "--filter=object:type=blob",
        &small,
        "--filter-provided-objects",
        "--missing=allow-any",
    ];
    let listed = keyring::git(&[&blobs, range].concat(), folder, None);
    let listed = listed.map_err(|error| not_run("rev-list", error))?;
    if !listed.success {
        return Err(failed("rev-list", &listed));
    }
    let paths: BTreeMap<_, _> =
        listed.text.lines().filter_map(|line| line.split_once(' ')).collect();
    let input: String = paths.keys().flat_map(|blob| [*blob, "\n"]).collect();
    let contents = keyring::git_with_input(&["cat-file", "--batch"], folder, input.as_bytes());
    let contents = contents.map_err(|error| not_run("cat-file", error))?;
    if !contents.success {
        return Err(failed("cat-file", &contents));
    }
    // Each object is a line `<id> <type> <size>`, its content, and a line break. A file that only
    // quotes a pointer is not one: a pointer's first line follows the object's line.
    let mut lines = contents.text.lines().peekable();
    let mut found = BTreeSet::new();
    while let Some(line) = lines.next() {
        let mut words = line.split(' ');
        let path = words.next().and_then(|blob| paths.get(blob));
        let (Some(path), Some("blob")) = (path, words.next()) else { continue };
        let first = lines.peek().map_or(&[][..], |line| line.as_bytes());
        if POINTER_STARTS.iter().any(|start| first.starts_with(start)) {
            found.insert((*path).to_owned());
        }
    }
    Ok(found)
}

fn failed(command: &str, ended: &GitEnded) -> Error {
    Error::GitFailed { command: command.to_owned(), message: ended.message() }
}

/// Runs git on the repository here, without a way to any network.
fn run(arguments: &[&str]) -> Result<GitEnded, Error> {
    let ended = keyring::git(arguments, Path::new("."), None);
    ended.map_err(|error| not_run(arguments[0], error))
}

/// Runs git with the way to `origin`.
pub(crate) fn run_at(
    arguments: &[&str],
    folder: &Path,
    origin: &GitOrigin<'_>,
) -> Result<GitEnded, Error> {
    documents::check_interrupt()?;
    let ended = keyring::git(arguments, folder, Some(origin));
    ended.map_err(|error| not_run(arguments[0], error))
}

fn not_run(command: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut => {
            Error::GitSlow { command: command.to_owned(), seconds: GIT_TIME_MAX.as_secs() }
        }
        io::ErrorKind::InvalidInput => Error::TokenUnusable { why: error.to_string() },
        _ => Error::NoGit(error),
    }
}
