//! The stand-in for nixpkgs, and the settings under which Nix needs no network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::place::Place;
use crate::{command, crates, files};

/// Written by `host.sh`: what the stand-in takes from this machine.
const HOST: &str = "host.nix";

fn copied(place: &Place) -> PathBuf {
    place.directory.join("nixpkgs")
}

/// What the flake input `nixpkgs` becomes.
pub(crate) fn input(place: &Place) -> String {
    let given = place.nixpkgs.clone();
    given.unwrap_or_else(|| format!("path:{}", copied(place).display()))
}

/// Sees to the stand-in, to what it builds `flakes` from, and to the settings; what is right already
/// is not touched. Whoever brings a nixpkgs has settings for it, too.
pub(crate) fn ensure(place: &Place, flakes: &[PathBuf]) -> Result<(), Error> {
    if place.nixpkgs.is_some() {
        return Ok(());
    }
    crates::ensure(flakes)?; // first: the stand-in and the settings say where they are
    let (from, to) = (place.components.join("../nix/standin"), copied(place));
    mirror(&from, &to, &[HOST])?;
    let mut host = Command::new("sh");
    host.arg(from.join("host.sh"));
    let host = command::run(host, "host.sh")?;
    files::settle(&to.join(HOST), &host, 0o644)?;

    let folder = place.directory.join("nix");
    let registry = folder.join("registry.json");
    files::settle(&registry, b"{\"version\":2,\"flakes\":[]}\n", 0o644)?;
    files::settle(&folder.join("nix.conf"), settings(&registry).as_bytes(), 0o644)?;
    Ok(())
}

fn settings(registry: &Path) -> String {
    let toolchains = files::home("RUSTUP_HOME", ".rustup").join("toolchains");
    let system = ["/bin", "/lib", "/lib64", "/usr", "/etc/alternatives"].map(PathBuf::from);
    // A path that is not there would keep every build from starting.
    let paths = system.into_iter().chain([toolchains, crates::cache()]).filter(|it| it.exists());
    let paths: Vec<_> = paths.map(|it| it.display().to_string()).collect();
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

/// Makes `to` hold what `from` holds, and nothing else but `kept`.
fn mirror(from: &Path, to: &Path, kept: &[&str]) -> Result<(), Error> {
    files::folder(to)?;
    for name in names(to)? {
        if !from.join(&name).exists() && !kept.iter().any(|it| name == **it) {
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
    Ok(entries.flatten().map(|it| it.file_name()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Test = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn the_copy_follows_its_origin_and_is_not_written_again() -> Test {
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
