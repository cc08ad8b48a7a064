//! An archive written to a folder, and nowhere else.
//!
//! **Invariant:** no member leaves the folder: every path is resolved by the kernel beneath it, and
//! through no symbolic link (`openat2`). Links are made last, when nothing more is written.
//! **Invariant:** nothing that is there is written over, and nothing gets more rights than it had:
//! what lets others act as its owner is taken off.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, fchmod,
    linkat, mkdirat, openat, openat2, symlinkat, utimensat,
};
use rustix::process::geteuid;

use crate::Error;
use crate::archive::{self, Member, Sink};

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Writes what is in `archive` to `folder`, and tells how many entries there were.
pub(crate) fn extract(archive: &mut impl Read, folder: &Path) -> Result<u64, Error> {
    let restore = |source| Error::Restore { entry: folder.display().to_string(), source };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let root = openat(CWD, folder, flags, Mode::empty()).map_err(|it| restore(it.into()))?;
    let mut tree =
        Tree { root, file: None, entries: 0, late: Vec::new(), is_root: geteuid().is_root() };
    archive::copy(archive, &mut tree)?;
    tree.finish()
}

struct Tree {
    root: OwnedFd,
    file: Option<File>,
    entries: u64,
    /// Links, and folders whose rights and times the files in them would have changed.
    late: Vec<Member>,
    is_root: bool,
}

impl Tree {
    fn make(&mut self, member: &Member) -> io::Result<()> {
        let (parent, name) = self.place(&member.name)?;
        match member.kind {
            b'5' => {
                if let Some(name) = name {
                    mkdirat(&parent, name, Mode::RWXU)?;
                }
                self.late.push(member.clone());
            }
            b'1' | b'2' => self.late.push(member.clone()),
            b'3' | b'4' | b'6' => {
                let name = String::from_utf8_lossy(&member.name);
                phase::note(member.kind_name(), format_args!("not restored: {name}"));
            }
            _ => {
                let name = name.ok_or(io::ErrorKind::InvalidInput)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = openat2(&parent, name, flags | OFlags::NOFOLLOW, Mode::RWXU, BENEATH)?;
                self.file = Some(file.into());
            }
        }
        Ok(())
    }

    /// The folder that holds `name`, and what it is called there; nothing for the root itself.
    fn place<'a>(&self, name: &'a [u8]) -> io::Result<(OwnedFd, Option<&'a [u8]>)> {
        let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
        if name.starts_with(b"/") {
            return Err(refused("its name is absolute"));
        }
        let mut parts: Vec<_> = name.split(|&it| it == b'/').collect();
        parts.retain(|it| !it.is_empty() && *it != b".");
        if parts.iter().any(|it| *it == b".." || it.contains(&0)) {
            return Err(refused("its name leads out of the folder"));
        }
        let own = parts.pop();
        let parent = parts.join(&b'/');
        let parent = if parent.is_empty() { b".".as_slice() } else { &parent };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok((openat2(&self.root, parent, flags, Mode::empty(), BENEATH)?, own))
    }

    /// Gives a finished file its owner, rights and time.
    fn settle(&self, file: &File, member: &Member) -> io::Result<()> {
        if self.is_root {
            let (user, group) = owner(member);
            chownat(file, c"", user, group, AtFlags::EMPTY_PATH)?;
        }
        fchmod(file, mode(member))?;
        Ok(rustix::fs::futimens(file, &times(member))?)
    }

    fn link(&self, member: &Member) -> io::Result<()> {
        let (parent, name) = self.place(&member.name)?;
        let name = name.ok_or(io::ErrorKind::InvalidInput)?;
        if member.kind == b'1' {
            let (of, target) = self.place(&member.target)?;
            let target = target.ok_or(io::ErrorKind::InvalidInput)?;
            return Ok(linkat(&of, target, &parent, name, AtFlags::empty())?);
        }
        symlinkat(member.target.as_slice(), &parent, name)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if self.is_root {
            let (user, group) = owner(member);
            chownat(&parent, name, user, group, flags)?;
        }
        Ok(utimensat(&parent, name, &times(member), flags)?)
    }

    fn folder(&self, member: &Member) -> io::Result<()> {
        let (parent, name) = self.place(&member.name)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let name = name.unwrap_or(b".");
        let folder = openat2(&parent, name, flags, Mode::empty(), BENEATH)?;
        self.settle(&folder.into(), member)
    }

    fn finish(self) -> Result<u64, Error> {
        for member in self.late.iter().filter(|it| it.kind != b'5') {
            self.link(member).map_err(about(member))?;
        }
        // What is in a folder comes after it, and changes its time.
        for member in self.late.iter().filter(|it| it.kind == b'5').rev() {
            self.folder(member).map_err(about(member))?;
        }
        Ok(self.entries)
    }
}

impl Sink for Tree {
    type Error = Error;

    fn begin(&mut self, member: &Member, _: u64) -> Result<(), Error> {
        phase::uninterrupted()?;
        self.make(member).map_err(about(member))
    }

    fn write(&mut self, bytes: &[u8], content: usize) -> Result<(), Error> {
        self.file
            .as_mut()
            .map_or(Ok(()), |it| it.write_all(&bytes[..content]))
            .map_err(|source| Error::Restore { entry: "what is in a file".to_owned(), source })
    }

    fn end(&mut self, member: Member, _: Option<[u8; 32]>) -> Result<(), Error> {
        self.entries += 1;
        match self.file.take() {
            Some(file) => self.settle(&file, &member).map_err(about(&member)),
            None => Ok(()),
        }
    }
}

fn about(member: &Member) -> impl FnOnce(io::Error) -> Error {
    let entry = String::from_utf8_lossy(&member.name).into_owned();
    move |source| Error::Restore { entry, source }
}

/// Nothing that makes a program somebody else.
fn mode(member: &Member) -> Mode {
    Mode::from_raw_mode(member.mode & 0o777)
}

fn owner(member: &Member) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(member.user)), Some(Gid::from_raw(member.group)))
}

fn times(member: &Member) -> Timestamps {
    let (tv_sec, nanoseconds) = member.changed;
    let time = Timespec { tv_sec, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
