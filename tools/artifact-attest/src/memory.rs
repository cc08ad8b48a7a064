//! What this machine has built twice before, so that nobody waits until it is built a third time.
//!
//! A file for each derivation, in the user's cache. Only who has the key of the phase can make what
//! stands in it: others who can write there make nobody believe in a second build.

use std::env;
use std::fs;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use keyring::PhaseKey;

use crate::nix::Derivation;

/// Derivations, each with the NAR that came out twice.
pub(crate) struct Memory {
    key: PhaseKey,
    /// None, where there is neither a cache nor a home.
    folder: Option<PathBuf>,
}

impl Memory {
    pub(crate) fn new(key: PhaseKey) -> Self {
        let absolute =
            |name: &str| env::var_os(name).map(PathBuf::from).filter(|it| it.is_absolute());
        let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        Self { key, folder: cache.map(|it| it.join("artifact-attest/rebuilt")) }
    }

    /// Whether a second build of `derivation` has had this NAR.
    pub(crate) fn holds(&self, derivation: &Derivation, nar_sha256: &str) -> bool {
        let kept = self.file(derivation).and_then(|it| fs::read_to_string(it).ok());
        kept.is_some_and(|it| it == self.proof(derivation, nar_sha256))
    }

    /// A second build of `derivation` has had this NAR. Where nothing can be written, the next run
    /// builds again.
    pub(crate) fn keep(&self, document: &str, derivation: &Derivation, nar_sha256: &str) {
        let Some((folder, file)) = self.folder.as_ref().zip(self.file(derivation)) else { return };
        let proof = self.proof(derivation, nar_sha256);
        if let Err(error) = fs::create_dir_all(folder).and_then(|()| fs::write(&file, proof)) {
            documents::detail(
                document,
                format_args!("{}: not remembered: {error}", file.display()),
            );
        }
    }

    fn file(&self, derivation: &Derivation) -> Option<PathBuf> {
        self.folder.as_ref().map(|it| it.join(derivation.digest.hex()))
    }

    fn proof(&self, derivation: &Derivation, nar_sha256: &str) -> String {
        let item = format!("{} {nar_sha256}", derivation.digest.hex());
        HEXLOWER.encode(&*self.key.bytes::<32>("rebuilt", &item))
    }
}
