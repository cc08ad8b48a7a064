//! Finds contents that no drain receipt covers, before `destroy` deletes a repository.
//!
//! A receipt of `data-drain` covers the Git history: every reference, and every object that the
//! references reach (`git clone --mirror`, as one bundle). It does not cover issues, pull requests,
//! releases, the wiki, discussions, and the content of Git LFS.
//!
//! **Invariant:** contents that no receipt covers are deleted only if the document declares
//! `dataOnDestroy: discard`.

use std::collections::BTreeSet;
use std::path::Path;

use documents::Reason;

use ::git::Origin as GitOrigin;

use crate::Error;
use crate::clients::connection::{Forge, Remote};
use crate::clients::forge::ForgeRepository;
use crate::clients::{git, lfs};
use crate::model::{Readable, Refusal};

/// Returns the contents of the repository beside its Git history, as an error lists them.
pub(crate) fn beside_history(
    remote: &Remote,
    found: &ForgeRepository,
    origin: &GitOrigin<'_>,
) -> Result<Vec<String>, Error> {
    let mut held = Vec::new();
    let settings = &found.settings;
    // The forge answers 404 or 410 for an issue tracker or wiki that is switched off.
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

/// Whether the repository has a wiki. GitHub keeps a wiki in a separate Git repository, which exists once
/// the wiki has a page.
/// <https://docs.github.com/en/communities/documenting-your-project-with-wikis/adding-or-editing-wiki-pages>
fn has_wiki(origin: &GitOrigin<'_>) -> Result<bool, Error> {
    let url = origin.url.as_str();
    let wiki = format!("{}.wiki.git", url.strip_suffix(".git").unwrap_or(url));
    let Ok(url) = wiki.try_into() else { return Ok(false) };
    match git::remote(&GitOrigin { url: &url, token: origin.token }, "master")? {
        Readable::Value(_) => Ok(true),
        Readable::Denied(Refusal { reason: Reason::NotFound, .. }) => Ok(false),
        Readable::Denied(refusal) => Err(Error::Blocked(vec![refusal])),
    }
}

/// Returns the files of the whole history whose content is in Git LFS. The local history may be another
/// one, so this clones the forge's. A filter limits the clone to files as small as a pointer, where the
/// forge supports filters.
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
    // Without these settings, Git would fetch every large file that it finds missing.
    for section in ["remote.origin", "extensions"] {
        let arguments = ["config", "--remove-section", section];
        ::git::run(&arguments, &mirror, None).map_err(Error::NoGit)?;
    }
    let pointers = lfs::pointers(Path::new(&*folder), &["--all"])?;
    let files: BTreeSet<_> = pointers.into_iter().map(|(path, _)| path).collect();
    Ok(files.into_iter().collect())
}
