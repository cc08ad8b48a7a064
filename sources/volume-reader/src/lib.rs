//! A folder as a tar archive that is the same whenever the folder is.
//!
//! **Invariant:** the same folder gives the same bytes: no clock, no name of a machine, no order
//! that a file system chooses.
//! **Invariant:** what cannot be read, or changes meanwhile, is an error. Nothing is left out in
//! silence.

mod header;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use header::{Entry, Type};

/// An archive ends with two blocks of zeros.
const END: [u8; 1024] = [0; 1024];

/// Writes the archive of `folder` to `out`.
///
/// # Errors
///
/// Something cannot be read, or has changed while it was; or `out` takes no more.
pub fn write(folder: &Path, out: impl Write) -> io::Result<()> {
    let mut archive = Archive { out, links: HashMap::new() };
    let root = fs::symlink_metadata(folder).map_err(about(folder))?;
    if !root.is_dir() {
        return Err(about(folder)(io::Error::other("it is no folder")));
    }
    archive.folder(folder, b"./", &root, root.dev())?;
    archive.out.write_all(&END)?;
    archive.out.flush()
}

struct Archive<W> {
    out: W,
    /// Under which name a file with several was written first.
    links: HashMap<u64, Vec<u8>>,
}

impl<W: Write> Archive<W> {
    /// A folder, then all that is in it. What is mounted in it belongs to something else.
    fn folder(&mut self, path: &Path, name: &[u8], is: &Metadata, device: u64) -> io::Result<()> {
        self.out.write_all(&Entry::new(name, Type::Folder, is).header())?;
        let names = fs::read_dir(path).and_then(|entries| {
            entries.map(|it| it.map(|it| it.file_name())).collect::<io::Result<Vec<OsString>>>()
        });
        let mut names = names.map_err(about(path))?;
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        for own in names {
            let (path, mut name) = (path.join(&own), name.to_vec());
            name.extend_from_slice(own.as_bytes());
            let is = fs::symlink_metadata(&path).map_err(about(&path))?;
            if is.is_dir() {
                name.push(b'/');
                if is.dev() == device {
                    self.folder(&path, &name, &is, device)?;
                } else {
                    say("another file system, left out", &path);
                }
            } else {
                self.other(&path, &name, &is)?;
            }
        }
        Ok(())
    }

    fn other(&mut self, path: &Path, name: &[u8], is: &Metadata) -> io::Result<()> {
        if is.nlink() > 1 {
            if let Some(first) = self.links.get(&is.ino()) {
                let entry = Entry { target: first, ..Entry::new(name, Type::HardLink, is) };
                return self.out.write_all(&entry.header());
            }
            self.links.insert(is.ino(), name.to_vec());
        }
        let kind = is.file_type();
        if kind.is_file() {
            return self.file(path, name, is);
        }
        let target: PathBuf;
        let mut entry = Entry::new(name, Type::Pipe, is);
        if kind.is_symlink() {
            target = fs::read_link(path).map_err(about(path))?;
            entry.kind = Type::SymbolicLink;
            entry.target = target.as_os_str().as_bytes();
        } else if kind.is_char_device() {
            entry.kind = Type::CharacterDevice;
        } else if kind.is_block_device() {
            entry.kind = Type::BlockDevice;
        } else if kind.is_socket() {
            say("a socket, left out", path);
            return Ok(());
        }
        self.out.write_all(&entry.header())
    }

    fn file(&mut self, path: &Path, name: &[u8], is: &Metadata) -> io::Result<()> {
        let changed = || about(path)(io::Error::other("it changed while it was read"));
        let file = File::open(path).map_err(about(path))?;
        let entry = Entry { size: is.len(), ..Entry::new(name, Type::File, is) };
        self.out.write_all(&entry.header())?;
        let copied = io::copy(&mut (&file).take(is.len()), &mut self.out).map_err(about(path))?;
        let now = file.metadata().map_err(about(path))?;
        let same = |a: &Metadata, b: &Metadata| {
            (a.ino(), a.len(), a.mtime(), a.mtime_nsec(), a.ctime(), a.ctime_nsec())
                == (b.ino(), b.len(), b.mtime(), b.mtime_nsec(), b.ctime(), b.ctime_nsec())
        };
        if copied != is.len() || !same(is, &now) {
            return Err(changed());
        }
        self.out.write_all(header::padding(is.len()))
    }
}

fn about(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn say(what: &str, path: &Path) {
    let _ = writeln!(io::stderr(), "{what}: {}", path.display());
}
