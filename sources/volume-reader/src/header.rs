//! Header blocks of an entry in POSIX.1-2001's `pax` interchange format
//! (<https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html>).

use rustix::fs::Stat;

const BLOCK: usize = 512;

/// Type of an entry, with the value of the header field `typeflag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    File = b'0' as isize,
    HardLink = b'1' as isize,
    SymbolicLink = b'2' as isize,
    CharacterDevice = b'3' as isize,
    BlockDevice = b'4' as isize,
    Folder = b'5' as isize,
    Pipe = b'6' as isize,
}

/// Metadata of an entry, without its content.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) kind: Type,
    pub(crate) target: &'a [u8],
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: i64,
    pub(crate) device: u64,
    /// Extended attributes: names and values.
    pub(crate) extended: &'a [(Vec<u8>, Vec<u8>)],
}

impl<'a> Entry<'a> {
    pub(crate) fn new(name: &'a [u8], kind: Type, is: &Stat) -> Self {
        Self {
            name,
            kind,
            target: b"",
            size: 0,
            mode: is.st_mode & 0o7777,
            user: is.st_uid,
            group: is.st_gid,
            seconds: is.st_mtime,
            nanoseconds: i64::try_from(is.st_mtime_nsec).unwrap_or(0),
            device: is.st_rdev,
            extended: &[],
        }
    }

    /// Returns the header: one block, preceded by an extended header if the block has no room for a
    /// value.
    pub(crate) fn header(&self) -> Vec<u8> {
        let records = self.records();
        let mut blocks = Vec::new();
        if !records.is_empty() {
            let extended = Self {
                size: records.len() as u64,
                nanoseconds: 0,
                device: 0,
                extended: &[],
                ..*self
            };
            blocks.extend(extended.block(b'x', b"PaxHeaders", b""));
            blocks.extend(&records);
            blocks.extend(padding(records.len() as u64));
        }
        blocks.extend(self.block(self.kind as u8, self.name, self.target));
        blocks
    }

    /// Returns the pax records for every value that a plain block has no room for.
    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let mut add = |key: &str, value: &[u8]| records.extend(record(key, value));
        if self.target.len() > 100 || !self.target.is_ascii() {
            add("linkpath", self.target);
        }
        if self.nanoseconds != 0 || octal(self.seconds.try_into().ok(), 11).is_none() {
            add("mtime", time(self.seconds, self.nanoseconds).as_bytes());
        }
        if self.name.len() > 100 || !self.name.is_ascii() {
            add("path", self.name);
        }
        for (key, value, digits) in
            [("size", self.size, 11), ("uid", self.user.into(), 7), ("gid", self.group.into(), 7)]
        {
            if octal(Some(value), digits).is_none() {
                add(key, value.to_string().as_bytes());
            }
        }
        for (name, value) in self.extended {
            // `=` ends a keyword in pax; GNU tar escapes `=` and `%` in names the same way.
            let name = String::from_utf8_lossy(name).replace('%', "%25").replace('=', "%3D");
            add(&format!("SCHILY.xattr.{name}"), value);
        }
        records
    }

    fn block(&self, kind: u8, name: &[u8], target: &[u8]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        let number = |value: Option<u64>, digits| octal(value, digits).unwrap_or_default();
        put(0, &name[..name.len().min(100)]);
        put(100, number(Some(self.mode.into()), 7).as_bytes());
        put(108, number(Some(self.user.into()), 7).as_bytes());
        put(116, number(Some(self.group.into()), 7).as_bytes());
        put(124, number(Some(self.size), 11).as_bytes());
        put(136, number(self.seconds.try_into().ok(), 11).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, &target[..target.len().min(100)]);
        put(257, b"ustar\x0000");
        if matches!(self.kind, Type::CharacterDevice | Type::BlockDevice) && kind != b'x' {
            put(329, number(Some(major(self.device)), 7).as_bytes());
            put(337, number(Some(minor(self.device)), 7).as_bytes());
        }
        let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// Returns the zeros after `size` bytes up to the next block.
pub(crate) fn padding(size: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    &ZEROS[..(BLOCK - over) % BLOCK]
}

/// Formats `value` with exactly `digits` octal digits, or returns `None` if it does not fit.
fn octal(value: Option<u64>, digits: usize) -> Option<String> {
    let text = format!("{:0digits$o}", value?);
    (text.len() == digits).then_some(text)
}

/// Returns a pax record `"%d %s=%s\n"`. The number is the length of the whole record, including the
/// number itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend(value);
    record.push(b'\n');
    record
}

fn time(seconds: i64, nanoseconds: i64) -> String {
    // Nanoseconds count upwards from the second, also for a negative time.
    if seconds < 0 && nanoseconds > 0 {
        let (seconds, nanoseconds) = (seconds + 1, 1_000_000_000 - nanoseconds);
        let sign = if seconds == 0 { "-" } else { "" };
        return format!("{sign}{seconds}.{nanoseconds:09}");
    }
    if nanoseconds == 0 { seconds.to_string() } else { format!("{seconds}.{nanoseconds:09}") }
}

/// Returns the major number in Linux's encoding of a device (`gnu_dev_major` in glibc).
fn major(device: u64) -> u64 {
    ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff)
}

/// Returns the minor number in Linux's encoding of a device (`gnu_dev_minor` in glibc).
fn minor(device: u64) -> u64 {
    (device & 0xff) | ((device >> 12) & !0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_record_includes_its_own_digits() {
        assert_eq!(record("path", b"a"), b"9 path=a\n");
        for length in 0..2000 {
            let record = record("size", &vec![b'y'; length]);
            let (number, _) =
                record.split_at(record.iter().position(|&byte| byte == b' ').expect("a space"));
            assert_eq!(String::from_utf8_lossy(number), record.len().to_string());
        }
    }

    #[test]
    fn times_before_1970_are_negative_decimals() {
        assert_eq!(time(-1, 500_000_000), "-0.500000000");
        assert_eq!(time(-2, 250_000_000), "-1.750000000");
        assert_eq!(time(7, 0), "7");
    }
}
