//! Report of the entries that an archive does not keep as they are.

use std::fmt::Write as _;

/// Largest number of names of each kind in a report, because a volume may have millions of entries.
const NAMES_MAX: usize = 10;

/// Findings about the entries of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of entries, the folder itself included.
    pub entries: u64,
    /// Whether the only entry of the folder is the `lost+found` that `mkfs.ext4` creates.
    pub empty: bool,
    /// File systems mounted in the volume.
    pub nested: Findings,
    /// Sockets. They are not in the archive, because a socket is useless without its process.
    pub sockets: Findings,
    /// Files with holes. The archive holds zeros in place of the holes.
    pub holes: Findings,
    /// Entries with extended attributes. They are in the archive.
    pub attributes: Findings,
}

/// Number of entries of one kind, and their first names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Number of entries of this kind.
    pub count: u64,
    /// First names, at most ten, with invalid UTF-8 replaced.
    pub names: Vec<String>,
}

impl Findings {
    fn add(&mut self, name: &[u8]) {
        self.count += 1;
        if self.names.len() < NAMES_MAX {
            self.names.push(String::from_utf8_lossy(name).into_owned());
        }
    }

    fn json(&self) -> String {
        let names: Vec<_> = self.names.iter().map(|name| quoted(name)).collect();
        format!(r#"{{"count":{},"names":[{}]}}"#, self.count, names.join(","))
    }
}

impl Report {
    pub(crate) fn entry(&mut self, name: &[u8]) {
        self.entries += 1;
        self.empty = (self.entries == 1 || self.empty) && matches!(name, b"./" | b"./lost+found/");
    }

    pub(crate) fn nested(&mut self, name: &[u8]) {
        self.nested.add(name);
    }

    pub(crate) fn socket(&mut self, name: &[u8]) {
        self.sockets.add(name);
    }

    pub(crate) fn holes(&mut self, name: &[u8]) {
        self.holes.add(name);
    }

    pub(crate) fn extended(&mut self, name: &[u8], _: &[(Vec<u8>, Vec<u8>)]) {
        self.attributes.add(name);
    }

    /// Returns the report as a JSON object, for programs.
    #[must_use]
    pub fn json(&self) -> String {
        format!(
            r#"{{"entries":{},"empty":{},"nested":{},"sockets":{},"holes":{},"attributes":{}}}"#,
            self.entries,
            self.empty,
            self.nested.json(),
            self.sockets.json(),
            self.holes.json(),
            self.attributes.json(),
        )
    }

    /// Returns the report for users: one line for each kind of loss, and no line if there is none.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let kinds = [
            (&self.nested, "another file system is mounted in the volume"),
            (&self.sockets, "sockets are not copied"),
            (&self.holes, "holes are copied as zeros"),
        ];
        let kinds = kinds.into_iter().filter(|(findings, _)| findings.count > 0);
        let line = |(findings, what): (&Findings, &str)| {
            let more = if findings.count > findings.names.len() as u64 { ", …" } else { "" };
            format!("{what} ({}): {}{more}", findings.count, findings.names.join(", "))
        };
        kinds.map(line).collect()
    }
}

/// Returns `text` as a JSON string (RFC 8259, section 7).
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            control if (control as u32) < 0x20 => {
                let _ = write!(quoted, "\\u{:04x}", control as u32);
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_quotes_and_line_breaks_are_escaped_in_json() {
        assert_eq!(quoted("a\"b\\c\n"), r#""a\"b\\c\u000a""#);
    }

    #[test]
    fn a_folder_with_only_lost_and_found_is_empty() {
        let names = |names: &[&[u8]]| {
            let mut report = Report::default();
            for name in names {
                report.entry(name);
            }
            report.empty
        };
        assert!(names(&[b"./"]));
        assert!(names(&[b"./", b"./lost+found/"]));
        assert!(!names(&[b"./", b"./file"]));
        assert!(!names(&[b"./", b"./file", b"./lost+found/"]));
    }
}
