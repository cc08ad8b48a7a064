//! What must hold before `destroy` deletes a repository.
//!
//! A receipt of `data-drain` covers the Git history: every reference, and every object that they
//! reach (`git clone --mirror`, as one bundle). It covers nothing that the forge keeps beside the
//! history: issues, pull requests, releases, the wiki, discussions, and the content of Git LFS.
//!
//! **Invariant:** what no receipt covers is deleted only if the document discards it by name of the
//! policy (`dataOnDestroy: discard`).

use std::path::Path;

use keyring::GitOrigin;

use crate::Error;
use crate::forge::Found;
use crate::git;
use crate::model::{Readable, Refusal};
use crate::refused;
use crate::remote::{Forge, Remote};

/// What the forge keeps of a repository beside its history, in the words of an error.
pub(crate) fn beside_history(
    remote: &Remote,
    found: &Found,
    origin: &GitOrigin<'_>,
) -> Result<Vec<String>, Error> {
    let mut held = Vec::new();
    let settings = &found.settings;
    // A tracker or wiki that is switched off answers 404 or 410, and holds nothing that is in use.
    let lists: &[(&str, &str, bool)] = match remote.forge {
        Forge::GitHub => &[
            ("/issues?state=all&per_page=1", "issues", settings.issues == Some(false)),
            ("/pulls?state=all&per_page=1", "pull requests", false),
            ("/releases?per_page=1", "releases", false),
        ],
        Forge::Gitea => &[
            ("/issues?state=all&type=issues&limit=1", "issues", settings.issues == Some(false)),
            ("/pulls?state=all&limit=1", "pull requests", !found.pull_requests || found.empty),
            ("/releases?limit=1", "releases", !found.releases),
            // 404 is also the answer for a wiki without a page.
            ("/wiki/pages?limit=1", "a wiki", true),
        ],
    };
    for (below, what, may_be_off) in lists {
        let answer = remote.client.get(&remote.path(below))?;
        let off = *may_be_off && [404, 410].contains(&answer.status);
        if off {
            continue;
        }
        let answer = answer.expect(&[200])?;
        let items = answer.body.as_array().ok_or_else(|| answer.lacks("a list"))?;
        held.extend((!items.is_empty()).then(|| (*what).to_owned()));
    }
    if remote.forge == Forge::GitHub && settings.wiki != Some(false) {
        held.extend(has_wiki(origin)?.then(|| "a wiki".to_owned()));
    }
    if found.discussions {
        held.push("discussions, which the forge does not list".to_owned());
    }
    let files = lfs_files(origin)?;
    if let Some(first) = files.first() {
        held.push(format!("{} files in Git LFS, for example {first}", files.len()));
    }
    Ok(held)
}

/// GitHub keeps a wiki in a Git repository of its own, which is there once the wiki has a page.
/// <https://docs.github.com/en/communities/documenting-your-project-with-wikis/adding-or-editing-wiki-pages>
fn has_wiki(origin: &GitOrigin<'_>) -> Result<bool, Error> {
    let url = origin.url.as_str();
    let wiki = format!("{}.wiki.git", url.strip_suffix(".git").unwrap_or(url));
    let Ok(url) = wiki.try_into() else { return Ok(false) };
    match git::remote(&GitOrigin { url: &url, token: origin.token }, "master")? {
        Readable::Value(_) => Ok(true),
        Readable::Denied(Refusal { reason: refused::HIDDEN, .. }) => Ok(false),
        Readable::Denied(refusal) => Err(Error::Blocked(vec![refusal])),
    }
}

/// The files of the whole history whose content is in Git LFS. The history here may be another one,
/// so this reads the forge's: only files as small as a pointer, where the forge can leave out others.
fn lfs_files(origin: &GitOrigin<'_>) -> Result<Vec<String>, Error> {
    let scratch = tempfile::Builder::new().prefix("holistic-lfs-").tempdir();
    let scratch = scratch.map_err(Error::NoGit)?;
    let mirror = scratch.path().join("mirror.git");
    let folder = mirror.to_string_lossy();
    let small = "--filter=blob:limit=1024";
    let clone = ["clone", "--progress", "--mirror", small, origin.url.as_str(), &folder];
    let cloned = git::run_at(&clone, scratch.path(), origin)?;
    if !cloned.success {
        let message = cloned.message();
        return Err(Error::GitFailed { command: "clone".to_owned(), message });
    }
    // Without its remote, the mirror is an ordinary repository in which large files are missing.
    for section in ["remote.origin", "extensions"] {
        let arguments = ["config", "--remove-section", section];
        keyring::git(&arguments, &mirror, None).map_err(Error::NoGit)?;
    }
    Ok(git::pointers(Path::new(&*folder), &["--all"])?.into_iter().collect())
}
