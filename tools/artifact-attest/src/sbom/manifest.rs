//! `Cargo.toml`: the package, its workspace, and the licence that the package declares.

use std::collections::BTreeMap;
use std::io::{self, Read};

use flate2::read::GzDecoder;
use serde::Deserialize;
use toml::Value;

use crate::nix::crates::CrateLicense;

/// Largest `Cargo.toml` that is read, in bytes.
const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Largest content of an archive. Cargo unpacks no larger one from crates.io
/// (<https://github.com/rust-lang/cargo/blob/master/src/cargo/sources/registry/mod.rs>, `MAX_UNPACK_SIZE`).
const UNPACKED_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Longest declaration of a licence, in bytes.
const DECLARATION_BYTES_MAX: usize = 1024;

/// Manifest of a Cargo package or workspace, as far as this program reads it.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Manifest {
    #[serde(alias = "project")] // the section's name in the first years of crates.io
    package: Option<Package>,
    pub(super) workspace: Option<toml::Table>,
}

/// Fields other than the name have any type, because a member of a workspace may write `{ workspace = true }`.
#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: Option<Value>,
    license: Option<Value>,
    #[serde(rename = "license-file")]
    license_file: Option<Value>,
}

impl Manifest {
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        toml::from_str(str::from_utf8(bytes).ok()?).ok()
    }

    /// Returns the name of the package; `None` for a workspace without one.
    pub(super) fn name(&self) -> Option<&str> {
        self.package.as_ref().map(|package| package.name.as_str())
    }

    /// Returns a field of the package, which it may inherit from `root`, the manifest of its workspace
    /// (<https://doc.rust-lang.org/cargo/reference/workspaces.html#the-package-table>).
    fn field<'a>(
        &'a self,
        root: Option<&'a Self>,
        name: &str,
        of: impl Fn(&'a Package) -> &'a Option<Value>,
    ) -> Option<&'a str> {
        let text = match of(self.package.as_ref()?).as_ref()? {
            Value::Table(table) if table.get("workspace").and_then(Value::as_bool)? => {
                root?.workspace.as_ref()?.get("package")?.get(name)?.as_str()
            }
            value => value.as_str(),
        };
        text.filter(|text| !text.trim().is_empty() && text.len() <= DECLARATION_BYTES_MAX)
    }

    /// Returns the licence. Cargo ignores `license-file` if there is a `license`
    /// (<https://doc.rust-lang.org/cargo/reference/manifest.html#the-license-and-license-file-fields>).
    fn license(&self, root: Option<&Self>) -> Option<CrateLicense> {
        let license = self.field(root, "license", |package| &package.license);
        let file = || self.field(root, "license-file", |package| &package.license_file);
        let license = license.map(|text| CrateLicense::Declared(text.to_owned()));
        license.or_else(|| file().map(|path| CrateLicense::File(path.to_owned())))
    }
}

/// Returns the licence of the package `name` of `version` from manifests by path; `None` if there is no such package,
/// or several with different licences.
pub(super) fn license_in(
    manifests: &BTreeMap<String, Manifest>,
    name: &str,
    version: &str,
) -> Option<CrateLicense> {
    let named = manifests.iter().filter(|(_, manifest)| manifest.name() == Some(name));
    let licenses: Vec<_> = named
        .map(|(path, manifest)| (manifest, root_of(manifests, path)))
        .filter(|(manifest, root)| {
            // A package that is never published needs no version.
            let known = manifest.field(*root, "version", |package| &package.version);
            known.unwrap_or("0.0.0") == version
        })
        .map(|(manifest, root)| manifest.license(root))
        .collect();
    let (first, others) = licenses.split_first()?;
    others.iter().all(|other| other == first).then(|| first.clone())?
}

/// Returns the manifest of the workspace to which the package at `path` belongs: in its folder, or in the nearest
/// folder above it.
fn root_of<'a>(manifests: &'a BTreeMap<String, Manifest>, path: &str) -> Option<&'a Manifest> {
    let mut folder = path.strip_suffix("Cargo.toml")?.trim_end_matches('/');
    loop {
        let here = if folder.is_empty() {
            "Cargo.toml".to_owned()
        } else {
            format!("{folder}/Cargo.toml")
        };
        let root = manifests.get(&here).filter(|manifest| manifest.workspace.is_some());
        if root.is_some() || folder.is_empty() {
            return root;
        }
        folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
    }
}

/// Returns the licence in the archive of a crate; `None` if the archive cannot be read to its end.
pub(super) fn license_of(archive: &[u8], name: &str, version: &str) -> Option<CrateLicense> {
    Manifest::read(&manifest_of(archive, name, version).ok()??)?.license(None)
}

/// Returns the manifest in the archive of a crate: the last of several, as after unpacking.
fn manifest_of(archive: &[u8], name: &str, version: &str) -> io::Result<Option<Vec<u8>>> {
    let path = format!("{name}-{version}/Cargo.toml");
    let mut found = None;
    let content = GzDecoder::new(archive).take(UNPACKED_BYTES_MAX);
    for entry in tar::Archive::new(content).entries()? {
        let mut entry = entry?;
        if entry.path_bytes() == path.as_bytes() && entry.size() <= MANIFEST_BYTES_MAX {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            found = Some(bytes);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::Header;

    use super::*;

    /// Returns the archive of a crate with these files.
    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (path, text) in files {
            let mut header = Header::new_gnu();
            header.set_size(text.len() as u64);
            archive.append_data(&mut header, path, text.as_bytes()).expect("an entry");
        }
        archive.into_inner().and_then(GzEncoder::finish).expect("an archive")
    }

    fn declared(text: &str) -> CrateLicense {
        CrateLicense::Declared(text.to_owned())
    }

    fn file(path: &str) -> CrateLicense {
        CrateLicense::File(path.to_owned())
    }

    #[test]
    fn the_licence_of_a_crate_is_read_from_its_archive() {
        let of = |text: &str| {
            let text = format!("[package]\nname = \"a\"\n{text}");
            license_of(&archive(&[("a-1.0.0/Cargo.toml", &text)]), "a", "1.0.0")
        };
        assert_eq!(of("license = \"MIT\""), Some(declared("MIT")));
        assert_eq!(of("license = \"MIT\"\nlicense-file = \"L\""), Some(declared("MIT")));
        assert_eq!(of("license-file = \"L\""), Some(file("L")));
        for odd in [
            "",
            "license = \"\"",
            "license = \" \"",
            "license = 7",
            "license = { workspace = true }", // an archive has no workspace
            "license = \"MIT",
            &format!("license = \"{}\"", "A".repeat(DECLARATION_BYTES_MAX + 1)),
        ] {
            assert_eq!(of(odd), None, "{odd}");
        }
        let old = archive(&[("a-1.0.0/Cargo.toml", "[project]\nname = \"a\"\nlicense = \"MIT\"")]);
        assert_eq!(license_of(&old, "a", "1.0.0"), Some(declared("MIT")));
        assert_eq!(license_of(&old, "a", "1.0.1"), None, "another folder");
    }

    #[test]
    fn the_last_manifest_of_an_archive_counts_and_a_cut_archive_has_none() {
        let of = |name: &str| format!("[package]\nname = \"a\"\nlicense = \"{name}\"");
        let nested = "a-1.0.0/tests/Cargo.toml";
        let (first, last) = (of("MIT"), of("Zlib"));
        let path = "a-1.0.0/Cargo.toml";
        let whole = archive(&[(path, &first), (path, &last), (nested, &first)]);
        assert_eq!(license_of(&whole, "a", "1.0.0"), Some(declared("Zlib")));
        for end in 0..whole.len() - 8 {
            // Without the end of the last block, the archive is not whole.
            let _ = license_of(&whole[..end], "a", "1.0.0"); // must not panic
        }
        assert_eq!(license_of(&whole[..whole.len() / 2], "a", "1.0.0"), None);
        let mut plain = Vec::new();
        plain.write_all(b"no archive").expect("memory");
        assert_eq!(license_of(&plain, "a", "1.0.0"), None);
    }

    #[test]
    fn packages_of_a_workspace_inherit_licences_from_the_nearest_root() {
        let workspace =
            "[workspace.package]\nversion = \"1.0.0\"\nlicense = \"MIT\"\nlicense-file = \"L\"";
        let member = |name: &str, license: &str| {
            format!("[package]\nname = \"{name}\"\nversion.workspace = true\n{license}")
        };
        let files = [
            ("Cargo.toml".to_owned(), "[workspace.package]\nlicense = \"Zlib\"".to_owned()),
            ("tools/Cargo.toml".to_owned(), workspace.to_owned()),
            ("tools/a/Cargo.toml".to_owned(), member("a", "license.workspace = true")),
            ("tools/b/Cargo.toml".to_owned(), member("b", "license-file.workspace = true")),
            ("tools/c/Cargo.toml".to_owned(), member("c", "license = \"EUPL-1.2\"")),
            ("tools/d/Cargo.toml".to_owned(), member("d", "")),
            (
                "x/Cargo.toml".to_owned(),
                "[package]\nname = \"x\"\nlicense.workspace = true".to_owned(),
            ),
            (
                "tests/one/Cargo.toml".to_owned(),
                "[package]\nname = \"t\"\nlicense = \"MIT\"".to_owned(),
            ),
            (
                "tests/two/Cargo.toml".to_owned(),
                "[package]\nname = \"t\"\nlicense = \"Zlib\"".to_owned(),
            ),
        ];
        let manifests = files.iter().map(|(path, text)| {
            (path.clone(), Manifest::read(text.as_bytes()).expect("a manifest"))
        });
        let manifests = manifests.collect();
        let of = |name: &str, version: &str| license_in(&manifests, name, version);
        assert_eq!(of("a", "1.0.0"), Some(declared("MIT")));
        assert_eq!(of("b", "1.0.0"), Some(file("L")));
        assert_eq!(of("c", "1.0.0"), Some(declared("EUPL-1.2")));
        assert_eq!(of("d", "1.0.0"), None);
        assert_eq!(of("a", "2.0.0"), None, "another version");
        assert_eq!(of("x", "0.0.0"), Some(declared("Zlib")), "a version is optional");
        assert_eq!(of("t", "0.0.0"), None, "which one of both is unknown");
    }
}
