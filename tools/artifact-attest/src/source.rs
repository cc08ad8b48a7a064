//! Where something is made from: a commit, not a folder.

use std::collections::BTreeMap;
use std::io::{Cursor, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::tool;

/// The last commit that touched a folder, and the folder in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Where the repository is on this machine. Never in anything that is published.
    pub(crate) root: PathBuf,
    /// The folder in the repository, without a slash at either end; empty at its root.
    pub(crate) folder: String,
    /// The commit.
    pub(crate) rev: String,
}

/// Largest file of manifests, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

impl Source {
    /// The commit that `path` shows. Not an approximation of it: a folder with changes that
    /// nobody can fetch is refused, and so is a history that ends too early to tell.
    pub(crate) fn look(document: &str, path: &Path) -> Result<Self, Error> {
        let shown = path.display().to_string();
        let git = |arguments: &[&str]| {
            let arguments = [&["-C", &shown], arguments].concat();
            let ended = tool::run(document, "git", arguments)?;
            if ended.code == Some(0) {
                Ok(ended.text())
            } else {
                Err(Error::Git { path: path.to_owned(), said: ended.said })
            }
        };
        let place = ["--show-toplevel", "--is-shallow-repository", "--show-prefix"];
        let place = git(&[&["rev-parse"], &place[..]].concat())?;
        let mut place = place.lines();
        let (root, shallow) = (place.next().unwrap_or_default(), place.next());
        if shallow == Some("true") {
            return Err(Error::Shallow { root: root.into() });
        }
        let folder = place.next().unwrap_or_default(); // no line at the root, for it is empty
        let rev = git(&["log", "-1", "--format=%H", "--", "."])?;
        let changes = git(&["status", "--porcelain", "--untracked-files=all", "--", "."])?;
        if rev.is_empty() || !changes.is_empty() {
            let changes = changes.lines().take(5).map(str::to_owned).collect();
            return Err(Error::Dirty { path: path.to_owned(), changes });
        }
        let folder = folder.trim_end_matches('/').to_owned();
        Ok(Self { root: root.into(), folder, rev })
    }

    /// A file in the folder of that commit, if there is one.
    pub(crate) fn file(&self, document: &str, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path =
            if self.folder.is_empty() { name.into() } else { format!("{}/{name}", self.folder) };
        let root = self.root.display().to_string();
        let listed = tool::run(document, "git", ["-C", &root, "ls-tree", &self.rev, "--", &path])?;
        if listed.code != Some(0) {
            return Err(Error::Git { path: self.root.clone(), said: listed.said });
        }
        if listed.stdout.is_empty() {
            return Ok(None);
        }
        let object = format!("{}:{path}", self.rev);
        let shown = tool::run(document, "git", ["-C", &root, "cat-file", "blob", &object])?;
        match shown.code {
            Some(0) => Ok(Some(shown.stdout)),
            _ => Err(Error::Git { path: self.root.clone(), said: shown.said }),
        }
    }

    /// The `*.yaml` in the folder of that commit, at any depth, by path.
    pub(crate) fn manifests(&self, document: &str) -> Result<BTreeMap<String, String>, Error> {
        let tree = format!("{}:{}", self.rev, self.folder);
        let root = self.root.display().to_string();
        let archive = tool::run(document, "git", ["-C", &root, "archive", "--format=tar", &tree])?;
        if archive.code != Some(0) {
            return Err(Error::Git { path: self.root.clone(), said: archive.said });
        }
        yaml(&archive.stdout).map_err(|source| Error::Unreadable { what: tree, source })
    }
}

/// The `*.yaml` in `path` as they lie there now, committed or not.
pub(crate) fn worktree(document: &str, path: &Path) -> Result<BTreeMap<String, String>, Error> {
    let shown = path.display().to_string();
    let all = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "."];
    let listed = tool::run(document, "git", [&["-C", &shown], &all[..]].concat())?;
    if listed.code != Some(0) {
        return Err(Error::Git { path: path.to_owned(), said: listed.said });
    }
    let mut files = BTreeMap::new();
    for name in listed.text().split('\0').filter(|it| is_yaml(it)) {
        match std::fs::read_to_string(path.join(name)) {
            Ok(text) => files.insert(name.to_owned(), text),
            Err(error) if error.kind() == ErrorKind::NotFound => None, // deleted, not yet committed
            Err(source) => return Err(Error::Unreadable { what: name.to_owned(), source }),
        };
    }
    Ok(files)
}

/// The `*.yaml` in a tar archive. Anything else, links included, is left out.
pub(crate) fn yaml(archive: &[u8]) -> std::io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(Cursor::new(archive)).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        if entry.header().entry_type().is_file() && is_yaml(&path) {
            let mut text = String::new();
            entry.by_ref().take(FILE_BYTES_MAX).read_to_string(&mut text)?;
            files.insert(path, text);
        }
    }
    Ok(files)
}

pub(crate) fn is_yaml(path: &str) -> bool {
    let extension = Path::new(path).extension();
    extension.is_some_and(|it| it == "yaml" || it == "yml")
}
