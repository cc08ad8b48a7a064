//! Files in Git LFS, and the programs that a run can call.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::common::{Sandbox, Test};

/// Creates a folder beside the repository of `sandbox` with links to these programs alone.
#[allow(dead_code, reason = "not every test that has this module needs it")]
pub(crate) fn programs(sandbox: &Sandbox, names: &[&str]) -> Test<PathBuf> {
    let folder = sandbox.path().join(".git/programs");
    fs::create_dir_all(&folder)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    for name in names {
        let mut found = std::env::split_paths(&path).map(|folder| folder.join(name));
        let found = found.find(|file| file.is_file()).ok_or_else(|| format!("no {name}"))?;
        symlink(found, folder.join(name))?;
    }
    Ok(folder)
}

/// Returns the digest of a content.
#[allow(dead_code, reason = "not every test that has this module needs it")]
pub(crate) fn oid(content: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(content))
}

/// Returns the file in which git-lfs keeps a content in the clone of `sandbox`.
#[allow(dead_code, reason = "not every test that has this module needs it")]
pub(crate) fn stored(sandbox: &Sandbox, content: &[u8]) -> PathBuf {
    let oid = oid(content);
    sandbox.path().join(".git/lfs/objects").join(&oid[..2]).join(&oid[2..4]).join(oid)
}

/// Commits `file` with its `content` in Git LFS, as git-lfs does, and returns the commit.
#[allow(dead_code, reason = "not every test that has this module needs it")]
pub(crate) fn commit(sandbox: &Sandbox, file: &str, content: &[u8]) -> Test<String> {
    let (stored, oid) = (stored(sandbox, content), oid(content));
    fs::create_dir_all(stored.parent().ok_or("a folder")?)?;
    fs::write(stored, content)?;
    let version = "version https://git-lfs.github.com/spec/v1";
    let pointer = format!("{version}\noid sha256:{oid}\nsize {}\n", content.len());
    fs::write(sandbox.path().join(file), pointer)?;
    sandbox.git(&["add", "--force", "--", file])?;
    sandbox.commit(file)
}
