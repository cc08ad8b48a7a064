//! Prepares the stand-in for nixpkgs and the settings that let Nix build without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::paths::LabPaths;
use crate::{command, crates, files};

/// File that `host.sh` writes: the tools of this machine that the stand-in uses.
const HOST: &str = "host.nix";

fn copy_folder(paths: &LabPaths) -> PathBuf {
    paths.directory.join("nixpkgs")
}

/// Returns the URL of the flake input `nixpkgs`.
pub(crate) fn input(paths: &LabPaths) -> String {
    let given = paths.nixpkgs.clone();
    given.unwrap_or_else(|| format!("path:{}", copy_folder(paths).display()))
}

/// Writes the stand-in and the settings of Nix, and fetches the crates of `flakes`. Files that are
/// up to date are not written. With a nixpkgs of the user's own nothing happens, because that user
/// has settings as well.
pub(crate) fn ensure(paths: &LabPaths, flakes: &[PathBuf]) -> Result<(), Error> {
    if paths.nixpkgs.is_some() {
        return Ok(());
    }
    crates::ensure(flakes)?; // first: the stand-in and the settings name the folder of the crates
    let (from, to) = (paths.components.join("../nix/standin"), copy_folder(paths));
    mirror(&from, &to, &[HOST])?;
    let mut host = Command::new("sh");
    host.arg(from.join("host.sh"));
    let host = command::run(host, "host.sh")?;
    files::settle(&to.join(HOST), &host, 0o644)?;

    let folder = paths.directory.join("nix");
    let registry = folder.join("registry.json");
    files::settle(&registry, b"{\"version\":2,\"flakes\":[]}\n", 0o644)?;
    files::settle(&folder.join("nix.conf"), settings(&registry).as_bytes(), 0o644)?;
    Ok(())
}

fn settings(registry: &Path) -> String {
    let toolchains = files::home("RUSTUP_HOME", ".rustup").join("toolchains");
    let system = ["/bin", "/lib", "/lib64", "/usr", "/etc/alternatives"].map(PathBuf::from);
    // Nix starts no build if a path of `sandbox-paths` does not exist.
    let paths =
        system.into_iter().chain([toolchains, crates::cache()]).filter(|path| path.exists());
    let paths: Vec<_> = paths.map(|path| path.display().to_string()).collect();
    format!(
        "# Written by `lab up`.
experimental-features = nix-command flakes
build-users-group =
substituters =
download-attempts = 1
connect-timeout = 1
flake-registry = {}
sandbox = true
sandbox-fallback = false
sandbox-paths = {}
",
        registry.display(),
        paths.join(" ")
    )
}

/// Copies `from` to `to`, and removes every other file of `to` except `kept`.
fn mirror(from: &Path, to: &Path, kept: &[&str]) -> Result<(), Error> {
    files::folder(to)?;
    for name in names(to)? {
        if !from.join(&name).exists() && !kept.iter().any(|kept| name == **kept) {
            files::remove(&to.join(&name))?;
        }
    }
    for name in names(from)? {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            mirror(&from, &to, &[])?;
        } else {
            let bytes = fs::read(&from).map_err(files::cannot("read", &from))?;
            let mode = fs::metadata(&from).map_err(files::cannot("read", &from))?.permissions();
            let mode = std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777;
            files::settle(&to, &bytes, mode)?;
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>, Error> {
    let entries = fs::read_dir(folder).map_err(files::cannot("read", folder))?;
    Ok(entries.flatten().map(|entry| entry.file_name()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Test = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn mirror_follows_its_source_and_does_not_write_unchanged_files() -> Test {
        let folder = tempfile::tempdir()?;
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("deep"))?;
        fs::write(from.join("deep/a"), "1")?;
        fs::write(from.join("b"), "2")?;
        mirror(&from, &to, &[HOST])?;
        fs::write(to.join(HOST), "ours")?;
        let written = fs::metadata(to.join("deep/a"))?.modified()?;

        fs::remove_file(from.join("b"))?;
        mirror(&from, &to, &[HOST])?;
        assert!(!to.join("b").exists());
        assert_eq!(fs::read_to_string(to.join(HOST))?, "ours");
        assert_eq!(fs::metadata(to.join("deep/a"))?.modified()?, written);
        Ok(())
    }
}
