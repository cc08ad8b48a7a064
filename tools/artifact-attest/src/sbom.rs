//! What is in an image: a bill of materials as `CycloneDX` has it.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::oci::Digest;
use crate::statement::Built;

/// A `Cargo.lock`: the crates that may be in what was built.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Lock {
    #[serde(default, rename = "package")]
    packages: Vec<Package>,
}

#[derive(Clone, Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    /// None for the source itself.
    source: Option<String>,
    checksum: Option<String>,
}

impl Lock {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }
}

/// The bill of the image called `name`. Everything in it follows from what was built.
pub(crate) fn document(
    name: &str,
    digest: &Digest,
    out: &str,
    built: &Built,
    lock: Option<&Lock>,
) -> Value {
    let paths = built.closure.iter().map(|(path, sha256)| {
        let (name, version) = parts(path);
        json!({
            "type": "application",
            "bom-ref": path,
            "name": name,
            "version": version,
            "properties": [{"name": "nix:narSha256", "value": sha256}],
        })
    });
    let crates = lock.into_iter().flat_map(|it| &it.packages).filter(|it| it.source.is_some());
    let crates = crates.map(|Package { name, version, checksum, .. }| {
        let purl = format!("pkg:cargo/{name}@{version}");
        let mut component = json!({
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
        });
        if let Some(checksum) = checksum {
            component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
        }
        component
    });
    let (_, version) = parts(out);
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", uuid(digest)),
        "version": 1,
        "metadata": {"component": {
            "type": "container",
            "bom-ref": digest,
            "name": name,
            "version": version,
            "hashes": [{"alg": "SHA-256", "content": digest.hex()}],
        }},
        "components": paths.chain(crates).collect::<Vec<_>>(),
    })
}

/// A UUID of version 8 (RFC 9562: what is in it is ours to say): the beginning of the digest.
fn uuid(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

/// The name and the version in a path of the store, as Nix tells them apart: the version begins
/// at the first `-` before a digit.
fn parts(path: &str) -> (&str, &str) {
    let name = path.rsplit('/').next().unwrap_or_default();
    let name = name.split_once('-').map_or(name, |(_, name)| name);
    let dashes = name.match_indices('-').map(|(at, _)| at);
    let starts = |at: &usize| name[at + 1..].starts_with(|it: char| it.is_ascii_digit());
    dashes.into_iter().find(starts).map_or((name, ""), |at| (&name[..at], &name[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_store_tells_a_name_and_a_version() {
        assert_eq!(parts("/nix/store/abc-greeter-0.1.0"), ("greeter", "0.1.0"));
        assert_eq!(parts("/nix/store/abc-font-awesome"), ("font-awesome", ""));
    }

    #[test]
    fn crates_come_from_the_lock_but_the_source_itself_does_not() -> Result<(), String> {
        let lock = Lock::read(b"version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"00\"\n[[package]]\nname = \"greeter\"\nversion = \"0.1.0\"\n")?;
        let bom = document(
            "greeter",
            &Digest::of(b""),
            "/nix/store/x-a-1",
            &Built::default(),
            Some(&lock),
        );
        assert_eq!(bom["components"].as_array().map(Vec::len), Some(1));
        assert_eq!(bom["components"][0]["purl"], "pkg:cargo/a@1.0.0");
        Ok(())
    }
}
