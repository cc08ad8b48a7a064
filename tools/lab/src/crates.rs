//! Fetches the crates of Rust sources into cargo's cache. The stand-in for nixpkgs downloads
//! nothing and vendors every crate of a lock file from that cache. A build alone does not download
//! the crates of other platforms, so they are fetched here.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;
use crate::{command, files};

/// Returns the folder of cargo's downloads, which holds one folder for each registry.
pub(crate) fn cache() -> PathBuf {
    files::home("CARGO_HOME", ".cargo").join("registry/cache")
}

/// Returns the registry's folder in `cache`: the folder that was written last, as in `host.sh`.
fn registry(cache: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(cache).ok()?.flatten();
    let written =
        |folder: &DirEntry| folder.metadata().and_then(|metadata| metadata.modified()).ok();
    folders.max_by_key(written).map(|folder| folder.path())
}

/// Fetches the crates in the lock file of each of `flakes`. Cargo runs only if a crate is missing,
/// so that a complete cache needs no network.
pub(crate) fn ensure(flakes: &[PathBuf]) -> Result<(), Error> {
    for flake in flakes {
        let Some(lock) = files::read(&flake.join("Cargo.lock"))? else { continue };
        let missing = missing(&String::from_utf8_lossy(&lock), &cache());
        if missing == 0 {
            continue;
        }
        documents::check_interrupt()?;
        let step = documents::step("-", "fetch");
        let mut fetch = Command::new("cargo");
        fetch.args(["fetch", "--locked", "--quiet", "--manifest-path"]);
        fetch.arg(flake.join("Cargo.toml")).stdin(Stdio::null());
        command::run(fetch, "cargo fetch")?;
        step.done(format_args!("{missing} crates of {}", flake.display()));
    }
    Ok(())
}

/// Returns the number of registry crates in `lock` whose file is not in `cache`.
fn missing(lock: &str, cache: &Path) -> usize {
    let registry = registry(cache);
    let is_there =
        |name: &String| registry.as_ref().is_some_and(|folder| folder.join(name).exists());
    crate_files(lock).filter(|name| !is_there(name)).count()
}

/// Returns the file name of each registry crate in `lock`, for example `serde-1.0.0.crate`.
fn crate_files(lock: &str) -> impl Iterator<Item = String> {
    let packages =
        lock.split("[[package]]").filter(|package| package.contains("\nsource = \"registry+"));
    packages.filter_map(|package| {
        let value = |key: &str| {
            let mut values = package.lines().filter_map(|line| line.strip_prefix(key));
            values.find_map(|value| value.strip_prefix(" = \"")?.strip_suffix('"'))
        };
        Some(format!("{}-{}.crate", value("name")?, value("version")?))
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    const LOCK: &str = include_str!("../../../sources/greeter/Cargo.lock");

    #[test]
    fn a_registry_crate_is_missing_until_its_file_exists() -> std::io::Result<()> {
        let cache = tempfile::tempdir()?;
        let all = LOCK.matches("checksum = ").count();
        assert!(all > 3, "the greeter uses crates");
        assert_eq!(missing(LOCK, &cache.path().join("never made")), all);
        let (old, new) = (cache.path().join("old"), cache.path().join("new"));
        for (folder, hour) in [(&old, 1), (&new, 2)] {
            fs::create_dir(folder)?;
            for (number, name) in crate_files(LOCK).enumerate() {
                assert_eq!(missing(LOCK, cache.path()), all - number);
                fs::write(folder.join(name), "")?;
                let written = SystemTime::UNIX_EPOCH + Duration::from_secs(hour * 3600);
                fs::File::open(folder)?.set_modified(written)?;
            }
            assert_eq!(missing(LOCK, cache.path()), 0);
        }
        Ok(())
    }
}
