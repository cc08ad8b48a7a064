//! Description of a package by itself: Nix's `meta`, as nixpkgs defines it.

use serde::Deserialize;

/// Nix function that tells what a plan needs to know of a package. Anything in `meta` that does not evaluate, or has
/// another type than in nixpkgs, counts as unknown (<https://nixos.org/manual/nixpkgs/stable/#chap-meta>).
pub(crate) const TOLD: &str = r#"package: let
  tried = value: let done = builtins.tryEval (builtins.deepSeq value value); in if done.success then done.value else null;
  text = value: if builtins.isString value then value else null;
  listed = value: if builtins.isList value then value else if value == null then [ ] else [ value ];
  license = value: if builtins.isAttrs value
    then { spdx = text (value.spdxId or null); name = text (value.fullName or (value.shortName or null)); }
    else { spdx = null; name = text value; };
in {
  drv = package.drvPath;
  result = package.outPath;
  version = package.version or "";
  meta = {
    licenses = tried (map license (listed (package.meta.license or null)));
    cpe = tried (text (package.meta.identifiers.cpe or null));
    homepage = tried (text (package.meta.homepage or null));
    description = tried (text (package.meta.description or null));
  };
}"#;

/// Answer of [`TOLD`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Told {
    /// Store path of the `.drv` file.
    pub(crate) drv: String,
    /// Store path of the build result.
    pub(crate) result: String,
    /// Version of the package; empty if the package has none.
    pub(crate) version: String,
    pub(crate) meta: Meta,
}

/// Descriptions of a package. A field is empty if the package does not have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Meta {
    licenses: Option<Vec<License>>,
    /// Name in the dictionary of vulnerabilities (nixpkgs `meta.identifiers.cpe`, since 25.11).
    pub(crate) cpe: Option<String>,
    pub(crate) homepage: Option<String>,
    pub(crate) description: Option<String>,
}

/// One licence, as nixpkgs' `lib.licenses` describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct License {
    /// Identifier of SPDX.
    spdx: Option<String>,
    name: Option<String>,
}

impl Meta {
    /// Returns the licences, each as its SPDX identifier or, without one, as its name, and whether it is an identifier.
    pub(crate) fn licenses(&self) -> Vec<(&str, bool)> {
        self.licenses.iter().flatten().filter_map(License::named).collect()
    }
}

impl License {
    /// Returns the identifier or the name, and whether it is an identifier.
    fn named(&self) -> Option<(&str, bool)> {
        let spdx = self.spdx.as_deref().filter(|spdx| !spdx.is_empty()).map(|spdx| (spdx, true));
        let name = self.name.as_deref().filter(|name| !name.is_empty()).map(|name| (name, false));
        spdx.or(name)
    }
}
