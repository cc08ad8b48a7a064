//! What it writes, the real `tar` reads.

use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

type Test<T = ()> = Result<T, Box<dyn Error>>;

/// A folder of its own, which goes with the test.
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

/// Name, type and permissions, size, time, and number of names.
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
    // Nix lets no build make a program somebody else; this bit takes the same way.
    fs::set_permissions(at.join("block"), fs::Permissions::from_mode(0o1750))?;
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    File::open(at.join("block"))?.set_modified(time)?;
    File::open(at.join("deep"))?.set_modified(time)?;
    Ok(())
}

#[test]
fn tar_extracts_what_was_there() -> Test {
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
fn the_same_folder_gives_the_same_bytes_and_any_change_others() -> Test {
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
fn what_cannot_be_read_is_an_error_that_names_it() -> Test {
    let folder = Folder::new("wrong")?;
    let file = folder.0.join("a file");
    fs::write(&file, "no folder")?;
    let error = archive(&file).expect_err("a file is no folder").to_string();
    assert!(error.contains("a file: it is no folder"), "{error}");
    Ok(())
}
