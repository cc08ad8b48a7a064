//! The crates of sources in Rust. The stand-in downloads nothing: it takes them from cargo's own
//! cache, where what is built for another system, and yet vendored, comes only if it is fetched.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;
use crate::{command, files};

/// Where cargo keeps what it downloads, in a folder for each registry.
pub(crate) fn cache() -> PathBuf {
    files::home("CARGO_HOME", ".cargo").join("registry/cache")
}

/// The registry's folder in `cache`, as `host.sh` finds it: the one that was written last.
fn registry(cache: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(cache).ok()?.flatten();
    let written = |it: &DirEntry| it.metadata().and_then(|it| it.modified()).ok();
    folders.max_by_key(written).map(|it| it.path())
}

/// Sees to it that every crate in the lock of each of `flakes` is there. Cargo is asked only where
/// one is missing, so that this needs no network otherwise.
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

/// How many crates of a registry `lock` names that are not in `cache`.
fn missing(lock: &str, cache: &Path) -> usize {
    let registry = registry(cache);
    let is_there = |name: &String| registry.as_ref().is_some_and(|it| it.join(name).exists());
    files_of(lock).filter(|it| !is_there(it)).count()
}

/// What the crates of a registry that `lock` names are called there.
fn files_of(lock: &str) -> impl Iterator<Item = String> {
    let packages = lock.split("[[package]]").filter(|it| it.contains("\nsource = \"registry+"));
    packages.filter_map(|package| {
        let value = |key: &str| {
            let mut values = package.lines().filter_map(|it| it.strip_prefix(key));
            values.find_map(|it| it.strip_prefix(" = \"")?.strip_suffix('"'))
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
    fn a_crate_of_a_registry_is_missing_until_its_file_is_there() -> std::io::Result<()> {
        let cache = tempfile::tempdir()?;
        let all = LOCK.matches("checksum = ").count();
        assert!(all > 3, "the greeter uses crates");
        assert_eq!(missing(LOCK, &cache.path().join("never made")), all);
        let (old, new) = (cache.path().join("old"), cache.path().join("new"));
        for (folder, hour) in [(&old, 1), (&new, 2)] {
            fs::create_dir(folder)?;
            for (number, name) in files_of(LOCK).enumerate() {
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
