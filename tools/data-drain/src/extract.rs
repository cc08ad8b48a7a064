//! Extracts an archive to a folder.
//!
//! **Invariant:** no member is written outside the folder. The kernel resolves every path beneath the
//! folder and follows no symbolic link (`openat2`). Links are created last, after every other write.
//! **Invariant:** no existing file is overwritten, and no file gets more rights than it had. Bits that let
//! others act as the file's owner (setuid, setgid, capabilities) are not restored.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chownat,
    fchmod, fsetxattr, linkat, mkdirat, openat, openat2, symlinkat, utimensat,
};
use rustix::process::geteuid;

use crate::Error;
use crate::archive::{self, Member, Sink};

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Attribute with the capabilities of a program (capabilities(7)).
const CAPABILITY: &[u8] = b"security.capability";
/// Block size of most file systems. Shorter runs of zeros cannot be a hole.
const HOLE_BYTES_MIN: usize = 4096;

/// Extracts `archive` to `folder` and returns the number of entries.
pub(crate) fn extract(archive: &mut impl Read, folder: &Path) -> Result<u64, Error> {
    let restore = |source| Error::Restore { entry: folder.display().to_string(), source };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let root = openat(CWD, folder, flags, Mode::empty()).map_err(|error| restore(error.into()))?;
    let mut tree =
        Tree { root, file: None, entries: 0, late: Vec::new(), is_root: geteuid().is_root() };
    archive::copy(archive, &mut tree)?;
    tree.finish()
}

struct Tree {
    root: OwnedFd,
    file: Option<File>,
    entries: u64,
    /// Links and folders, which are finished last: a later file changes the time of its folder.
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
                documents::note(member.kind_name(), format_args!("not restored: {name}"));
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

    /// Returns the parent folder of `name` and the last part of `name`, which is `None` for the root.
    fn place<'a>(&self, name: &'a [u8]) -> io::Result<(OwnedFd, Option<&'a [u8]>)> {
        let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
        if name.starts_with(b"/") {
            return Err(refused("its name is absolute"));
        }
        let mut parts: Vec<_> = name.split(|&byte| byte == b'/').collect();
        parts.retain(|part| !part.is_empty() && *part != b".");
        if parts.iter().any(|part| *part == b".." || part.contains(&0)) {
            return Err(refused("its name leads out of the folder"));
        }
        let last = parts.pop();
        let parent = parts.join(&b'/');
        let parent = if parent.is_empty() { b".".as_slice() } else { &parent };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok((openat2(&self.root, parent, flags, Mode::empty(), BENEATH)?, last))
    }

    /// Sets owner, attributes, mode and time of a finished file.
    fn settle(&self, file: &File, member: &Member) -> io::Result<()> {
        if self.is_root {
            let (user, group) = owner(member);
            chownat(file, c"", user, group, AtFlags::EMPTY_PATH)?;
        }
        let is_acl = |name: &[u8]| name.starts_with(b"system.posix_acl_");
        attribute(file, member, |name| !is_acl(name)); // before it may be read-only
        fchmod(file, mode(member))?;
        attribute(file, member, is_acl); // a mode would change its mask
        Ok(rustix::fs::futimens(file, &times(member))?)
    }

    fn link(&self, member: &Member) -> io::Result<()> {
        let (parent, name) = self.place(&member.name)?;
        let name = name.ok_or(io::ErrorKind::InvalidInput)?;
        if member.kind == b'1' {
            let (target_parent, target) = self.place(&member.target)?;
            let target = target.ok_or(io::ErrorKind::InvalidInput)?;
            return Ok(linkat(&target_parent, target, &parent, name, AtFlags::empty())?);
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
        for member in self.late.iter().filter(|member| member.kind != b'5') {
            self.link(member).map_err(about(member))?;
        }
        // Inner folders first, because a change inside a folder changes the time of the folder.
        for member in self.late.iter().filter(|member| member.kind == b'5').rev() {
            self.folder(member).map_err(about(member))?;
        }
        Ok(self.entries)
    }
}

impl Sink for Tree {
    type Error = Error;

    fn begin(&mut self, member: &Member, _: u64) -> Result<(), Error> {
        documents::check_interrupt()?;
        self.make(member).map_err(about(member))
    }

    fn write(&mut self, bytes: &[u8], content: usize) -> Result<(), Error> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let bytes = &bytes[..content];
        // The archive contains holes as zeros. Skip them, so that they do not fill the disk.
        let written = if content >= HOLE_BYTES_MIN && bytes.iter().all(|&byte| byte == 0) {
            file.seek_relative(i64::try_from(content).unwrap_or(i64::MAX))
        } else {
            file.write_all(bytes)
        };
        let failed = |source| Error::Restore { entry: "the content of a file".to_owned(), source };
        written.map_err(failed)
    }

    fn end(&mut self, member: Member, _: Option<[u8; 32]>) -> Result<(), Error> {
        self.entries += 1;
        let Some(file) = self.file.take() else { return Ok(()) };
        let ended = file.set_len(member.bytes); // a hole at its end
        ended.and_then(|()| self.settle(&file, &member)).map_err(about(&member))
    }
}

/// Sets extended attributes. An attribute that the file system or user does not permit is reported.
fn attribute(file: &File, member: &Member, when: impl Fn(&[u8]) -> bool) {
    for (name, value) in member.attributes.iter().filter(|(name, _)| when(name)) {
        let set = if name == CAPABILITY {
            Err("capabilities are not restored".to_owned())
        } else {
            let set = fsetxattr(file, name.as_slice(), value, XattrFlags::empty());
            set.map_err(|error| error.to_string())
        };
        if let Err(why) = set {
            let (name, file) =
                (String::from_utf8_lossy(name), String::from_utf8_lossy(&member.name));
            documents::note("attribute", format_args!("not restored: {name} of {file}: {why}"));
        }
    }
}

fn about(member: &Member) -> impl FnOnce(io::Error) -> Error {
    let entry = String::from_utf8_lossy(&member.name).into_owned();
    move |source| Error::Restore { entry, source }
}

/// Returns the permission bits without setuid, setgid and sticky.
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::process::Command;

    use super::*;

    type Test = Result<(), Box<dyn std::error::Error>>;

    /// Builds an archive of these members without the checks of a library.
    fn archive(members: &[(&str, tar::EntryType, &str, u32, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, target, mode, content) in members {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_size(content.len() as u64);
            header.set_mtime(1);
            let fields = header.as_ustar_mut().expect("a ustar header");
            fields.name[..name.len()].copy_from_slice(name.as_bytes());
            fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_cksum();
            builder.append(&header, *content).expect("in memory");
        }
        builder.into_inner().expect("in memory")
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;
    const LINK: tar::EntryType = tar::EntryType::Symlink;
    const HARD: tar::EntryType = tar::EntryType::Link;
    const FOLDER: tar::EntryType = tar::EntryType::Directory;

    #[test]
    fn extract_restores_an_archive_of_gnu_tar() -> Test {
        let (from, to) = (tempfile::tempdir()?, tempfile::tempdir()?);
        fs::create_dir_all(from.path().join("a/b"))?;
        fs::write(from.path().join("a/b/file"), "what is in it")?;
        fs::hard_link(from.path().join("a/b/file"), from.path().join("again"))?;
        symlink("../somewhere/else", from.path().join("a/link"))?;
        fs::write(from.path().join("n".repeat(180)), vec![1; 200_000])?;
        fs::set_permissions(from.path().join("a/b/file"), fs::Permissions::from_mode(0o640))?;
        fs::set_permissions(from.path().join("a"), fs::Permissions::from_mode(0o550))?;
        let mut tar = Command::new("tar");
        let output =
            tar.args(["--create", "--format=posix", "."]).current_dir(&from).output()?.stdout;
        let entries = extract(&mut output.as_slice(), to.path())?;
        assert_eq!(entries, 7);
        let listing = |at: &Path| {
            let mut find = Command::new("find");
            let format = "%P %y %m %U %G %s %T@ %l\n";
            let output = find.arg(at).args(["-printf", format]).output().expect("find");
            let mut lines: Vec<_> =
                String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
            lines.retain(|line| !line.starts_with("  d")); // the two temporary folders themselves
            lines.sort();
            lines
        };
        let strip = |lines: Vec<String>| -> Vec<String> {
            lines.into_iter().filter(|line| !line.starts_with(" d ")).collect()
        };
        assert_eq!(strip(listing(from.path())), strip(listing(to.path())));
        let inode = |name: &str| fs::metadata(to.path().join(name)).map(|metadata| metadata.ino());
        assert_eq!(inode("again")?, inode("a/b/file")?, "one file with two names");
        Ok(())
    }

    #[test]
    fn extract_writes_nothing_outside_the_folder() -> Test {
        let outside = tempfile::tempdir()?;
        let target = outside.path().join("target");
        fs::write(&target, "untouched")?;
        let (there, folder) = (target.to_string_lossy(), outside.path().to_string_lossy());
        let absolute = format!("{folder}/planted");
        for members in [
            vec![("../planted", FILE, "", 0o644, b"x".as_slice())],
            vec![("a/../../planted", FILE, "", 0o644, b"x")],
            vec![(absolute.as_str(), FILE, "", 0o644, b"x")],
            // A path through a link of an earlier member.
            vec![("out", LINK, &folder, 0o777, b""), ("out/planted", FILE, "", 0o644, b"x")],
            vec![("out", LINK, "..", 0o777, b""), ("out/planted", FOLDER, "", 0o755, b"")],
            // A member that would change the mode of a link's target.
            vec![("out", LINK, &there, 0o777, b""), ("out", FILE, "", 0o777, b"x")],
            vec![("out", LINK, &folder, 0o777, b""), ("out", FOLDER, "", 0o777, b"")],
            // A hard link to a file outside.
            vec![("hard", HARD, &there, 0o644, b"")],
            vec![("hard", HARD, "../target", 0o644, b"")],
            // The same name twice.
            vec![("a", FILE, "", 0o644, b"x"), ("a", FILE, "", 0o644, b"y")],
        ] {
            let inside = outside.path().join("inside");
            fs::create_dir(&inside)?;
            let end = extract(&mut archive(&members).as_slice(), &inside);
            assert!(end.is_err(), "{members:?}");
            let left: Vec<_> =
                fs::read_dir(&outside)?.flatten().map(|entry| entry.file_name()).collect();
            assert_eq!(left.len(), 2, "{members:?} left {left:?}");
            assert_eq!(fs::read_to_string(&target)?, "untouched", "{members:?}");
            assert_eq!(fs::metadata(&target)?.nlink(), 1, "{members:?}");
            fs::remove_dir_all(&inside)?;
        }
        Ok(())
    }

    #[test]
    fn extract_restores_holes_and_attributes() -> Test {
        let (from, to) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let sparse = fs::File::create(from.path().join("sparse"))?;
        sparse.set_len(8 << 20)?;
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 4 << 20)?;
        // A file system without attributes (tmpfs before Linux 6.6) refuses this, and so does Nix's sandbox.
        let _ = fsetxattr(&sparse, c"user.note", b"kept", XattrFlags::empty());
        let mut tar = Command::new("tar");
        tar.args(["--create", "--format=posix", "--xattrs", "."]).current_dir(&from);
        let archive = tar.output()?.stdout;
        extract(&mut archive.as_slice(), to.path())?;
        let restored = to.path().join("sparse");
        assert_eq!(fs::read(&restored)?, fs::read(from.path().join("sparse"))?);
        assert!(fs::metadata(&restored)?.blocks() * 512 < 1 << 20, "holes are restored as holes");
        let attribute = |at: &Path| {
            let mut value = [0; 16];
            let read = rustix::fs::getxattr(at.join("sparse"), c"user.note", &mut value);
            read.map(|length| value[..length].to_vec())
        };
        assert_eq!(attribute(to.path()), attribute(from.path()));
        Ok(())
    }

    #[test]
    fn extract_drops_setuid_and_setgid() -> Test {
        let folder = tempfile::tempdir()?;
        let members = [("program", FILE, "", 0o6755, b"x".as_slice())];
        extract(&mut archive(&members).as_slice(), folder.path())?;
        let mode = fs::metadata(folder.path().join("program"))?.mode();
        assert_eq!(mode & 0o7777, 0o755);
        Ok(())
    }

    #[test]
    fn extract_uses_the_size_in_an_extended_header() -> Test {
        // CVE-2025-62518: a parser that uses the size in the plain header parses content as members.
        let smuggled = archive(&[("smuggled", FILE, "", 0o644, b"x")]);
        let mut bytes = Vec::new();
        let record = format!("{} size={}\n", 9 + smuggled.len().to_string().len(), smuggled.len());
        assert_eq!(record.split(' ').next(), Some(record.len().to_string().as_str()));
        let kind = tar::EntryType::XHeader;
        let head = archive(&[("PaxHeaders", kind, "", 0o644, record.as_bytes())]);
        bytes.extend(&head[..1024]);
        bytes.extend(&archive(&[("outer", FILE, "", 0o644, b"")])[..512]);
        bytes.extend(&smuggled);
        bytes.extend([0; 1024]);
        let folder = tempfile::tempdir()?;
        extract(&mut bytes.as_slice(), folder.path())?;
        assert!(!folder.path().join("smuggled").exists());
        assert_eq!(fs::read(folder.path().join("outer"))?, smuggled);
        Ok(())
    }
}
