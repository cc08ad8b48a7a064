//! What is in an image: a bill of materials as `CycloneDX` has it.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::nix::Built;
use crate::oci::Digest;

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
    /// By name, with the version where several have it.
    #[serde(default)]
    dependencies: Vec<String>,
}

impl Package {
    fn is(&self, dependency: &str) -> bool {
        let mut words = dependency.split(' ');
        words.next() == Some(&self.name) && words.next().is_none_or(|it| it == self.version)
    }
}

impl Lock {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    /// What may be in the package called `name`. A workspace has one lock for all of its packages;
    /// if none of them is called that, there is no telling, and it may be everything.
    fn crates(&self, name: &str) -> impl Iterator<Item = &Package> {
        let is_own = |it: &&Package| it.source.is_none() && it.name == name;
        let mut reached: Vec<&Package> = match self.packages.iter().find(is_own) {
            Some(own) => vec![own],
            None => self.packages.iter().collect(),
        };
        let mut next = 0;
        while let Some(package) = reached.get(next).copied() {
            for needed in &package.dependencies {
                let found = self.packages.iter().filter(|it| it.is(needed));
                let new = found.filter(|it| !reached.iter().any(|old| std::ptr::eq(*old, *it)));
                let new: Vec<_> = new.collect();
                reached.extend(new);
            }
            next += 1;
        }
        let is_reached = move |it: &&Package| reached.iter().any(|old| std::ptr::eq(*old, *it));
        self.packages.iter().filter(|it| it.source.is_some()).filter(is_reached)
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
    let (built_name, version) = parts(out);
    let crates = lock.into_iter().flat_map(|it| it.crates(built_name));
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

    #[test]
    fn what_only_another_package_of_the_workspace_needs_is_not_in_it() -> Result<(), String> {
        let foreign = |name: &str, version: &str, needs: &str| {
            format!(
                "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"registry\"\ndependencies = [{needs}]\n"
            )
        };
        let own = |name: &str, needs: &str| {
            format!(
                "[[package]]\nname = \"{name}\"\nversion = \"0.1.0\"\ndependencies = [{needs}]\n"
            )
        };
        let packages = [
            own("first", r#""shared", "a 2.0.0""#),
            own("second", r#""shared", "b", "a 1.0.0""#),
            own("shared", r#""c""#),
            foreign("a", "1.0.0", ""),
            foreign("a", "2.0.0", r#""c""#),
            foreign("b", "1.0.0", ""),
            foreign("c", "1.0.0", r#""a 2.0.0""#), // in a circle, as tests of crates have it
        ];
        let lock = Lock::read(format!("version = 4\n{}", packages.concat()).as_bytes())?;
        let crates = |name: &str| {
            let crates = lock.crates(name).map(|it| format!("{} {}", it.name, it.version));
            crates.collect::<Vec<_>>().join(", ")
        };
        assert_eq!(crates("first"), "a 2.0.0, c 1.0.0");
        assert_eq!(crates("second"), "a 1.0.0, a 2.0.0, b 1.0.0, c 1.0.0");
        assert_eq!(crates("unknown"), "a 1.0.0, a 2.0.0, b 1.0.0, c 1.0.0");
        Ok(())
    }
}
