//! Git history: runs `git` on the repository in the current directory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use ::git::{Ended as GitEnded, Origin as GitOrigin, TIME_MAX as GIT_TIME_MAX};
use documents::{Reason, WritePermit};

use crate::Error;
use crate::model::{Head, Readable, Refusal};
use crate::refused::{self, Verdict};
use crate::spec::Pattern;

/// Prefix of branches among the references.
pub(crate) const HEADS: &str = "refs/heads/";
/// Prefix of tags among the references.
pub(crate) const TAGS: &str = "refs/tags/";
/// Number of files that an error names.
pub(crate) const FILES_NAMED_MAX: usize = 5;

/// Returns the commit of the local branch.
pub(crate) fn commit(branch: &str) -> Result<String, Error> {
    let missing = |what: String, help: &str| Error::NoHistory { what, help: help.to_owned() };
    let inside = run(&["rev-parse", "--is-shallow-repository"])?;
    match inside.text.as_str() {
        "false" => {}
        "true" => {
            let what = "this is a shallow clone, which lacks older commits that must be pushed";
            let help = "run `git fetch --unshallow`; with actions/checkout, set `fetch-depth: 0`";
            return Err(missing(what.to_owned(), help));
        }
        _ if inside.said.contains("dubious ownership") => {
            let what = "the Git repository belongs to another user, so git rejects it";
            let help = "run `git config --global --add safe.directory \"$PWD\"` if you trust the repository";
            return Err(missing(what.to_owned(), help));
        }
        _ => {
            let what =
                format!("the current directory is not in a Git repository: {}", inside.message());
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
        return Err(missing(what, "create a first commit"));
    }
    let on = run(&["symbolic-ref", "--quiet", "--short", "HEAD"])?;
    let at = if on.success { format!("on {}", on.text) } else { "detached".to_owned() };
    let what = format!("there is no local branch {branch}; HEAD is {at} at {}", head.text);
    let help = format!(
        "run `git branch {branch}` to create the branch at HEAD, or declare another branch"
    );
    Err(Error::NoHistory { what, help })
}

/// Returns the local tags of commits in the history of `commit`, with their objects. `patterns` selects
/// tags by name; `None` selects all.
pub(crate) fn tags(
    commit: &str,
    patterns: Option<&BTreeSet<Pattern>>,
) -> Result<BTreeMap<String, String>, Error> {
    let merged = format!("--merged={commit}");
    let format = "--format=%(objectname) %(refname:strip=2)";
    let listed = run(&["for-each-ref", &merged, format, "refs/tags"])?;
    if !listed.success {
        return Err(failed("for-each-ref", &listed));
    }
    let tags = listed.text.lines().filter_map(|line| line.split_once(' '));
    let is_selected =
        |name: &str| patterns.is_none_or(|all| all.iter().any(|pattern| pattern.matches(name)));
    let tags = tags.filter(|(_, name)| is_selected(name));
    Ok(tags.map(|(object, name)| (name.to_owned(), object.to_owned())).collect())
}

/// Compares the commit `there` of the forge's branch with the local `commit`.
pub(crate) fn head(there: Option<&String>, commit: Option<&String>) -> Result<Head, Error> {
    let Some(there) = there.cloned() else { return Ok(Head::Absent) };
    let Some(commit) = commit else { return Ok(Head::Elsewhere(there)) };
    if there == *commit {
        return Ok(Head::Same);
    }
    let here = run(&["cat-file", "-e", &format!("{there}^{{commit}}")])?;
    let is_ancestor = |new: &str, old: &str| {
        run(&["merge-base", "--is-ancestor", old, new]).map(|answer| answer.success)
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

/// References of a forge.
#[derive(Debug, Default)]
pub(crate) struct References {
    /// Commits of the branches that were asked for, by name.
    pub(crate) branches: BTreeMap<String, String>,
    /// Objects of all tags, by name.
    pub(crate) tags: BTreeMap<String, String>,
    /// Whether the default branch exists, so that the repository is not empty.
    pub(crate) has_head: bool,
}

/// Reads `branches`, all tags and the existence of the default branch from the forge.
pub(crate) fn references(
    origin: &GitOrigin<'_>,
    branches: &[&str],
) -> Result<Readable<References>, Error> {
    let heads: Vec<_> = branches.iter().map(|branch| format!("{HEADS}{branch}")).collect();
    let fixed = ["HEAD", "refs/tags/*"].into_iter();
    let patterns: Vec<_> = heads.iter().map(String::as_str).chain(fixed).collect();
    Ok(match list(origin, &patterns)? {
        Readable::Denied(refusal) => Readable::Denied(refusal),
        Readable::Value(text) => {
            let mut seen = References::default();
            for (object, name) in text.lines().filter_map(|line| line.split_once('\t')) {
                // `^{}` is the commit of an annotated tag. A pattern also matches the end of a longer name.
                let branch = name.strip_prefix(HEADS).filter(|branch| branches.contains(branch));
                let tag = name.strip_prefix(TAGS).filter(|tag| !tag.ends_with("^{}"));
                seen.has_head |= name == "HEAD";
                seen.branches.extend(branch.map(|name| (name.to_owned(), object.to_owned())));
                seen.tags.extend(tag.map(|name| (name.to_owned(), object.to_owned())));
            }
            Readable::Value(seen)
        }
    })
}

/// Returns the commit of the forge's branch, if the branch exists and the token may read it.
pub(crate) fn remote(
    origin: &GitOrigin<'_>,
    branch: &str,
) -> Result<Readable<Option<String>>, Error> {
    let reference = format!("refs/heads/{branch}");
    Ok(match list(origin, &[&reference])? {
        Readable::Denied(refusal) => Readable::Denied(refusal),
        Readable::Value(text) => {
            let found = text.lines().filter_map(|line| line.split_once('\t'));
            let mut found = found.filter(|(_, name)| *name == reference);
            Readable::Value(found.next().map(|(commit, _)| commit.to_owned()))
        }
    })
}

/// Returns every reference of the forge with its object, as git lists them.
pub(crate) fn refs(origin: &GitOrigin<'_>) -> Result<String, Error> {
    match list(origin, &[])? {
        Readable::Value(text) => Ok(text),
        Readable::Denied(refusal) => Err(Error::Blocked(vec![refusal])),
    }
}

/// Runs `git ls-remote`. A permanent refusal is returned as data because the rest of a plan does
/// not depend on it.
fn list(origin: &GitOrigin<'_>, patterns: &[&str]) -> Result<Readable<String>, Error> {
    let arguments = [&["ls-remote", "--quiet", origin.url.as_str()], patterns].concat();
    let listed = run_at(&arguments, Path::new("/"), origin)?;
    if listed.success {
        return Ok(Readable::Value(listed.text));
    }
    match refused::listing(&listed.said) {
        Some(Verdict { reason, help }) => Ok(Readable::Denied(Refusal {
            reason,
            what: format!("the history at {} may not be read: {}", origin.url, listed.message()),
            help: help.to_owned(),
        })),
        None => Err(failed("ls-remote", &listed)),
    }
}

/// Moves the forge's branches and tags to `references`, each an object and the name of a reference: all of
/// them or none, and never by force. A refusal is permanent because the same push would fail again.
pub(crate) fn push(
    origin: &GitOrigin<'_>,
    references: &[(String, String)],
    _: &WritePermit,
) -> Result<(), Error> {
    let refspecs: Vec<_> =
        references.iter().map(|(object, name)| format!("{object}:{name}")).collect();
    let refspecs: Vec<_> = refspecs.iter().map(String::as_str).collect();
    documents::check_interrupt()?;
    let pushed = ::git::push(Path::new("."), origin, &refspecs);
    let pushed = pushed.map_err(|error| not_run("push", error))?;
    if pushed.success {
        return Ok(());
    }
    let names = references.iter().map(|(_, name)| name.strip_prefix(HEADS).unwrap_or(name));
    let branch = names.take(FILES_NAMED_MAX).collect::<Vec<_>>().join(", ");
    let message = said(&pushed);
    match refused::push(&pushed.text, &pushed.said) {
        Some(verdict) => Err(Error::PushRefused { branch, message, verdict }),
        None => Err(Error::GitFailed { command: "push".to_owned(), message }),
    }
}

/// Returns Git's messages about a push, with its line for each rejected reference.
fn said(pushed: &GitEnded) -> String {
    let lines = pushed.text.lines().filter_map(|line| line.strip_prefix("!\t"));
    let lines = lines.map(|line| line.replace('\t', " "));
    let all: Vec<_> = lines.chain(Some(pushed.message())).collect();
    all.join("; ").chars().take(800).collect()
}

/// Returns the arguments of `rev-list` for the commits up to `commit` that are not in the history of `from`.
pub(crate) fn range(commit: &str, from: Option<&str>) -> Vec<String> {
    Some(commit.to_owned()).into_iter().chain(from.map(|from| format!("^{from}"))).collect()
}

/// Returns the reason why the commits of `range` cannot be pushed completely, if this clone lacks objects.
pub(crate) fn incomplete(range: &[&str]) -> Result<Option<Refusal>, Error> {
    if !::git::is_partial(Path::new(".")).map_err(|error| not_run("config", error))? {
        return Ok(None);
    }
    let listed = run(&[&["rev-list", "--objects", "--missing=print"], range].concat())?;
    let is_complete = listed.success && !listed.text.lines().any(|line| line.starts_with('?'));
    Ok((!is_complete).then(|| Refusal {
        reason: Reason::HistoryIncomplete,
        what: "this is a partial clone, which lacks some objects of the history".to_owned(),
        help: "clone the repository again without `--filter`".to_owned(),
    }))
}

pub(crate) fn failed(command: &str, ended: &GitEnded) -> Error {
    Error::GitFailed { command: command.to_owned(), message: ended.message() }
}

/// Runs git on the local repository, without network access.
pub(crate) fn run(arguments: &[&str]) -> Result<GitEnded, Error> {
    let ended = ::git::run(arguments, Path::new("."), None);
    ended.map_err(|error| not_run(arguments[0], error))
}

/// Runs git with the credential for `origin`.
pub(crate) fn run_at(
    arguments: &[&str],
    folder: &Path,
    origin: &GitOrigin<'_>,
) -> Result<GitEnded, Error> {
    documents::check_interrupt()?;
    let ended = ::git::run(arguments, folder, Some(origin));
    ended.map_err(|error| not_run(arguments[0], error))
}

pub(crate) fn not_run(command: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut => {
            Error::GitSlow { command: command.to_owned(), seconds: GIT_TIME_MAX.as_secs() }
        }
        io::ErrorKind::InvalidInput => Error::TokenUnusable { why: error.to_string() },
        _ => Error::NoGit(error),
    }
}
