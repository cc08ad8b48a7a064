//! Tests of the repository as a whole. They are in `tests/`, start the programs and link none of
//! them.

pub mod modules;

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Each kind and the folder, below `tools`, of the crate that owns it and publishes its schema.
pub const OWNERS: [(&str, &str); 6] = [
    ("Project", "shared/contract"),
    ("Repository", "vcs-bootstrap"),
    ("Artifact", "artifact-attest"),
    ("Cluster", "talos-provision"),
    ("Delivery", "flux-seed"),
    ("Drain", "data-drain"),
];

/// Returns the root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns cargo's folder of the workspace's programs, which is the parent of the running test's
/// folder `deps`. `cargo build --workspace --bins` builds the programs.
#[must_use]
pub fn programs() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    test.ancestors().nth(2).map(Path::to_owned).unwrap_or_default()
}

/// Reads the names of the crates in `[dependencies]` of a manifest.
#[must_use]
pub fn dependencies(manifest: &str) -> Vec<&str> {
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Writes a script that can be executed. It replaces a link, because writing through the link would overwrite the
/// program of this machine.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_script(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(new, path)
}

/// Links commands of this machine into `folder`, which then is the PATH of a machine that has no others.
///
/// # Errors
///
/// A command is not in PATH, or the link cannot be created.
pub fn link_commands(folder: &Path, names: &[&str]) -> io::Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    for name in names {
        let mut folders = env::split_paths(&path).map(|folder| folder.join(name));
        let found = folders.find(|path| path.exists());
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{name} is not in PATH"));
        symlink(found.ok_or_else(missing)?, folder.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_replaces_a_link_and_leaves_the_linked_program() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (program, link) = (folder.path().join("program"), folder.path().join("link"));
        write_script(&program, "of the machine")?;
        symlink(&program, &link)?;
        write_script(&link, "of the test")?;
        assert_eq!(fs::read_to_string(program)?, "of the machine");
        assert_eq!(fs::read_to_string(&link)?, "of the test");
        assert_eq!(fs::symlink_metadata(link)?.permissions().mode() & 0o7777, 0o755);
        Ok(())
    }
}
