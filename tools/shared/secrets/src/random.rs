//! Random bytes of the kernel.

use std::fs::File;
use std::io::Read as _;

use zeroize::Zeroizing;

use crate::{Error, Secret};

/// Reads 32 bytes from `/dev/urandom`.
pub(crate) fn random() -> Result<Secret, Error> {
    let file = "/dev/urandom";
    let mut bytes = Zeroizing::new(vec![0; 32]);
    let read = File::open(file).and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(|source| Error::Unreadable { file: file.into(), source })?;
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}
