//! Reads and writes files. A file is written completely or not at all, by renaming.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use crate::Error;

/// Returns a function that turns an error of the operating system into an [`Error`] with the verb
/// `what` and the path.
pub(crate) fn cannot(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::DiskFull { path },
        _ => Error::File { what, path, source },
    }
}

/// Returns the folder in the environment variable `variable`, or `name` in the home directory.
pub(crate) fn home(variable: &str, name: &str) -> PathBuf {
    let home = PathBuf::from(env::var_os("HOME").unwrap_or_default());
    env::var_os(variable).map_or_else(|| home.join(name), PathBuf::from)
}

/// Returns the contents of `path`, or `None` if the file does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path)(error)),
    }
}

/// Writes `bytes` to `path` unless the file already holds them. Returns whether it wrote.
pub(crate) fn settle(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, Error> {
    if read(path)?.as_deref() == Some(bytes) {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        self::folder(folder)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let written = || {
        let _ = fs::remove_file(&new); // left over from a run that was killed
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode))?; // `mode` above is reduced by the umask
        fs::rename(&new, path)
    };
    written().map_err(cannot("write", path))?;
    Ok(true)
}

/// Creates the folder `path` and its parents, unless they exist.
pub(crate) fn folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(cannot("create the folder", path))
}

/// Removes `path` and its contents, if it exists.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(cannot("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Returns the secret in `path`. The first call creates it from `bytes` random bytes.
pub(crate) fn secret(
    path: &Path,
    bytes: usize,
    encode: impl Fn(&[u8]) -> String,
) -> Result<String, Error> {
    if let Some(existing) = read(path)? {
        return Ok(String::from_utf8_lossy(&existing).trim().to_owned());
    }
    let secret = encode(&random(bytes)?);
    settle(path, secret.as_bytes(), 0o600)?;
    Ok(secret)
}

/// Encodes `bytes` as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Returns `bytes` random bytes of the operating system.
pub(crate) fn random(bytes: usize) -> Result<Vec<u8>, Error> {
    let source = Path::new("/dev/urandom");
    let mut random = vec![0; bytes];
    let read = File::open(source).and_then(|mut file| file.read_exact(&mut random));
    read.map_err(cannot("read", source))?;
    Ok(random)
}

/// Opens a log for appending. Logs are never truncated, because `writes.rs` counts the requests in
/// the whole log.
pub(crate) fn log(path: &Path) -> Result<File, Error> {
    if let Some(folder) = path.parent() {
        self::folder(folder)?;
    }
    let log = OpenOptions::new().create(true).append(true).open(path);
    log.map_err(cannot("write", path))
}

/// Returns the last line of a log, for an error message.
pub(crate) fn last_line(path: &Path) -> String {
    let text = read_lossy(path);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no output");
    line.chars().take(400).collect()
}

/// Returns the error at the end of a log of a program of this repository with its causes, without the help, which is
/// about that program. A log that ends otherwise, for example after an older error, has a last line.
pub(crate) fn last_error(path: &Path) -> String {
    let text = read_lossy(path);
    let lines: Vec<_> = text.lines().collect();
    let errors = lines.iter().rposition(|line| line.starts_with("error: "));
    let ends_with = |first: &usize| lines[first + 1..].iter().all(|line| line.starts_with("  "));
    let Some(first) = errors.filter(ends_with) else { return last_line(path) };
    let parts = lines[first..].iter().filter_map(|line| {
        line.strip_prefix("error: ").or_else(|| line.strip_prefix("  because: "))
    });
    parts.collect::<Vec<_>>().join(": ")
}

fn read_lossy(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_error_of_a_log_has_its_causes_and_no_help() {
        let log = tempfile::NamedTempFile::new().expect("a file");
        for (text, expected) in [
            ("", "no output"),
            ("lab  -  ended\n\n", "lab  -  ended"),
            ("error: old\n  help: wait\nlab  -  ended\n", "lab  -  ended"),
            (
                "error: old\n  help: wait\nerror: cannot open a\n  because: b\n  because: c\n  help: correct it\n",
                "cannot open a: b: c",
            ),
        ] {
            fs::write(log.path(), text).expect("written");
            assert_eq!(last_error(log.path()), expected);
        }
    }
}
