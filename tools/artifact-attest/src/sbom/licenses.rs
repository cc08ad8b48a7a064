//! Licences in a bill of materials.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use spdx::{Expression, ParseMode};

use super::lock::Crates;
use super::manifest::{Manifest, license_in, license_of};
use crate::Error;
use crate::nix::crates::{Crate, CrateLicense, CrateLicenses};
use crate::nix::roots::Roots;
use crate::nix::{Derivation, Nix};
use crate::source::Source;
use crate::spec::Build;

/// Expressions of SPDX 2.3, with the deprecated identifiers that are on its list
/// (<https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/>). `/` for `OR`, as in many old crates, is none.
const SPDX: ParseMode =
    ParseMode { allow_deprecated: true, allow_postfix_plus_on_gpl: true, ..ParseMode::STRICT };

/// Licences of the source's own packages, by their identifiers in the lock.
pub(crate) type OwnLicenses = BTreeMap<String, CrateLicense>;

/// Returns the licences that the archives of crates declare. Fetches the archives that the store lacks.
///
/// Crates from Git are left out: their archives have no checksum in the lock.
pub(crate) fn of_archives(
    nix: &Nix<'_>,
    derivation: &Derivation,
    build: &Build,
    roots: &Roots,
    crates: Option<&Crates>,
) -> Result<CrateLicenses, Error> {
    let reached = crates.map(|crates| crates.reached().0).unwrap_or_default();
    let crates = reached.values().filter_map(|(package, _)| {
        Some(Crate { name: &package.name, version: &package.version, sha256: package.sha256()? })
    });
    let read = |one: Crate<'_>, archive: &[u8]| license_of(archive, one.name, one.version);
    nix.licenses(derivation, build, roots, &crates.collect::<Vec<_>>(), read)
}

/// Returns the licences that the source's own packages declare in the commit.
pub(super) fn of_source(source: &Source, crates: &Crates) -> Result<OwnLicenses, Error> {
    let (reached, _) = crates.reached();
    let own: Vec<_> = reached.iter().filter(|(_, (package, _))| package.is_own()).collect();
    if own.is_empty() {
        return Ok(OwnLicenses::new());
    }
    let files = source.files_named("Cargo.toml")?.into_iter();
    let manifests = files.filter_map(|(path, bytes)| Some((path, Manifest::read(&bytes)?)));
    let manifests = manifests.collect();
    let licenses = own.into_iter().filter_map(|(id, (package, _))| {
        Some((id.clone(), license_in(&manifests, &package.name, &package.version)?))
    });
    Ok(licenses.collect())
}

/// Returns an item of `licenses` about a crate.
pub(super) fn item(license: &CrateLicense) -> Value {
    match license {
        CrateLicense::Declared(text) => declared(text, is_expression(text)),
        // A file may hold any text, so its path is all that is certain.
        CrateLicense::File(path) => declared(&format!("see the crate's file {path}"), false),
    }
}

/// Returns an item of `licenses`. The schema limits `id` to the SPDX identifiers of its own date, so a newer one, or a
/// mistake of the package, would make the bill invalid. An expression has no such limit, but is the only item of its
/// list.
pub(super) fn declared(text: &str, is_expression: bool) -> Value {
    if is_expression {
        json!({"expression": text, "acknowledgement": "declared"})
    } else {
        json!({"license": {"name": text, "acknowledgement": "declared"}})
    }
}

/// Whether `text` is an expression of SPDX whose identifiers are on SPDX's list.
pub(super) fn is_expression(text: &str) -> bool {
    Expression::parse_mode(text, SPDX).is_ok()
}
