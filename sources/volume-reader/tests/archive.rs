//! Archives of the library, read by the real `tar`.

use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

type Test<T = ()> = Result<T, Box<dyn Error>>;

/// A temporary folder, which is removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Test<Self> {
        let path =
            std::env::temp_dir().join(format!("volume-reader-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn archive(folder: &Path) -> Test<Vec<u8>> {
    let mut bytes = Vec::new();
    volume_reader::write(folder, &mut bytes)?;
    Ok(bytes)
}

/// Name, mode, size, modification time and number of links of an entry.
type Line = (PathBuf, u32, u64, (i64, i64), u64);

type Change = dyn Fn(&Path) -> std::io::Result<()>;

fn listing(folder: &Path) -> Test<Vec<Line>> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let is = fs::symlink_metadata(&path)?;
        let name = path.strip_prefix(folder)?.to_owned();
        let size = if is.is_dir() { 0 } else { is.len() };
        found.push((name, is.mode(), size, (is.mtime(), is.mtime_nsec()), is.nlink()));
        if is.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn a_folder_with_everything(at: &Path) -> Test {
    fs::create_dir_all(at.join("deep/er"))?;
    fs::write(at.join("deep/er/file"), vec![7; 70_000])?;
    fs::write(at.join("empty"), "")?;
    fs::write(at.join("block"), vec![1; 512])?;
    fs::write(at.join(OsStr::from_bytes(b"not \xff UTF-8\n")), "bytes")?;
    fs::write(at.join("n".repeat(200)), "a long name")?;
    symlink("/no/such/thing", at.join("symbolic"))?;
    symlink("t".repeat(180), at.join("symbolic, long"))?;
    fs::hard_link(at.join("empty"), at.join("hard"))?;
    assert!(Command::new("mkfifo").arg(at.join("pipe")).status()?.success());
    // The sticky bit stands for setuid, because Nix's sandbox forbids setuid and setgid bits.
    fs::set_permissions(at.join("block"), fs::Permissions::from_mode(0o1750))?;
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    File::open(at.join("block"))?.set_modified(time)?;
    File::open(at.join("deep"))?.set_modified(time)?;
    Ok(())
}

#[test]
fn tar_extracts_the_same_entries() -> Test {
    let (folder, to) = (Folder::new("from")?, Folder::new("to")?);
    a_folder_with_everything(&folder.0)?;
    let file = to.0.join("archive.tar");
    fs::write(&file, archive(&folder.0)?)?;
    let out = to.0.join("out");
    fs::create_dir(&out)?;
    let mut tar = Command::new("tar");
    tar.arg("-xpf").arg(&file).arg("-C").arg(&out).stderr(Stdio::inherit());
    assert!(tar.status()?.success());
    assert_eq!(listing(&out)?, listing(&folder.0)?);
    assert_eq!(fs::read(out.join("deep/er/file"))?, vec![7; 70_000]);
    assert_eq!(fs::read_link(out.join("symbolic, long"))?.as_os_str().len(), 180);
    Ok(())
}

#[test]
fn the_archive_changes_only_when_the_folder_changes() -> Test {
    let folder = Folder::new("same")?;
    a_folder_with_everything(&folder.0)?;
    let first = archive(&folder.0)?;
    assert_eq!(archive(&folder.0)?, first);
    let changes: [&Change; 4] = [
        &|at| fs::write(at.join("block"), vec![2; 512]),
        &|at| fs::set_permissions(at.join("block"), fs::Permissions::from_mode(0o600)),
        &|at| fs::rename(at.join("empty"), at.join("emptied")),
        &|at| fs::remove_file(at.join("hard")),
    ];
    let mut seen = vec![first];
    for change in changes {
        change(&folder.0)?;
        let after = archive(&folder.0)?;
        assert!(!seen.contains(&after));
        seen.push(after);
    }
    Ok(())
}

#[test]
fn an_error_names_the_entry_that_cannot_be_read() -> Test {
    let folder = Folder::new("wrong")?;
    let file = folder.0.join("a file");
    fs::write(&file, "no folder")?;
    let error = archive(&file).expect_err("a file is no folder").to_string();
    assert!(error.contains("a file: Not a directory"), "{error}");
    Ok(())
}

/// Uses `/dev`, which contains other file systems on every machine: `pts`, `shm`.
#[test]
fn another_file_system_in_the_folder_is_an_error_and_a_survey_names_it() -> Test {
    let report = volume_reader::survey(Path::new("/dev"))?;
    assert!(report.nested.count > 0, "{report:?}");
    assert!(report.lines().iter().any(|line| line.contains("another file system")));
    let error = archive(Path::new("/dev")).expect_err("a nested file system").to_string();
    assert!(error.contains("another file system is mounted here"), "{error}");
    assert!(report.nested.names.iter().any(|name| error.starts_with(name.as_str())), "{error}");
    Ok(())
}

#[test]
fn survey_reports_everything_that_an_archive_does_not_keep() -> Test {
    let folder = Folder::new("survey")?;
    let empty = volume_reader::survey(&folder.0)?;
    assert!(empty.empty && empty.lines().is_empty(), "{empty:?}");
    File::create(folder.0.join("sparse"))?.set_len(1 << 30)?;
    let socket = std::os::unix::net::UnixListener::bind(folder.0.join("socket"))?;
    let report = volume_reader::survey(&folder.0)?;
    drop(socket);
    assert_eq!((report.entries, report.empty), (3, false));
    assert_eq!(report.sockets.names, ["./socket"]);
    assert_eq!(report.holes.names, ["./sparse"]);
    let json = report.json();
    assert!(json.contains(r#""sockets":{"count":1,"names":["./socket"]}"#), "{json}");
    Ok(())
}

#[test]
fn extended_attributes_are_in_the_archive() -> Test {
    let folder = Folder::new("attributes")?;
    let file = folder.0.join("file");
    fs::write(&file, "content")?;
    let before = archive(&folder.0)?;
    let set =
        rustix::fs::setxattr(&file, "user.note", b"kept\0bytes", rustix::fs::XattrFlags::empty());
    let report = volume_reader::survey(&folder.0)?;
    if set == Err(rustix::io::Errno::OPNOTSUPP) {
        // This file system has no extended attributes (tmpfs before Linux 6.6).
        assert_eq!(report.attributes.count, 0);
        return Ok(());
    }
    set?;
    assert_eq!(report.attributes.names, ["./file"]);
    let after = archive(&folder.0)?;
    assert_ne!(before, after);
    let record = b"SCHILY.xattr.user.note=kept\0bytes\n";
    assert!(after.windows(record.len()).any(|window| window == record));
    Ok(())
}

/// A tree can be deeper than `PATH_MAX`, 4,096 bytes.
#[test]
fn a_tree_deeper_than_the_longest_path_is_read() -> Test {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let folder = Folder::new("deep")?;
    let mut at = openat(CWD, &folder.0, OFlags::DIRECTORY, Mode::empty())?;
    for _ in 0..30 {
        let name = "n".repeat(200);
        mkdirat(&at, &name, Mode::RWXU)?;
        at = openat(&at, &name, OFlags::DIRECTORY, Mode::empty())?;
    }
    assert_eq!(volume_reader::survey(&folder.0)?.entries, 31);
    assert!(archive(&folder.0)?.len() > 6000 * 15);
    Ok(())
}

#[test]
fn frames_end_with_a_total_and_wait_for_the_answer() -> Test {
    let bytes = vec![7; 200_000];
    let framed = |answer: &[u8]| -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut frames = volume_reader::Frames::new(&mut out);
        std::io::Write::write_all(&mut frames, &bytes)?;
        frames.end("{}", answer)?;
        Ok(out)
    };
    let mut out = framed(b"received\n")?;
    let end = out.split_off(out.len() - 18);
    assert_eq!(end[..4], [0; 4]);
    assert_eq!(end[4..12], 200_000_u64.to_be_bytes());
    assert_eq!(end[12..], *b"\0\0\0\x02{}");
    let mut content: Vec<u8> = Vec::new();
    let mut rest = out.as_slice();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (frame, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        content.extend(frame);
        rest = after;
    }
    assert_eq!(content, bytes);
    for silent in ["", "received"] {
        let error = framed(silent.as_bytes()).expect_err("no confirmation");
        assert!(error.to_string().contains("acknowledged"), "{error}");
    }
    Ok(())
}
