//! Where something is made from: a commit, not a folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::git::{Git, Kind};
use crate::tree::{FILE_BYTES_MAX, Node, Tree};

/// A commit, and a folder in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// The repository on this machine. Never in anything that is published.
    pub(crate) git: Git,
    /// The folder in the repository, without a slash at either end; empty at its root.
    pub(crate) folder: String,
    /// The commit: the last one that touched the folder, unless [`Self::at`] names another.
    pub(crate) rev: String,
    /// The commit that is checked out.
    pub(crate) head: String,
}

impl Source {
    /// The commit that `path` shows. A folder with changes that are in no commit is refused, and so
    /// is a history that ends too early to tell.
    pub(crate) fn look(document: &str, path: &Path) -> Result<Self, Error> {
        let here = Git::new(document, path);
        let place = ["rev-parse", "--show-toplevel", "--is-shallow-repository", "--show-prefix"];
        let place = here.text(&place)?;
        let mut place = place.lines();
        let (root, shallow) = (place.next().unwrap_or_default(), place.next());
        let root = PathBuf::from(root);
        if shallow == Some("true") {
            return Err(Error::Shallow { root });
        }
        let folder = place.next().unwrap_or_default(); // no line at the root, for it is empty
        let folder = folder.trim_end_matches('/').to_owned();
        let git = Git::new(document, &root);
        let head = git.run(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], &[], b"")?;
        let head = head.text();
        let rev = if head.is_empty() { String::new() } else { git.last_touched(&folder)? };
        if rev.is_empty() {
            let changes = vec!["all of it".to_owned()];
            return Err(Error::Dirty { path: path.to_owned(), changes });
        }
        let changes = git.changes(&folder)?;
        if !changes.is_empty() {
            return Err(Error::Dirty { path: path.to_owned(), changes });
        }
        Ok(Self { git, folder, rev, head })
    }

    /// The same folder in another commit.
    pub(crate) fn at(&self, rev: &str) -> Self {
        Self { rev: rev.to_owned(), ..self.clone() }
    }

    /// A file in the folder of that commit, if there is one.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let entries = self.git.entries(&self.rev, &self.folder)?;
        let Some(entry) = entries.iter().find(|entry| entry.path == name) else { return Ok(None) };
        Ok(self.git.blobs(&[&entry.object])?.remove(&entry.object))
    }

    /// Everything in the folder of that commit, at any depth, by path.
    pub(crate) fn tree(&self) -> Result<Tree, Error> {
        let entries = self.git.entries(&self.rev, &self.folder)?;
        let is_read = |size: u64| size <= FILE_BYTES_MAX;
        let files = entries.iter().filter(|entry| entry.kind == Kind::File && is_read(entry.size));
        let objects: Vec<_> = files.map(|entry| entry.object.as_str()).collect();
        let blobs = self.git.blobs(&objects)?;
        let node = |kind, object: &str| match (kind, blobs.get(object)) {
            (Kind::File, Some(content)) => Node::File(content.clone()),
            (Kind::File, None) => Node::TooLarge,
            (Kind::Link, _) => Node::Link,
            (Kind::Submodule, _) => Node::Submodule,
        };
        let nodes =
            entries.iter().map(|entry| (entry.path.clone(), node(entry.kind, &entry.object)));
        Ok(nodes.collect())
    }
}

/// What is declared by `path`: what the commit holds, unless something is in no commit yet. Filters
/// make files look different in a working tree.
pub(crate) fn shown(document: &str, path: &Path) -> Result<Tree, Error> {
    match Source::look(document, path) {
        Ok(source) => source.tree(),
        Err(_) => worktree(document, path),
    }
}

/// Everything in `path` as it lies there now, committed or not.
fn worktree(document: &str, path: &Path) -> Result<Tree, Error> {
    let git = Git::new(document, path);
    let all = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "."];
    let listed = git.run(&all, &[], b"")?;
    if listed.code != Some(0) {
        return Err(Error::Git { path: path.to_owned(), said: listed.said });
    }
    let mut tree = BTreeMap::new();
    for name in listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = String::from_utf8_lossy(name).trim_end_matches('/').to_owned();
        let file = path.join(&name);
        let Ok(there) = fs::symlink_metadata(&file) else { continue }; // deleted, not yet committed
        let node = if there.is_symlink() {
            Node::Link
        } else if there.is_dir() {
            Node::Submodule
        } else if there.len() > FILE_BYTES_MAX {
            Node::TooLarge
        } else {
            let content = fs::read(&file);
            Node::File(content.map_err(|source| Error::Unreadable { what: name.clone(), source })?)
        };
        tree.insert(name, node);
    }
    Ok(tree)
}
