//! Files, each written wholly or not at all.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use crate::Error;

/// Makes what the system refused an error that says what and where.
pub(crate) fn cannot(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::DiskFull { path },
        _ => Error::File { what, path, source },
    }
}

/// The folder that `variable` names, or the one called `name` in the user's own.
pub(crate) fn home(variable: &str, name: &str) -> PathBuf {
    let home = PathBuf::from(env::var_os("HOME").unwrap_or_default());
    env::var_os(variable).map_or_else(|| home.join(name), PathBuf::from)
}

/// What `path` holds; none if it is not there.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path)(error)),
    }
}

/// Makes `path` hold `bytes`, if it does not already. Whether it had to.
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
        let _ = fs::remove_file(&new); // of a run that was killed
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode))?; // whatever the umask
        fs::rename(&new, path)
    };
    written().map_err(cannot("write", path))?;
    Ok(true)
}

/// Makes `path` a folder that every user may enter.
pub(crate) fn folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(cannot("make the folder", path))
}

/// Removes `path` and all that is in it, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(it) if it.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(cannot("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The secret in `path`, made of `bytes` random ones the first time.
pub(crate) fn secret(
    path: &Path,
    bytes: usize,
    encode: impl Fn(&[u8]) -> String,
) -> Result<String, Error> {
    if let Some(there) = read(path)? {
        return Ok(String::from_utf8_lossy(&there).trim().to_owned());
    }
    let secret = encode(&random(bytes)?);
    settle(path, secret.as_bytes(), 0o600)?;
    Ok(secret)
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// `bytes` random ones.
pub(crate) fn random(bytes: usize) -> Result<Vec<u8>, Error> {
    let source = Path::new("/dev/urandom");
    let mut random = vec![0; bytes];
    let read = File::open(source).and_then(|mut it| it.read_exact(&mut random));
    read.map_err(cannot("read", source))?;
    Ok(random)
}

/// A log that is added to, since what counts writes reads all of it.
pub(crate) fn log(path: &Path) -> Result<File, Error> {
    if let Some(folder) = path.parent() {
        self::folder(folder)?;
    }
    let log = OpenOptions::new().create(true).append(true).open(path);
    log.map_err(cannot("write", path))
}

/// The last line of a log, for an error.
pub(crate) fn last_line(path: &Path) -> String {
    let text = fs::read(path).map(|it| String::from_utf8_lossy(&it).into_owned());
    let line =
        text.unwrap_or_default().lines().rev().find(|it| !it.trim().is_empty()).map(str::to_owned);
    let line = line.unwrap_or_else(|| "it said nothing".to_owned());
    line.chars().take(400).collect()
}
