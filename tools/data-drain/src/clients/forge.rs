//! A Git repository as a source: everything that `git clone --mirror` fetches, as one Git bundle. The real
//! `git` does all work.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use git::{Ended as GitEnded, Origin as GitOrigin, TIME_MAX as GIT_TIME_MAX, Url};
use secrets::Secret;

use crate::Error;

/// Name of the bundle in the archive.
pub(crate) const BUNDLE: &str = "repository.bundle";
/// Name of the file with the output of `git ls-remote`.
const REFS: &str = "refs";

/// Lists every reference on the forge with the object that it points to.
pub(crate) fn refs(url: &Url, token: &Secret) -> Result<String, Error> {
    let here = Path::new(".");
    run(&["ls-remote", "--quiet", url.as_str()], here, Some((url, token))).map(|ended| ended.text)
}

/// Writes the archive of the repository to a file in `scratch` and verifies that it is complete.
pub(crate) fn archive(url: &Url, token: &Secret, scratch: &Path) -> Result<PathBuf, Error> {
    let before = refs(url, token)?;
    let mirror = scratch.join("mirror.git");
    let (folder, bundle) = (mirror.to_string_lossy(), scratch.join(BUNDLE));
    let clone = ["clone", "--progress", "--mirror", url.as_str(), &folder];
    run(&clone, scratch, Some((url, token)))?;
    run(&["fsck", "--full", "--no-dangling", "--progress"], &mirror, None)?;
    // `git bundle` fails without a commit. The empty list of references records that case.
    let is_empty = before.trim().is_empty();
    if !is_empty {
        let bundle_name = bundle.to_string_lossy();
        run(&["bundle", "create", "--progress", &bundle_name, "--all"], &mirror, None)?;
        run(&["bundle", "verify", "--quiet", &bundle_name], &mirror, None)?;
    }
    if refs(url, token)? != before {
        return Err(Error::Changed { source_name: url.to_string() });
    }
    let archive = scratch.join("archive.tar");
    let cannot = |source| Error::File { what: "write", path: archive.clone(), source };
    let mut writer = tar::Builder::new(File::create(&archive).map_err(cannot)?);
    writer.mode(tar::HeaderMode::Deterministic);
    append(&mut writer, REFS, before.as_bytes(), before.len() as u64).map_err(cannot)?;
    let read = |source| Error::File { what: "read", path: bundle.clone(), source };
    if !is_empty {
        let file = File::open(&bundle).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        append(&mut writer, BUNDLE, file, length).map_err(cannot)?;
        fs::remove_file(&bundle).map_err(cannot)?;
    }
    writer.into_inner().map_err(cannot)?;
    fs::remove_dir_all(&mirror).map_err(cannot)?;
    Ok(archive)
}

fn append(
    writer: &mut tar::Builder<File>,
    name: &str,
    content: impl io::Read,
    bytes: u64,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(0);
    writer.append_data(&mut header, name, content)
}

fn run(
    arguments: &[&str],
    folder: &Path,
    origin: Option<(&Url, &Secret)>,
) -> Result<GitEnded, Error> {
    documents::check_interrupt()?;
    let failed = |message: String| Error::Git { command: arguments[0].to_owned(), message };
    let origin = origin.map(|(url, token)| GitOrigin { url, token });
    let ended =
        git::run(arguments, folder, origin.as_ref()).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => {
                failed(format!("no progress within {} s", GIT_TIME_MAX.as_secs()))
            }
            _ => failed(format!("git cannot be started: {error}")),
        })?;
    if ended.success { Ok(ended) } else { Err(failed(ended.message())) }
}
