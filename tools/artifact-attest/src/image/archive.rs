//! Archives whose bytes depend on the content alone.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use crate::oci::Digest;

/// Modification time of every file in a layer, in Unix seconds: 1, as in the Nix store.
const MADE: u64 = 1;
/// Unit of a tar archive, in bytes.
const TAR_BLOCK_BYTES: u64 = 512;
/// Operating system in the header of a gzip stream: unknown.
const GZIP_OS_UNKNOWN: u8 = 255;

pub(super) fn gzip<W: Write>(to: W) -> flate2::write::GzEncoder<W> {
    GzBuilder::new().mtime(0).operating_system(GZIP_OS_UNKNOWN).write(to, Compression::new(6))
}

/// Returns the number of bytes of a file or a folder in a layer.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    let there = fs::symlink_metadata(path)?;
    if there.is_dir() {
        let entries =
            sorted(path)?.into_iter().map(|entry| size(&entry)).sum::<io::Result<u64>>()?;
        return Ok(TAR_BLOCK_BYTES + entries);
    }
    let content = if there.is_file() { there.len() } else { 0 };
    Ok(TAR_BLOCK_BYTES + content.next_multiple_of(TAR_BLOCK_BYTES))
}

pub(super) fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut entries =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

pub(super) fn tree<W: Write>(archive: &mut tar::Builder<W>, path: &Path) -> io::Result<()> {
    let there = fs::symlink_metadata(path)?;
    let name = path.strip_prefix("/").unwrap_or(path);
    if there.is_symlink() {
        return link(archive, name, &fs::read_link(path)?);
    }
    // The Nix store keeps no mode except the executable bit.
    let executable = there.is_dir() || there.permissions().mode() & 0o100 != 0;
    let mode = if executable { 0o555 } else { 0o444 };
    if there.is_dir() {
        append(archive, name, EntryType::Directory, mode, 0, io::empty())?;
        return sorted(path)?.iter().try_for_each(|entry| tree(archive, entry));
    }
    append(archive, name, EntryType::Regular, mode, there.len(), File::open(path)?)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(MADE);
    header.set_size(size);
    header
}

pub(super) fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &Path,
    kind: EntryType,
    mode: u32,
    size: u64,
    content: impl io::Read,
) -> io::Result<()> {
    let mut name = name.as_os_str().as_bytes().to_vec();
    if kind == EntryType::Directory {
        name.push(b'/');
    }
    let name = PathBuf::from(OsStr::from_bytes(&name));
    archive.append_data(&mut header(kind, mode, size), name, content)
}

pub(super) fn link<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &Path,
    to: &Path,
) -> io::Result<()> {
    archive.append_link(&mut header(EntryType::Symlink, 0o777, 0), name, to)
}

/// Returns the files as a compressed tar archive, and the digest of the uncompressed bytes.
pub(crate) fn archive(files: &BTreeMap<String, Vec<u8>>) -> io::Result<(Vec<u8>, Digest)> {
    let mut archive = tar::Builder::new(Hashing::new(gzip(Vec::new())));
    for (name, content) in files {
        let (name, size) = (Path::new(name), content.len() as u64);
        append(&mut archive, name, EntryType::Regular, 0o644, size, content.as_slice())?;
    }
    let archive = archive.into_inner()?;
    let diff_id = Digest::from_sha256(&archive.hash.finalize());
    Ok((archive.inner.finish()?, diff_id))
}

/// Writer that hashes and counts the bytes passing through.
pub(super) struct Hashing<W> {
    pub(super) inner: W,
    pub(super) hash: Sha256,
    pub(super) size: u64,
}

impl<W> Hashing<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
