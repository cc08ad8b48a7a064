//! Copies build results to the Project's binary cache, and signs them there. Nix does both:
//! <https://nix.dev/manual/nix/latest/command-ref/new-cli/nix3-copy>.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;

use contract::{CacheUrl, Project, S3Credentials};
use data_encoding::BASE64;
use documents::{Declared, WritePermit};
use ed25519_dalek::SigningKey;
use secrets::{PhaseKey, Reference};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::Error;
use crate::failure;
use crate::nix::Nix;
use crate::tool::{self, Ended};

/// Purpose of the derived key.
pub(crate) const ITEM: &str = "cache";

/// Nix remembers for a month that a cache has a path, and for an hour that it has none
/// (`narinfo-cache-positive-ttl`). Only the cache itself decides here.
const FRESH: [&str; 6] =
    ["--option", "narinfo-cache-positive-ttl", "0", "--option", "narinfo-cache-negative-ttl", "0"];

/// Binary cache of a Project.
pub(crate) struct BinaryCache {
    url: CacheUrl,
    credentials: Option<Reference>,
    reader: Option<Reference>,
    /// Name of the key that signs, for example `holistic-1`.
    key: String,
}

/// Key that signs store paths (Ed25519).
pub(crate) struct CacheKey {
    name: String,
    key: SigningKey,
}

impl CacheKey {
    /// Derives the key of `project`.
    pub(crate) fn new(project: &Declared<Project>, key: &PhaseKey) -> Self {
        let name = name(project);
        Self { name, key: key.ed25519(project.name.as_str(), ITEM) }
    }

    /// Returns the key in Nix's format: its name, and the base64 of the seed and the public key
    /// (<https://nix.dev/manual/nix/latest/command-ref/new-cli/nix3-key-generate-secret>).
    pub(crate) fn secret(&self) -> Zeroizing<Vec<u8>> {
        let pair = Zeroizing::new(self.key.to_keypair_bytes());
        let mut text = format!("{}:", self.name);
        text.reserve_exact(BASE64.encode_len(pair.len())); // no copy is left behind
        BASE64.encode_append(&*pair, &mut text);
        Zeroizing::new(text.into_bytes())
    }

    /// Returns the public key in Nix's format, for `trusted-public-keys`.
    pub(crate) fn public(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(self.key.verifying_key().as_bytes()))
    }
}

/// Returns the name of the project's key. The name has the generation, because machines trust a key by its name.
fn name(project: &Declared<Project>) -> String {
    format!("{}-{}", project.name, project.spec.generation(&format!("artifact-attest/{ITEM}")))
}

impl BinaryCache {
    /// Returns the cache that `project` declares.
    pub(crate) fn of(project: &Declared<Project>) -> Option<Self> {
        let cache = project.spec.endpoints.nix.as_ref()?.cache.as_ref()?;
        let contract::BinaryCache { url, credentials, reader } = cache.clone();
        Some(Self { url, credentials, reader, key: name(project) })
    }

    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Whether the cache has `path` with a signature of the key's name. The path is copied after everything that it
    /// needs, so it proves its dependencies, too.
    pub(crate) fn has(&self, nix: &Nix<'_>, path: &str) -> Result<bool, Error> {
        let reader = self.reader.as_ref().or(self.credentials.as_ref());
        let asked = [&FRESH[..], &["--store", self.url.as_str(), path]].concat();
        let ended = with_credentials(reader, |variables| nix.path_info(&asked, variables))?;
        // Nix 2.8 prints an array, and newer versions an object by path. A missing path is marked in both, and an
        // error beside it in some versions.
        match serde_json::from_slice::<Value>(&ended.stdout) {
            Ok(infos) => Ok(is_signed(&infos, path, &self.key)),
            Err(_) if ended.code != Some(0) && ended.said.contains("is not valid") => Ok(false),
            Err(_) => Err(self.failed(ended)),
        }
    }

    /// Copies `path` with its dependencies, and signs all of them.
    pub(crate) fn copy(
        &self,
        nix: &Nix<'_>,
        path: &str,
        key: &CacheKey,
        _: &WritePermit,
    ) -> Result<(), Error> {
        let unwritable = |source| Error::Unreadable { what: "a temporary file".to_owned(), source };
        let mut file = tempfile::NamedTempFile::new().map_err(unwritable)?; // only this user may read it
        file.write_all(&key.secret()).map_err(unwritable)?;
        let secret = file.path().display().to_string();
        let to = self.url.with("compression", "zstd").with("secret-key", &secret);
        let copy = [&FRESH[..], &["copy", "--to", to.as_str(), path]].concat();
        let ended = run(nix, self.credentials.as_ref(), &copy)?;
        if ended.code != Some(0) {
            return Err(self.failed(ended));
        }
        if self.has(nix, path)? {
            return Ok(());
        }
        // Paths that the cache had before are not copied again, so they lack the signature.
        let sign = ["store", "sign", "--store", self.url.as_str(), "--key-file", &secret];
        let sign = [&FRESH[..], &sign, &["--recursive", path]].concat();
        let ended = run(nix, self.credentials.as_ref(), &sign)?;
        if ended.code == Some(0) { Ok(()) } else { Err(self.failed(ended)) }
    }

    fn failed(&self, ended: Ended) -> Error {
        let (url, said) = (self.url.as_str().to_owned(), ended.said);
        let temporary =
            ended.code.is_none() || failure::is_network(&said) || failure::is_network_of_s3(&said);
        Error::BinaryCache { url, said, temporary }
    }
}

/// Runs Nix with the credentials of a bucket in its environment.
fn run(nix: &Nix<'_>, credentials: Option<&Reference>, arguments: &[&str]) -> Result<Ended, Error> {
    let all = [&["--extra-experimental-features", "nix-command"], arguments].concat();
    with_credentials(credentials, |variables| {
        tool::run_tied(nix.document, "nix", all, variables, None)
    })
}

/// Gives `run` the environment variables for the credentials of a bucket.
fn with_credentials(
    credentials: Option<&Reference>,
    run: impl FnOnce(&[(&str, &OsStr)]) -> Result<Ended, Error>,
) -> Result<Ended, Error> {
    let credentials = credentials.map(S3Credentials::resolve).transpose()?;
    let secrets: Vec<(&str, OsString)> = credentials.map_or_else(Vec::new, |credentials| {
        let secret = credentials.secret_access_key.expose().to_vec();
        vec![
            ("AWS_ACCESS_KEY_ID", credentials.access_key_id.into()),
            ("AWS_SECRET_ACCESS_KEY", OsString::from_vec(secret)),
            ("AWS_SESSION_TOKEN", OsString::new()), // that of another login
        ]
    });
    let variables: Vec<_> =
        secrets.iter().map(|(name, value)| (*name, value.as_os_str())).collect();
    run(&variables)
}

/// Whether `nix path-info --json` shows `path` with a signature of a key called `name`.
fn is_signed(infos: &Value, path: &str, name: &str) -> bool {
    let info = match infos {
        Value::Array(infos) => infos.iter().find(|info| info["path"] == path),
        infos => infos.get(path),
    };
    let signatures = info.and_then(|info| info["signatures"].as_array());
    let prefix = format!("{name}:");
    signatures.is_some_and(|signatures| {
        signatures.iter().filter_map(Value::as_str).any(|signature| signature.starts_with(&prefix))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_counts_with_a_signature_of_the_key_in_the_forms_of_old_and_new_nix() {
        let (path, signed) = ("/nix/store/a", ["holistic-1:c2ln", "cache.nixos.org-1:c2ln"]);
        for (infos, is_there) in [
            (json!([{"path": path, "valid": true, "signatures": signed}]), true),
            (json!({path: {"signatures": signed}}), true),
            (json!([{"path": path, "valid": true, "signatures": ["holistic-10:c2ln"]}]), false),
            (json!([{"path": path, "valid": true}]), false),
            (json!([{"path": path, "valid": false}]), false),
            (json!({path: null}), false),
            (json!({"/nix/store/b": {"signatures": signed}}), false),
            (json!([]), false),
        ] {
            assert_eq!(is_signed(&infos, path, "holistic-1"), is_there, "{infos}");
        }
    }
}
