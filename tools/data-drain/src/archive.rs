//! The archive as it comes: where one member ends and the next begins.
//!
//! **Invariant:** every byte that is read is handed on, and in order: what is understood of it
//! decides where it is cut, never what is kept.
//! **Invariant:** an archive that ends before its end is an error.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

const BLOCK: usize = 512;
const CHUNK: usize = 128 * 1024;
/// Limit of an extended header. Names are short, but a file on XFS may have any number of extended
/// attributes of 64 KiB each.
const EXTENDED_BYTES_MAX: u64 = 16 << 20;

/// What GNU tar, bsdtar and Go put before the name of an extended attribute.
const ATTRIBUTE: &[u8] = b"SCHILY.xattr.";

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    /// As the format's `typeflag` says it.
    pub(crate) kind: u8,
    pub(crate) bytes: u64,
    /// To what a link leads.
    pub(crate) target: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) user: u32,
    pub(crate) group: u32,
    /// When it was changed: seconds since 1970, and nanoseconds of one more.
    pub(crate) changed: (i64, u32),
    /// Extended attributes: names and values.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Member {
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.kind, 0 | b'0' | b'7')
    }

    /// What it is, for people.
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

/// Where the archive goes.
pub(crate) trait Sink {
    /// What can go wrong there.
    type Error: From<io::Error>;
    /// A member begins here that takes `bytes` with all its headers.
    fn begin(&mut self, member: &Member, bytes: u64) -> Result<(), Self::Error>;
    /// The next bytes of the archive; the first `content` of them are in the member.
    fn write(&mut self, bytes: &[u8], content: usize) -> Result<(), Self::Error>;
    /// That was a member; the digest is of what is in it, if it is a file.
    fn end(&mut self, member: Member, sha256: Option<[u8; 32]>) -> Result<(), Self::Error>;
}

/// Hands the archive that `source` holds on to `sink`.
///
/// # Errors
///
/// It cannot be read, is no archive, or is cut short; or the sink fails.
pub(crate) fn copy<S: Sink>(source: &mut impl Read, sink: &mut S) -> Result<(), S::Error> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut head = vec![0; BLOCK];
        source.read_exact(&mut head)?;
        if head.iter().all(|&it| it == 0) {
            sink.write(&head, 0)?;
            return end(source, sink);
        }
        let mut member = parse(&head)?;
        let mut extended = Extended::default();
        while member.kind == b'x' {
            if member.bytes > EXTENDED_BYTES_MAX {
                return Err(garbled("an extended header that is too long").into());
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
            let of_it = usize::try_from(content.min(want as u64)).unwrap_or(want);
            if is_file {
                sha256.update(&buffer[..of_it]);
            }
            sink.write(&buffer[..want], of_it)?;
            content -= of_it as u64;
            left -= want;
        }
        sink.end(member, is_file.then(|| sha256.finalize().into()))?;
    }
}

/// The rest: one more block of zeros at least, and nothing but zeros.
fn end<S: Sink>(source: &mut impl Read, sink: &mut S) -> Result<(), S::Error> {
    let mut rest = vec![0; BLOCK];
    source.read_exact(&mut rest)?;
    loop {
        if rest.iter().any(|&it| it != 0) {
            return Err(garbled("something after its end").into());
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
    let counted: u64 = block.iter().enumerate().map(|(at, &it)| u64::from(counts(at, it))).sum();
    if sum != Some(counted) || &block[257..262] != b"ustar" {
        return Err(garbled("a header that is none"));
    }
    let kind = block[156];
    if !matches!(kind, 0 | b'0'..=b'7' | b'x') {
        return Err(garbled("a member of a kind that is not in POSIX"));
    }
    let bytes = octal(&block[124..136]).ok_or_else(|| garbled("a member without a size"))?;
    // What is no file has no content, whatever its header says.
    let bytes = if matches!(kind, 0 | b'0' | b'7' | b'x') { bytes } else { 0 };
    let number = |field: &[u8]| octal(field).and_then(|it| u32::try_from(it).ok()).unwrap_or(0);
    let (name, prefix) = (text(&block[..100]), text(&block[345..500]));
    let name = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
    let seconds = octal(&block[136..148]).and_then(|it| i64::try_from(it).ok());
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

/// What an extended header says in place of the one that follows.
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
    /// `"%d %s=%s\n"`, again and again; the number counts all of it.
    fn parse(&mut self, mut records: &[u8]) -> io::Result<()> {
        let wrong = || garbled("an extended header that is none");
        while !records.is_empty() {
            let space = records.iter().position(|&it| it == b' ').ok_or_else(wrong)?;
            let length: usize = decimal(&records[..space]).ok_or_else(wrong)?;
            let record = records.get(space + 1..length).ok_or_else(wrong)?;
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|&it| it == b'=').ok_or_else(wrong)?;
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
                        // As the writer has it: `=` ends a keyword of pax.
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
        self.path.into_iter().for_each(|it| member.name = it);
        self.target.into_iter().for_each(|it| member.target = it);
    }
}

fn decimal<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A decimal number of seconds, as seconds and the nanoseconds after them.
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
    padded.and_then(|it| it.try_into().ok()).ok_or_else(|| garbled("a member larger than anything"))
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text(field)).ok()?;
    u64::from_str_radix(text.trim(), 8).ok()
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&it| it == 0).next().unwrap_or_default()
}

fn garbled(what: &str) -> io::Error {
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

    /// What GNU tar makes of some files, one with a long name, one larger than a chunk.
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
    fn what_gnu_tar_writes_is_cut_at_its_members_and_handed_on_whole() {
        let archive = archive();
        let mut kept = Kept::default();
        copy(&mut archive.as_slice(), &mut kept).expect("an archive");
        assert_eq!(kept.bytes, archive);
        let name = |it: &(Member, _)| String::from_utf8_lossy(&it.0.name).into_owned();
        let names: Vec<_> = kept.members.iter().map(name).collect();
        let long = format!("./{}", "n".repeat(150));
        assert_eq!(names, ["./", "./empty", "./link", &long, "./sub/", "./sub/large"]);
        assert_eq!(kept.members[5].0.bytes, 300_000);
        assert_eq!(kept.members[5].1, Some(Sha256::digest(vec![7; 300_000]).into()));
        assert_eq!(kept.members[2].0.target, b"empty");
        // From each of these on, tar finds its way alone.
        for begin in kept.begins {
            let mut rest = Kept::default();
            copy(&mut &archive[begin..], &mut rest).expect("an archive");
        }
    }

    #[test]
    fn times_are_decimal_and_may_be_before_1970() {
        assert_eq!(time(b"7"), Some((7, 0)));
        assert_eq!(time(b"7.25"), Some((7, 250_000_000)));
        assert_eq!(time(b"-0.5"), Some((-1, 500_000_000)));
        assert_eq!(time(b"-1.75"), Some((-2, 250_000_000)));
        assert_eq!(time(b"7.2x"), None);
    }

    proptest! {
        #[test]
        fn an_archive_that_is_cut_short_is_none(cut in 1usize..) {
            let archive = archive();
            // GNU tar pads with more zeros than it must: what matters is before them.
            let end = archive.iter().rposition(|&it| it != 0).expect("something") + 1;
            let cut = cut % end;
            prop_assert!(copy(&mut &archive[..cut], &mut Kept::default()).is_err());
        }

        #[test]
        fn whatever_it_is_given_it_ends(bytes: Vec<u8>) {
            let _ = copy(&mut bytes.as_slice(), &mut Kept::default());
        }
    }
}
