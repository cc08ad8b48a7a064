//! Archives of crates: where a build takes them from, and the licences in them.
//!
//! **Invariant:** which archives a derivation has, and the bytes of each, follow from the derivation alone. The state
//! of this machine's store decides only whether they are fetched, so that every machine finds the same licences.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::drv::Download;
use super::roots::Roots;
use super::{Derivation, Nix};
use crate::Error;
use crate::oci::Digest;
use crate::spec::Build;

/// Largest archive that is read, in bytes. crates.io accepts 10 MiB
/// (<https://doc.rust-lang.org/cargo/reference/publishing.html#packaging-a-crate>).
const ARCHIVE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Number of derivations in one command, so that its arguments stay below the limit of the kernel.
const DERIVATIONS_AT_ONCE_MAX: usize = 500;

/// Message about a file of the store that does not have the hash of its derivation.
const DAMAGED: &str = "the file in Nix's store does not have its hash: run `nix-store --verify --check-contents --repair`";

/// Licence of a crate, as its `Cargo.toml` declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum CrateLicense {
    /// The field `license`: an SPDX expression most often.
    #[serde(rename = "license")]
    Declared(String),
    /// The field `license-file`: path of the licence's text.
    #[serde(rename = "licenseFile")]
    File(String),
}

/// Licences of crates, by the SHA-256 of their archives in hexadecimal.
pub(crate) type CrateLicenses = BTreeMap<String, CrateLicense>;

/// A crate of a registry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crate<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    /// SHA-256 of the archive, in hexadecimal.
    pub(crate) sha256: &'a str,
}

impl Nix<'_> {
    /// Returns the licences of `crates` that `read` finds in their archives. An archive that the store lacks is
    /// fetched, because a result from a binary cache needs none.
    ///
    /// The archives are the downloads of the derivation that have the checksum of the lock: nixpkgs' `importCargoLock`,
    /// crane, naersk and crate2nix have a download for each crate, and nixpkgs' `fetchCargoVendor` a folder of them.
    pub(crate) fn licenses(
        &self,
        derivation: &Derivation,
        build: &Build,
        roots: &Roots,
        crates: &[Crate<'_>],
        read: impl Fn(Crate<'_>, &[u8]) -> Option<CrateLicense>,
    ) -> Result<CrateLicenses, Error> {
        let files = derivation.graph.files();
        let folders = derivation.graph.vendored();
        let single = |one: &Crate<'_>| files.get(one.sha256).copied();
        let mut needed: Vec<Download<'_>> = crates.iter().filter_map(single).collect();
        if crates.iter().any(|one| single(one).is_none()) {
            needed.extend(&folders);
        }
        for (index, some) in needed.chunks(DERIVATIONS_AT_ONCE_MAX).enumerate() {
            let link = roots.link_of(&format!("crates-{index}")).display().to_string();
            let paths: Vec<_> = some.iter().map(|download| download.drv).collect();
            self.realise(derivation, build, &[&["--add-root", &link], &paths[..]].concat())?;
        }
        let mut licenses = CrateLicenses::new();
        for one in crates {
            documents::check_interrupt()?;
            let paths = match single(one) {
                Some(download) => vec![PathBuf::from(download.path)],
                None => folders
                    .iter()
                    .flat_map(|folder| archives(Path::new(folder.path), one))
                    .collect(),
            };
            for path in paths {
                let unreadable =
                    |source| Error::Unreadable { what: path.display().to_string(), source };
                let Some(archive) = content(&path).map_err(unreadable)? else { continue };
                if Digest::of(&archive).hex() == one.sha256 {
                    let license = read(*one, &archive);
                    licenses.extend(license.map(|license| (one.sha256.to_owned(), license)));
                    break;
                }
                // A folder may have a crate of that name from another registry.
                if single(one).is_some() {
                    return Err(unreadable(io::Error::new(io::ErrorKind::InvalidData, DAMAGED)));
                }
            }
        }
        Ok(licenses)
    }
}

/// Returns the paths at which nixpkgs' `fetchCargoVendor` has the archive of a crate: in `tarballs` for crates.io, and
/// in `registry-1` and so on for others
/// (<https://github.com/NixOS/nixpkgs/blob/master/pkgs/build-support/rust/fetch-cargo-vendor-util.py>).
fn archives(folder: &Path, one: &Crate<'_>) -> Vec<PathBuf> {
    let name = format!("{}-{}.tar.gz", one.name, one.version);
    let others = (1..).map(|index| folder.join(format!("registry-{index}")));
    let folders =
        [folder.join("tarballs")].into_iter().chain(others.take_while(|path| path.is_dir()));
    folders.map(|folder| folder.join(&name)).filter(|path| path.is_file()).collect()
}

/// Returns the content of a file; `None` if it is too large.
fn content(path: &Path) -> io::Result<Option<Vec<u8>>> {
    if fs::metadata(path)?.len() > ARCHIVE_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(ARCHIVE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
