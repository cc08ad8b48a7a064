//! Reads a Git repository through plumbing commands.
//!
//! **Invariant:** the reader returns the blobs of a commit. Filters, line-end conversion,
//! `export-ignore`, replacements and grafts are never applied, whatever the user's configuration
//! says.
//! **Invariant:** the user's repository is never written, and even its index is not refreshed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Error;
use crate::tool::{self, Ended};

/// Command-line settings override the user's. Porcelain commands have more settings that would
/// matter (`log.showSignature`, `core.quotePath`, aliases), so they are not used.
const SETTINGS: [&str; 4] = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"];
/// Variables that disable the user's replacements, grafts, path magic and index locks.
const VARIABLES: [(&str, &str); 4] = [
    ("GIT_NO_REPLACE_OBJECTS", "1"),
    ("GIT_GRAFT_FILE", "/dev/null"),
    ("GIT_LITERAL_PATHSPECS", "1"),
    ("GIT_OPTIONAL_LOCKS", "0"),
];
/// First bytes of a Git LFS pointer (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>).
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
/// Largest size of a pointer, in bytes (same specification).
const LFS_POINTER_BYTES_MAX: u64 = 1024;

/// A Git repository on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Git {
    /// Name of the document, for messages.
    document: String,
    /// Working folder of the commands.
    pub(crate) folder: PathBuf,
}

/// One entry of a Git tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) object: String,
    /// Size of a file in bytes; 0 for links and submodules.
    pub(crate) size: u64,
    /// Path relative to the listed tree.
    pub(crate) path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Link,
    Submodule,
}

impl Kind {
    fn of(mode: &str) -> Option<Self> {
        match mode {
            "100644" | "100755" | "100664" => Some(Self::File),
            "120000" => Some(Self::Link),
            "160000" => Some(Self::Submodule),
            _ => None,
        }
    }
}

impl Git {
    pub(crate) fn new(document: &str, folder: &Path) -> Self {
        Self { document: document.to_owned(), folder: folder.to_owned() }
    }

    /// Runs a command and returns its exit status, which may be a failure.
    pub(crate) fn run(
        &self,
        arguments: &[&str],
        variables: &[(&str, &OsStr)],
        input: &[u8],
    ) -> Result<Ended, Error> {
        let folder = self.folder.as_os_str();
        let mut all = vec![OsStr::new("-C"), folder];
        all.extend(SETTINGS.iter().chain(arguments).map(|text| OsStr::new(*text)));
        let fixed = VARIABLES.iter().map(|(name, value)| (*name, OsStr::new(*value)));
        let variables: Vec<_> = fixed.chain(variables.iter().copied()).collect();
        tool::run_with(&self.document, "git", all, &variables, input)
    }

    /// Runs a command, and fails unless its exit status is 0.
    fn must(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, Error> {
        let ended = self.run(arguments, &[], input)?;
        if ended.code == Some(0) { Ok(ended.stdout) } else { Err(self.failed(ended.said)) }
    }

    fn failed(&self, said: String) -> Error {
        Error::Git { path: self.folder.clone(), said }
    }

    /// Returns the output of a command without its final line end.
    pub(crate) fn text(&self, arguments: &[&str]) -> Result<String, Error> {
        let stdout = self.must(arguments, b"")?;
        Ok(String::from_utf8_lossy(&stdout).trim_end_matches('\n').to_owned())
    }

    /// Returns the last commit that touched `folder` (relative to the root; empty for the root), or
    /// an empty string if there is none.
    pub(crate) fn last_touched(&self, folder: &str) -> Result<String, Error> {
        let mut arguments = vec!["rev-list", "-1", "HEAD", "--"];
        arguments.extend(Some(folder).filter(|folder| !folder.is_empty()));
        self.text(&arguments)
    }

    /// Returns the first five uncommitted changes in `folder`, each as Git's status letter and a
    /// path. Compares with a copy of the index because a refresh would write to the user's index.
    pub(crate) fn changes(&self, folder: &str) -> Result<Vec<String>, Error> {
        let within = Some(folder).filter(|folder| !folder.is_empty());
        let copy = self.index()?;
        let index = copy.path().join("index");
        let variables = [("GIT_INDEX_FILE", index.as_os_str())];
        // The exit status only says that something changed, so ignore it. `--really-refresh` also
        // covers files that the user has marked as unchanged.
        self.run(&["update-index", "-q", "--really-refresh"], &variables, b"")?;
        let compare = ["diff-index", "-z", "--raw", "--no-renames", "--ignore-submodules=none"];
        let compare: Vec<_> = compare.into_iter().chain(["HEAD", "--"]).chain(within).collect();
        let compared = self.run(&compare, &variables, b"")?;
        if compared.code != Some(0) {
            return Err(self.failed(compared.said));
        }
        let others = ["ls-files", "-z", "--others", "--exclude-standard", "--"];
        let others: Vec<_> = others.into_iter().chain(within).collect();
        let others = self.must(&others, b"")?;
        let compared = String::from_utf8_lossy(&compared.stdout).into_owned();
        let mut changes = Vec::new();
        let mut fields = compared.split('\0');
        while let (Some(change), Some(path)) = (fields.next(), fields.next()) {
            changes.push(format!("{} {path}", change.rsplit(' ').next().unwrap_or_default()));
        }
        let others = String::from_utf8_lossy(&others).into_owned();
        changes.extend(others.split_terminator('\0').map(|path| format!("? {path}")));
        changes.truncate(5);
        Ok(changes)
    }

    /// Copies the index with its modification time, from which Git tells which entries it must
    /// check again.
    fn index(&self) -> Result<TempDir, Error> {
        let index = self.folder.join(self.text(&["rev-parse", "--git-path", "index"])?);
        let unreadable = |source| Error::Unreadable { what: index.display().to_string(), source };
        let copy = tempfile::tempdir().map_err(unreadable)?;
        if let Ok(there) = fs::metadata(&index) {
            let to = copy.path().join("index");
            fs::copy(&index, &to).map_err(unreadable)?;
            let file = File::options().write(true).open(&to).map_err(unreadable)?;
            let time = there.modified().map_err(unreadable)?;
            file.set_modified(time).map_err(unreadable)?;
        }
        Ok(copy)
    }

    /// Returns every entry below `folder` in `commit`, at any depth.
    pub(crate) fn entries(&self, commit: &str, folder: &str) -> Result<Vec<Entry>, Error> {
        let tree = format!("{commit}:{folder}");
        let listed = self.must(&["ls-tree", "-r", "-l", "-z", &tree], b"")?;
        let mut entries = Vec::new();
        for line in listed.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
            let strange = || {
                let line = String::from_utf8_lossy(line).into_owned();
                Error::Manifest { path: line, why: "no file that can be published".to_owned() }
            };
            let line = str::from_utf8(line).map_err(|_| strange())?;
            let (head, path) = line.split_once('\t').ok_or_else(strange)?;
            let mut words = head.split_ascii_whitespace();
            let mode = words.next().unwrap_or_default();
            let object = words.nth(1).unwrap_or_default().to_owned();
            let size = words.next().and_then(|size| size.parse().ok()).unwrap_or_default();
            let kind = Kind::of(mode).ok_or_else(strange)?;
            entries.push(Entry { kind, object, size, path: path.to_owned() });
        }
        Ok(entries)
    }

    /// Returns the object of the file `name` in `folder`, if `commit` has such a file.
    pub(crate) fn object(
        &self,
        commit: &str,
        folder: &str,
        name: &str,
    ) -> Result<Option<String>, Error> {
        let tree = format!("{commit}:{folder}");
        let listed = self.run(&["ls-tree", "-z", &tree, name], &[], b"")?;
        let line = String::from_utf8_lossy(&listed.stdout).into_owned();
        let mut words = line.split('\t').next().unwrap_or_default().split(' ');
        let is_file = words.next().and_then(Kind::of) == Some(Kind::File);
        // A folder that the commit lacks has no file.
        Ok(words.nth(1).filter(|_| is_file && listed.code == Some(0)).map(str::to_owned))
    }

    /// Returns the time of a commit, in seconds since 1970.
    pub(crate) fn committed_at(&self, commit: &str) -> Result<Option<i64>, Error> {
        let listed = self.text(&["rev-list", "--timestamp", "-1", commit])?;
        Ok(listed.split(' ').next().and_then(|seconds| seconds.parse().ok()))
    }

    /// Returns the content of every file called `name` in a commit, by path. Files whose path is not UTF-8 are left out.
    pub(crate) fn files_named(
        &self,
        commit: &str,
        name: &str,
    ) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let listed = self.must(&["ls-tree", "-r", "-z", "--full-tree", commit], b"")?;
        let lines = listed.split(|byte| *byte == 0).filter_map(|line| str::from_utf8(line).ok());
        let files = lines.filter_map(|line| {
            let (head, path) = line.split_once('\t')?;
            let mut words = head.split_ascii_whitespace();
            let is_file = words.next().and_then(Kind::of) == Some(Kind::File);
            let is_named = path.rsplit('/').next() == Some(name);
            (is_file && is_named).then_some((path.to_owned(), words.nth(1)?.to_owned()))
        });
        let files: Vec<_> = files.collect();
        let objects: Vec<_> = files.iter().map(|(_, object)| object.as_str()).collect();
        let blobs = self.blobs(&objects)?;
        let content = |(path, object): (String, String)| Some((path, blobs.get(&object)?.clone()));
        Ok(files.into_iter().filter_map(content).collect())
    }

    /// Returns the content of blobs, by object id.
    pub(crate) fn blobs(&self, objects: &[&str]) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let mut blobs = BTreeMap::new();
        if objects.is_empty() {
            return Ok(blobs);
        }
        let output = self.must(&["cat-file", "--batch"], (objects.join("\n") + "\n").as_bytes())?;
        let mut rest = output.as_slice();
        for object in objects {
            let missing = || self.failed(format!("no blob {object}"));
            let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(missing)?;
            let head = String::from_utf8_lossy(&rest[..end]).into_owned();
            let words: Vec<_> = head.split(' ').collect();
            let [name, "blob", size] = words[..] else { return Err(missing()) };
            let size: usize = size.parse().map_err(|_| missing())?;
            let content = rest.get(end + 1..end + 1 + size).ok_or_else(missing)?;
            blobs.insert(name.to_owned(), content.to_vec());
            rest = rest.get(end + size + 2..).unwrap_or_default();
        }
        Ok(blobs)
    }

    /// Returns the pointers below `folder` in `commit`, whose content the commit lacks: submodules
    /// and files of Git LFS.
    pub(crate) fn elsewhere(&self, commit: &str, folder: &str) -> Result<Vec<String>, Error> {
        let entries = self.entries(commit, folder)?;
        let may_point = |entry: &&Entry| {
            entry.kind == Kind::File && (1..=LFS_POINTER_BYTES_MAX).contains(&entry.size)
        };
        let small: Vec<_> = entries.iter().filter(may_point).collect();
        let objects: Vec<_> = small.iter().map(|entry| entry.object.as_str()).collect();
        let blobs = self.blobs(&objects)?;
        let mut elsewhere = Vec::new();
        for entry in &entries {
            if entry.kind == Kind::Submodule {
                elsewhere.push(format!("{} is a submodule", entry.path));
            } else if blobs.get(&entry.object).is_some_and(|content| is_lfs_pointer(content)) {
                elsewhere.push(format!("{} is a pointer of Git LFS", entry.path));
            }
        }
        Ok(elsewhere)
    }

    /// Creates a temporary repository that shares this one's objects and has `commit` as its HEAD,
    /// but none of its configuration, attributes, hooks, index and files. A program that runs there
    /// reads the same from every clone, and cannot write to the user's repository.
    pub(crate) fn borrowed(&self, commit: &str) -> Result<Borrowed, Error> {
        let temporary =
            |source| Error::Unreadable { what: "a temporary folder".to_owned(), source };
        let folder = tempfile::tempdir().map_err(temporary)?;
        let format = if commit.len() == 64 { "sha256" } else { "sha1" };
        let git = Self::new(&self.document, folder.path());
        let format = format!("--object-format={format}");
        git.must(&["init", "-q", "--template=", &format], b"")?;
        let objects =
            self.text(&["rev-parse", "--path-format=absolute", "--git-path", "objects"])?;
        let information = folder.path().join(".git/objects/info");
        fs::create_dir_all(&information).map_err(temporary)?;
        fs::write(information.join("alternates"), objects + "\n").map_err(temporary)?;
        git.must(&["update-ref", "--no-deref", "HEAD", commit], b"")?;
        Ok(Borrowed { git, folder })
    }
}

/// A temporary repository. Dropping it deletes its folder.
#[derive(Debug)]
pub(crate) struct Borrowed {
    pub(crate) git: Git,
    folder: TempDir,
}

impl Borrowed {
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns environment variables that disable the user's filters and conversions for programs
    /// that run Git in here. Reason: Nix 2.8 unpacks a commit with `git archive`, which applies
    /// them.
    pub(crate) fn variables(&self) -> Result<Vec<(String, String)>, Error> {
        let names = ["config", "--null", "--name-only", "--get-regexp", r"^filter\."];
        let names = self.git.run(&names, &[], b"")?; // exit status 1 if there are none
        let names = String::from_utf8_lossy(&names.stdout).into_owned();
        let mut settings = vec![
            ("core.autocrlf".to_owned(), "false"),
            ("core.eol".to_owned(), "lf"),
            ("core.attributesFile".to_owned(), "/dev/null"),
        ];
        for name in names.split_terminator('\0') {
            let value = if name.ends_with(".required") { "false" } else { "" };
            settings.push((name.to_owned(), value));
        }
        let mut variables = vec![("GIT_CONFIG_COUNT".to_owned(), settings.len().to_string())];
        for (index, (name, value)) in settings.into_iter().enumerate() {
            variables.push((format!("GIT_CONFIG_KEY_{index}"), name));
            variables.push((format!("GIT_CONFIG_VALUE_{index}"), value.to_owned()));
        }
        variables.extend(
            VARIABLES[..2].iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        Ok(variables)
    }
}

/// Whether a file's content is a Git LFS pointer.
pub(crate) fn is_lfs_pointer(content: &[u8]) -> bool {
    content.len() as u64 <= LFS_POINTER_BYTES_MAX && content.starts_with(LFS_POINTER)
}
