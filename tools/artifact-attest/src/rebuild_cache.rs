//! Cache of second builds, so that this machine does not repeat one.
//!
//! Each derivation has one file in the user's cache folder. A file is authenticated with the
//! phase's key, so other programs with write access cannot forge a second build.

use std::env;
use std::fs;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use secrets::PhaseKey;

use crate::nix::Derivation;

/// Derivations whose second build was bit-identical, with the hash of the result's NAR.
pub(crate) struct RebuildCache {
    key: PhaseKey,
    /// Folder of the cache; `None` without `XDG_CACHE_HOME` and `HOME`.
    folder: Option<PathBuf>,
}

impl RebuildCache {
    pub(crate) fn new(key: PhaseKey) -> Self {
        let absolute =
            |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        Self { key, folder: cache.map(|path| path.join("artifact-attest/rebuilt")) }
    }

    /// Whether a second build of `derivation` gave this NAR.
    pub(crate) fn contains_rebuild(&self, derivation: &Derivation, nar_sha256: &str) -> bool {
        let kept = self.file(derivation).and_then(|file| fs::read_to_string(file).ok());
        kept.is_some_and(|content| content == self.proof(derivation, nar_sha256))
    }

    /// Records that a second build of `derivation` gave this NAR. If the write fails, the next run
    /// builds again.
    pub(crate) fn record(&self, document: &str, derivation: &Derivation, nar_sha256: &str) {
        let Some((folder, file)) = self.folder.as_ref().zip(self.file(derivation)) else { return };
        let proof = self.proof(derivation, nar_sha256);
        if let Err(error) = fs::create_dir_all(folder).and_then(|()| fs::write(&file, proof)) {
            documents::detail(
                document,
                format_args!("{}: second build not recorded: {error}", file.display()),
            );
        }
    }

    fn file(&self, derivation: &Derivation) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(derivation.digest.hex()))
    }

    fn proof(&self, derivation: &Derivation, nar_sha256: &str) -> String {
        let item = format!("{} {nar_sha256}", derivation.digest.hex());
        HEXLOWER.encode(&*self.key.bytes::<32>("rebuilt", &item))
    }
}
