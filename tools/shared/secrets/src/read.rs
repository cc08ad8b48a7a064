//! Files that may hold secrets.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::{Error, Secret};

/// Largest secret, in bytes. Secrets are keys, tokens and small files, so a larger file is a wrong path.
pub(crate) const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Reads a whole file of at most `bytes_max` bytes.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Secret, Error> {
    let unreadable = |source| Error::Unreadable { file: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    // The capacity is large enough from the start, because a vector that grows leaves its old bytes
    // in memory.
    let length = file.metadata().map_err(unreadable)?.len().min(bytes_max);
    let capacity = usize::try_from(length + 1).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max {
        return Err(Error::TooLarge { what: path.display().to_string(), bytes_max });
    }
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}
