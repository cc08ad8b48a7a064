//! Objects of Git LFS: their places on this machine, and their upload by git-lfs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::local::run;
use crate::process::{Call, TIME_MAX, call};
use crate::push::borrow_objects;
use crate::{Ended, Origin, Url};

/// Objects of one run of git-lfs. Their names, 64 characters each, are arguments, for which Linux has two
/// megabytes.
const OBJECTS_MAX: usize = 1000;

/// Whether git finds git-lfs.
///
/// # Errors
///
/// The errors of [`crate::run`].
pub fn has_lfs(folder: &Path) -> io::Result<bool> {
    run(&["lfs", "version"], folder, None).map(|ended| ended.success)
}

/// Returns the URL of the LFS server that belongs to the repository at `url`.
/// <https://github.com/git-lfs/git-lfs/blob/v3.7.1/docs/api/server-discovery.md>: "Git LFS appends .git/info/lfs".
#[must_use]
pub fn endpoint(url: &Url) -> String {
    let url = url.as_str();
    format!("{}.git/info/lfs", url.strip_suffix(".git").unwrap_or(url))
}

/// Folders in which git-lfs keeps the objects of a repository.
#[derive(Debug)]
pub struct Storage(Vec<PathBuf>);

impl Storage {
    /// Returns the folders for the repository in `folder`: that of `lfs.storage`, or `lfs` beside Git's objects,
    /// and those of the repositories from which this one borrows objects (`fs/fs.go` of git-lfs v3.7.1).
    ///
    /// # Errors
    ///
    /// The errors of [`crate::run`], and an error when `folder` is not a repository.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let path = |arguments: &[&str]| -> io::Result<PathBuf> {
            let ended = run(arguments, folder, None)?;
            if ended.success {
                Ok(ended.text.into())
            } else {
                Err(io::Error::other(ended.message()))
            }
        };
        let absolute = ["rev-parse", "--path-format=absolute"];
        let common = path(&[&absolute[..], &["--git-common-dir"]].concat())?;
        let objects = path(&[&absolute[..], &["--git-path", "objects"]].concat())?;
        let configured = run(&["config", "--type=path", "--get", "lfs.storage"], folder, None)?;
        let storage = Some(configured.text).filter(|_| configured.success);
        // A relative path is below the folder of the repository; an absolute one replaces it.
        let storage =
            common.join(storage.filter(|path| !path.is_empty()).as_deref().unwrap_or("lfs"));
        let mut folders = vec![storage.join("objects")];
        // The file is absent unless this repository borrows objects.
        let alternates = fs::read_to_string(objects.join("info/alternates")).unwrap_or_default();
        let lines = alternates.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let lenders = lines.filter_map(|line| objects.join(line).parent().map(Path::to_owned));
        folders.extend(lenders.map(|lender| lender.join("lfs/objects")));
        Ok(Self(folders))
    }

    /// Returns the file with the object `oid` of `size` bytes, if it is complete on this machine.
    #[must_use]
    pub fn find(&self, oid: &str, size: u64) -> Option<PathBuf> {
        let files = self.0.iter().map(|folder| folder.join(below(oid)));
        let mut files = files.filter(|file| {
            file.metadata().is_ok_and(|found| found.is_file() && found.len() == size)
        });
        files.next()
    }
}

/// Returns the place of an object below a folder of objects.
fn below(oid: &str) -> PathBuf {
    let part = |from: usize| oid.get(from..from + 2).unwrap_or_default();
    [part(0), part(2), oid].iter().collect()
}

/// Uploads `objects` to the LFS server of `origin`: those that it lacks. `head` is the branch and the commit to
/// which the objects belong. Ends early when `stop` returns true, because a later upload continues with the
/// objects that are missing then.
///
/// git-lfs runs in an empty repository that has links to the objects and no other configuration, so that
/// neither `lfs.url`, `lfs.customtransfer` nor a hook of the user applies, and that it writes nothing to the
/// repository in `folder`. It reads the `.lfsconfig` of the commit, whose keys have less weight than these settings.
///
/// # Errors
///
/// The errors of [`crate::run`], and [`io::ErrorKind::Interrupted`] after `stop`.
pub fn push_objects(
    folder: &Path,
    origin: &Origin<'_>,
    (branch, commit): (&str, &str),
    objects: &BTreeMap<&str, &Path>,
    stop: &dyn Fn() -> bool,
) -> io::Result<Ended> {
    let borrower = borrow_objects(folder)?;
    let repository = borrower.path();
    // git-lfs tells the server the branch.
    let reference = repository.join("refs/heads").join(branch);
    fs::create_dir_all(reference.parent().unwrap_or(repository))?;
    fs::write(reference, format!("{commit}\n"))?;
    fs::write(repository.join("HEAD"), format!("ref: refs/heads/{branch}\n"))?;
    for (oid, file) in objects {
        let link = repository.join("lfs/objects").join(below(oid));
        fs::create_dir_all(link.parent().unwrap_or(repository))?;
        symlink(file, link)?;
    }
    let server = endpoint(origin.url);
    let access = format!("lfs.{server}.access");
    let settings = [
        ("lfs.url", server.as_str()),
        ("lfs.pushUrl", server.as_str()),
        (access.as_str(), "basic"), // without a first request that has no token
        ("lfs.basicTransfersOnly", "true"),
        ("lfs.locksVerify", "false"),
        ("lfs.allowIncompletePush", "false"),
        // The callers repeat a failed upload (default: 8, which takes 36 seconds for each of them).
        ("lfs.transfer.maxRetries", "3"),
        ("lfs.forceProgress", "true"), // progress is output, which the time limit measures
        // As `http.lowSpeedTime` of git: a server may hash a large object before it answers (default: 30).
        ("lfs.activityTimeout", "300"),
    ];
    let oids: Vec<_> = objects.keys().copied().collect();
    let mut ended = Ended { success: true, text: String::new(), said: String::new() };
    for oids in oids.chunks(OBJECTS_MAX) {
        let arguments = [&["lfs", "push", "--object-id", origin.url.as_str()], oids].concat();
        let upload = Call {
            origin: Some(origin),
            repository: Some(repository),
            settings: &settings,
            stop: Some(stop),
            ..Call::local(&arguments, repository)
        };
        ended = call(&upload, TIME_MAX)?;
        if !ended.success {
            break;
        }
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OID: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn git(folder: &Path, arguments: &[&str]) {
        let ended = run(arguments, folder, None).expect("git runs");
        assert!(ended.success, "{arguments:?}: {}", ended.said);
    }

    fn store(folder: &Path) -> PathBuf {
        let file = folder.join("objects").join(below(OID));
        fs::create_dir_all(file.parent().expect("a folder")).expect("folders");
        fs::write(&file, "hello").expect("a file");
        file
    }

    #[test]
    fn server_of_a_repository_is_found_with_and_without_the_suffix_of_git() {
        for url in ["https://forge.example/o/r.git", "https://forge.example/o/r"] {
            let url = Url::try_from(url.to_owned()).expect("an address");
            assert_eq!(endpoint(&url), "https://forge.example/o/r.git/info/lfs");
        }
    }

    #[test]
    fn objects_are_found_wherever_git_lfs_keeps_them() {
        let home = tempfile::tempdir().expect("a folder");
        let home = home.path().canonicalize().expect("a path");
        let (lender, borrower, tree) =
            (home.join("lender"), home.join("borrower"), home.join("tree"));
        git(&home, &["init", "--quiet", "lender"]);
        let user = ["-c", "user.name=test", "-c", "user.email=test@example.org"];
        git(&lender, &[&user[..], &["commit", "--quiet", "--allow-empty", "-m", "first"]].concat());
        let find = |folder: &Path| Storage::of(folder).expect("a repository").find(OID, 5);
        assert_eq!(find(&lender), None);
        let stored = store(&lender.join(".git/lfs"));
        assert_eq!(find(&lender), Some(stored.clone()));
        // A truncated object is no object.
        assert_eq!(Storage::of(&lender).expect("a repository").find(OID, 6), None);
        // A worktree, and a clone that borrows objects.
        git(&lender, &["worktree", "add", "--quiet", tree.to_str().expect("text")]);
        assert_eq!(find(&tree), Some(stored.clone()));
        fs::create_dir_all(&borrower).expect("a folder");
        git(&borrower, &["init", "--quiet"]);
        let alternates = lender.join(".git/objects").display().to_string() + "\n";
        fs::write(borrower.join(".git/objects/info/alternates"), alternates).expect("a file");
        assert_eq!(find(&borrower), Some(stored));
        // `lfs.storage` is absolute, or relative to the repository.
        let other = store(&home.join("elsewhere"));
        let elsewhere = home.join("elsewhere").display().to_string();
        git(&lender, &["config", "lfs.storage", &elsewhere]);
        assert_eq!(find(&lender), Some(other));
        let within = store(&lender.join(".git/within"));
        git(&lender, &["config", "lfs.storage", "within"]);
        assert_eq!(find(&lender), Some(within));
    }
}
