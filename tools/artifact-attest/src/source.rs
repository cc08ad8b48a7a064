//! The source of an artifact: a commit, not a working folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::git::{Git, Kind};
use crate::tree::{FILE_BYTES_MAX, Node, Tree};

/// A commit, and a folder inside of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Repository on this machine. Its path never appears in published content.
    pub(crate) git: Git,
    /// Path of the folder inside the repository, without leading or trailing slash; empty at the
    /// root.
    pub(crate) folder: String,
    /// Hash of the commit: the last one that touched the folder, unless [`Self::at`] chose another.
    pub(crate) rev: String,
    /// Hash of the checked-out commit.
    pub(crate) head: String,
}

impl Source {
    /// Finds the last commit that touched `path`. Fails on uncommitted changes, and on a shallow
    /// clone, where the last commit is unknown.
    pub(crate) fn find(document: &str, path: &Path) -> Result<Self, Error> {
        let (git, folder, head) = repository(document, path)?;
        let rev = if head.is_empty() { String::new() } else { git.last_touched(&folder)? };
        if rev.is_empty() {
            let changes = vec!["the whole folder".to_owned()];
            return Err(Error::Dirty { path: path.to_owned(), changes });
        }
        let changes = git.changes(&folder)?;
        if !changes.is_empty() {
            return Err(Error::Dirty { path: path.to_owned(), changes });
        }
        Ok(Self { git, folder, rev, head })
    }

    /// Returns the newest of `commits`, as a whole. They are in the repository of `path`. Of commits in different branches,
    /// Git's order decides.
    pub(crate) fn newest(document: &str, path: &Path, commits: &[&str]) -> Result<Self, Error> {
        let (git, _, head) = repository(document, path)?;
        let newest = ["rev-list", "--topo-order", "--max-count=1"].into_iter();
        let rev = git.text(&newest.chain(commits.iter().copied()).collect::<Vec<_>>())?;
        Ok(Self { git, folder: String::new(), rev, head })
    }

    /// Returns the same folder in another commit.
    pub(crate) fn at(&self, rev: &str) -> Self {
        Self { rev: rev.to_owned(), ..self.clone() }
    }

    /// Returns the content of a file at `path`, relative to the root of the repository, if the commit has such a file.
    pub(crate) fn file_at(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(object) = self.git.object(&self.rev, folder, name)? else { return Ok(None) };
        Ok(self.git.blobs(&[&object])?.remove(&object))
    }

    /// Returns the paths of files called `name` that belong to the folder: in it, then in the folders above it, the
    /// nearest first, then below it.
    pub(crate) fn nearest(&self, name: &str) -> Result<Vec<String>, Error> {
        let joined = |folder: &str| {
            if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
        };
        let mut found = Vec::new();
        let mut folder = Some(self.folder.as_str());
        while let Some(here) = folder {
            if self.git.object(&self.rev, here, name)?.is_some() {
                found.push(joined(here));
            }
            folder =
                (!here.is_empty()).then(|| here.rsplit_once('/').map_or("", |(above, _)| above));
        }
        let below =
            self.git.entries(&self.rev, &self.folder)?.into_iter().filter(|entry| {
                entry.kind == Kind::File && entry.path.ends_with(&format!("/{name}"))
            });
        let below = below.map(|entry| match self.folder.as_str() {
            "" => entry.path,
            folder => format!("{folder}/{}", entry.path),
        });
        found.extend(below);
        Ok(found)
    }

    /// Returns the content of every file called `name` in the commit, by path relative to the root of the repository.
    pub(crate) fn files_named(&self, name: &str) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        self.git.files_named(&self.rev, name)
    }

    /// Returns the time of the commit, by RFC 3339 in UTC; empty for a time outside of the calendar.
    pub(crate) fn time(&self) -> Result<String, Error> {
        let seconds = self.git.committed_at(&self.rev)?;
        let time = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        Ok(time.as_ref().map(ToString::to_string).unwrap_or_default())
    }

    /// Returns everything below the folder in the commit, by path.
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

/// Returns the repository that holds `path`, the path below its root, and the checked-out commit; an empty one if there
/// is none. Fails on a shallow clone.
fn repository(document: &str, path: &Path) -> Result<(Git, String, String), Error> {
    let here = Git::new(document, path);
    let place = ["rev-parse", "--show-toplevel", "--is-shallow-repository", "--show-prefix"];
    let place = here.text(&place)?;
    let mut place = place.lines();
    let (root, shallow) = (place.next().unwrap_or_default(), place.next());
    let root = PathBuf::from(root);
    if shallow == Some("true") {
        return Err(Error::Shallow { root });
    }
    let folder = place.next().unwrap_or_default(); // Git prints no line at the root
    let folder = folder.trim_end_matches('/').to_owned();
    let git = Git::new(document, &root);
    let head = git.run(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], &[], b"")?;
    let head = head.text();
    Ok((git, folder, head))
}

/// Returns the content of `path` from the commit, or from the working tree if that has uncommitted
/// changes. The commit comes first because filters make files look different in a working tree.
pub(crate) fn shown(document: &str, path: &Path) -> Result<Tree, Error> {
    match Source::find(document, path) {
        Ok(source) => source.tree(),
        Err(_) => worktree(document, path),
    }
}

/// Returns everything in the working tree below `path`, committed or not.
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
        let Ok(there) = fs::symlink_metadata(&file) else { continue }; // a deletion that is not yet committed
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
