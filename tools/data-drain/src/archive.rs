//! Tar stream parser: finds the boundaries of the members while the archive streams through.
//!
//! **Invariant:** every byte is passed to the sink in order. The parsed headers decide only where the
//! archive is cut, never which bytes are kept.
//! **Invariant:** a truncated archive is an error.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

const BLOCK: usize = 512;
const CHUNK: usize = 128 * 1024;
/// Limit of an extended header. Names are short, but a file on XFS may have any number of extended
/// attributes of 64 KiB each.
const EXTENDED_BYTES_MAX: u64 = 16 << 20;

/// Prefix of an extended attribute's keyword, as written by GNU tar, bsdtar and Go.
const ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

/// A member of a tar archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    /// `typeflag` of the header, for example `b'5'` for a folder.
    pub(crate) kind: u8,
    pub(crate) bytes: u64,
    /// Target of a link; empty for any other member.
    pub(crate) target: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) user: u32,
    pub(crate) group: u32,
    /// Modification time: seconds since 1970, and the nanoseconds after them.
    pub(crate) changed: (i64, u32),
    /// Extended attributes: names and values.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Member {
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.kind, 0 | b'0' | b'7')
    }

    /// Returns the kind in the form that manifests and messages use.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self.kind {
            b'1' => "hardLink",
            b'2' => "symbolicLink",
            b'3' => "characterDevice",
            b'4' => "blockDevice",
            b'5' => "folder",
            b'6' => "pipe",
            _ => "file",
        }
    }
}

/// Receiver of an archive.
pub(crate) trait Sink {
    /// Error of the receiver.
    type Error: From<io::Error>;
    /// Begins a member that has `bytes` with all its headers.
    fn begin(&mut self, member: &Member, bytes: u64) -> Result<(), Self::Error>;
    /// Receives the next bytes of the archive. The first `content` of them are file content.
    fn write(&mut self, bytes: &[u8], content: usize) -> Result<(), Self::Error>;
    /// Ends a member. `sha256` is the digest of the content if the member is a file.
    fn end(&mut self, member: Member, sha256: Option<[u8; 32]>) -> Result<(), Self::Error>;
}

/// Copies the archive in `source` to `sink`.
///
/// # Errors
///
/// The archive cannot be read, is invalid or is truncated, or the sink fails.
pub(crate) fn copy<S: Sink>(source: &mut impl Read, sink: &mut S) -> Result<(), S::Error> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut head = vec![0; BLOCK];
        source.read_exact(&mut head)?;
        if head.iter().all(|&byte| byte == 0) {
            sink.write(&head, 0)?;
            return end(source, sink);
        }
        let mut member = parse(&head)?;
        let mut extended = Extended::default();
        while member.kind == b'x' {
            if member.bytes > EXTENDED_BYTES_MAX {
                return Err(invalid("an extended header that is longer than 16 MiB").into());
            }
            let from = head.len();
            head.resize(from + padded(member.bytes)?, 0);
            source.read_exact(&mut head[from..])?;
            let length = usize::try_from(member.bytes).unwrap_or(usize::MAX);
            extended.parse(&head[from..from + length])?;
            let from = head.len();
            head.resize(from + BLOCK, 0);
            source.read_exact(&mut head[from..])?;
            member = parse(&head[from..])?;
        }
        extended.change(&mut member);
        let total = padded(member.bytes)?;
        sink.begin(&member, (head.len() + total) as u64)?;
        sink.write(&head, 0)?;
        let is_file = member.is_file();
        let mut sha256 = Sha256::new();
        let (mut left, mut content) = (total, member.bytes);
        while left > 0 {
            let want = left.min(CHUNK);
            source.read_exact(&mut buffer[..want])?;
            let content_here = usize::try_from(content.min(want as u64)).unwrap_or(want);
            if is_file {
                sha256.update(&buffer[..content_here]);
            }
            sink.write(&buffer[..want], content_here)?;
            content -= content_here as u64;
            left -= want;
        }
        sink.end(member, is_file.then(|| sha256.finalize().into()))?;
    }
}

/// Reads the end of the archive, which is at least one more block of zeros and nothing else.
fn end<S: Sink>(source: &mut impl Read, sink: &mut S) -> Result<(), S::Error> {
    let mut rest = vec![0; BLOCK];
    source.read_exact(&mut rest)?;
    loop {
        if rest.iter().any(|&byte| byte != 0) {
            return Err(invalid("data after its end").into());
        }
        sink.write(&rest, 0)?;
        rest.resize(CHUNK, 0);
        let read = source.read(&mut rest)?;
        if read == 0 {
            return Ok(());
        }
        rest.truncate(read);
    }
}

fn parse(block: &[u8]) -> io::Result<Member> {
    let sum = octal(&block[148..156]);
    let counts = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    let counted: u64 =
        block.iter().enumerate().map(|(at, &byte)| u64::from(counts(at, byte))).sum();
    if sum != Some(counted) || &block[257..262] != b"ustar" {
        return Err(invalid("an invalid header"));
    }
    let kind = block[156];
    if !matches!(kind, 0 | b'0'..=b'7' | b'x') {
        return Err(invalid("a member of a kind that is not in POSIX"));
    }
    let bytes = octal(&block[124..136]).ok_or_else(|| invalid("a member without a size"))?;
    // Only files have content. A header of another kind may still state a size.
    let bytes = if matches!(kind, 0 | b'0' | b'7' | b'x') { bytes } else { 0 };
    let number =
        |field: &[u8]| octal(field).and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
    let (name, prefix) = (text(&block[..100]), text(&block[345..500]));
    let name = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
    let seconds = octal(&block[136..148]).and_then(|number| i64::try_from(number).ok());
    Ok(Member {
        name,
        kind,
        bytes,
        target: text(&block[157..257]).to_vec(),
        mode: number(&block[100..108]),
        user: number(&block[108..116]),
        group: number(&block[116..124]),
        changed: (seconds.unwrap_or(0), 0),
        attributes: Vec::new(),
    })
}

/// Fields of an extended header, which replace those of the next header.
#[derive(Default)]
struct Extended {
    size: Option<u64>,
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    user: Option<u32>,
    group: Option<u32>,
    changed: Option<(i64, u32)>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extended {
    /// Parses records of the form `"%d %s=%s\n"`. The number is the length of the whole record.
    fn parse(&mut self, mut records: &[u8]) -> io::Result<()> {
        let wrong = || invalid("an invalid extended header");
        while !records.is_empty() {
            let space = records.iter().position(|&byte| byte == b' ').ok_or_else(wrong)?;
            let length: usize = decimal(&records[..space]).ok_or_else(wrong)?;
            let record = records.get(space + 1..length).ok_or_else(wrong)?;
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(wrong)?;
            let value = &record[equals + 1..];
            match &record[..equals] {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                b"size" => self.size = Some(decimal(value).ok_or_else(wrong)?),
                b"uid" => self.user = Some(decimal(value).ok_or_else(wrong)?),
                b"gid" => self.group = Some(decimal(value).ok_or_else(wrong)?),
                b"mtime" => self.changed = Some(time(value).ok_or_else(wrong)?),
                key => {
                    if let Some(name) = key.strip_prefix(ATTRIBUTE) {
                        let name = String::from_utf8_lossy(name);
                        // Undo the writer's escape: `=` would end the keyword in a pax record.
                        let name = name.replace("%3D", "=").replace("%25", "%");
                        self.attributes.push((name.into_bytes(), value.to_vec()));
                    }
                }
            }
            records = &records[length..];
        }
        Ok(())
    }

    fn change(self, member: &mut Member) {
        member.bytes = self.size.unwrap_or(member.bytes);
        member.user = self.user.unwrap_or(member.user);
        member.group = self.group.unwrap_or(member.group);
        member.changed = self.changed.unwrap_or(member.changed);
        member.attributes = self.attributes;
        self.path.into_iter().for_each(|path| member.name = path);
        self.target.into_iter().for_each(|target| member.target = target);
    }
}

fn decimal<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Parses a decimal number of seconds into seconds and the nanoseconds after them.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    Some(match (whole.starts_with('-'), nanoseconds) {
        (true, 1..) => (seconds - 1, 1_000_000_000 - nanoseconds),
        _ => (seconds, nanoseconds),
    })
}

fn padded(bytes: u64) -> io::Result<usize> {
    let padded = bytes.checked_next_multiple_of(BLOCK as u64);
    padded
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| invalid("a member that is too large"))
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text(field)).ok()?;
    u64::from_str_radix(text.trim(), 8).ok()
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive has {what}"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Kept {
        bytes: Vec<u8>,
        begins: Vec<usize>,
        members: Vec<(Member, Option<[u8; 32]>)>,
    }

    impl Sink for Kept {
        type Error = io::Error;

        fn begin(&mut self, _: &Member, bytes: u64) -> io::Result<()> {
            assert_eq!(bytes % 512, 0);
            self.begins.push(self.bytes.len());
            Ok(())
        }

        fn write(&mut self, bytes: &[u8], content: usize) -> io::Result<()> {
            assert!(content <= bytes.len());
            self.bytes.extend(bytes);
            Ok(())
        }

        fn end(&mut self, member: Member, sha256: Option<[u8; 32]>) -> io::Result<()> {
            self.members.push((member, sha256));
            Ok(())
        }
    }

    /// Returns an archive of GNU tar. One file has a long name, and one is larger than a chunk.
    fn archive() -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("sub")).expect("written");
        std::fs::write(at("empty"), "").expect("written");
        std::fs::write(at("sub/large"), vec![7; 300_000]).expect("written");
        std::fs::write(at(&"n".repeat(150)), "long").expect("written");
        std::os::unix::fs::symlink("empty", at("link")).expect("written");
        let mut tar = Command::new("tar");
        tar.args(["--create", "--format=posix", "--sort=name", "."]).current_dir(&folder);
        let output = tar.output().expect("tar");
        assert!(output.status.success());
        output.stdout
    }

    #[test]
    fn copy_passes_on_every_byte_of_gnu_tar_and_finds_each_member() {
        let archive = archive();
        let mut kept = Kept::default();
        copy(&mut archive.as_slice(), &mut kept).expect("an archive");
        assert_eq!(kept.bytes, archive);
        let name = |(member, _): &(Member, _)| String::from_utf8_lossy(&member.name).into_owned();
        let names: Vec<_> = kept.members.iter().map(name).collect();
        let long = format!("./{}", "n".repeat(150));
        assert_eq!(names, ["./", "./empty", "./link", &long, "./sub/", "./sub/large"]);
        assert_eq!(kept.members[5].0.bytes, 300_000);
        assert_eq!(kept.members[5].1, Some(Sha256::digest(vec![7; 300_000]).into()));
        assert_eq!(kept.members[2].0.target, b"empty");
        // The archive is also valid from the begin of each member.
        for begin in kept.begins {
            let mut rest = Kept::default();
            copy(&mut &archive[begin..], &mut rest).expect("an archive");
        }
    }

    #[test]
    fn time_parses_decimal_seconds_before_and_after_1970() {
        assert_eq!(time(b"7"), Some((7, 0)));
        assert_eq!(time(b"7.25"), Some((7, 250_000_000)));
        assert_eq!(time(b"-0.5"), Some((-1, 500_000_000)));
        assert_eq!(time(b"-1.75"), Some((-2, 250_000_000)));
        assert_eq!(time(b"7.2x"), None);
    }

    proptest! {
        #[test]
        fn copy_fails_when_the_archive_is_truncated(cut in 1usize..) {
            let archive = archive();
            // Cut before the padding, because GNU tar writes more zeros than the format requires.
            let end = archive.iter().rposition(|&byte| byte != 0).expect("something") + 1;
            let cut = cut % end;
            prop_assert!(copy(&mut &archive[..cut], &mut Kept::default()).is_err());
        }

        #[test]
        fn copy_ends_for_any_input(bytes: Vec<u8>) {
            let _ = copy(&mut bytes.as_slice(), &mut Kept::default());
        }
    }
}
