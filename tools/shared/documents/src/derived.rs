//! Values derived from the root, written to files that only the current user can read.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::Error;

/// One file of derived values.
#[derive(Debug)]
pub struct Derived {
    name: String,
    content: Zeroizing<Vec<u8>>,
}

impl Derived {
    /// Creates a file `name` with `content`.
    #[must_use]
    pub fn new(name: impl Into<String>, content: Zeroizing<Vec<u8>>) -> Self {
        Self { name: name.into(), content }
    }
}

/// Writes `files` to `folder`, which must not exist yet, so that no file is overwritten.
pub(crate) fn write(folder: &Path, files: &[Derived]) -> Result<(), Error> {
    let cannot = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| Error::NotWritten { path, source }
    };
    let parent = folder.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(cannot(parent))?;
    DirBuilder::new().mode(0o700).create(folder).map_err(cannot(folder))?;
    for Derived { name, content } in files {
        let path: PathBuf = folder.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(content)).map_err(cannot(&path))?;
    }
    Ok(())
}
