//! Writes a folder as a reproducible tar archive.
//!
//! **Invariant:** the same folder gives the same bytes. The archive contains no current time and no
//! host name, and the order of entries does not depend on the file system.
//! **Invariant:** an entry that cannot be read, changes during the read, or lies on another file
//! system is an error. Every entry that is left out has a line in the [`Report`].
//!
//! Folders are opened relative to their parent (`openat`), because the path of a deep tree is
//! longer than the kernel's `PATH_MAX` of 4,096 bytes.

mod attributes;
mod frames;
mod header;
mod report;

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, SeekFrom, Stat, fstat, openat, readlinkat, seek,
    statat,
};

pub use frames::Frames;
use header::{Entry, Type};
pub use report::Report;

/// End of an archive: two blocks of zeros.
const END: [u8; 1024] = [0; 1024];
const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Writes the archive of `folder` to `out`. Returns a report of everything that the archive does not
/// contain as it is.
///
/// # Errors
///
/// An error if an entry cannot be read, changed during the read, or lies on another file system, or
/// if `out` cannot be written.
pub fn write(folder: &Path, out: impl Write) -> io::Result<Report> {
    let mut archive = Archive { out: Some(out), links: HashMap::new(), report: Report::default() };
    archive.root(folder)?;
    if let Some(out) = &mut archive.out {
        out.write_all(&END)?;
        out.flush()?;
    }
    Ok(archive.report)
}

/// Reads the metadata of every entry of `folder` but no content. Another program may write at the same
/// time, so an entry that disappears is not an error.
///
/// # Errors
///
/// An error if a folder cannot be read.
pub fn survey(folder: &Path) -> io::Result<Report> {
    let mut archive =
        Archive { out: None::<io::Sink>, links: HashMap::new(), report: Report::default() };
    archive.root(folder)?;
    Ok(archive.report)
}

/// A walk through a folder. Without `out` it is a survey.
struct Archive<W> {
    out: Option<W>,
    /// First name of each file with several hard links, by its inode.
    links: HashMap<u64, Vec<u8>>,
    report: Report,
}

/// An open folder and the file system on which every entry must be.
struct Parent<'a> {
    folder: &'a OwnedFd,
    device: u64,
}

impl<W: Write> Archive<W> {
    fn root(&mut self, path: &Path) -> io::Result<()> {
        let about =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        // The root itself may be a symbolic link: the caller has named it.
        let flags = FOLDER.difference(OFlags::NOFOLLOW);
        let folder =
            openat(CWD, path, flags, Mode::empty()).map_err(|error| about(error.into()))?;
        let stat = fstat(&folder).map_err(|error| about(error.into()))?;
        self.folder(&folder, b"./", &stat, stat.st_dev)
    }

    /// Writes a folder, then every entry in it.
    fn folder(&mut self, at: &OwnedFd, name: &[u8], is: &Stat, device: u64) -> io::Result<()> {
        self.report.entry(name);
        let extended = attributes::of(at.as_fd()).map_err(about(name))?;
        self.put(&Entry { extended: &extended, ..Entry::new(name, Type::Folder, is) })?;
        let mut names = names(at).map_err(about(name))?;
        names.sort();
        let parent = Parent { folder: at, device };
        for entry in names {
            let name = [name, entry.to_bytes()].concat();
            match self.entry(&parent, &entry, name.clone()) {
                // During a survey another program may remove an entry.
                Err(error) if self.out.is_none() && error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(about(&name))?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, parent: &Parent<'_>, entry: &CStr, mut name: Vec<u8>) -> io::Result<()> {
        let is = statat(parent.folder, entry, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(is.st_mode);
        if is.st_dev != parent.device {
            // The data belongs to another volume, or to a subvolume that the copy would lose.
            if self.out.is_some() {
                return Err(io::Error::other(NESTED));
            }
            self.report.nested(&name);
            return Ok(());
        }
        if kind == FileType::Directory {
            name.push(b'/');
            let folder = openat(parent.folder, entry, FOLDER, Mode::empty())?;
            // Checked again, because an automounter may mount a file system when the folder is opened.
            let is = fstat(&folder)?;
            if is.st_dev != parent.device {
                return Err(io::Error::other(NESTED));
            }
            return self.folder(&folder, &name, &is, parent.device);
        }
        self.report.entry(&name);
        self.other(parent, entry, &name, &is)
    }

    fn other(
        &mut self,
        parent: &Parent<'_>,
        entry: &CStr,
        name: &[u8],
        is: &Stat,
    ) -> io::Result<()> {
        if is.st_nlink > 1 {
            if let Some(first) = self.links.get(&is.st_ino).cloned() {
                return self.put(&Entry { target: &first, ..Entry::new(name, Type::HardLink, is) });
            }
            self.links.insert(is.st_ino, name.to_vec());
        }
        let kind = match FileType::from_raw_mode(is.st_mode) {
            FileType::RegularFile => return self.file(parent, entry, name, is),
            FileType::Symlink => Type::SymbolicLink,
            FileType::CharacterDevice => Type::CharacterDevice,
            FileType::BlockDevice => Type::BlockDevice,
            FileType::Socket => {
                self.report.socket(name);
                return Ok(());
            }
            _ => Type::Pipe,
        };
        let target = if kind == Type::SymbolicLink {
            readlinkat(parent.folder, entry, Vec::new())?.into_bytes()
        } else {
            Vec::new()
        };
        let extended = attributes::beside(parent.folder, entry)?;
        self.put(&Entry { target: &target, extended: &extended, ..Entry::new(name, kind, is) })
    }

    fn file(
        &mut self,
        parent: &Parent<'_>,
        entry: &CStr,
        name: &[u8],
        is: &Stat,
    ) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(openat(parent.folder, entry, flags, Mode::empty())?);
        let extended = attributes::of(file.as_fd())?;
        let size = u64::try_from(is.st_size).unwrap_or(0);
        if has_holes(&file, size) {
            self.report.holes(name);
        }
        let header = Entry { size, extended: &extended, ..Entry::new(name, Type::File, is) };
        self.put(&header)?;
        let Some(out) = &mut self.out else { return Ok(()) };
        let copied = io::copy(&mut (&file).take(size), out)?;
        let now = file.metadata()?;
        let was = (is.st_ino, size, is.st_mtime, is.st_ctime);
        let times = (i64::try_from(is.st_mtime_nsec), i64::try_from(is.st_ctime_nsec));
        let same = was == (now.ino(), now.len(), now.mtime(), now.ctime())
            && times == (Ok(now.mtime_nsec()), Ok(now.ctime_nsec()));
        if copied != size || !same {
            return Err(io::Error::other("it changed while it was read"));
        }
        out.write_all(header::padding(size))
    }

    fn put(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        if !entry.extended.is_empty() {
            self.report.extended(entry.name, entry.extended);
        }
        self.out.as_mut().map_or(Ok(()), |out| out.write_all(&entry.header()))
    }
}

const NESTED: &str = "another file system is mounted here, and it is not part of this volume: \
                      drain it as a volume of its own, or unmount it";

/// Returns the names of the entries in a folder.
fn names(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Returns whether the file has a hole, if its file system reports holes. The read position is reset.
fn has_holes(file: &File, size: u64) -> bool {
    let hole = size > 0 && seek(file, SeekFrom::Hole(0)).is_ok_and(|hole| hole < size);
    let _ = seek(file, SeekFrom::Start(0));
    hole
}

/// Returns a function that adds the name of an entry to an error, unless an inner folder has already
/// added a name.
fn about(name: &[u8]) -> impl FnOnce(io::Error) -> io::Error {
    let name = String::from_utf8_lossy(name).into_owned();
    move |error| {
        let text = error.to_string();
        if text.starts_with("./") {
            return error;
        }
        io::Error::new(error.kind(), format!("{name}: {text}"))
    }
}
