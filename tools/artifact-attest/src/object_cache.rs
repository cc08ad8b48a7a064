//! Cache of small objects of registries: manifests, lists, configurations and bundles, by digest.
//!
//! An object of a digest never changes, so a cached one is as good as the registry's, except that it does
//! not show whether the registry still has the object. Therefore `verify` and `destroy` read everything
//! from the registry, and an entry counts for one day: a job that deletes bundles from a registry is
//! noticed at the latest then.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::oci::Digest;

/// Longest time for which an object counts as still present in its registry.
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Largest object that is kept, in bytes.
const BYTES_MAX: usize = 1024 * 1024;
/// Most objects that are kept. An artifact has about ten.
const OBJECTS_MAX: usize = 4096;

/// Objects of one repository.
#[derive(Clone, Debug)]
pub(crate) struct ObjectCache {
    /// Folder of the cache; `None` without `XDG_CACHE_HOME` and `HOME`.
    folder: Option<PathBuf>,
    /// Address of the repository. An object in another repository proves nothing about this one.
    repository: String,
}

impl ObjectCache {
    pub(crate) fn new(repository: &str) -> Self {
        let absolute =
            |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        let folder = cache.map(|path| path.join("artifact-attest/objects"));
        Self { folder, repository: repository.to_owned() }
    }

    fn file(&self, digest: &Digest) -> Option<PathBuf> {
        let name = Digest::of(format!("{} {digest}", self.repository).as_bytes());
        Some(self.folder.as_ref()?.join(name.hex()))
    }

    /// Returns the object, if it was in the repository within the last day. A file with another content is
    /// ignored.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Vec<u8>> {
        let file = self.file(digest)?;
        let age = fs::metadata(&file).ok()?.modified().ok()?.elapsed().ok()?;
        let bytes = (age < AGE_MAX).then(|| fs::read(&file).ok()).flatten()?;
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }

    /// Keeps an object that the repository has returned. A write that fails costs one request later.
    pub(crate) fn put(&self, digest: &Digest, bytes: &[u8]) {
        let (Some(folder), Some(file)) = (&self.folder, self.file(digest)) else { return };
        if bytes.len() > BYTES_MAX {
            return;
        }
        if fs::read_dir(folder).is_ok_and(|entries| entries.count() >= OBJECTS_MAX) {
            let _ = fs::remove_dir_all(folder); // another run may have removed the folder
        }
        // A reader compares the digest, so that it ignores a file that is half written.
        let _ = fs::create_dir_all(folder).and_then(|()| fs::write(&file, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_counts_for_its_own_repository_and_for_one_day() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let cache = |repository: &str| ObjectCache {
            folder: Some(folder.path().join("objects")),
            repository: repository.to_owned(),
        };
        let (here, there) = (cache("r.example/a"), cache("r.example/b"));
        let digest = Digest::of(b"content");
        assert_eq!(here.get(&digest), None);
        here.put(&digest, b"content");
        assert_eq!(here.get(&digest).as_deref(), Some(&b"content"[..]));
        assert_eq!(there.get(&digest), None);
        let file = here.file(&digest).ok_or(std::io::ErrorKind::NotFound)?;
        let yesterday = std::time::SystemTime::now() - AGE_MAX;
        fs::File::options().append(true).open(&file)?.set_modified(yesterday)?;
        assert_eq!(here.get(&digest), None, "too old");
        here.put(&digest, b"forged");
        assert_eq!(here.get(&digest), None, "another content");
        Ok(())
    }
}
