//! Software bill of materials of an image, in the `CycloneDX` format.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::nix::BuildResult;
use crate::oci::Digest;

/// Contents of a `Cargo.lock`: the crates that the build result may contain.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Lock {
    #[serde(default, rename = "package")]
    packages: Vec<Package>,
}

#[derive(Clone, Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    /// Registry or repository of the crate; `None` for the source's own packages.
    source: Option<String>,
    checksum: Option<String>,
    /// Names, with a version where several packages share a name.
    #[serde(default)]
    dependencies: Vec<String>,
}

impl Package {
    fn is(&self, dependency: &str) -> bool {
        let mut words = dependency.split(' ');
        words.next() == Some(&self.name)
            && words.next().is_none_or(|version| version == self.version)
    }
}

impl Lock {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    /// Returns the crates that the package called `name` may contain.
    ///
    /// A workspace has one lock for all of its packages. If the lock has no package of that name,
    /// all of its crates may be in the result.
    fn crates(&self, name: &str) -> impl Iterator<Item = &Package> {
        let is_own = |package: &&Package| package.source.is_none() && package.name == name;
        let mut reached: Vec<&Package> = match self.packages.iter().find(is_own) {
            Some(root) => vec![root],
            None => self.packages.iter().collect(),
        };
        let mut next = 0;
        while let Some(package) = reached.get(next).copied() {
            for needed in &package.dependencies {
                let found = self.packages.iter().filter(|package| package.is(needed));
                let new =
                    found.filter(|package| !reached.iter().any(|old| std::ptr::eq(*old, *package)));
                let new: Vec<_> = new.collect();
                reached.extend(new);
            }
            next += 1;
        }
        let is_reached =
            move |package: &&Package| reached.iter().any(|old| std::ptr::eq(*old, *package));
        self.packages.iter().filter(|package| package.source.is_some()).filter(is_reached)
    }
}

/// Returns the bill of materials of the image called `name`. It depends only on the build result
/// and the lock.
pub(crate) fn document(
    name: &str,
    digest: &Digest,
    out: &str,
    built: &BuildResult,
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
    let crates = lock.into_iter().flat_map(|lock| lock.crates(built_name));
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

/// Returns a UUID of version 8, made of the beginning of the digest (RFC 9562 leaves the content of
/// version 8 to the application).
fn uuid(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

/// Splits the name of a store path into name and version, as Nix does: the version begins after the
/// first `-` before a digit.
fn parts(path: &str) -> (&str, &str) {
    let name = path.rsplit('/').next().unwrap_or_default();
    let name = name.split_once('-').map_or(name, |(_, name)| name);
    let dashes = name.match_indices('-').map(|(at, _)| at);
    let starts = |at: &usize| name[at + 1..].starts_with(|letter: char| letter.is_ascii_digit());
    dashes.into_iter().find(starts).map_or((name, ""), |at| (&name[..at], &name[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_path_is_split_into_name_and_version() {
        assert_eq!(parts("/nix/store/abc-greeter-0.1.0"), ("greeter", "0.1.0"));
        assert_eq!(parts("/nix/store/abc-font-awesome"), ("font-awesome", ""));
    }

    #[test]
    fn the_bill_lists_crates_of_the_lock_without_the_source_itself() -> Result<(), String> {
        let lock = Lock::read(b"version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\nchecksum = \"00\"\n[[package]]\nname = \"greeter\"\nversion = \"0.1.0\"\n")?;
        let bom = document(
            "greeter",
            &Digest::of(b""),
            "/nix/store/x-a-1",
            &BuildResult::default(),
            Some(&lock),
        );
        assert_eq!(bom["components"].as_array().map(Vec::len), Some(1));
        assert_eq!(bom["components"][0]["purl"], "pkg:cargo/a@1.0.0");
        Ok(())
    }

    #[test]
    fn the_bill_excludes_crates_that_only_other_packages_of_the_workspace_need()
    -> Result<(), String> {
        let foreign = |name: &str, version: &str, needs: &str| {
            format!(
                "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"registry\"\ndependencies = [{needs}]\n"
            )
        };
        let local = |name: &str, needs: &str| {
            format!(
                "[[package]]\nname = \"{name}\"\nversion = \"0.1.0\"\ndependencies = [{needs}]\n"
            )
        };
        let packages = [
            local("first", r#""shared", "a 2.0.0""#),
            local("second", r#""shared", "b", "a 1.0.0""#),
            local("shared", r#""c""#),
            foreign("a", "1.0.0", ""),
            foreign("a", "2.0.0", r#""c""#),
            foreign("b", "1.0.0", ""),
            foreign("c", "1.0.0", r#""a 2.0.0""#), // a cycle, as dev-dependencies can have
        ];
        let lock = Lock::read(format!("version = 4\n{}", packages.concat()).as_bytes())?;
        let crates = |name: &str| {
            let crates =
                lock.crates(name).map(|package| format!("{} {}", package.name, package.version));
            crates.collect::<Vec<_>>().join(", ")
        };
        assert_eq!(crates("first"), "a 2.0.0, c 1.0.0");
        assert_eq!(crates("second"), "a 1.0.0, a 2.0.0, b 1.0.0, c 1.0.0");
        assert_eq!(crates("unknown"), "a 1.0.0, a 2.0.0, b 1.0.0, c 1.0.0");
        Ok(())
    }
}
